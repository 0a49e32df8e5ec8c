import pytest

from llm_attr.errors import InvalidShape
from llm_attr.viz.view import AttributionView

NAN = float("nan")


@pytest.mark.parametrize(
    "wrong",
    [
        {"unit_values": (1.0,)},
        {"output_probs": (0.5,)},
        {"context": ("", "")},
        {"token_values": ()},
        {"token_values": ((1.0,), (1.0, 2.0))},
    ],
)
def test_every_length_has_to_fit(wrong: dict[str, tuple[object, ...]]) -> None:
    right = {"title": "", "units": ("a", "b"), "unit_values": (1.0, 2.0), "output_tokens": ("x", "y")}
    with pytest.raises(InvalidShape, match="expected"):
        AttributionView(**{**right, **wrong})


def test_ranking_is_by_size_then_place_and_nan_comes_last() -> None:
    view = AttributionView("", tuple("abcde"), (1.0, NAN, -3.0, 3.0, 0.0))
    assert view.ranking == (2, 3, 0, 4, 1)
    assert view.limit == 3.0


def test_pieces_keep_the_prompt_together() -> None:
    view = AttributionView("", ("a", "b"), (1.0, 2.0), context=("<", "", ">"))
    assert list(view.pieces()) == [("<", None), ("a", 0), ("b", 1), (">", None)]
    without = AttributionView("", ("a", "b"), (1.0, 2.0))
    assert list(without.pieces()) == [("a", 0), (" ", None), ("b", 1)]
    assert list(AttributionView("", (), (), context=("text",)).pieces()) == [("text", None)]
