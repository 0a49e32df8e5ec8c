"""Conductance and internal influence from their definitions: fine integrals, one neuron and one entry at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.reference.gradient import STEP, Function, derivative


def layer_conductance(layer: Function, head: Function, x: Tensor, baseline: Tensor, steps: int) -> Tensor:
    """Dhamdhere et al. 2019, section 3: `integral of df/du_j du_j/da`, by the midpoint rule."""
    total = torch.zeros_like(layer(x))
    for alpha in _midpoints(steps):
        here = layer(baseline + alpha * (x - baseline))
        forward = layer(baseline + (alpha + STEP) * (x - baseline))
        back = layer(baseline + (alpha - STEP) * (x - baseline))
        total += derivative(head, here) * (forward - back) / (2 * STEP) / steps
    return total


def neuron_conductance(
    layer: Function, head: Function, x: Tensor, baseline: Tensor, neuron: tuple[int, ...], steps: int
) -> Tensor:
    """Dhamdhere et al. 2019, section 3: `(x_i - b_i) * integral of df/dn dn/dx_i`, by the midpoint rule."""
    entry = (slice(None), *neuron)
    total = torch.zeros_like(x)
    for alpha in _midpoints(steps):
        point = baseline + alpha * (x - baseline)
        weight = derivative(head, layer(point))[entry]
        inner = derivative(lambda p: layer(p)[entry], point)
        total += weight.view(-1, *(1,) * (x.dim() - 1)) * inner * (x - baseline) / steps
    return total


def internal_influence(layer: Function, head: Function, x: Tensor, baseline: Tensor, steps: int) -> Tensor:
    """Leino et al. 2018, definition 1: the mean of `df/du_j` over inputs spread evenly from baseline to input."""
    points = [baseline + alpha * (x - baseline) for alpha in _midpoints(steps)]
    return sum(derivative(head, layer(point)) for point in points) / steps


def _midpoints(steps: int) -> list[float]:
    return [(step + 0.5) / steps for step in range(steps)]
