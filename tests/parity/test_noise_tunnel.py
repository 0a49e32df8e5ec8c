"""NoiseTunnel equals the installed Captum's around every kind of method, with equal global seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from captum.attr._core.noise_tunnel import SUPPORTED_NOISE_TUNNEL_TYPES as CAPTUMS_TYPES
from torch import Tensor

import llm_attr.attr
from llm_attr.attr import SUPPORTED_NOISE_TUNNEL_TYPES, GradientShap, IntegratedGradients, NoiseTunnel
from llm_attr.core.tensors import leaves
from tests.parity.layers import MOVED, Case, assert_equal, captums, described, neurons, random, sites

TYPES = SUPPORTED_NOISE_TUNNEL_TYPES

CAPTUM_FAILS = ("fork", "join:")
"""Layers of several tensors, around which Captum's tunnel fails."""

LEAF_IN_PLACE = [("cnn", "1"), ("cnn", "2:")]
"""Layers whose activations the next layer changes in place, at which Captum's LayerIntegratedGradients fails."""

DELTA = 1e-7
"""Deltas are differences of numbers of order 1 to 100; Captum has its quadrature in single precision."""


pytestmark = pytest.mark.usefixtures("one_thread")


def assert_equal_to_captum(name: str, args: tuple[Any, ...], inputs: Any, **options: Any) -> None:
    """Both tunnels around the method of this name give the same; returns it."""

    def call(tunnel: Any) -> Any:
        torch.manual_seed(5)
        np.random.seed(5)
        return tunnel.attribute(inputs, **options)

    expected = captums(name, lambda method: captums("NoiseTunnel", call, method), *args)
    found = call(NoiseTunnel(getattr(llm_attr.attr, name)(*args)))
    if options.get("return_convergence_delta"):
        (found, delta), (expected, expected_delta) = found, expected
        assert delta.shape == expected_delta.shape
        torch.testing.assert_close(delta, expected_delta, rtol=0, atol=DELTA)
    assert_equal(found, expected)


def stdevs(case: Case) -> Any:
    return 0.3 if isinstance(case.inputs, Tensor) else tuple(0.2 * (i + 1) for i in range(len(case.inputs)))


def per_example(case: Case) -> Any:
    """A baseline for each example, in the form of the inputs."""
    if isinstance(case.inputs, Tensor):
        return random(*case.inputs.shape, seed=21)
    return tuple(random(*x.shape, seed=21 + i) for i, x in enumerate(case.inputs))


def test_the_same_types() -> None:
    assert TYPES == CAPTUMS_TYPES


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("at_once", [None, 1, 2, 9])
def test_integrated_gradients(name: str, kind: str, at_once: int | None) -> None:
    case = MOVED[name]
    more = {"nt_samples": 5, "nt_samples_batch_size": at_once, "stdevs": stdevs(case), "n_steps": 4}
    assert_equal_to_captum(
        "IntegratedGradients",
        (case.model,),
        case.inputs,
        nt_type=kind,
        baselines=case.baselines,
        **more,
        **case.options,
    )


@pytest.mark.parametrize("name", MOVED)
def test_baselines_of_the_examples_and_deltas(name: str) -> None:
    case = MOVED[name]
    more = {"baselines": per_example(case), "return_convergence_delta": True, "n_steps": 4, "stdevs": 0.1}
    assert_equal_to_captum("IntegratedGradients", (case.model,), case.inputs, **more, **case.options)


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("at_once", [None, 3, 7])
def test_drawn_baselines(name: str, at_once: int | None) -> None:
    """With one full chunk and a rest at most: Captum draws once for all full chunks, whose baselines are the same."""
    case = MOVED[name]
    more = {"draw_baseline_from_distrib": True, "n_steps": 4, "stdevs": 0.1, "nt_samples_batch_size": at_once}
    if isinstance(case.inputs, Tensor):
        states: Any = random(6, *case.inputs.shape[1:], seed=31)
    else:
        states = tuple(random(6 + i, *x.shape[1:], seed=31 + i) for i, x in enumerate(case.inputs))
    assert_equal_to_captum("IntegratedGradients", (case.model,), case.inputs, baselines=states, **more, **case.options)


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("kind", TYPES)
def test_saliency(name: str, kind: str) -> None:
    case = MOVED[name]
    assert_equal_to_captum("Saliency", (case.model,), case.inputs, nt_type=kind, stdevs=stdevs(case), **case.options)


