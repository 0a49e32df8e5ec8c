"""Whether scores of a concept differ from those of random concepts."""

from __future__ import annotations

from itertools import combinations
from math import comb

import torch
from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidValue

EXACT = 20_000
"""The most divisions into two groups that are all looked at."""


def permutation_test(scores: Tensor, chance: Tensor, draws: int = 9_999) -> float:
    """The two-sided p-value of a difference between two means.

    `p = #{divisions of all scores into groups of these sizes whose means differ at least as much} / #{divisions}`, over
    all divisions if they are at most 20,000; else over random ones, the given one included.

    Args:
        scores: `(runs,)`.
        chance: `(other runs,)`.
        draws: The number of random divisions; they are always the same.

    Source: B. Phipson and G. K. Smyth, Permutation P-values Should Never Be Zero, 2010, section 2.
    """
    first, second = (values.double().cpu() for values in (scores, chance))
    pooled, size = torch.cat([first, second]), len(first)
    total, rest = float(pooled.sum()), len(second)
    if not size or not rest:
        raise InvalidShape(f"a test needs scores in both groups; got {size} and {rest}")

    def differs(sums: Tensor) -> Tensor:
        return (sums / size - (total - sums) / rest).abs()

    least = float((first.mean() - second.mean()).abs()) * (1 - 1e-9) - 1e-12
    if comb(len(pooled), size) <= EXACT:
        chosen = torch.tensor(list(combinations(range(len(pooled)), size)), device="cpu")
        return float((differs(pooled[chosen].sum(1)) >= least).double().mean())
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(draws, len(pooled), generator=generator, dtype=torch.float64, device="cpu")
    as_much = differs(pooled[keys.argsort(1)[:, :size]].sum(1)) >= least
    return float((1 + as_much.sum()) / (1 + draws))


def smallest_p(runs: int, others: int) -> float:
    """The least p-value that so many runs can have."""
    count = comb(runs + others, runs)
    return (2 if runs == others else 1) / count if count <= EXACT else 1e-4


def bootstrap_interval(scores: Tensor, level: float = 0.95, draws: int = 2_000) -> tuple[float, float]:
    """An interval of the mean over runs, by the percentiles of resamples; the resamples are always the same.

    Args:
        scores: `(runs,)`.
        level: The coverage it aims at, between 0 and 1. With few runs it is somewhat too short.
        draws: The number of resamples.

    Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    if not 0 < level < 1:
        raise InvalidValue(f"level must be between 0 and 1; got {level!r}")
    values, generator = scores.double().cpu(), torch.Generator().manual_seed(0)
    drawn = torch.randint(len(values), (draws, len(values)), generator=generator, device="cpu")
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64, device="cpu")
    low, high = values[drawn].mean(1).quantile(ends).tolist()
    return low, high


def holm(p_values: Tensor) -> Tensor:
    """P-values that hold together for all tests: `max over i <= j of (m - i + 1) p_(i)`, at most 1.

    Args:
        p_values: Of any shape.

    Source: S. Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scandinavian Journal of Statistics 1979.
    """
    flat = p_values.flatten().double()
    order = flat.argsort()
    factors = torch.arange(len(flat), 0, -1, dtype=flat.dtype, device=flat.device)
    adjusted = (flat[order] * factors).cummax(0).values.clamp(max=1)
    return torch.empty_like(flat).scatter(0, order, adjusted).view_as(p_values)
