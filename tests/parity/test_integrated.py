"""Integrated gradients of inputs, layers and neurons equal the installed Captum's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
import torch.nn.functional as F

from llm_attr.attr import IntegratedGradients, LayerAttribution, LayerIntegratedGradients, NeuronIntegratedGradients
from tests.parity.cases import IDS, MOVED, X, assert_equal, captums, random
from tests.parity.models import cnn, made

LAYERED = MOVED | IDS


pytestmark = pytest.mark.usefixtures("one_thread")


def asking(*args: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda method: method.attribute(*args, **options)


BESIDE = {
    ("encoder", "model.encoder.layers.1.linear1"),
    ("encoder, list of tuples", "model.encoder.layers.0.linear2:"),
    ("two inputs", "left"),
    ("two inputs", "right"),
    ("two inputs", "right:"),
    ("embedding", "encoder.layers.0.linear1"),
}
"""Layers beside which the inputs have other ways to the output; the delta has the change on those too."""


@pytest.mark.parametrize("name", MOVED)
def test_inputs_that_are_not_multiplied(name: str) -> None:
    """Captum's delta compares with attributions that were not multiplied; ours is that of the multiplied ones."""
    case = MOVED[name]
    options = {"n_steps": 20, "return_convergence_delta": True, **case.options}
    expected, _ = captums("IntegratedGradients", asking(case.inputs, **options), case.model, False)
    result, delta = IntegratedGradients(case.model, multiply_by_inputs=False).attribute(case.inputs, **options)
    assert_equal(result, expected)
    _, multiplied = IntegratedGradients(case.model).attribute(case.inputs, **options)
    torch.testing.assert_close(delta, multiplied)


@pytest.mark.parametrize(("name", "layer"), sorted(BESIDE))
def test_the_gap_of_layers_with_ways_beside_them_is_of_the_integral(name: str, layer: str) -> None:
    """It vanishes with many steps, where the delta does not."""
    case = LAYERED[name]
    module, to_input = case.at(layer)
    options = {"return_convergence_delta": True, "attribute_to_layer_input": to_input, "n_steps": 200, **case.options}
    method = LayerIntegratedGradients(case.model, module)
    result, delta, info = method.attribute(case.inputs, **options, return_info=True)
    few = method.attribute(case.inputs, **{**options, "n_steps": 3, "return_info": True})[2]
    assert info.gap.max() < 0.3 * few.gap.max() or info.gap.max() < 1e-6
    assert delta.abs().max() > 1e-3
    assert result.abs().max() > 1e-3


def test_a_list_of_layers_one_after_the_other_where_captum_fails() -> None:
    """The later layer has it all; Captum says that the earlier one is not used."""
    case = MOVED["mlp, int"]
    model = case.model
    with pytest.raises(RuntimeError, match="not have been used"):
        captums("LayerIntegratedGradients", asking(X, **case.options), model, [model[0], model[1]])
    both = LayerIntegratedGradients(model, [model[0], model[1]]).attribute(X, **case.options)
    assert not both[0].any()
    assert_equal(both[1], LayerIntegratedGradients(model, model[1]).attribute(X, **case.options))


def test_a_slice_of_neurons_and_the_old_spelling() -> None:
    model, image = made(cnn()), random(2, 2, 5, 5)
    selector = (1, slice(0, 2), 2)
    expected = captums("NeuronIntegratedGradients", asking(image, selector), model, model[0])
    assert_equal(NeuronIntegratedGradients(model, model[0]).attribute(image, selector), expected)
    with pytest.warns(DeprecationWarning, match="neuron_index= is now neuron_selector="):
        assert_equal(NeuronIntegratedGradients(model, model[0]).attribute(image, neuron_index=selector), expected)


@pytest.mark.parametrize("name", MOVED)
def test_convergence_delta(name: str) -> None:
    case = MOVED[name]
    attributions = case.inputs
    options = {"target": case.options.get("target")}
    options["additional_forward_args"] = case.options.get("additional_forward_args")
    start = 0 if not isinstance(case.inputs, tuple) else tuple(x[:1] * 0.5 for x in case.inputs)
    arguments = (attributions, start, case.inputs)
    expected = captums("IntegratedGradients", lambda m: m.compute_convergence_delta(*arguments, **options), case.model)
    result = IntegratedGradients(case.model).compute_convergence_delta(*arguments, **options)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(("shape", "sizes"), [((2, 3, 4), 8), ((2, 1, 4, 5), (8, 10)), ((1, 2, 2, 3, 2), (4, 3, 5))])
def test_interpolate(shape: tuple[int, ...], sizes: Any) -> None:
    layer = random(*shape)
    modes = {3: ("nearest", "linear"), 4: ("nearest", "bilinear", "bicubic"), 5: ("nearest", "trilinear")}
    for mode in modes[len(shape)]:
        expected = captum.attr.LayerAttribution.interpolate(layer, sizes, mode)
        assert torch.equal(LayerAttribution.interpolate(layer, sizes, mode), expected)
    assert torch.equal(LayerAttribution.interpolate(layer, sizes), F.interpolate(layer, sizes))
