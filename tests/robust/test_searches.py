"""`MinParamPerturbation` and `AttackComparator`: calls, statistics, and bad input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, InvalidValue, UnknownName
from llm_attr.robust import FGSM, AttackComparator, MinParamPerturbation, Perturbation, drange
from tests.robust.models import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")


def below(threshold: float) -> Any:
    """A model that gives class 0 below a threshold."""
    return lambda x: torch.stack([threshold - x[:, 0], torch.zeros(len(x))], 1)


def shift(x: Tensor, by: float) -> Tensor:
    return x + by


ZERO = torch.zeros(1, 1)


@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from(["linear", "binary"]))
def test_the_least_value_is_found(threshold: int, values: int, mode: str) -> None:
    tried: list[float] = []

    def attack(x: Tensor, by: float) -> Tensor:
        tried.append(by)
        return x + by

    found = MinParamPerturbation(below(threshold + 0.5), attack, "by", 0, values, 1, mode).evaluate(ZERO, target=0)
    expected = next((value for value in range(values) if value > threshold), None)
    assert found[1] == expected
    assert found[0] is None if expected is None else found[0].item() == expected
    assert len(tried) == len(set(tried)) <= (values.bit_length() if mode == "binary" else values)


def test_the_upper_end_is_not_tried() -> None:
    assert list(drange(0.0, 1.0, 0.1)) == pytest.approx([0.1 * k for k in range(10)])
    assert MinParamPerturbation(below(0.45), shift, "by", 0.0, 0.5, 0.1).evaluate(ZERO, target=0) == (None, None)


def test_a_batch_is_right_where_every_example_is() -> None:
    x = torch.tensor([[0.0], [0.25], [0.5]])
    moved, by = MinParamPerturbation(below(1.1), shift, "by", 0.0, 2.0, 0.125).evaluate(x, target=[0, 0, 0])
    assert by == 0.625
    assert torch.equal(moved, x + 0.625)


SEARCH: dict[str, Any] = {
    "forward_func": below(0.5), "attack": shift, "arg_name": "by", "arg_min": 0, "arg_max": 3, "arg_step": 1
}  # fmt: skip
BAD_SEARCH: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "a target that the model does not give": ({}, {"target": 1}, InvalidTarget, "as it is"),
    "targets of another number": ({}, {"target": [0, 0]}, InvalidTarget, "one for each of 1"),
    "an output without classes": ({"forward_func": lambda x: x[:, 0]}, {}, InvalidShape, "correct_fn"),
    "another shape": ({"attack": lambda x, by: x.repeat(1, 2)}, {}, InvalidShape, "shape of the input"),
    "a mode": ({"mode": "cubic"}, {}, UnknownName, "linear, binary"),
    "no steps": ({"arg_step": 0}, {}, InvalidValue, "positive steps"),
    "a range that goes down": ({"arg_min": 3, "arg_max": 1}, {}, InvalidValue, "go up"),
    "a range of words": ({"arg_max": "3"}, {}, InvalidValue, "finite numbers"),
    "no attempts": ({"num_attempts": 0}, {}, InvalidValue, "num_attempts"),
    "no attack": ({"attack": None}, {}, InvalidType, "attack"),
    "no calls": ({}, {"perturbations_per_eval": 0}, InvalidValue, "perturbations_per_eval"),
}


@pytest.mark.parametrize("case", BAD_SEARCH)
def test_bad_searches_have_their_own_error(case: str) -> None:
    made, asked, error, message = BAD_SEARCH[case]
    with pytest.raises(error, match=message):
        MinParamPerturbation(**{**SEARCH, **made}).evaluate(ZERO, **{"target": 0, **asked})


def first(out: Tensor, **_: Any) -> Tensor:
    return out[:, 0]


def test_calls_are_shared() -> None:
    model, x = MODELS["mlp"]
    rows: list[int] = []

    def counted(x: Tensor, scale: Tensor) -> Tensor:
        rows.append(len(x))
        return model(x * scale)

    comparator = AttackComparator(counted, first)
    for number in range(3):
        comparator.add_attack(lambda x: x + 0.1 * torch.randn_like(x), f"attack {number}", num_attempts=20)
    scale = torch.ones(3, 1, dtype=torch.float64)
    torch.manual_seed(0)
    shared = comparator.evaluate(x, additional_forward_args=(scale,))
    assert rows[:2] == [3, 6]
    assert len(rows) < 10
    torch.manual_seed(0)
    alone = comparator.evaluate(x, additional_forward_args=(scale,), perturbations_per_eval=1)
    torch.testing.assert_close(shared, alone)


def test_outputs_that_depend_on_the_batch_have_calls_of_their_own() -> None:
    x = MODELS["mlp"][1]
    norm = nn.BatchNorm1d(4, track_running_stats=False).double()
    mixing = lambda x: x + x.sum(0)  # noqa: E731
    torch.manual_seed(0)
    drawing = nn.Dropout(0.5).train()
    for model in (norm, mixing, drawing):
        rows: list[int] = []
        comparator = AttackComparator(lambda x, model=model, rows=rows: (rows.append(len(x)), model(x))[1], first)
        comparator.add_attack(shift, "shift", num_attempts=3, attack_kwargs={"by": 1.0})
        comparator.evaluate(x)
        assert rows in ([3] * 4, [3, 6, 3, 3, 3])


def test_summary_weighs_examples() -> None:
    """A short last batch counts as many examples as it has."""
    comparator = AttackComparator(lambda x: x, first)
    comparator.add_attack(shift, attack_kwargs={"by": 1.0})
    assert comparator.summary() == {}
    comparator.evaluate(torch.zeros(3, 2))
    comparator.evaluate(torch.ones(1, 2))
    assert comparator.summary() == {"Original": {"mean": torch.tensor(0.25)}, "shift": {"mean": torch.tensor(1.25)}}
    comparator.reset()
    assert comparator.summary() == {}


def test_an_attack_on_raw_input() -> None:
    """Whatever `preproc_fn` takes: here a text."""
    comparator = AttackComparator(lambda x: x, first, preproc_fn=lambda text: torch.tensor([[float(len(text))]]))
    comparator.add_attack(lambda text: text + "!", "louder", num_attempts=2)
    found = comparator.evaluate("four")
    assert found["Original"].item() == 4
    assert found["louder"]["max"].item() == 5


def test_bad_comparisons_have_their_own_error() -> None:
    comparator = AttackComparator(lambda x: x, first)
    comparator.add_attack(shift, "a", additional_attack_arg_names=["by"])
    x = torch.zeros(2, 2)
    with pytest.raises(InvalidValue, match="pass by="):
        comparator.evaluate(x)
    with pytest.raises(InvalidValue, match="another name"):
        comparator.add_attack(shift, "a")
    with pytest.raises(InvalidValue, match="another name"):
        comparator.add_attack(shift, "Original")
    with pytest.raises(InvalidType, match="attack must be"):
        comparator.add_attack(3, "b")
    with pytest.raises(InvalidValue, match="num_attempts"):
        comparator.add_attack(shift, "b", num_attempts=0)
    with pytest.raises(InvalidValue, match="perturbations_per_eval"):
        comparator.evaluate(x, perturbations_per_eval=0, by=1.0)
    comparator.add_attack(lambda x: x[:1], "less")
    with pytest.raises(InvalidShape, match="shape of the input"):
        comparator.evaluate(x, by=1.0)
    with pytest.raises(InvalidType, match="the metric must give"):
        AttackComparator(lambda x: x, lambda out: "high").evaluate(x)
    summed = AttackComparator(lambda x: x.sum(0, keepdim=True), first)
    summed.add_attack(shift, "s", num_attempts=2, attack_kwargs={"by": 1.0})
    with pytest.raises(InvalidShape, match="grow with the batch"):
        summed.evaluate(x, perturbations_per_eval=2)
    assert summed.evaluate(x)["s"]["mean"].tolist() == [2.0]


def test_captums_documented_usage() -> None:
    """The examples of Captum's documentation with the import changed, and its names of arguments where they differ."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.Softmax(1))
    images, labels = torch.rand(2, 3, 2, 2), torch.tensor([0, 4])

    def accuracy_metric(model_out: Tensor, targets: Tensor) -> Tensor:
        return (torch.argmax(model_out, dim=1) == targets).float()

    attack_metric = AttackComparator(model, metric=accuracy_metric, preproc_fn=lambda x: (x - 0.5) / 0.5)
    attack_metric.add_attack(lambda x: x.rot90(1, (2, 3)), "Random Rotation", num_attempts=5)
    attack_metric.add_attack(lambda x: x * (0.5 + torch.rand(())), "Jitter", num_attempts=1)
    attack_metric.add_attack(
        lambda x, targets: FGSM(model).perturb(x, epsilon=0.1, target=targets),
        "FGSM 0.1",
        num_attempts=1,
        apply_before_preproc=False,
        additional_attack_arg_names=["targets"],
    )
    batch_results = attack_metric.evaluate(images, targets=labels)
    assert set(batch_results) == {"Original", "Random Rotation", "Jitter", "FGSM 0.1"}
    assert "Random Rotation Mean Attempt" in attack_metric.summary()

    def gaussian_noise(inp: Tensor, std: float) -> Tensor:
        return inp + std * torch.randn_like(inp)

    min_pert = MinParamPerturbation(
        forward_func=model, attack=gaussian_noise, arg_name="std", arg_min=0.0, arg_max=20.0, arg_step=0.5
    )
    torch.manual_seed(0)
    noised_image, min_std = min_pert.evaluate(inputs=images, target=model(images).argmax(1))
    assert noised_image.shape == images.shape
    assert 0 < min_std < 20


def test_a_perturbation_of_ones_own() -> None:
    class Shift(Perturbation):
        def perturb(self, inputs: Tensor, by: float) -> Tensor:
            return inputs + by

    assert Shift()(ZERO, by=2.0).item() == 2
    assert [x.item() for x in Shift().attempts(2, ZERO, by=1.0)] == [1, 1]
    assert MinParamPerturbation(below(1.5), Shift(), "by", 0, 4, 1).evaluate(ZERO, target=0)[1] == 2
