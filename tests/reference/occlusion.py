"""Occlusion and feature permutation from their definitions: one window, feature and position at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor


def corners(size: int, window: int, stride: int) -> list[int]:
    """Where windows begin along an axis: from 0 on, a stride apart, until the axis is covered."""
    found = [0]
    while found[-1] + window < size:
        found.append(found[-1] + stride)
    return found


def occlusion(
    forward: Callable[[Tensor], Tensor], x: Tensor, baseline: Tensor, window: Sequence[int], stride: Sequence[int]
) -> Tensor:
    """`attribution_p = mean over the windows w over position p of f(x) - f(x with w at its baseline)`.

    Input and baseline have the same shape `(batch, *features)`; `forward` gives one number for each example.
    """
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    axes = [corners(*axis) for axis in zip(x.shape[1:], window, stride, strict=True)]
    for corner in product(*axes):
        box = (slice(None), *(slice(start, start + size) for start, size in zip(corner, window, strict=True)))
        covered = x.clone()
        covered[box] = baseline[box]
        loss = forward(x) - forward(covered)
        for example in range(len(x)):
            total[example][box[1:]] += loss[example]
            count[example][box[1:]] += 1
    return total / count


def feature_permutation(
    forward: Callable[[Tensor], Tensor], x: Tensor, mask: Tensor, orders: Sequence[Tensor]
) -> Tensor:
    """`attribution_i = f(x) - f(x with feature i of another example)`, the examples in an order for each feature.

    `mask` has the shape of an example; `orders` are for its numbers, from the least to the largest.
    """
    result = torch.zeros_like(x)
    for feature, order in zip(sorted(set(mask.flatten().tolist())), orders, strict=True):
        changed = x.clone()
        for example in range(len(x)):
            changed[example][mask == feature] = x[int(order[example])][mask == feature]
        loss = forward(x) - forward(changed)
        for example in range(len(x)):
            result[example][mask == feature] = loss[example]
    return result
