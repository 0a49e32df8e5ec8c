"""What NoiseTunnel and the methods of expected gradients do beside their numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import (
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    LayerGradientShap,
    LayerIntegratedGradients,
    NeuronGradientShap,
    NoiseTunnel,
    Saliency,
)
from llm_attr.core.evaluator import Progress, watching
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, OutOfMemory, UnknownName, UnsupportedMethod
from tests.contract.models import assert_same

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
STATES = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


def score(x: Tensor) -> Tensor:
    return x.pow(3).sum(1)


def states_of_streams() -> list[Any]:
    return [torch.get_rng_state(), list(np.random.get_state()[1:])]


@pytest.mark.parametrize(
    "ask",
    [
        lambda seed: GradientShap(score).attribute(X, STATES, stdevs=0.5, seed=seed),
        lambda seed: NoiseTunnel(Saliency(score)).attribute(X, seed=seed),
        lambda seed: NoiseTunnel(GradientShap(score)).attribute(
            X, baselines=STATES, nt_samples_batch_size=2, seed=seed
        ),
        lambda seed: NoiseTunnel(IntegratedGradients(score)).attribute(
            X, baselines=STATES, draw_baseline_from_distrib=True, seed=seed
        ),
    ],
)
def test_a_seed_repeats_the_result_and_leaves_the_streams(ask: Callable[[int], Tensor]) -> None:
    before = states_of_streams()
    one, again, other = ask(1), ask(1), ask(2)
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert_same(states_of_streams(), before)


def test_chunks_of_a_method_that_draws_have_draws_of_their_own() -> None:
    """With one state and no noise the lines differ by their points only, which must not be the same in each chunk."""
    found = NoiseTunnel(GradientShap(score)).attribute(
        X, "vargrad", 6, 1, stdevs=0.0, baselines=torch.zeros(1, 4), n_samples=1, seed=0
    )
    assert found.min() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_type_of_the_method_inside(dtype: torch.dtype, kind: str) -> None:
    x = X.to(dtype)
    assert NoiseTunnel(InputXGradient(score)).attribute(x, kind, seed=0).dtype == dtype
    assert GradientShap(score).attribute(x, STATES, stdevs=0.1, seed=0).dtype == dtype


def test_sums_of_half_precision_are_in_single() -> None:
    x = torch.full((1, 1), 1.0, dtype=torch.float16)
    found = NoiseTunnel(InputXGradient(lambda x: 30 * x.sum(1))).attribute(x, nt_samples=5000, stdevs=0.0)
    assert found.item() == 30


def test_old_name_of_the_samples() -> None:
    method = NoiseTunnel(Saliency(score))
    with pytest.warns(DeprecationWarning, match="n_samples= is now nt_samples="):
        found = method.attribute(X, n_samples=7, seed=0)
    assert torch.equal(found, method.attribute(X, nt_samples=7, seed=0))


def test_samples_of_the_method_inside() -> None:
    rows: list[int] = []

    def counted(x: Tensor) -> Tensor:
        rows.append(len(x))
        return score(x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        NoiseTunnel(GradientShap(counted)).attribute(X, nt_samples=2, n_samples=7, baselines=STATES)
    assert sum(rows) == 3 * 2 * 7


def test_unknown_keywords_are_the_inner_methods_error() -> None:
    with pytest.raises(TypeError, match=r"Saliency.attribute\(\) got an unexpected keyword argument 'baselinez'"):
        NoiseTunnel(Saliency(score)).attribute(X, baselinez=0)


def test_further_results_are_refused() -> None:
    with pytest.raises(UnsupportedMethod, match="combines attributions and convergence deltas only"):
        NoiseTunnel(IntegratedGradients(score)).attribute(X, return_info=True)


def test_attributions_without_rows_are_refused() -> None:
    with pytest.raises(UnsupportedMethod, match="a row for each of the 15 noisy copies; Feature Ablation returned"):
        NoiseTunnel(FeatureAblation(lambda x: score(x).sum())).attribute(X)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"nt_type": "smooth"}, UnknownName, "unknown nt_type 'smooth'.*smoothgrad, smoothgrad_sq, vargrad"),
        ({"nt_samples": 0}, InvalidValue, "nt_samples must be a whole number of at least 1; got 0"),
        ({"nt_samples_batch_size": 0}, InvalidValue, "nt_samples_batch_size must be a whole number"),
        ({"stdevs": -1.0}, InvalidValue, "stdevs must be numbers of at least 0; got -1.0"),
        ({"stdevs": (0.1, 0.1)}, InvalidShape, "stdevs must be one for each of the 1 inputs; got 2"),
        ({"seed": "x"}, InvalidType, "seed must be a whole number"),
        ({"draw_baseline_from_distrib": True}, InvalidType, "baselines must be given"),
        ({"draw_baseline_from_distrib": True, "baselines": STATES[:, :2]}, InvalidShape, "baseline 0 must be states"),
    ],
)
def test_bad_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        NoiseTunnel(IntegratedGradients(score)).attribute(X, **options)


@pytest.mark.parametrize("given", [score, IntegratedGradients, nn.Linear(4, 1)])
def test_only_methods_can_be_inside(given: Any) -> None:
    with pytest.raises(InvalidType, match="attribution_method must be an attribution method"):
        NoiseTunnel(given)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"baselines": None}, InvalidType, "baselines must be given"),
        ({"baselines": STATES[:, :2]}, InvalidShape, "baseline 0 must be states"),
        ({"n_samples": 0}, InvalidValue, "n_samples must be a whole number of at least 1; got 0"),
        ({"stdevs": -1.0}, InvalidValue, "stdevs must be numbers of at least 0"),
    ],
)
def test_bad_arguments_of_expected_gradients(options: dict[str, Any], error: type[Exception], message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    arguments = {"baselines": STATES, **options}
    with pytest.raises(error, match=message):
        GradientShap(model).attribute(X, target=0, **arguments)
    with pytest.raises(error, match=message):
        LayerGradientShap(model, model[0]).attribute(X, target=0, **arguments)
    with pytest.raises(error, match=message):
        NeuronGradientShap(model, model[0]).attribute(X, 0, **arguments)


def test_token_ids() -> None:
    embedding = nn.Embedding(9, 3)
    ids = torch.tensor([[1, 2], [3, 4]])

    def forward(ids: Tensor) -> Tensor:
        return embedding(ids).square().sum((1, 2))

    with pytest.raises(InvalidType, match="input 0 holds"):
        GradientShap(forward).attribute(ids, ids)
    with pytest.raises(InvalidType, match="to which no noise can be added"):
        NoiseTunnel(LayerIntegratedGradients(forward, embedding)).attribute(ids)
    with pytest.raises(InvalidType, match="to which no noise can be added"):
        LayerGradientShap(forward, embedding).attribute(ids, ids, stdevs=0.1)
    found, delta = LayerGradientShap(forward, embedding).attribute(
        ids, ids[:1] * 0, n_samples=4000, return_convergence_delta=True, seed=0
    )
    expected = LayerIntegratedGradients(forward, embedding).attribute(ids, ids[:1] * 0)
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
    assert delta.shape == (8000,)
    assert delta.mean().abs() < 0.05 * delta.abs().mean()


def test_old_name_of_the_neuron() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.Tanh())
    method = NeuronGradientShap(model, model[0])
    with pytest.warns(DeprecationWarning, match="neuron_index= is now neuron_selector="):
        found = method.attribute(X, neuron_index=1, baselines=STATES, seed=0)
    assert torch.equal(found, method.attribute(X, 1, STATES, seed=0))


def test_progress_is_that_of_the_tunnel_and_reaches_its_end() -> None:
    seen: list[Progress] = []
    with watching(seen.append):
        NoiseTunnel(IntegratedGradients(score)).attribute(X, nt_samples=5, nt_samples_batch_size=2, n_steps=10)
    assert {progress.description for progress in seen} == {"Noise Tunnel attribution"}
    assert {progress.total for progress in seen} == {50}
    done = [progress.done for progress in seen]
    assert done == sorted(set(done))
    assert done[-1] == 50


@pytest.mark.parametrize("room", [6, 9])
def test_copies_that_do_not_fit_are_split_without_other_draws(room: int) -> None:
    def narrow(x: Tensor) -> Tensor:
        if len(x) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return score(x)

    expected = NoiseTunnel(IntegratedGradients(score)).attribute(X, nt_samples=8, seed=0, return_convergence_delta=True)
    with pytest.warns(RuntimeWarning, match="did not fit into memory"):
        found = NoiseTunnel(IntegratedGradients(narrow)).attribute(
            X, nt_samples=8, seed=0, return_convergence_delta=True
        )
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:.*did not fit:RuntimeWarning")
def test_a_single_copy_that_does_not_fit() -> None:
    def never(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemory, match="not even one piece of Noise Tunnel attribution fits"):
        NoiseTunnel(IntegratedGradients(never)).attribute(X, nt_samples=4)


def test_one_number_for_the_batch() -> None:
    """Each line is a call of its own; a delta cannot be told."""
    found = GradientShap(lambda x: score(x).sum()).attribute(X, STATES, 4, 0.1, seed=0)
    torch.testing.assert_close(found, GradientShap(score).attribute(X, STATES, 4, 0.1, seed=0))
    with pytest.raises(InvalidValue, match="one output for each of the 3 examples"):
        GradientShap(lambda x: score(x).sum()).attribute(X, STATES, return_convergence_delta=True)


def test_tunnels_in_tunnels() -> None:
    found = NoiseTunnel(NoiseTunnel(Saliency(score))).attribute(X, nt_samples=3, seed=0)
    assert found.shape == X.shape


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_outside(mode: Any) -> None:
    expected = GradientShap(score).attribute(X, STATES, stdevs=0.2, seed=0)
    with mode():
        x = X.clone()
        assert torch.equal(GradientShap(score).attribute(x, STATES, stdevs=0.2, seed=0), expected)
        assert NoiseTunnel(Saliency(score)).attribute(x, seed=0).shape == X.shape


def test_empty_batches() -> None:
    assert GradientShap(score).attribute(X[:0], STATES).shape == (0, 4)
    assert NoiseTunnel(Saliency(score)).attribute(X[:0]).shape == (0, 4)
