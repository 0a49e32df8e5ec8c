"""DeepLIFT by its chain rule, one pair of an input and a baseline at a time, on explicit matrices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


def rescale(weights: Sequence[Tensor], biases: Sequence[Tensor], act: Activation, x: Tensor, b: Tensor) -> Tensor:
    """Shrikumar et al. 2017, equations 3, 7 and 13: the multipliers of the last unit, which is not activated.

    `m_x = sum over y of w_yx m_y` at a matrix, `m_z = (f(z) - f(z0)) / (z - z0) m_f` at an activation.
    """
    high, low, slopes = x, b, []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        z, z0 = weight @ high + bias, weight @ low + bias
        high, low = act(z), act(z0)
        slopes.append([(h - g) / (a - c) for h, g, a, c in zip(high, low, z, z0, strict=True)])
    multipliers = weights[-1][0]
    for weight, slope in zip(reversed(weights[:-1]), reversed(slopes), strict=True):
        multipliers = weight.t() @ (multipliers * torch.stack(slope))
    return multipliers * (x - b)


def product_of_two(x: float, y: float, x0: float, y0: float) -> tuple[float, float]:
    """What each factor of x y adds, averaged over the order in which they change."""
    shares = {"x": 0.0, "y": 0.0}
    for order in permutations(("x", "y")):
        now = {"x": x0, "y": y0}
        for name in order:
            before = now["x"] * now["y"]
            now[name] = {"x": x, "y": y}[name]
            shares[name] += (now["x"] * now["y"] - before) / 2
    return shares["x"], shares["y"]


def softmax_multipliers(s: Tensor, s0: Tensor, gradient: Tensor) -> Tensor:
    """`m_i = l_i (g_i - sum(g l) / sum(l))`, `l = (y - y0) / (log y - log y0)`, entry by entry."""
    y, y0 = torch.softmax(s, 0).tolist(), torch.softmax(s0, 0).tolist()
    means = [(a - c) / (torch.tensor(a / c, dtype=torch.float64).log().item()) for a, c in zip(y, y0, strict=True)]
    middle = sum(g * mean for g, mean in zip(gradient.tolist(), means, strict=True)) / sum(means)
    return torch.tensor([mean * (g - middle) for g, mean in zip(gradient.tolist(), means, strict=True)], dtype=s.dtype)
