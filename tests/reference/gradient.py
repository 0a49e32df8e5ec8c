"""Gradient methods from their papers: one entry at a time, with central differences instead of automatic gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]
"""`(batch, ...) -> (batch, ...)`, each example for itself."""

STEP = 1e-5


def derivative(score: Function, point: Tensor) -> Tensor:
    """`(f(x + h e_i) - f(x - h e_i)) / 2h` for each entry i of a point in double precision."""
    result = torch.zeros_like(point)
    for place in range(point[0].numel()):
        step = torch.zeros_like(point[0]).flatten()
        step[place] = STEP
        step = step.view_as(point[0])
        result.view(len(point), -1)[:, place] = (score(point + step) - score(point - step)) / (2 * STEP)
    return result


def saliency(score: Function, x: Tensor) -> Tensor:
    """Simonyan, Vedaldi and Zisserman 2014, section 3: `|w_i|` of the first-order expansion at x."""
    return derivative(score, x).abs()


def gradient_x_input(score: Function, x: Tensor) -> Tensor:
    """Shrikumar et al. 2016, Kindermans et al. 2016: `x_i w_i`."""
    return x * derivative(score, x)


def grad_cam(layer: Function, head: Function, x: Tensor, relu: bool) -> Tensor:
    """Selvaraju et al. 2017: equation 1, the weights; equation 2, their sum over channels; `(batch, 1, *places)`."""
    activations = layer(x)
    gradients = derivative(head, activations)
    result = torch.zeros_like(activations[:, :1])
    for example in range(len(activations)):
        for channel in range(activations.shape[1]):
            places = gradients[example, channel].flatten().tolist()
            result[example, 0] += sum(places) / len(places) * activations[example, channel]
    return result.clamp(min=0) if relu else result
