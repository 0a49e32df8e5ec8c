"""Expected gradients equal the installed Captum's, with equal global seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor

import llm_attr.attr
from llm_attr.attr import GradientShap, LayerGradientShap, NeuronGradientShap
from llm_attr.core.path import walk as path
from tests.parity.layers import IDS, MOVED, Case, assert_equal, captums, described, neurons, random, sites

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(call: Callable[[Any], Any], seed: int = 7) -> Callable[[Any], Any]:
    """The call after both global seeds."""

    def after_seeds(method: Any) -> Any:
        torch.manual_seed(seed)
        np.random.seed(seed)
        return call(method)

    return after_seeds


def assert_equal_with_delta(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-12)
    assert_equal(found[0], expected[0])


def states(case: Case, count: int = 4) -> Any:
    """A distribution of baselines for each input, in the form of the inputs; a tuple's have different sizes."""
    if isinstance(case.inputs, Tensor):
        return random(count, *case.inputs.shape[1:], seed=11)
    return tuple(random(count + i, *x.shape[1:], seed=11 + i) for i, x in enumerate(case.inputs))


def stdevs(case: Case) -> Any:
    return 0.3 if isinstance(case.inputs, Tensor) else tuple(0.2 * (i + 1) for i in range(len(case.inputs)))


def options(case: Case, **more: Any) -> dict[str, Any]:
    return {"baselines": states(case), "n_samples": 6, "stdevs": stdevs(case), **case.options, **more}


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("multiply", [True, False])
def test_inputs(name: str, multiply: bool) -> None:
    case = MOVED[name]
    arguments = options(case, return_convergence_delta=multiply)
    call = seeded(lambda m: m.attribute(case.inputs, **arguments))
    expected = captums("GradientShap", call, case.model, multiply)
    (assert_equal_with_delta if multiply else assert_equal)(call(GradientShap(case.model, multiply)), expected)


@pytest.mark.parametrize(("name", "layer"), sites(MOVED))
@pytest.mark.parametrize("multiply", [True, False])
def test_layers(name: str, layer: str, multiply: bool) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    arguments = options(case, return_convergence_delta=multiply, attribute_to_layer_input=to_input)
    call = seeded(lambda m: m.attribute(case.inputs, **arguments))
    kwargs = {"multiply_by_inputs": multiply}
    (assert_equal_with_delta if multiply else assert_equal)(
        call(LayerGradientShap(case.model, module, **kwargs)),
        captums("LayerGradientShap", call, case.model, module, **kwargs),
    )


@pytest.mark.parametrize(("name", "layer"), neurons(MOVED))
@pytest.mark.parametrize("multiply", [True, False])
def test_neurons(name: str, layer: str, multiply: bool) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    more = {"additional_forward_args": case.options.get("additional_forward_args")}
    arguments = (case.neurons[layer], states(case), 6, stdevs(case), more["additional_forward_args"], to_input)
    call = seeded(lambda m: m.attribute(case.inputs, *arguments))
    kwargs = {"multiply_by_inputs": multiply}
    assert_equal(
        call(NeuronGradientShap(case.model, module, **kwargs)),
        captums("NeuronGradientShap", call, case.model, module, **kwargs),
    )


@pytest.mark.parametrize("count", [1, 3, 40])
@pytest.mark.parametrize("samples", [1, 5])
def test_any_number_of_states_and_samples(count: int, samples: int) -> None:
    case = MOVED["mlp, int"]
    arguments = {"baselines": states(case, count), "n_samples": samples, "target": 1, "return_convergence_delta": True}
    call = seeded(lambda m: m.attribute(case.inputs, **arguments))
    assert_equal_with_delta(call(GradientShap(case.model)), captums("GradientShap", call, case.model))


@pytest.mark.parametrize("name", ["mlp, list", "two inputs"])
@pytest.mark.parametrize("takes_inputs", [True, False])
def test_baselines_from_a_function(name: str, takes_inputs: bool) -> None:
    case = MOVED[name]

    def from_inputs(inputs: Any) -> Any:
        assert isinstance(inputs, tuple)
        return tuple(x.flip(0) * 0.5 for x in inputs)

    baselines = from_inputs if takes_inputs else lambda: states(case)
    call = seeded(lambda m: m.attribute(case.inputs, **{**options(case), "baselines": baselines}))
    assert_equal(call(GradientShap(case.model)), captums("GradientShap", call, case.model))


@pytest.mark.parametrize("room", [1, 2, 4, 100])
def test_chunks_split_calls_and_no_draws(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = MOVED["encoder, list of tuples"]
    rows: list[int] = []
    watch = case.model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    monkeypatch.setattr(path, "copies_that_fit", lambda tensors, outputs=1: room)
    call = seeded(lambda m: m.attribute(case.inputs, **options(case, n_samples=9, return_convergence_delta=True)))
    with watch:
        found = call(GradientShap(case.model))
    assert max(rows) == 3 * min(room, 9)
    assert_equal_with_delta(found, captums("GradientShap", call, case.model))


def test_both_streams_are_left_where_captum_leaves_them() -> None:
    case = MOVED["two inputs"]
    ends = []
    for library in (
        lambda call: captums("GradientShap", call, case.model),
        lambda call: call(GradientShap(case.model)),
    ):
        library(seeded(lambda m: m.attribute(case.inputs, **options(case))))
        ends.append((torch.rand(1).item(), np.random.rand()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", IDS)
def test_layers_of_token_ids(name: str) -> None:
    """Captum moves the ids themselves and fails; here the layer moves. A linear tail tells what must come out."""
    case = IDS[name]
    embedding, tail = case.model.embedding, random(8, seed=3)
    ids, baselines = case.inputs, (case.inputs[:1] + 1) % 11
    found, delta = LayerGradientShap(lambda x: (embedding(x) @ tail).sum(1), embedding).attribute(
        ids, baselines, n_samples=3, return_convergence_delta=True
    )
    torch.testing.assert_close(found, ((embedding(ids) - embedding(baselines)) * tail).detach())
    torch.testing.assert_close(delta, torch.zeros(9, dtype=torch.float64))
    arguments = {"n_samples": 4, "return_convergence_delta": True, "seed": 0, **case.options}
    found, delta = LayerGradientShap(case.model, embedding).attribute(ids, baselines, **arguments)
    assert found.shape == (3, 5, 8)
    assert delta.shape == (12,)
    assert found.abs().max() > 0


@pytest.mark.parametrize("name", ["GradientShap", "LayerGradientShap", "NeuronGradientShap"])
def test_is_described_as_in_captum(name: str) -> None:
    case = MOVED["mlp, int"]
    args = (case.model,) if name == "GradientShap" else (case.model, case.model[0])
    assert described(getattr(llm_attr.attr, name)(*args)) == described(getattr(captum.attr, name)(*args))
