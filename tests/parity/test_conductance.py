"""Conductance and internal influence equal the installed Captum's."""

from __future__ import annotations

from typing import Any

import pytest

import llm_attr.attr
from llm_attr.attr import InternalInfluence, LayerConductance, NeuronConductance
from llm_attr.core.path.walk import QUADRATURES
from tests.parity.layers import MOVED, assert_equal, captums, described, neurons, random, sites
from tests.parity.models import mlp

METHODS = list(QUADRATURES)
CHUNKS = [None, 1, 4, 7, 100]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("name", "layer"), sites(MOVED))
def test_layer_conductance(name: str, layer: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    arguments = {"baselines": case.baselines, "attribute_to_layer_input": to_input, "n_steps": 7, **case.options}
    arguments["return_convergence_delta"] = True
    expected = captums("LayerConductance", lambda m: m.attribute(case.inputs, **arguments), case.model, module)
    assert_equal(LayerConductance(case.model, module).attribute(case.inputs, **arguments), expected)


@pytest.mark.parametrize(("name", "layer"), sites(MOVED))
def test_internal_influence(name: str, layer: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    arguments = {"baselines": case.baselines, "attribute_to_layer_input": to_input, "n_steps": 7, **case.options}
    arguments["grad_kwargs"] = {"retain_graph": True}
    expected = captums("InternalInfluence", lambda m: m.attribute(case.inputs, **arguments), case.model, module)
    assert_equal(InternalInfluence(case.model, module).attribute(case.inputs, **arguments), expected)


@pytest.mark.parametrize(("name", "layer"), neurons(MOVED))
@pytest.mark.parametrize("multiply", [True, False])
def test_neuron_conductance(name: str, layer: str, multiply: bool) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    arguments = {"baselines": case.baselines, "attribute_to_neuron_input": to_input, "n_steps": 7, **case.options}
    arguments["grad_kwargs"] = {"create_graph": True}
    selector = case.neurons[layer]
    expected = captums(
        "NeuronConductance",
        lambda m: m.attribute(case.inputs, selector, **arguments),
        case.model,
        module,
        multiply_by_inputs=multiply,
    )
    method = NeuronConductance(case.model, module, multiply_by_inputs=multiply)
    assert_equal(method.attribute(case.inputs, selector, **arguments), expected)


def calls(name: str) -> tuple[Any, ...]:
    case = MOVED["mlp, tensor"]
    selector = (2,) if name == "NeuronConductance" else ()

    def ask(attribution: Any, **options: Any) -> Any:
        return attribution.attribute(random(3, 4), *selector, target=case.options["target"], **options)

    return case.model, case.model[1], ask


@pytest.mark.parametrize("name", ["LayerConductance", "InternalInfluence", "NeuronConductance"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [2, 5, 50])
def test_every_quadrature(name: str, method: str, steps: int) -> None:
    model, layer, ask = calls(name)
    expected = captums(name, lambda m: ask(m, method=method, n_steps=steps), model, layer)
    assert_equal(ask(getattr(llm_attr.attr, name)(model, layer), method=method, n_steps=steps), expected)


@pytest.mark.parametrize("name", ["LayerConductance", "InternalInfluence", "NeuronConductance"])
@pytest.mark.parametrize("rows", CHUNKS)
def test_chunks_and_defaults(name: str, rows: int | None) -> None:
    model, layer, ask = calls(name)
    expected = captums(name, ask, model, layer)
    assert_equal(ask(getattr(llm_attr.attr, name)(model, layer), internal_batch_size=rows), expected)


@pytest.mark.parametrize("name", ["LayerConductance", "InternalInfluence", "NeuronConductance"])
def test_is_described_as_in_captum(name: str) -> None:
    model = mlp()
    mine = getattr(llm_attr.attr, name)(model, model[0])
    assert described(mine) == captums(name, described, model, model[0])
