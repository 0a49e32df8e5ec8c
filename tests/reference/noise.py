"""Noise, random baselines and random points, as CAPTUM_CONTRACT.md 1.3b describes them: slow and plain."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def smoothed(
    attribute: Callable[..., Tensor],
    x: Tensor,
    kind: str,
    samples: int,
    at_once: int,
    stdev: float,
    states: Tensor | None = None,
) -> Tensor:
    """Mean, mean square or variance of `attribute(one noisy example[, its baseline])` over the copies of each example.

    Smilkov 2017, equation of section 3; Hooker 2019, section 3; Adebayo 2018, section 2.
    """
    found: list[list[Tensor]] = [[] for _ in x]
    for first in range(0, samples, at_once):
        copies = min(at_once, samples - first)
        noise = torch.normal(0.0, torch.full((copies * len(x), *x.shape[1:]), stdev))
        chosen = None if states is None else np.random.choice(len(states), copies * len(x))
        for row in range(copies * len(x)):
            example = row // copies
            noisy = x[example] + noise[row]
            found[example].append(attribute(noisy) if states is None else attribute(noisy, states[chosen[row]]))
    stacked = torch.stack([torch.stack(rows) for rows in found])
    if kind == "smoothgrad":
        return stacked.mean(1)
    if kind == "smoothgrad_sq":
        return (stacked * stacked).mean(1)
    return ((stacked - stacked.mean(1, keepdim=True)) ** 2).mean(1)


def expected_gradients(
    score: Callable[[Tensor], Tensor], x: Tensor, states: Tensor, samples: int, stdev: float, multiply: bool = True
) -> tuple[Tensor, Tensor]:
    """The mean of `(x' - b) * df/dx(b + a (x' - b))` for each example, and the delta of each of its lines.

    Erion 2021, equation 3. `score` gives the number of one example.
    """
    rows = samples * len(x)
    noise = torch.normal(0.0, torch.full((rows, *x.shape[1:]), stdev))
    chosen = np.random.choice(len(states), rows)
    shares = np.random.uniform(0, 1, rows)
    total, deltas = torch.zeros_like(x), []
    for row in range(rows):
        example = row // samples
        high, low = x[example] + noise[row], states[chosen[row]]
        point = (low + shares[row] * (high - low)).requires_grad_()
        (gradient,) = torch.autograd.grad(score(point), point)
        product = gradient * (high - low)
        total[example] += (product if multiply else gradient) / samples
        deltas.append(product.sum() - (score(high) - score(low)).detach())
    return total, torch.stack(deltas)
