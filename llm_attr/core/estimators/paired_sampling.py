"""Shapley values by regression on pairs of complementary coalitions: the design, and the base of the fits.

Coalitions are written as signs z, 1 for present features and -1 for absent ones. The Shapley values of a game depend
only on its odd part `o(z) = (v(z) - v(-z)) / 2`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, combinations
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llm_attr.caller import warn_caller
from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.game.coalitions import keys
from llm_attr.core.game.estimate import Estimate, widening
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import positive
from llm_attr.typing import Coalitions, Values

MIN_SPARSITY = 4
"""The coalitions of a size are enumerated once one in this many is needed; rarer ones are drawn by rejection."""

MAX_COUNT = 1 << 62
"""Upper bound for the number of coalitions of one size, which keeps it in range."""

MAX_PAIRS_OF_AN_ORDER = 1.5
"""Pairs per feature below which the first coalitions are those of a random order, above which all are independent."""

MIN_NEW_LENGTH = 1e-6
"""Relative squared length of a coalition's component orthogonal to earlier ones, below which it is rounding error."""


@dataclass(frozen=True)
class PairedSample:
    """A sample of pairs of complementary coalitions.

    Attributes:
        signs: `(pairs, features)` of the first coalition of each pair.
        weights: `(pairs,)`: their share of the Shapley kernel, divided by the inclusion probability.
        probabilities: `(pairs,)`: the probability of being included in the sample.
        total: The number of pairs of the game.
    """

    signs: Tensor
    weights: Tensor
    probabilities: Tensor
    total: float


@dataclass(frozen=True)
class Fit(ABC):
    """Shapley values as a linear function of the odd part.

    Attributes:
        of_full: `(features,)`: coefficients of the odd part at the full coalition.
        of_pairs: `(features, pairs)`: coefficients of the odd part at each pair.
        sampled_fraction: `(pairs,)`: the fraction, 0 to 1, of each pair's influence that varies with the sample.
    """

    of_full: Tensor
    of_pairs: Tensor
    sampled_fraction: Tensor

    def values(self, full: Tensor, odd: Tensor) -> Tensor:
        """`(features, outputs)` from the odd part at the full coalition `(outputs,)` and at the pairs."""
        return self.of_full[:, None] * full + self.of_pairs @ odd

    @abstractmethod
    def loo_residuals(self, full: Tensor, odd: Tensor) -> Tensor:
        """`(pairs, outputs)`: the residual of each pair from the fit to the others."""

    def errors(self, full: Tensor, odd: Tensor, freedom: int) -> Tensor:
        """`(features, outputs)`: standard errors from leaving out each pair; 0 if all pairs are included.

        Scaled by Student's t. Without degrees of freedom the error of a feature cannot be estimated; it is then the
        spread of all values around equal shares.

        Args:
            full: `(outputs,)`: the odd part at the full coalition.
            odd: `(pairs, outputs)`: the odd part at the pairs.
            freedom: Degrees of freedom.
        """
        features, count = self.of_pairs.shape
        if not self.sampled_fraction.any():
            return torch.zeros_like(odd[:1]).repeat(features, 1)
        if freedom < 1:
            deviations = self.values(full, odd) - 2 * full / features
            spread = ((deviations**2).sum(0, keepdim=True) / count).sqrt()
            return (spread * widening(count)).repeat(features, 1)
        squares = self.sampled_fraction[:, None] * self.loo_residuals(full, odd) ** 2
        return (self.of_pairs**2 @ squares).sqrt() * widening(freedom)


