"""`infidelity`, `sensitivity_max` and the perturbation functions against Captum's, with the same seeds."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from inspect import signature
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr import attr, metrics
from tests.parity.cases import random
from tests.parity.models import LSTM, TwoInputs, cnn, made, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr
    import captum.metrics as theirs

MODELS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "cnn": (cnn, random(3, 2, 5, 5)),
    "mlp": (mlp, random(3, 4)),
    "two inputs": (TwoInputs, (random(3, 4), random(3, 2, 3, seed=1))),
    "lstm": (LSTM, random(3, 5, 3)),
}
TARGETS: list[Any] = [1, [0, 1, 0], torch.tensor([1, 0, 1])]


def tuple_of(inputs: Any) -> tuple[Tensor, ...]:
    return inputs if isinstance(inputs, tuple) else (inputs,)


def noise(inputs: Any) -> Any:
    """Perturbations, and the inputs without them."""
    moved = [torch.randn_like(x) * 0.1 for x in tuple_of(inputs)]
    low = [x - change for x, change in zip(tuple_of(inputs), moved, strict=True)]
    return (tuple(moved), tuple(low)) if isinstance(inputs, tuple) else (moved[0], low[0])


def halves(inputs: Any, baselines: Any = None) -> Any:
    """Half of the entries, at random, at their baseline."""
    given = (0,) * len(tuple_of(inputs)) if baselines is None else baselines
    lows = given if isinstance(given, tuple) else (given,)
    kept = tuple(torch.where(torch.rand_like(x) < 0.5, x, low) for x, low in zip(tuple_of(inputs), lows, strict=True))
    return kept if isinstance(inputs, tuple) else kept[0]


def both(name: str, ours: tuple[Any, ...], captum: tuple[Any, ...], **options: Any) -> tuple[Tensor, Tensor]:
    """The results of both libraries for the same seed, and what is left of the stream."""
    found = []
    for package, arguments in ((metrics, ours), (theirs, captum)):
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = getattr(package, name)(*arguments, **options)
        found.append(torch.cat([result, torch.rand(1, dtype=torch.float64)]))
    return found[0], found[1]


def contiguous(explain: Callable[..., Any]) -> Callable[..., tuple[Tensor, ...]]:
    """The explanation in memory order; Captum's metric fails on the gradients of an LSTM otherwise."""
    return lambda inputs, **options: tuple(x.contiguous() for x in tuple_of(explain(inputs, **options)))


