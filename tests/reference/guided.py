"""Guided backpropagation and deconvolution of a chain of matrices with a ReLU behind each, one example at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def guided_backprop(weights: Sequence[Tensor], x: Tensor, target: int) -> Tensor:
    """Springenberg et al. 2015, figure 1: a gradient passes where both it and the ReLU's input are positive."""
    return _backwards(weights, x, target, lambda gradient, z: gradient if gradient > 0 and z > 0 else 0.0)


def deconvolution(weights: Sequence[Tensor], x: Tensor, target: int) -> Tensor:
    """Zeiler and Fergus 2014, section 2.1: a gradient passes where it is positive."""
    return _backwards(weights, x, target, lambda gradient, z: max(gradient, 0.0))


def _backwards(weights: Sequence[Tensor], x: Tensor, target: int, gate: Callable[[float, float], float]) -> Tensor:
    rows = []
    for row in x:
        inputs, value = [], row
        for weight in weights:
            inputs.append(weight @ value)
            value = inputs[-1].clamp(min=0)
        gradient = torch.zeros_like(value)
        gradient[target] = 1
        for weight, z in zip(reversed(weights), reversed(inputs), strict=True):
            gates = [gate(g, v) for g, v in zip(gradient.tolist(), z.tolist(), strict=True)]
            gradient = weight.t() @ torch.tensor(gates, dtype=x.dtype)
        rows.append(gradient)
    return torch.stack(rows)