class PairedRegression(BaseEstimator):
    """The Shapley values by regression on pairs of complementary coalitions, without repetition.

    The sizes of the coalitions are drawn in proportion to their share of the Shapley kernel
    `(f - 1) / (C(f, s) s (f - s))`. A size whose coalitions are all needed is enumerated; others are sampled without
    replacement and weighted by the kernel over their inclusion probability. With fewer than three evaluations per
    feature the first coalitions are those of a random order of the features and its reverse, with one more feature
    each, in the order of bisection. Pairs cancel all interactions of even order. All `2^f` coalitions give the exact
    values.

    Standard errors: leave-one-pair-out with finite-population correction, scaled by Student's t, so that 1.96 of them
    on each side contain the exact value in 95 % of cases. With no more pairs than features they are the spread of the
    values, which is larger; features that the pairs do not distinguish have equal shares.

    Args:
        n_samples: Number of evaluations, including the empty and full coalitions; rounded down to an even number.
        seed: Seed of the coalitions; None: torch's global generator.

    Source: I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021, sections 3.1 and 4.2 (constraint, pairs); R.
    Mitchell, J. Cooper, E. Frank and G. Holmes, Sampling Permutations for Shapley Value Estimation, JMLR 2022 (an order
    and its reverse).
    """

    fixed = False
    per_round = 2

    def __init__(self, n_samples: int = 25, seed: int | None = None) -> None:
        self._requested, self._seed = positive("n_samples", n_samples), seed
        self.n_samples = max(1, n_samples // 2)

    @abstractmethod
    def _fit(self, sample: PairedSample) -> Fit:
        """The fit to a sample of at least one pair."""

    def size(self, features: int) -> int:
        return 2 * self.n_samples

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """Two per pair, including the empty and full coalitions; warns if they are too few."""
        requested = self._requested if budget is None else budget
        if requested < min(2 * features, 1 << features):
            warn_caller(
                f"{requested} evaluations are fewer than two for each of the {features} features: those that they do "
                f"not tell apart get equal shares, and the errors are large. Use about {4 * features} (n_samples or "
                "budget), or group features with a feature_mask or a larger unit",
                UserWarning,
            )
        return super().evaluations(features, budget)

    def least(self, features: int) -> int:
        """One pair, and the empty and the full coalition."""
        return min(4, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The empty and the full coalition, then one pair each; the first `features - 1` are linearly independent."""
        ends = torch.zeros(1, features, dtype=torch.bool, device="cpu")
        yield ends if not features else torch.cat([ends, ~ends])
        draws, sizes = generator(self._seed), _Sizes(features)
        order = sizes.of_an_order(draws) if self._starts_with_an_order(features) else ends[:0]
        rows = chain(order, sizes.coalitions(self.n_samples, order, draws))
        for row in _independent_first(rows, features - 1):
            yield torch.stack([row, ~row])

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """The regression and its errors; equal shares with infinite errors if there are no pairs."""
        doubled = values.double()
        shares, errors = self._regressed(coalitions, doubled) if coalitions.shape[1] else (doubled[:0], doubled[:0])
        return Estimate(at_least_fp32(shares, values), at_least_fp32(errors, values))

    def _regressed(self, coalitions: Coalitions, values: Values) -> tuple[Values, Values]:
        first, features = coalitions[2::2], coalitions.shape[1]
        full, odd = (values[1] - values[0]) / 2, (values[2::2] - values[3::2]) / 2
        if not len(first):
            shares = (2 * full / features).expand(features, -1)
            return shares, torch.full_like(shares, 0 if features == 1 else torch.inf)
        sizes = _Sizes(features)
        weights, probabilities = sizes.weights(first.sum(1))
        fit = self._fit(PairedSample(first.to(values) * 2 - 1, weights, probabilities, sizes.pairs.sum().item()))
        freedom = len(first) - features - (features // 2 if self._starts_with_an_order(features) else 0)
        return fit.values(full, odd), fit.errors(full, odd, freedom)

    def _starts_with_an_order(self, features: int) -> bool:
        """Whether the first pairs are those of an order; they are not independent and count half for errors."""
        return self.n_samples < MAX_PAIRS_OF_AN_ORDER * features


@dataclass(frozen=True)
class _Sizes:
    """The sizes of the smaller coalitions of the pairs, 1 to `features // 2`.

    Attributes:
        features: Number of features.
    """

    features: int

    @property
    def kernel(self) -> Tensor:
        """`(sizes,)`: the total Shapley kernel of the pairs of each size, up to a constant."""
        sizes = torch.arange(1, self.features // 2 + 1, dtype=torch.float64, device="cpu")
        return self.of_order / (2 * sizes * (self.features - sizes))

    @property
    def of_order(self) -> Tensor:
        """`(sizes,)`: the number of pairs of each size in an order of the features and its reverse."""
        sizes = torch.arange(1, self.features // 2 + 1, dtype=torch.float64, device="cpu")
        return torch.where(2 * sizes == self.features, 1.0, 2.0).double()

    @property
    def pairs(self) -> Tensor:
        """`(sizes,)`: the number of pairs of each size."""
        counts = [comb(self.features, size) for size in range(1, self.features // 2 + 1)]
        if self.features % 2 == 0:
            counts[-1] //= 2
        return torch.tensor([min(count, MAX_COUNT) for count in counts], dtype=torch.float64, device="cpu")

    def expected(self, count: int) -> Tensor:
        """`(sizes,)`: the expected number of `count` pairs of each size: by the kernel, at least those of an order."""
        kernel, low, high = self.kernel, self.of_order, self.pairs
        rates = torch.cat([low / kernel, high / kernel]).sort().values
        totals = (rates[:, None] * kernel).clamp(low, high).sum(1)
        above = int(torch.searchsorted(totals, float(count)))
        if above in (0, len(totals)):
            return low if above == 0 else high
        share = (count - totals[above - 1]) / (totals[above] - totals[above - 1])
        return (torch.lerp(rates[above - 1], rates[above], share) * kernel).clamp(low, high)

    def weights(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """The weights and inclusion probabilities `(pairs,)` of pairs, by the size of either coalition."""
        small = torch.minimum(sizes, self.features - sizes) - 1
        expected = self.expected(len(sizes))
        return (self.kernel / expected)[small], (expected / self.pairs)[small]

    def coalitions(self, first: int, known: Coalitions, draws: torch.Generator | None) -> Iterator[Tensor]:
        """The first coalition of each pair, `(features,)`, such that every prefix is a sample.

        Args:
            first: Number of coalitions in the first batch, including the known ones.
            known: Coalitions already in the sample: none, or those of an order.
            draws: Random generator.
        """
        if self.features < 2:
            return
        of_size = [_Drawn(self.features, size + 1, draws, known) for size in range(self.features // 2)]
        taken, total, done = self.of_order * bool(len(known)), int(self.pairs.sum().item()), len(known)
        count = min(max(first, done + 1), total)
        while count > done:
            counts = _rounded((self.expected(count) - taken).clamp_min(0), count - done, self.pairs - taken, draws)
            rows = torch.cat([drawn.more(int(more)) for drawn, more in zip(of_size, counts.tolist(), strict=True)])
            yield from rows[torch.randperm(len(rows), generator=draws, device="cpu")]
            taken, done = taken + counts, count
            count = min(total, count + max(8, count // 4))

    def of_an_order(self, draws: torch.Generator | None) -> Coalitions:
        """`(features - 1, features)`: the prefixes of a random order, in the order of bisection."""
        order = torch.randperm(self.features, generator=draws, device="cpu")
        blocks, ends = [(0, self.features)], list[int]()
        for start, stop in blocks:
            if stop - start > 1:
                ends.append((start + stop) // 2)
                blocks += [(start, ends[-1]), (ends[-1], stop)]
        return order.argsort() < torch.tensor(ends, device="cpu")[:, None]


def _rounded(wanted: Tensor, count: int, most: Tensor, draws: torch.Generator | None) -> Tensor:
    """Random integers up to `most` that sum to the count and have the expected values `wanted`, up to a factor."""
    order = torch.randperm(len(wanted), generator=draws, device="cpu")
    edges = nn.functional.pad(wanted[order].cumsum(0) * (count / wanted.sum()), (1, 0))
    edges = (edges + torch.rand(1, generator=draws, dtype=torch.float64, device="cpu")).floor()
    counts = torch.empty_like(wanted)
    counts[order] = edges[1:] - edges[:-1]
    counts = torch.minimum(counts, most)
    while counts.sum() != count:
        room = (most - counts) if counts.sum() < count else counts
        counts[room.argmax()] += 1 if counts.sum() < count else -1
    return counts


class _Drawn:
    """Coalitions of one size in random order, without repetition; for half of the features, one of each pair."""

    def __init__(self, features: int, size: int, draws: torch.Generator | None, seen: Coalitions) -> None:
        self._features, self._size, self._draws = features, size, draws
        self._halves = 2 * size == features
        self._count = comb(features, size) // (2 if self._halves else 1)
        small = torch.where(seen.sum(1, keepdim=True) * 2 > features, ~seen, seen)
        self._seen = set(keys(self._first_of(small[small.sum(1) == size])))
        self._left: Tensor | None = None

    def more(self, count: int) -> Tensor:
        """`(count, features)`."""
        if self._left is None and count and MIN_SPARSITY * (len(self._seen) + count) >= self._count:
            self._left = self._new(self._listed())
        if self._left is not None:
            rows, self._left = self._left.tensor_split([count])
            return rows
        rows = self._drawn(0)
        while len(rows) < count:
            rows = torch.cat([rows, self._new(self._drawn(count - len(rows)))])
        return rows

    def _new(self, rows: Tensor) -> Tensor:
        """The rows not seen before; marks them as seen."""
        new = {name: i for i, name in enumerate(keys(rows)) if name not in self._seen}
        self._seen.update(new)
        return rows[list(new.values())]

    def _listed(self) -> Tensor:
        members = torch.tensor(list(combinations(range(self._features), self._size)), device="cpu")
        rows = self._with(members)
        rows = rows[rows[:, 0]] if self._halves else rows
        return rows[torch.randperm(len(rows), generator=self._draws, device="cpu")]

    def _drawn(self, count: int) -> Tensor:
        order = torch.rand(count, self._features, generator=self._draws, dtype=torch.float32, device="cpu").argsort(1)
        return self._first_of(self._with(order[:, : self._size]))

    def _with(self, members: Tensor) -> Coalitions:
        return torch.zeros(len(members), self._features, dtype=torch.bool, device="cpu").scatter_(1, members, True)

    def _first_of(self, rows: Coalitions) -> Coalitions:
        """The first coalition of each row's pair."""
        return rows ^ ~rows[:, :1] if self._halves else rows


def _independent_first(rows: Iterator[Tensor], wanted: int) -> Iterator[Tensor]:
    """The same rows; those that are linear combinations of earlier ones come after `wanted` independent ones."""
    basis: NDArray[np.float64] | None = None
    postponed: list[Tensor] = []
    done = 0
    for row in rows:
        if done < wanted:
            basis = np.zeros((wanted, len(row))) if basis is None else basis
            centred = row.numpy() - np.count_nonzero(row.numpy()) / len(row)
            rest = centred - (basis[:done] @ centred) @ basis[:done]
            if rest @ rest <= MIN_NEW_LENGTH * (centred @ centred):
                postponed.append(row)
                continue
            basis[done] = rest / np.sqrt(rest @ rest)
            done += 1
        yield row
        if done == wanted:
            yield from postponed
            postponed = []