@pytest.mark.parametrize(("name", "layer"), [site for site in sites(MOVED) if site[1] not in CAPTUM_FAILS])
def test_layers(name: str, layer: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    more = {"attribute_to_layer_input": to_input, "stdevs": stdevs(case), "nt_samples": 3, **case.options}
    assert_equal_to_captum("LayerGradientXActivation", (case.model, module), case.inputs, **more)
    if (name, layer) not in LEAF_IN_PLACE:
        assert_equal_to_captum("LayerIntegratedGradients", (case.model, module), case.inputs, n_steps=4, **more)


@pytest.mark.parametrize(("name", "layer"), neurons(MOVED))
def test_neurons(name: str, layer: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    args = case.options.get("additional_forward_args")
    more = {"attribute_to_neuron_input": to_input, "stdevs": stdevs(case), "additional_forward_args": args}
    more["neuron_selector"] = case.neurons[layer]
    assert_equal_to_captum("NeuronIntegratedGradients", (case.model, module), case.inputs, n_steps=4, **more)


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("kind", TYPES)
def test_perturbations(name: str, kind: str) -> None:
    case = MOVED[name]
    more = {"nt_type": kind, "stdevs": stdevs(case), "nt_samples": 3, "baselines": case.baselines}
    assert_equal_to_captum("FeatureAblation", (case.model,), case.inputs, **more, **case.options)


def test_masks() -> None:
    case = MOVED["two inputs"]
    shared = (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[3, 3, 3], [1, 4, 4]]]))
    more = {"stdevs": 0.2, "nt_samples": 3, **case.options}
    assert_equal_to_captum("FeatureAblation", (case.model,), case.inputs, feature_mask=shared, **more)
    case, more = MOVED["mlp, list"], {"stdevs": 0.2, "nt_samples": 3}
    own = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 0]])
    assert_equal_to_captum("FeatureAblation", (case.model,), case.inputs, feature_mask=own, **more, **case.options)


def test_additional_arguments() -> None:
    case, weights = MOVED["mlp, tensor"], random(3, 4, seed=6)
    extras = (weights, 2.0, random(7, seed=6))
    more = {"target": case.options["target"], "additional_forward_args": extras}

    def forward(x: Tensor, weights: Tensor, factor: float, shared: Tensor) -> Tensor:
        return case.model(x * weights) * factor + shared.sum()

    assert_equal_to_captum("Saliency", (forward,), case.inputs, **more)
    assert_equal_to_captum("IntegratedGradients", (forward,), case.inputs, nt_samples_batch_size=2, **more)


@pytest.mark.parametrize("at_once", [None, 2])
def test_draws_inside(at_once: int | None) -> None:
    case = MOVED["mlp, tensor"]
    states = random(3, 4, seed=3)
    more = {"n_samples": 4, "nt_samples": 3, "nt_samples_batch_size": at_once, "stdevs": 0.3}
    assert_equal_to_captum("GradientShap", (case.model,), case.inputs, baselines=states, **more, **case.options)
    more |= {"return_convergence_delta": True} if at_once is None else {}
    assert_equal_to_captum("GradientShap", (case.model,), case.inputs, baselines=states, **more, **case.options)


def one_by_one(make: Callable[[], Any], x: Tensor, copies: int, stdev: float, **options: Any) -> list[Any]:
    """The results for each noisy copy of a batch, which are drawn as the contract says."""
    torch.manual_seed(5)
    noise = torch.normal(0.0, torch.full((len(x) * copies, *x.shape[1:]), stdev)).unflatten(0, (len(x), copies))
    return [make().attribute(x + noise[:, i], **options) for i in range(copies)]


