"""Gradient attacks, written out example by example."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def pgd(
    loss: Callable[[Tensor], Tensor],
    x: Tensor,
    radius: float,
    step_size: float,
    step_num: int,
    norm: str = "Linf",
    direction: str = "sign",
    mask: Tensor | None = None,
    bounds: tuple[float, float] = (-torch.inf, torch.inf),
    start: Tensor | None = None,
) -> Tensor:
    """Projected gradient ascent of `loss((1, *features)) -> one number`; `start`: the first perturbations."""
    rows = []
    for number, row in enumerate(x):
        moved = row.clone() if start is None else (row + start[number]).clamp(*bounds)
        for _ in range(step_num):
            point = moved.clone().requires_grad_()
            loss(point[None]).sum().backward()
            assert point.grad is not None
            step = point.grad.sign() if direction == "sign" else point.grad / point.grad.pow(2).sum().sqrt()
            if mask is not None:
                step = step * mask
            change = moved + step_size * step - row
            length = change.pow(2).sum().sqrt()
            if norm == "Linf":
                change = torch.minimum(torch.maximum(change, torch.tensor(-radius)), torch.tensor(radius))
            elif length > radius:
                change = change * (radius / length)
            moved = torch.minimum(torch.maximum(row + change, torch.tensor(bounds[0])), torch.tensor(bounds[1]))
        rows.append(moved.detach())
    return torch.stack(rows)
