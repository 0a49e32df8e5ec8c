"""NoiseTunnel equals the installed Captum's around every kind of method, with equal global seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from captum.attr._core.noise_tunnel import SUPPORTED_NOISE_TUNNEL_TYPES as CAPTUMS_TYPES
from torch import Tensor

import llm_attr.attr
from llm_attr.attr import SUPPORTED_NOISE_TUNNEL_TYPES, GradientShap, IntegratedGradients, NoiseTunnel
from llm_attr.core.tensors import leaves
from tests.parity.cases import MOVED, Case, captums, random
from tests.parity.gradient_rows import CAPTUMS_TUNNEL_FAILS, LEAF_IN_PLACE

TYPES = SUPPORTED_NOISE_TUNNEL_TYPES


pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_same_types() -> None:
    assert TYPES == CAPTUMS_TYPES


def one_by_one(make: Callable[[], Any], x: Tensor, copies: int, stdev: float, **options: Any) -> list[Any]:
    """The results for each noisy copy of a batch, which are drawn as the contract says."""
    torch.manual_seed(5)
    noise = torch.normal(0.0, torch.full((len(x) * copies, *x.shape[1:]), stdev)).unflatten(0, (len(x), copies))
    return [make().attribute(x + noise[:, i], **options) for i in range(copies)]


@pytest.mark.parametrize(("name", "layer"), [("tuples", layer) for layer in CAPTUMS_TUNNEL_FAILS] + LEAF_IN_PLACE)
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


def test_distributions_of_any_size_around_gradient_shap() -> None:
    """Captum refuses a distribution that has neither one state nor as many as there are examples."""
    case = MOVED["mlp, int"]
    found = NoiseTunnel(GradientShap(case.model)).attribute(case.inputs, baselines=random(7, 4), target=1, seed=1)
    assert found.shape == case.inputs.shape
