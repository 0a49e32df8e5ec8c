"""Integrated gradients from their definition: one example, one point and one gradient at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def integrated_gradients(
    forward: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    baselines: Sequence[Tensor],
    steps: int,
    method: str,
) -> list[Tensor]:
    """`(x_i - b_i) * sum_k w_k df/dx_i at b + a_k (x - b)`, in double precision.

    Inputs and baselines have the same shapes `(batch, *features)`; `forward` gives one number for each example.
    """
    results = [torch.zeros(x.shape, dtype=torch.float64) for x in inputs]
    for example in range(len(inputs[0])):
        high = [x[example : example + 1].double() for x in inputs]
        low = [baseline[example : example + 1].double() for baseline in baselines]
        for alpha, weight in points(method, steps):
            at = [(b + alpha * (x - b)).requires_grad_() for x, b in zip(high, low, strict=True)]
            gradients = torch.autograd.grad(forward(*at).sum(), at)
            for result, gradient, x, b in zip(results, gradients, high, low, strict=True):
                result[example] += (weight * gradient * (x - b))[0]
    return results


def points(method: str, steps: int) -> list[tuple[float, float]]:
    """The places in [0, 1] and their weights."""
    if method == "gausslegendre":
        roots, weights = np.polynomial.legendre.leggauss(steps)
        return [((root + 1) / 2, weight / 2) for root, weight in zip(roots, weights, strict=True)]
    if method == "riemann_trapezoid":
        return [(k / (steps - 1), (0.5 if k in (0, steps - 1) else 1.0) / steps) for k in range(steps)]
    shift = {"riemann_left": 0.0, "riemann_middle": 0.5, "riemann_right": 1.0}[method]
    return [((k + shift) / steps, 1 / steps) for k in range(steps)]