def same(pair: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_perturb_samples": 4, "normalize": True},
        {"n_perturb_samples": 5, "max_examples_per_batch": 3},
        {"n_perturb_samples": 5, "max_examples_per_batch": 7, "normalize": True},
        {"n_perturb_samples": 2, "max_examples_per_batch": 1},
        {"n_perturb_samples": 2, "max_examples_per_batch": 100},
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_infidelity(name: str, options: dict[str, Any]) -> None:
    model, inputs = made(MODELS[name][0]()), MODELS[name][1]
    for target in TARGETS:
        judged = attr.Saliency(model).attribute(inputs, target=target)
        arguments = (model, noise, inputs, judged)
        same(both("infidelity", arguments, arguments, target=target, **options))


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_infidelity_of_perturbed_inputs_alone(name: str, multiply: bool) -> None:
    model, inputs = made(MODELS[name][0]()), MODELS[name][1]
    judged = attr.IntegratedGradients(model, multiply_by_inputs=multiply).attribute(inputs, target=0)
    single = not isinstance(inputs, tuple)
    rows, first = tuple(x * 0.3 for x in tuple_of(inputs)), tuple(x[:1] * 0.3 for x in tuple_of(inputs))
    for baselines in (None, 0.5 if single else (0.5, 0), rows[0] if single else rows, first[0] if single else first):
        each = [package.infidelity_perturb_func_decorator(multiply)(halves) for package in (metrics, theirs)]
        pair = [(model, perturb, inputs, judged, baselines) for perturb in each]
        same(both("infidelity", *pair, target=0, n_perturb_samples=4))


def test_infidelity_of_an_output_for_each_example_with_more_arguments() -> None:
    x, y = random(3, 4), random(3, 2, seed=1)
    arguments = (lambda a, b, w, k: (a.sum(1) * w + b.prod(1)) * k, noise, (x, y), (x.sin(), y))
    extra = (random(3, seed=2), 2.0)
    same(both("infidelity", arguments, arguments, additional_forward_args=extra, n_perturb_samples=3))


@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("baselines", [None, 1.0, 0, torch.tensor([[0.0, 1.0, 2.0]])])
def test_the_decorator(multiply: bool, baselines: Any) -> None:
    inputs = torch.tensor([[0.0, 1.0, 3.0]])
    ours, captum = (
        package.infidelity_perturb_func_decorator(multiply)(lambda x, low=None: x / 2)(inputs, baselines)
        for package in (metrics, theirs)
    )
    assert all(torch.equal(a[0], b[0]) for a, b in zip(ours, captum, strict=True))
    assert all(isinstance(each, tuple) for each in ours)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n_perturb_samples": 5, "max_examples_per_batch": 7, "perturb_radius": 0.3},
        {"n_perturb_samples": 2, "max_examples_per_batch": 1},
        {"n_perturb_samples": 2, "norm_ord": 1},
        {"n_perturb_samples": 2, "norm_ord": float("inf")},
        {"n_perturb_samples": 2, "norm_ord": -float("inf")},
        {"n_perturb_samples": 2, "norm_ord": 0},
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_sensitivity(name: str, options: dict[str, Any]) -> None:
    model, inputs = made(MODELS[name][0]()), MODELS[name][1]
    for kind, more in (("Saliency", {"target": [0, 1, 0]}), ("IntegratedGradients", {"target": 1, "n_steps": 7})):
        pair = [(contiguous(getattr(package, kind)(model).attribute), inputs) for package in (attr, captum.attr)]
        same(both("sensitivity_max", *pair, **more, **options))


def test_sensitivity_repeats_baselines_and_arguments() -> None:
    model, inputs = made(TwoInputs()), (random(3, 4), random(3, 2, 3, seed=1))
    pair = [(package.IntegratedGradients(model).attribute, inputs) for package in (attr, captum.attr)]
    for baselines in ((random(3, 4, seed=4), 0), (random(1, 4, seed=4), 0.5)):
        more: dict[str, Any] = {"baselines": baselines, "additional_forward_args": (random(3, 1, seed=5),)}
        same(both("sensitivity_max", *pair, n_perturb_samples=3, target=[0, 4, 2], n_steps=5, **more))


def test_sensitivity_to_a_perturbation_of_ones_own() -> None:
    model, x = made(mlp()), random(3, 4)

    def moved(inputs: Tensor, radius: float) -> Tensor:
        return inputs + radius * torch.randn_like(inputs)

    for perturb in (moved, lambda inputs: inputs + torch.randn_like(inputs)):
        pair = [(package.Saliency(model).attribute, x, perturb, 0.4) for package in (attr, captum.attr)]
        same(both("sensitivity_max", *pair, target=2, n_perturb_samples=4))


def test_sensitivity_where_nothing_is_explained() -> None:
    def zero(inputs: Any) -> tuple[Tensor, ...]:
        return tuple(x * (x > 0.1) for x in tuple_of(inputs))

    x = torch.zeros(2, 3, dtype=torch.float64)
    arguments = (zero, x, lambda inputs: inputs + 0.5)
    same(both("sensitivity_max", arguments, arguments, n_perturb_samples=1))


def test_the_default_perturbation() -> None:
    default = signature(theirs.sensitivity_max).parameters["perturb_func"].default
    inputs = (random(2, 3), random(2, 4, 2).float(), torch.arange(4).view(2, 2))
    found = []
    for function in (metrics.default_perturb_func, default):
        torch.manual_seed(0)
        found.append(function(inputs, 0.1))
    assert isinstance(found[0], tuple)
    assert all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("name", theirs.__all__)
def test_signatures(name: str) -> None:
    ours, captum = (list(signature(getattr(package, name)).parameters.values()) for package in (metrics, theirs))
    assert [each.name for each in ours] == [each.name for each in captum]
    assert [each.kind for each in ours] == [each.kind for each in captum]
    defaults = [(a.default, b.default) for a, b in zip(ours, captum, strict=True) if a.name != "perturb_func"]
    assert all(a == b for a, b in defaults)


class ImageClassifier(nn.Module):
    """Images `(batch, 3, 32, 32)` to probabilities of ten classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 5, stride=4), nn.Linear(4 * 49, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().flatten(1)).softmax(1)


def test_the_examples_of_captums_documentation() -> None:
    net = ImageClassifier()
    saliency = attr.Saliency(net)
    inputs = torch.randn(2, 3, 32, 32, requires_grad=True)
    attribution = saliency.attribute(inputs, target=3)

    def perturb_fn(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.tensor(torch.randn(inputs.shape).mul(0.003).numpy()).float()
        return noise, inputs - noise

    infid = metrics.infidelity(net, perturb_fn, inputs, attribution, target=3)
    assert infid.shape == (2,)
    assert not infid.requires_grad
    sens = metrics.sensitivity_max(saliency.attribute, inputs, target=3)
    assert sens.shape == (2,)
    assert (sens >= 0).all()

    @metrics.infidelity_perturb_func_decorator(False)
    def my_perturb_func(inputs: Tensor) -> Tensor:
        return inputs - 0.003 * torch.randn_like(inputs)

    assert metrics.infidelity(net, my_perturb_func, inputs, attribution, target=3).shape == (2,)
