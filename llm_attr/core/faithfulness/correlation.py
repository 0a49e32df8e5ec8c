"""Rank correlations, standard errors by resampling, and the Gini index."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 along the last axis, in float64; ties get their mean."""
    values = values.contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values, right=False)
    return (below + torch.searchsorted(ordered, values, right=True) + 1).double() / 2


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's rank correlation along the last axis; 0 where one side is constant, as it orders nothing."""
    return _pearson(ranks(first.double()), ranks(second.double()))


def kendall(first: Tensor, second: Tensor) -> float:
    """Kendall's tau-b of two vectors; 0 where one is constant. Discordant pairs are counted in n log n steps.

    Source: M. G. Kendall, The treatment of ties in ranking problems, Biometrika 1945; W. R. Knight, A Computer Method
    for Calculating Kendall's Tau with Ungrouped Data, JASA 1966.
    """
    size = len(first)
    x, y = (torch.unique(each, return_inverse=True)[1] for each in (first, second))
    order = (x * size + y).argsort()
    tied = [_tied_pairs(each) for each in (x, y, x * size + y)]
    pairs = size * (size - 1) // 2
    scale = ((pairs - tied[0]) * (pairs - tied[1])) ** 0.5
    apart = pairs - tied[0] - tied[1] + tied[2] - 2 * _inversions(y[order])
    return apart / scale if scale else 0.0


def _tied_pairs(values: Tensor) -> int:
    counts = torch.unique(values, return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


def _inversions(values: Tensor) -> int:
    """The pairs of whole numbers of which the later one is smaller; each pair counts at the first bit that differs."""
    found = 0
    for bit in range(int(values.max()).bit_length() - 1, -1, -1):
        group = values >> (bit + 1)
        order = group.argsort(stable=True)
        high, group = (values[order] >> bit) & 1, group[order]
        before = high.cumsum(0) - high
        start = torch.searchsorted(group, group, right=False)
        found += int(((before - before[start]) * (1 - high)).sum())
    return found


def resampled_error(first: Tensor, second: Tensor, samples: int = 200, seed: int = 0) -> Tensor:
    """The bootstrap standard error of `spearman` over the last axis."""
    generator = torch.Generator().manual_seed(seed)
    size = first.shape[-1]
    chosen = torch.randint(size, (samples, size), generator=generator, device="cpu")
    return spearman(first[..., chosen], second[..., chosen]).std(-1)


def gini(values: Tensor) -> Tensor:
    """The Gini index of absolute values along the last axis: 0 if all are equal, near 1 if one has everything.

    `G = 1 - 2 sum_k v_(k) / ||v||_1 (n - k + 1/2) / n` with v_(1) <= ... <= v_(n); 0 if all are zero.
    """
    ordered = values.double().abs().sort(-1).values
    size = ordered.shape[-1]
    weights = (size - torch.arange(1, size + 1, dtype=torch.float64, device=values.device) + 0.5) / size
    total = ordered.sum(-1, keepdim=True)
    shares = ordered / torch.where(total == 0, 1.0, total)
    return torch.where(total[..., 0] == 0, 0.0, 1 - 2 * (shares * weights).sum(-1))


def _pearson(first: Tensor, second: Tensor) -> Tensor:
    first, second = (each - each.mean(-1, keepdim=True) for each in (first, second))
    scale = (first.square().sum(-1) * second.square().sum(-1)).sqrt()
    product = (first * second).sum(-1)
    return torch.where(scale == 0, 0.0, product / torch.where(scale == 0, 1.0, scale)).clamp(-1, 1)
