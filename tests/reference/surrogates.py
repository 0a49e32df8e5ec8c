"""Surrogates from their definitions: one sample, one example and one output at a time."""

from __future__ import annotations

from collections.abc import Callable
from math import comb

import numpy as np
from torch import Tensor


def weighted_least_squares(
    rows: np.ndarray, values: np.ndarray, weights: np.ndarray, ridge: float = 0.0
) -> tuple[np.ndarray, float]:
    """The minimum of `sum w (y - b - x . a)^2 + ridge |a|^2`, from the normal equations of a and b together."""
    count = rows.shape[1]
    left, right = np.zeros((count + 1, count + 1)), np.zeros(count + 1)
    for row, value, weight in zip(rows, values, weights, strict=True):
        extended = np.append(row, 1.0)
        left += weight * np.outer(extended, extended)
        right += weight * value * extended
    left[:count, :count] += ridge * np.eye(count)
    found = np.linalg.lstsq(left, right, rcond=None)[0]
    return found[:count], found[count]


def lime(
    forward: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, coalitions: Tensor, width: float = 1.0
) -> np.ndarray:
    """Ribeiro 2016, least squares: each example's coefficients, `(examples, features)`."""
    found = []
    for example in range(len(x)):
        one, values, weights = x[example], [], []
        for row in coalitions:
            perturbed = row * one + (1 - row) * baseline
            cosine = (one @ perturbed) / max((one.norm() * perturbed.norm()).item(), 1e-8)
            weights.append(np.exp(-((1 - cosine.item()) ** 2) / (2 * width**2)))
            values.append(forward(perturbed[None]).item())
        found.append(weighted_least_squares(coalitions.numpy(), np.array(values), np.array(weights))[0])
    return np.stack(found)


def kernel_shap(value: Callable[[frozenset[int]], np.ndarray], count: int) -> np.ndarray:
    """Lundberg & Lee 2017, theorem 2: over all coalitions; the ends by Lagrange multipliers."""
    outputs = len(value(frozenset()))
    left, right = np.zeros((count + 1, count + 1)), np.zeros((count + 1, outputs))
    for number in range(1, 2**count - 1):
        members = frozenset(i for i in range(count) if number >> i & 1)
        size = len(members)
        weight = (count - 1) / (comb(count, size) * size * (count - size))
        row = np.array([float(i in members) for i in range(count)])
        left[:count, :count] += weight * np.outer(row, row)
        right[:count] += weight * np.outer(row, value(members) - value(frozenset()))
    left[count, :count] = left[:count, count] = 1.0
    right[count] = value(frozenset(range(count))) - value(frozenset())
    return np.linalg.lstsq(left, right, rcond=None)[0][:count]
