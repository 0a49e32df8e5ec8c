"""Integrated gradients of inputs, layers and neurons equal the installed Captum's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_attr.attr import IntegratedGradients, LayerAttribution, LayerIntegratedGradients, NeuronIntegratedGradients
from llm_attr.core.path.walk import QUADRATURES
from llm_attr.core.tensors import leaves
from tests.parity.layers import IDS, MOVED, X, assert_equal, captums, neurons, random, sites
from tests.parity.models import cnn, made, mlp

LAYERED = MOVED | IDS
PER_CALL = [{}, {"internal_batch_size": 7}]


pytestmark = pytest.mark.usefixtures("one_thread")


def asking(*args: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda method: method.attribute(*args, **options)


def baselines_of(name: str) -> list[Any]:
    """None, and the case's own where it has some."""
    case = LAYERED[name]
    return [None] if case.baselines is None else [None, case.baselines]


BESIDE = {
    ("encoder", "model.encoder.layers.1.linear1"),
    ("encoder, list of tuples", "model.encoder.layers.0.linear2:"),
    ("two inputs", "left"),
    ("two inputs", "right"),
    ("two inputs", "right:"),
    ("embedding", "encoder.layers.0.linear1"),
}
"""Layers beside which the inputs have other ways to the output; the delta has the change on those too."""


def assert_deltas(result: Any, expected: Any) -> None:
    """Relative to what they are a small difference of: Captum's weights are in single precision."""
    size = sum(part.abs().flatten(1).sum(1).max().item() for part in leaves(expected[0]))
    torch.testing.assert_close(result[1], expected[1], rtol=1e-6, atol=1e-6 * max(size, 1.0))


def without_operations_in_place(model: nn.Module, name: str) -> tuple[nn.Module, nn.Module]:
    """The same model and its layer for Captum, which fails where a layer's output is changed in place."""
    twin = copy.deepcopy(model)
    for part in twin.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False
    return twin, twin.get_submodule(name.removesuffix(":"))


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("method", QUADRATURES)
def test_inputs(name: str, method: str) -> None:
    case = MOVED[name]
    for baselines in baselines_of(name):
        options = {"n_steps": 9, "method": method, "return_convergence_delta": True, **case.options}
        expected = captums("IntegratedGradients", asking(case.inputs, baselines, **options), case.model)
        for more in PER_CALL:
            result = IntegratedGradients(case.model).attribute(case.inputs, baselines, **options, **more)
            assert_equal(result[0], expected[0])
            assert_deltas(result, expected)


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


@pytest.mark.parametrize(("name", "layer"), sites(LAYERED))
@pytest.mark.parametrize("multiply", [True, False])
def test_layers(name: str, layer: str, multiply: bool) -> None:
    case = LAYERED[name]
    module, to_input = case.at(layer)
    for baselines in baselines_of(name):
        options = {
            "baselines": baselines,
            "n_steps": 8,
            "return_convergence_delta": True,
            "attribute_to_layer_input": to_input,
            **case.options,
        }
        theirs = without_operations_in_place(case.model, layer)
        expected = captums("LayerIntegratedGradients", asking(case.inputs, **options), *theirs, None, multiply)
        for more in PER_CALL:
            method = LayerIntegratedGradients(case.model, module, multiply_by_inputs=multiply)
            result = method.attribute(case.inputs, **options, **more)
            assert_equal(result[0], expected[0])
            if multiply:
                assert_deltas(result, expected)


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


@pytest.mark.parametrize("method", QUADRATURES)
def test_layers_by_each_rule(method: str) -> None:
    for name, layer in (("cnn", "0"), ("embedding", "embedding"), ("tuples", "fork")):
        case = LAYERED[name]
        module, _ = case.at(layer)
        options = {"n_steps": 6, "method": method, "grad_kwargs": {"retain_graph": True}, **case.options}
        expected = captums("LayerIntegratedGradients", asking(case.inputs, **options), case.model, module)
        assert_equal(LayerIntegratedGradients(case.model, module).attribute(case.inputs, **options), expected)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("two inputs", ["left", "right"]),
        ("two inputs", ["right", "left"]),
        ("two inputs", ["left"]),
        ("product of two inputs", ["head"]),
        ("mlp, list", ["1"]),
        ("tuples", ["fork"]),
    ],
)
def test_lists_of_layers(name: str, layers: list[str]) -> None:
    case = MOVED[name]
    modules = [case.model.get_submodule(layer) for layer in layers]
    options = {"n_steps": 7, "return_convergence_delta": True, **case.options}
    expected, delta = captums("LayerIntegratedGradients", asking(case.inputs, **options), case.model, modules)
    result, same = LayerIntegratedGradients(case.model, modules).attribute(case.inputs, **options)
    assert isinstance(result, list)
    assert_equal(result, expected)
    if name != "two inputs":
        assert_deltas((result, same), (expected, delta))


