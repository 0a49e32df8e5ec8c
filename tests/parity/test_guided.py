"""Guided backpropagation and deconvolution equal the installed Captum's, and plain formulas where it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr.attr
from tests.parity.layers import Case, assert_equal, captums, described, random
from tests.parity.models import cnn, made
from tests.reference.guided import deconvolution, guided_backprop

pytestmark = pytest.mark.usefixtures("one_thread")


class TwoImages(nn.Module):
    """`(batch, 2, 5, 5)` and `(batch, 1, 4, 4)` -> `(batch, 3)`, with a ReLU for each."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 3, 3), nn.Conv2d(1, 3, 2)
        self.first, self.second, self.head = nn.ReLU(), nn.ReLU(), nn.Linear(27, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.head((self.first(self.one(x)) + self.second(self.two(y))).flatten(1))


def deep() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(36, 3)
    )


CASES = {
    "deep": Case(made(deep()), random(2, 2, 5, 5), {"target": [1, 2]}, ("0", "2", "3"), {"2": (1, 2, 0), "5": 2}),
    "cnn": Case(made(cnn()), random(2, 2, 5, 5), {"target": 2}, ("0", "1"), {"0": (1, 0, 2), "5": 1}),
    "two": Case(
        made(TwoImages()), (random(2, 2, 5, 5), random(2, 1, 4, 4)), {"target": 1}, ("one", "two"), {"head": 1}
    ),
}
METHODS = ("GuidedBackprop", "Deconvolution")


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_inputs(name: str, method: str) -> None:
    case = CASES[name]
    found = getattr(llm_attr.attr, method)(case.model).attribute(case.inputs, **case.options)
    assert_equal(found, captums(method, lambda m: m.attribute(case.inputs, **case.options), case.model))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("method", METHODS)
def test_neurons(name: str, method: str) -> None:
    case = CASES[name]
    for layer, neuron in case.neurons.items():
        module, _ = case.at(layer)
        found = getattr(llm_attr.attr, f"Neuron{method}")(case.model, module).attribute(case.inputs, neuron)
        expected = captums(f"Neuron{method}", lambda m, n=neuron: m.attribute(case.inputs, n), case.model, module)
        assert_equal(found, expected)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_guided_grad_cam(name: str, mode: str) -> None:
    case = CASES[name]
    for layer in case.layers:
        module, _ = case.at(layer)
        options = {**case.options, "interpolate_mode": mode}
        found = llm_attr.attr.GuidedGradCam(case.model, module).attribute(case.inputs, **options)
        expected = captums("GuidedGradCam", lambda m, o=options: m.attribute(case.inputs, **o), case.model, module)
        assert_equal(found, expected)


def test_inputs_that_have_no_places_get_an_empty_tensor() -> None:
    case = CASES["deep"]
    model = nn.Sequential(case.model)

    def both(x: Tensor, y: Tensor) -> Tensor:
        return model(x) * y

    inputs = (case.inputs, random(2, 3).abs())
    with pytest.warns(UserWarning, match="cannot be resized"):
        found = llm_attr.attr.GuidedGradCam(both, case.model[0]).attribute(inputs, target=0)
    assert found[0].shape == (2, 2, 5, 5)
    assert found[1].shape == (0,)


@pytest.mark.parametrize("method", [*METHODS, "GuidedGradCam", "NeuronGuidedBackprop", "NeuronDeconvolution"])
def test_what_methods_say_of_themselves(method: str) -> None:
    model = CASES["deep"].model
    layer = [] if method in METHODS else [model[0]]
    ours = described(getattr(llm_attr.attr, method)(model, *layer))
    assert ours[:2] == captums(method, described, model, *layer)[:2]


class Functional(nn.Module):
    """Every way to call a ReLU, and one module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(5)])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = self.layers
        x = self.relu(b(self.relu(a(x))))
        x = torch.relu(c(x))
        x = nn.functional.relu(d(x), True)
        return e(x).relu_()


@pytest.mark.parametrize(
    ("method", "reference"), [("GuidedBackprop", guided_backprop), ("Deconvolution", deconvolution)]
)
def test_every_spelling_of_a_relu(method: str, reference: Any) -> None:
    model, x = made(Functional()), random(3, 4)
    weights = [layer.weight.detach() for layer in model.layers]
    found = getattr(llm_attr.attr, method)(model).attribute(x, target=2)
    torch.testing.assert_close(found, reference(weights, x, 2), rtol=1e-12, atol=1e-12)
    assert found.abs().sum() > 0
