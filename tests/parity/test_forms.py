"""The forms in which inputs, baselines and masks may be given: those of the installed Captum, and their natural kin."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from inspect import isclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr.attr as ours
from llm_attr.errors import InvalidShape
from tests.parity.models import made

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr as theirs

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NET = made(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 4))).double()
BASELINES = {
    "channels": torch.tensor([0.1, 0.2, 0.3]).double().view(1, 3, 1, 1),
    "an example each": torch.tensor([0.5, -0.5]).double().view(2, 1, 1, 1),
    "a number": torch.tensor(0.5),
    "one row": IMAGE[:1] / 2,
    "no batch": torch.tensor([0.1, 0.2, 0.3]).double().view(3, 1, 1),
}
HALVES = (torch.arange(16) // 8).view(1, 1, 4, 4)
OPTIONS: dict[str, dict[str, Any]] = {
    "FeatureAblation": {},
    "Occlusion": {"sliding_window_shapes": (3, 2, 2)},
    "KernelShap": {"feature_mask": HALVES, "n_samples": 40},
    "Lime": {"feature_mask": HALVES, "n_samples": 2000, "perturbations_per_eval": 100},
    "ShapleyValues": {"feature_mask": HALVES},
    "IntegratedGradients": {},
    "LayerConductance": {},
    "InternalInfluence": {},
    "NeuronConductance": {"neuron_selector": (0, 0, 0)},
    "NeuronFeatureAblation": {"neuron_selector": (0, 0, 0)},
    "DeepLift": {},
}
REFUSED_BY_CAPTUM = {
    "KernelShap": {"a number"},
    "Lime": {"a number"},
    "ShapleyValues": BASELINES.keys() - {"one row"},
    "IntegratedGradients": {"an example each", "a number", "no batch"},
    "LayerConductance": {"an example each", "a number", "no batch"},
    "InternalInfluence": {"an example each", "a number", "no batch"},
    "NeuronConductance": {"an example each", "a number", "no batch"},
    "DeepLift": BASELINES.keys() - {"one row"},
}


def quietly(call: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def explained(package: Any, name: str, baselines: Tensor) -> Tensor:
    inside = name.startswith(("Layer", "Neuron", "Internal"))
    method = getattr(package, name)(*((NET, NET[0]) if inside else (NET,)))
    target = {} if name == "NeuronFeatureAblation" else {"target": 1}
    return quietly(lambda: method.attribute(IMAGE, baselines=baselines, **target, **OPTIONS[name]))


@pytest.mark.parametrize("form", BASELINES)
@pytest.mark.parametrize("name", OPTIONS)
def test_baselines_that_broadcast(name: str, form: str) -> None:
    given = BASELINES[form]
    found = explained(ours, name, given)
    torch.testing.assert_close(found, explained(ours, name, given.double().expand_as(IMAGE)))
    if form not in REFUSED_BY_CAPTUM.get(name, set()):
        close = 0.05 if name == "Lime" else 1e-4
        want = explained(theirs, name, given).double()
        torch.testing.assert_close(found, want, atol=close * want.abs().max().item(), rtol=0)


@pytest.mark.parametrize("name", ["FeatureAblation", "Occlusion", "ShapleyValueSampling", "KernelShap", "Lime"])
def test_whole_inputs_with_a_baseline_of_a_half(name: str) -> None:
    inputs, options, seen = torch.tensor([[1, 2, 3], [4, 5, 6]]), {"sliding_window_shapes": (1,)}, set()

    def forward(x: Tensor) -> Tensor:
        seen.add(x.dtype)
        return x.float().sum(1)

    method = getattr(ours, name)(forward, *([ours.SkLearnLinearRegression()] if name == "Lime" else []))
    found = quietly(lambda: method.attribute(inputs, baselines=0.5, **(options if name == "Occlusion" else {})))
    torch.testing.assert_close(found, inputs - 0.5)
    assert found.dtype == torch.float32
    assert seen == {torch.float32}


@pytest.mark.parametrize("name", ["ShapleyValues", "ShapleyValueSampling", "KernelShap", "FeatureAblation"])
def test_a_mask_for_each_example_and_several_outputs(name: str) -> None:
    x, mask = torch.rand(2, 4, generator=torch.Generator().manual_seed(1)), torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2]])

    def several(x: Tensor) -> Tensor:
        return torch.stack([x.sum(1), x.prod(1), (x**2).sum(1)], 1)

    found = quietly(lambda: getattr(ours, name)(several).attribute(x, feature_mask=mask))
    one = [
        quietly(lambda k=k: getattr(ours, name)(several).attribute(x, feature_mask=mask, target=k)) for k in range(3)
    ]
    torch.testing.assert_close(found.reshape(2, 3, 4), torch.stack(one, 1))
    if name.startswith("Shapley"):
        want = quietly(lambda: getattr(theirs, name)(several).attribute(x, feature_mask=mask))
        torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-5)
    with pytest.raises(InvalidShape, match="needs outputs for each example; the model gave 4 outputs"):
        getattr(ours, name)(lambda x: x.sum(0)).attribute(x, feature_mask=mask)


@pytest.mark.parametrize("per_call", [None, 3])
@pytest.mark.parametrize(
    "name", ["FeatureAblation", "Occlusion", "ShapleyValues", "ShapleyValueSampling", "FeaturePermutation"]
)
def test_inputs_of_different_lengths(name: str, per_call: int | None) -> None:
    inputs = (torch.rand(2, 3, generator=torch.Generator().manual_seed(2)), torch.rand(4, 3).double())
    options = {"sliding_window_shapes": ((2,), (2,))} if name == "Occlusion" else {}

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return torch.stack([(x[:1] ** 2).sum(), (x[0] * y[1]).sum()])

    want = quietly(lambda: getattr(theirs, name)(forward).attribute(inputs, **options))
    found = quietly(lambda: getattr(ours, name)(forward).attribute(inputs, perturbations_per_eval=per_call, **options))
    for one, other in zip(found, want, strict=True):
        torch.testing.assert_close(one.double(), other.double(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["FeatureAblation", "FeaturePermutation"])
def test_empty_tensors(name: str) -> None:
    full, empty = torch.rand(2, 3), torch.zeros(0, 3)
    assert getattr(ours, name)(lambda x: x.sum(1)).attribute(empty).shape == (0, 3)
    found = getattr(ours, name)(lambda x, y: x[:1].sum() + y.sum()).attribute((full, empty))
    assert [tuple(each.shape) for each in found] == [(1, 3), (1, 3)]
    assert not found[1].any()
    none = getattr(ours, name)(lambda x, y: x.sum(1)).attribute((full, torch.zeros(2, 0)))
    assert none[1].shape == (2, 0)


def test_whatever_has_attribute_future_in_captum_has_it_here() -> None:
    named = [name for name in theirs.__all__ if isclass(getattr(theirs, name)) and hasattr(ours, name)]
    assert len([name for name in named if hasattr(getattr(theirs, name), "attribute_future")]) > 20
    for name in named:
        assert hasattr(getattr(ours, name), "attribute_future") >= hasattr(getattr(theirs, name), "attribute_future")
    for method in (ours.IntegratedGradients(NET), ours.Occlusion(NET), ours.LayerActivation(NET, NET[0])):
        with pytest.raises(NotImplementedError, match=f"^{method.get_name()} takes no forward function"):
            method.attribute_future(IMAGE)