def test_a_list_of_layers_one_after_the_other_where_captum_fails() -> None:
    """The later layer has it all; Captum says that the earlier one is not used."""
    case = MOVED["mlp, int"]
    model = case.model
    with pytest.raises(RuntimeError, match="not have been used"):
        captums("LayerIntegratedGradients", asking(X, **case.options), model, [model[0], model[1]])
    both = LayerIntegratedGradients(model, [model[0], model[1]]).attribute(X, **case.options)
    assert not both[0].any()
    assert_equal(both[1], LayerIntegratedGradients(model, model[1]).attribute(X, **case.options))


@pytest.mark.parametrize(("name", "layer"), neurons(MOVED))
@pytest.mark.parametrize("method", ["gausslegendre", "riemann_trapezoid"])
def test_neurons(name: str, layer: str, method: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    for baselines in baselines_of(name):
        options = {
            "neuron_selector": case.neurons[layer],
            "baselines": baselines,
            "additional_forward_args": case.options.get("additional_forward_args"),
            "n_steps": 6,
            "method": method,
            "attribute_to_neuron_input": to_input,
        }
        for multiply in (True, False):
            expected = captums(
                "NeuronIntegratedGradients",
                asking(case.inputs, **options),
                case.model,
                module,
                None,
                multiply,
            )
            for more in PER_CALL:
                mine = NeuronIntegratedGradients(case.model, module, multiply_by_inputs=multiply)
                assert_equal(mine.attribute(case.inputs, **options, **more), expected)


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


@pytest.mark.parametrize("target", [1, [0, 2, 1]])
def test_several_outputs_of_many_axes(target: Any) -> None:
    """A function that gives one of the outputs of a model with several, of more axes than classes."""
    torch.manual_seed(0)
    trunk, heads = made(mlp()), nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 6)]).double()

    def second(x: Tensor) -> Tensor:
        hidden = trunk(x).tanh()
        return [head(hidden) for head in heads][1].unflatten(1, (3, 2))

    targets = (target, 1) if isinstance(target, int) else [(entry, 1) for entry in target]
    for options in ({"n_steps": 11}, {"n_steps": 11, "method": "riemann_left"}):
        expected = captums("IntegratedGradients", asking(X, target=targets, **options), second)
        assert_equal(IntegratedGradients(second).attribute(X, target=targets, **options), expected)
        layered = captums("LayerIntegratedGradients", asking(X, target=targets, **options), second, trunk)
        assert_equal(LayerIntegratedGradients(second, trunk).attribute(X, target=targets, **options), layered)


@pytest.mark.parametrize(("shape", "sizes"), [((2, 3, 4), 8), ((2, 1, 4, 5), (8, 10)), ((1, 2, 2, 3, 2), (4, 3, 5))])
def test_interpolate(shape: tuple[int, ...], sizes: Any) -> None:
    layer = random(*shape)
    modes = {3: ("nearest", "linear"), 4: ("nearest", "bilinear", "bicubic"), 5: ("nearest", "trilinear")}
    for mode in modes[len(shape)]:
        expected = captum.attr.LayerAttribution.interpolate(layer, sizes, mode)
        assert torch.equal(LayerAttribution.interpolate(layer, sizes, mode), expected)
    assert torch.equal(LayerAttribution.interpolate(layer, sizes), F.interpolate(layer, sizes))


@pytest.mark.parametrize("name", ["IntegratedGradients", "LayerIntegratedGradients", "NeuronIntegratedGradients"])
def test_is_described_as_in_captum(name: str) -> None:
    import llm_attr.attr

    model = made(mlp())
    args = (model,) if name == "IntegratedGradients" else (model, model[0])
    for multiply in (True, False):
        mine = getattr(llm_attr.attr, name)(*args, multiply_by_inputs=multiply)
        theirs = getattr(captum.attr, name)(*args, multiply_by_inputs=multiply)
        assert mine.multiplies_by_inputs == theirs.multiplies_by_inputs
        assert mine.get_name() == theirs.get_name()
        if name != "NeuronIntegratedGradients":
            assert mine.has_convergence_delta() == theirs.has_convergence_delta()
