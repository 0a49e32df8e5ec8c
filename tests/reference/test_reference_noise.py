"""GradientShap and NoiseTunnel equal the plain formulas, draw by draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from llm_attr.attr import SUPPORTED_NOISE_TUNNEL_TYPES, GradientShap, IntegratedGradients, NoiseTunnel, Saliency
from tests.reference.noise import expected_gradients, smoothed

X = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STATES = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
WEIGHTS = torch.randn(2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def score(x: Tensor) -> Tensor:
    """One number for `(..., 2, 4)`, not monotone, with products of the entries."""
    return (x * WEIGHTS).flatten(-2).cumsum(-1).sin().sum(-1)


def seed() -> None:
    torch.manual_seed(4)
    np.random.seed(4)


def gradient(x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    return torch.autograd.grad(score(x), x)[0]


@pytest.mark.parametrize("kind", SUPPORTED_NOISE_TUNNEL_TYPES)
@pytest.mark.parametrize("at_once", [1, 2, 5, 7])
def test_noisy_gradients(kind: str, at_once: int) -> None:
    seed()
    found = NoiseTunnel(Saliency(score)).attribute(X, kind, 7, at_once, 0.4, abs=False)
    seed()
    torch.testing.assert_close(found, smoothed(gradient, X, kind, 7, at_once, 0.4), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", SUPPORTED_NOISE_TUNNEL_TYPES)
@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_drawn_baselines(kind: str, at_once: int) -> None:
    """Each copy has a draw of its own, also in chunks, where Captum has the same baselines in every full chunk."""
    method = IntegratedGradients(score)

    def attribute(x: Tensor, low: Tensor) -> Tensor:
        return method.attribute(x[None], low[None], n_steps=3)[0]

    seed()
    found = NoiseTunnel(method).attribute(X, kind, 5, at_once, 0.4, True, baselines=STATES, n_steps=3)
    seed()
    expected = smoothed(attribute, X, kind, 5, at_once, 0.4, STATES)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("stdev", [0.0, 0.5])
@pytest.mark.parametrize("multiply", [True, False])
@pytest.mark.parametrize("samples", [1, 6])
def test_expected_gradients(stdev: float, multiply: bool, samples: int) -> None:
    seed()
    method = GradientShap(score, multiply)
    found, delta = method.attribute(X, STATES, samples, stdev, return_convergence_delta=True)
    seed()
    expected, deltas = expected_gradients(score, X, STATES, samples, stdev, multiply)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(delta, deltas, rtol=1e-10, atol=1e-12)


def test_a_linear_model_by_hand() -> None:
    """Every line gives `w (x' - b)`, whatever its point: the mean is that of the noisy inputs and drawn baselines."""
    seed()
    found, delta = GradientShap(lambda x: (x * WEIGHTS).sum((1, 2))).attribute(
        X, STATES, 8, 0.3, return_convergence_delta=True
    )
    seed()
    high = X.repeat_interleave(8, 0) + torch.normal(0.0, torch.full((24, 2, 4), 0.3))
    low = STATES[np.random.choice(5, 24)]
    torch.testing.assert_close(found, (WEIGHTS * (high - low)).unflatten(0, (3, 8)).mean(1))
    torch.testing.assert_close(delta, torch.zeros(24, dtype=torch.float64))


def test_many_samples_come_near_the_mean_over_all_baselines() -> None:
    """Expected gradients are the mean of the integrated gradients from each baseline."""
    exact = torch.stack([IntegratedGradients(score).attribute(X, state[None]) for state in STATES]).mean(0)
    found = GradientShap(score).attribute(X, STATES, 20_000, seed=0)
    assert (found - exact).abs().max() < 0.05 * exact.abs().max()
