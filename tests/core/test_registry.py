import pytest

from llm_attr.core import registry


def test_registering_is_by_name_and_gives_the_class_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {})

    class DeepLiftShap:
        """What it does.

        More of it.
        """

    assert registry.registered(DeepLiftShap) is DeepLiftShap
    assert dict(registry.METHODS) == {"deep_lift_shap": DeepLiftShap}
    assert registry.summary(DeepLiftShap) == "What it does."


@pytest.mark.parametrize(
    ("name", "expected"),
    [("FeatureAblation", "feature_ablation"), ("Lime", "lime"), ("LRP", "lrp"), ("Layer2Norm", "layer2_norm")],
)
def test_snake_case(name: str, expected: str) -> None:
    assert registry.snake_case(name) == expected
