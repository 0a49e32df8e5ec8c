"""Whether attributions predict the values of coalitions better than the same numbers in other places."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from llm_attr.core.faithfulness.correlation import spearman
from llm_attr.core.game.estimate import CONFIDENT
from llm_attr.typing import Coalitions, Values

EXACT = 8
"""Up to this many units all orders are tried: 40,320."""

DRAWS = 9999
"""Random orders for more units, in addition to the given one."""

LEAST_UNSEEN = 4
"""Coalitions below which there is no interval of a correlation."""

TIE = 1e-9
"""Correlations that differ by less are equal."""


def orders(features: int, seed: int) -> Tensor:
    """int64 `(orders, features)`: all orders of few features, else the given one and random ones."""
    if features <= EXACT:
        return _all_orders(features)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(DRAWS, features, generator=generator, dtype=torch.float64, device="cpu").argsort(1)
    return torch.cat([torch.arange(features, device="cpu")[None], drawn])


def p_value(attributions: Tensor, coalitions: Coalitions, values: Values, places: Tensor) -> float:
    """The share of orders of the attributions, the given one included, that predict the values at least as well.

    `p = #{pi: r(sum_(i in S) a_pi(i), f(S)) >= r(sum_(i in S) a_i, f(S))} / #{pi}`, with the correlation r over the
    coalitions S. It is exact where all orders are tried, and at least one in `DRAWS + 1` otherwise.

    Args:
        attributions: float64 `(features,)`.
        coalitions: `(coalitions, features)`, which did not depend on the attributions.
        values: float64 `(coalitions,)`.
        places: See `orders`.
    """
    rows, target = coalitions.double(), _standard(values)
    predicted = _standard(attributions[places] @ rows.T)
    scores = predicted @ target
    return float((scores >= scores[0] - TIE).double().mean())


def smallest_p_value(attributions: Tensor, effects: Tensor, places: Tensor) -> float:
    """The p-value that these numbers would have if they were in the best places for these effects.

    Equal numbers make many orders alike, and few units have few orders: then even the best one says nothing.

    Args:
        attributions: float64 `(features,)`.
        effects: float64 `(features,)`: what each unit is worth; only their ties matter.
        places: See `orders`.
    """
    best = attributions.sort().values[effects.argsort().argsort()]
    scores = best[places] @ effects
    return float((scores >= (best * effects).sum() - TIE * float(scores.abs().amax())).double().mean())


def datamodelling(attributions: Tensor, coalitions: Coalitions, values: Values) -> tuple[float, tuple[float, float]]:
    """The linear datamodelling score and its 95 % interval over coalitions.

    Spearman's correlation r of the sums of attributions with the values; `tanh(artanh r +- 1.96 sqrt((1 + r^2/2) /
    (m - 3)))` for m coalitions.

    Source: S. M. Park et al., TRAK, ICML 2023 (the score); D. G. Bonett and T. A. Wright, Sample size requirements for
    estimating Pearson, Kendall and Spearman correlations, 2000 (the interval).
    """
    score = float(spearman(coalitions.double() @ attributions, values))
    inner = torch.tensor(max(-0.999, min(0.999, score)), dtype=torch.float64, device="cpu")
    half = CONFIDENT * ((1 + score**2 / 2) / (len(values) - 3)) ** 0.5
    low, high = torch.tanh(torch.atanh(inner) - half), torch.tanh(torch.atanh(inner) + half)
    return score, (min(score, float(low)), max(score, float(high)))


@cache
def _all_orders(features: int) -> Tensor:
    return torch.tensor(list(permutations(range(features))), dtype=torch.int64, device="cpu")


def _standard(rows: Tensor) -> Tensor:
    """Rows with mean 0 and length 1; constant ones are 0."""
    centred = rows - rows.mean(-1, keepdim=True)
    length = centred.norm(dim=-1, keepdim=True)
    flat = length <= TIE * rows.abs().amax(-1, keepdim=True).clamp_min(1e-300)
    return torch.where(flat, 0.0, centred / torch.where(flat, 1.0, length))
