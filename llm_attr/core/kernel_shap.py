"""KernelSHAP: Shapley values by least squares over coalitions and their complements."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_attr.core.coalitions import keys
from llm_attr.core.odd_regression import MOST_PAIRS, AdditiveFit, Fit, InteractingFit, Pairs
from llm_attr.core.play import Estimate
from llm_attr.core.shapley import generator, positive, precise
from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions, Values

LISTED_SHARE = 4
"""Of the coalitions of a size those that are left are listed once one in so many is wanted; before, they are drawn."""

COUNTLESS = 1 << 62
"""More coalitions of one size than anybody asks for."""

INDEPENDENT = 1e-6
"""Squared length, as a share, of what is new in a coalition beside the earlier ones; less is rounding."""


class ComplementaryPairs:
    """The Shapley values from pairs of complementary coalitions, no two alike, by regression.

    The additive game that is nearest to the values under the Shapley kernel
    `(f - 1) / (C(f, s) s (f - s))`, and meets the empty and the full coalition exactly. The sizes of the coalitions are
    drawn in proportion to their part of the kernel; a size whose every coalition is due is enumerated, the rest are
    drawn without replacement, and each weighs the kernel over the probability with which it is included. Pairs cancel
    all interactions of even order; those of odd order are taken out by a model of them, whose own Shapley values are
    known. All `2^f` coalitions give the exact values.

    Standard errors: from leaving out one pair, with the finite population taken into account, scaled to Student's t of
    the pairs that are left over, so that 1.96 of them on each side hold the truth in 95 % of the cases; infinite where
    none is left over.

    Args:
        n_samples: Evaluations, with the empty and the full coalition; the last one of an even rest is left out.
        interactions: Whether the model of interactions is used, as far as there are no more than `MOST_PAIRS` pairs.
        seed: Of the coalitions; None: torch's global stream.

    Source: S. M. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, theorem 2;
    I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021, sections 3.1 and 4.2 (constraint, pairs); for the model
    see `InteractingFit`.
    """

    fixed = False

    def __init__(self, n_samples: int = 25, interactions: bool = True, seed: int | None = None) -> None:
        self._asked, self._interactions, self._seed = positive("n_samples", n_samples), interactions, seed
        self.n_samples = max(1, n_samples // 2)

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """Two for each pair, the empty and the full coalition among them.

        Raises:
            InvalidValue: without a budget, n_samples is too small for the features.
        """
        if budget is None and self._asked < self.least(features):
            raise InvalidValue(
                f"n_samples={self._asked} evaluations are too few: Shapley values of {features} features by regression "
                f"take at least {self.least(features)} (two for each feature), about {4 * features} to be good; or "
                "join features by a feature_mask or a larger unit"
            )
        return min(2 * self.n_samples if budget is None else budget, 1 << features)

    def least(self, features: int) -> int:
        """Two for each feature: one pair less than features, the empty and the full coalition."""
        return max(1, 2 * features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The empty and the full coalition, then a pair each, of which the first `features - 1` are independent."""
        ends = torch.zeros(1, features, dtype=torch.bool)
        yield ends if not features else torch.cat([ends, ~ends])
        for row in _telling_first(_Sizes(features).coalitions(self.n_samples, generator(self._seed)), features - 1):
            yield torch.stack([row, ~row])

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)`: the regression, and its errors; equal shares with infinite ones from too few pairs."""
        worth = values.cpu().double()
        found, error = self._regressed(coalitions, worth) if coalitions.shape[1] else (worth[:0], worth[:0])
        return Estimate(precise(found, values).to(values.device), precise(error, values).to(values.device))

    def _regressed(self, coalitions: Coalitions, worth: Values) -> tuple[Values, Values]:
        first, features = coalitions[2::2], coalitions.shape[1]
        full, halves = (worth[1] - worth[0]) / 2, (worth[2::2] - worth[3::2]) / 2
        if features == 1 or len(first) < features - 1:
            shares = (2 * full / features).expand(features, -1)
            return shares, torch.full_like(shares, 0 if features == 1 else torch.inf)
        sizes = _Sizes(features)
        pairs = Pairs(first.to(worth) * 2 - 1, *sizes.weights(first.sum(1)), sizes.pairs.sum().item())
        kind = InteractingFit if self._interactions and len(first) <= MOST_PAIRS else AdditiveFit
        fit: Fit = kind.of(pairs)
        return fit.values(full, halves), fit.errors(full, halves)


@dataclass(frozen=True)
class _Sizes:
    """The sizes of the smaller coalitions of the pairs, 1 to `features // 2`.

    Attributes:
        features: How many features there are.
    """

    features: int

    @property
    def kernel(self) -> Tensor:
        """`(sizes,)`: the part of the Shapley kernel that all pairs of a size have, up to a factor."""
        sizes = torch.arange(1, self.features // 2 + 1, dtype=torch.float64)
        return torch.where(2 * sizes == self.features, 0.5, 1.0) / (sizes * (self.features - sizes))

    @property
    def pairs(self) -> Tensor:
        """`(sizes,)`: how many pairs of each size there are."""
        counts = [comb(self.features, size) for size in range(1, self.features // 2 + 1)]
        if self.features % 2 == 0:
            counts[-1] //= 2
        return torch.tensor([min(count, COUNTLESS) for count in counts], dtype=torch.float64)

    def expected(self, count: int) -> Tensor:
        """`(sizes,)`: how many of so many pairs have each size, in the mean."""
        kernel, pairs = self.kernel, self.pairs
        order = (pairs / kernel).argsort()
        done, mass = torch.cumsum(pairs[order], 0) - pairs[order], kernel[order].flip(0).cumsum(0).flip(0)
        rates = (count - done) / mass
        open_sizes = (rates < pairs[order] / kernel[order]).nonzero()
        return pairs if not len(open_sizes) else torch.minimum(pairs, kernel * rates[open_sizes[0]])

    def weights(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """`(pairs,)` each, for the size of either of the pair: the weight of a pair, the chance that it is included."""
        small = torch.minimum(sizes, self.features - sizes) - 1
        expected = self.expected(len(sizes))
        return (self.kernel / expected)[small], (expected / self.pairs)[small]

    def coalitions(self, first: int, draws: torch.Generator | None) -> Iterator[Tensor]:
        """The first of each pair, `(features,)`, in an order of which every start is a sample, so many at first."""
        if self.features < 2:
            return
        of_size = [_Drawn(self.features, size + 1, draws) for size in range(self.features // 2)]
        taken, total = torch.zeros(len(of_size)), int(self.pairs.sum().item())
        done, count = 0, min(first, total)
        while count > done:
            counts = _rounded((self.expected(count) - taken).clamp_min(0), count - done, self.pairs - taken, draws)
            rows = torch.cat([drawn.more(int(more)) for drawn, more in zip(of_size, counts.tolist(), strict=True)])
            yield from rows[torch.randperm(len(rows), generator=draws)]
            taken, done = taken + counts, count
            count = min(total, count + max(8, count // 4))


def _rounded(wanted: Tensor, count: int, most: Tensor, draws: torch.Generator | None) -> Tensor:
    """Whole numbers that sum up to the count and have the mean that is wanted, none larger than there are."""
    order = torch.randperm(len(wanted), generator=draws)
    edges = torch.cat([torch.zeros(1), wanted[order].cumsum(0) * (count / wanted.sum())])
    edges = (edges + torch.rand(1, generator=draws, dtype=torch.float64)).floor()
    counts = torch.empty_like(wanted)
    counts[order] = edges[1:] - edges[:-1]
    counts = torch.minimum(counts, most)
    while counts.sum() != count:
        room = (most - counts) if counts.sum() < count else counts
        counts[room.argmax()] += 1 if counts.sum() < count else -1
    return counts


class _Drawn:
    """Coalitions of one size in random order, none of them twice; of half the features, one of each pair."""

    def __init__(self, features: int, size: int, draws: torch.Generator | None) -> None:
        self._features, self._size, self._draws = features, size, draws
        self._halves = 2 * size == features
        self._count = comb(features, size) // (2 if self._halves else 1)
        self._seen: set[bytes] = set()
        self._left: Tensor | None = None

    def more(self, count: int) -> Tensor:
        """`(count, features)`."""
        if self._left is None and count and LISTED_SHARE * (len(self._seen) + count) >= self._count:
            self._left = self._new(self._listed())
        if self._left is not None:
            found, self._left = self._left.tensor_split([count])
            return found
        rows = self._drawn(0)
        while len(rows) < count:
            rows = torch.cat([rows, self._new(self._drawn(count - len(rows)))])
        return rows

    def _new(self, rows: Tensor) -> Tensor:
        """Those that have not been seen before; now they have."""
        new = {name: i for i, name in enumerate(keys(rows)) if name not in self._seen}
        self._seen.update(new)
        return rows[list(new.values())]

    def _listed(self) -> Tensor:
        members = torch.tensor(list(combinations(range(self._features), self._size)))
        rows = torch.zeros(len(members), self._features, dtype=torch.bool).scatter_(1, members, True)
        rows = rows[rows[:, 0]] if self._halves else rows
        return rows[torch.randperm(len(rows), generator=self._draws)]

    def _drawn(self, count: int) -> Tensor:
        order = torch.rand(count, self._features, generator=self._draws).argsort(1)
        rows = torch.zeros(count, self._features, dtype=torch.bool).scatter_(1, order[:, : self._size], True)
        return rows ^ ~rows[:, :1] if self._halves else rows


def _telling_first(rows: Iterator[Tensor], wanted: int) -> Iterator[Tensor]:
    """The same rows, those that are combinations of earlier ones only after so many that are not."""
    basis: NDArray[np.float64] | None = None
    postponed: list[Tensor] = []
    done = 0
    for row in rows:
        if done < wanted:
            basis = np.zeros((wanted, len(row))) if basis is None else basis
            centred = row.numpy() - np.count_nonzero(row.numpy()) / len(row)
            rest = centred - (basis[:done] @ centred) @ basis[:done]
            if rest @ rest <= INDEPENDENT * (centred @ centred):
                postponed.append(row)
                continue
            basis[done] = rest / np.sqrt(rest @ rest)
            done += 1
        yield row
        if done == wanted:
            yield from postponed
            postponed = []