@pytest.mark.parametrize(("name", "layer"), [("tuples", layer) for layer in CAPTUM_FAILS] + LEAF_IN_PLACE)
def test_layers_where_captum_fails(name: str, layer: str) -> None:
    case = MOVED[name]
    module, to_input = case.at(layer)
    options = {"attribute_to_layer_input": to_input, "n_steps": 4, **case.options}

    def make() -> Any:
        return llm_attr.attr.LayerIntegratedGradients(case.model, module)

    torch.manual_seed(5)
    found = NoiseTunnel(make()).attribute(case.inputs, stdevs=0.2, nt_samples=3, **options)
    rows = [leaves(row) for row in one_by_one(make, case.inputs, 3, 0.2, **options)]
    assert isinstance(found, tuple) == (name == "tuples")
    for got, want in zip(leaves(found), zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(want).mean(0))


def test_lists_of_layers() -> None:
    case = MOVED["tuples"]
    layers = [case.model.body, case.model.fork]

    def make() -> Any:
        return llm_attr.attr.LayerIntegratedGradients(case.model, layers)

    torch.manual_seed(5)
    options = {"n_steps": 3, **case.options}
    found = NoiseTunnel(make()).attribute(case.inputs, "vargrad", stdevs=0.2, nt_samples=3, **options)
    rows = one_by_one(make, case.inputs, 3, 0.2, **options)
    assert isinstance(found, list)
    torch.testing.assert_close(found[0], torch.stack([row[0] for row in rows]).var(0, correction=0))
    for i in range(2):
        torch.testing.assert_close(found[1][i], torch.stack([row[1][i] for row in rows]).var(0, correction=0))


@pytest.mark.parametrize("at_once", [1, 2, 4])
def test_deltas_are_in_the_order_of_the_examples_in_chunks_too(at_once: int) -> None:
    """Captum has those of each chunk in a row: another order than without chunks."""
    case = MOVED["mlp, int"]
    torch.manual_seed(5)
    _, delta = NoiseTunnel(IntegratedGradients(case.model)).attribute(
        case.inputs,
        nt_samples=4,
        nt_samples_batch_size=at_once,
        n_steps=2,
        method="riemann_left",
        target=1,
        return_convergence_delta=True,
    )
    assert delta.shape == (12,)
    chunks = captums(
        "IntegratedGradients",
        lambda method: captums("NoiseTunnel", lambda tunnel: _seeded_delta(tunnel, case, at_once), method),
        case.model,
    )
    sizes = [min(at_once, 4 - first) for first in range(0, 4, at_once)]
    parts = [part.view(3, -1) for part in chunks.split([3 * size for size in sizes])]
    torch.testing.assert_close(delta, torch.cat(parts, 1).flatten())


def _seeded_delta(tunnel: Any, case: Case, at_once: int) -> Tensor:
    torch.manual_seed(5)
    return tunnel.attribute(
        case.inputs,
        nt_samples=4,
        nt_samples_batch_size=at_once,
        n_steps=2,
        method="riemann_left",
        target=1,
        return_convergence_delta=True,
    )[1]


@pytest.mark.parametrize("name", ["IntegratedGradients", "Saliency", "FeatureAblation", "GradientShap"])
def test_is_described_as_in_captum(name: str) -> None:
    model = MOVED["mlp, int"].model
    theirs = captum.attr.NoiseTunnel(getattr(captum.attr, name)(model))
    assert described(NoiseTunnel(getattr(llm_attr.attr, name)(model))) == described(theirs)


def test_distributions_of_any_size_around_gradient_shap() -> None:
    """Captum refuses a distribution that has neither one state nor as many as there are examples."""
    case = MOVED["mlp, int"]
    found = NoiseTunnel(GradientShap(case.model)).attribute(case.inputs, baselines=random(7, 4), target=1, seed=1)
    assert found.shape == case.inputs.shape
