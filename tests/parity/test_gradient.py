"""The gradients of one point equal the installed Captum's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import llm_attr.attr
from llm_attr.attr import (
    InputXGradient,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    NeuronGradient,
    Saliency,
)
from tests.parity.layers import IDS, MOVED, assert_equal, captums, described, neurons, random, sites
from tests.parity.models import cnn, made

LAYERED = MOVED | IDS


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("absolute", [True, False])
def test_saliency(name: str, absolute: bool) -> None:
    case = MOVED[name]
    expected = captums("Saliency", lambda m: m.attribute(case.inputs, abs=absolute, **case.options), case.model)
    assert_equal(Saliency(case.model).attribute(case.inputs, abs=absolute, **case.options), expected)


@pytest.mark.parametrize("name", MOVED)
def test_input_x_gradient(name: str) -> None:
    case = MOVED[name]
    expected = captums("InputXGradient", lambda m: m.attribute(case.inputs, **case.options), case.model)
    assert_equal(InputXGradient(case.model).attribute(case.inputs, **case.options), expected)


@pytest.mark.parametrize(("name", "layer"), sites(LAYERED))
@pytest.mark.parametrize("options", [{}, {"multiply_by_inputs": False}, {"memory_efficient": True}], ids=str)
def test_layer_gradient_x_activation(name: str, layer: str, options: dict[str, Any]) -> None:
    case = LAYERED[name]
    module, to_input = case.at(layer)
    arguments = {"attribute_to_layer_input": to_input, "grad_kwargs": {"retain_graph": True}, **case.options}
    expected = captums(
        "LayerGradientXActivation", lambda m: m.attribute(case.inputs, **arguments), case.model, module, **options
    )
    method = LayerGradientXActivation(case.model, module, **options)
    assert_equal(method.attribute(case.inputs, **arguments), expected)


@pytest.mark.parametrize(("name", "layer"), sites(LAYERED))
def test_layer_activation(name: str, layer: str) -> None:
    case = LAYERED[name]
    module, to_input = case.at(layer)
    arguments = (case.options.get("additional_forward_args"), to_input)
    expected = captums("LayerActivation", lambda m: m.attribute(case.inputs, *arguments), case.model, module)
    assert_equal(LayerActivation(case.model, module).attribute(case.inputs, *arguments), expected)


@pytest.mark.parametrize(("name", "layer"), sites(LAYERED))
@pytest.mark.parametrize("options", [{}, {"relu_attributions": True}, {"attr_dim_summation": False}], ids=str)
def test_layer_grad_cam(name: str, layer: str, options: dict[str, Any]) -> None:
    case = LAYERED[name]
    module, to_input = case.at(layer)
    arguments = {"attribute_to_layer_input": to_input, **options, **case.options}
    expected = captums("LayerGradCam", lambda m: m.attribute(case.inputs, **arguments), case.model, module)
    assert_equal(LayerGradCam(case.model, module).attribute(case.inputs, **arguments), expected)


@pytest.mark.parametrize(("name", "layer"), neurons(MOVED))
def test_neuron_gradient(name: str, layer: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    arguments = (case.neurons[layer], case.options.get("additional_forward_args"), to_input)
    expected = captums("NeuronGradient", lambda m: m.attribute(case.inputs, *arguments), case.model, module)
    assert_equal(NeuronGradient(case.model, module).attribute(case.inputs, *arguments), expected)


@pytest.mark.parametrize("selector", [(1, slice(0, 2), 2), (slice(None), 0, slice(1, 3)), lambda u: u.sum((1, 2, 3))])
def test_neuron_gradient_of_a_sum_of_neurons(selector: Any) -> None:
    model, x = made(cnn()), random(2, 2, 5, 5)
    expected = captums("NeuronGradient", lambda m: m.attribute(x, selector), model, model[0])
    assert_equal(NeuronGradient(model, model[0]).attribute(x, selector), expected)


@pytest.mark.parametrize("name", LAYERED)
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("method", ["LayerGradientXActivation", "LayerActivation"])
def test_lists_of_layers(name: str, to_input: bool, method: str) -> None:
    case = LAYERED[name]
    layers = [module for module, at_input in map(case.at, case.layers) if at_input == to_input]
    if not layers:
        pytest.skip("no such layers")
    arguments = {"attribute_to_layer_input": to_input, **case.options}
    if method == "LayerActivation":
        arguments.pop("target", None)
    expected = captums(method, lambda m: m.attribute(case.inputs, **arguments), case.model, layers)
    assert_equal(getattr(llm_attr.attr, method)(case.model, layers).attribute(case.inputs, **arguments), expected)


@pytest.mark.parametrize("name", ["Saliency", "InputXGradient"])
def test_one_number_for_the_batch(name: str) -> None:
    def forward(x: torch.Tensor) -> torch.Tensor:
        return MOVED["mlp, int"].model(x).square().sum()[None]

    x = random(3, 4)
    expected = captums(name, lambda m: m.attribute(x), forward)
    assert_equal(getattr(llm_attr.attr, name)(forward).attribute(x), expected)


@pytest.mark.parametrize(
    "name",
    ["Saliency", "InputXGradient", "LayerActivation", "LayerGradientXActivation", "LayerGradCam", "NeuronGradient"],
)
def test_is_described_as_in_captum(name: str) -> None:
    case = MOVED["mlp, int"]
    args = (case.model,) if name in ("Saliency", "InputXGradient") else (case.model, case.model[0])
    mine = getattr(llm_attr.attr, name)(*args)
    assert described(mine) == captums(name, described, *args)


@pytest.mark.parametrize("multiply", [True, False])
def test_multiply_gradient_acts(multiply: bool) -> None:
    tensors = (random(2, 3), random(2, 4)), (random(2, 3, seed=1), random(2, 4, seed=1))
    model = MOVED["mlp, int"].model
    expected = captums(
        "LayerGradientXActivation", lambda m: m.multiply_gradient_acts(*tensors), model, model[0], None, multiply
    )
    mine = LayerGradientXActivation(model, model[0], None, multiply).multiply_gradient_acts(*tensors)
    assert_equal(mine, expected)
