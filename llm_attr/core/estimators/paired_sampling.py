"""Shapley values by regression on pairs of complementary coalitions: which pairs are asked for, and what a fit is.

Coalitions are written as signs z, 1 for features that are present and -1 for those that are not. The odd part
`o(z) = (v(z) - v(-z)) / 2` of a game has all of its Shapley values.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain as joined
from itertools import combinations
from math import comb

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.game.coalitions import keys
from llm_attr.core.game.estimate import Estimate, widening
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import precise
from llm_attr.errors import positive
from llm_attr.typing import Coalitions, Values

LISTED_SHARE = 4
"""Of the coalitions of a size those that are left are listed once one in so many is wanted; before, they are drawn."""

COUNTLESS = 1 << 62
"""More coalitions of one size than anybody asks for."""

ORDERED = 1.5
"""Pairs for each feature from which on coalitions are drawn for themselves, which then tell more than an order does."""

INDEPENDENT = 1e-6
"""Squared length, as a share, of what is new in a coalition beside the earlier ones; less is rounding."""


@dataclass(frozen=True)
class Pairs:
    """A sample of pairs of complementary coalitions.

    Attributes:
        signs: `(pairs, features)` of the first of each pair.
        weights: `(pairs,)`: their part of the Shapley kernel, over the chance of being in the sample.
        chances: `(pairs,)`: that chance.
        total: How many pairs there are.
    """

    signs: Tensor
    weights: Tensor
    chances: Tensor
    total: float


@dataclass(frozen=True)
class Fit(ABC):
    """Shapley values as a linear function of the odd part.

    Attributes:
        full: `(features,)`: of that of the full coalition.
        halves: `(features, pairs)`: of that of each pair.
        at_random: `(pairs,)`: how much of what each pair does to the fit would be otherwise in another sample, 0 to 1.
    """

    full: Tensor
    halves: Tensor
    at_random: Tensor

    def values(self, full: Tensor, halves: Tensor) -> Tensor:
        """`(features, outputs)` from the odd part at the full coalition `(outputs,)` and at the pairs."""
        return self.full[:, None] * full + self.halves @ halves

    @abstractmethod
    def apart(self, full: Tensor, halves: Tensor) -> Tensor:
        """`(pairs, outputs)`: how far each pair is from the fit of the others."""

    def errors(self, full: Tensor, halves: Tensor, freedom: int) -> Tensor:
        """`(features, outputs)`: standard errors, from what it would change to leave out each pair; 0 if all are in.

        Scaled to Student's t of the pairs that are left over. Where none is, nothing tells what is the features' own
        from what is not, and the error is the spread of their values around equal shares.

        Args:
            full: `(outputs,)`: the odd part at the full coalition.
            halves: `(pairs, outputs)`: that at the pairs.
            freedom: How many pairs are left over.
        """
        features, count = self.halves.shape
        if not self.at_random.any():
            return torch.zeros_like(halves[:1]).repeat(features, 1)
        if freedom < 1:
            apart = self.values(full, halves) - 2 * full / features
            spread = ((apart**2).sum(0, keepdim=True) / count).sqrt()
            return (spread * widening(count)).repeat(features, 1)
        moved = self.at_random[:, None] * self.apart(full, halves) ** 2
        return (self.halves**2 @ moved).sqrt() * widening(freedom)


class ComplementaryPairs(ABC):
    """The Shapley values from pairs of complementary coalitions, no two alike, by regression.

    The sizes of the coalitions are drawn in proportion to their part of the Shapley kernel
    `(f - 1) / (C(f, s) s (f - s))`; a size whose every coalition is due is enumerated, the rest are drawn without
    replacement, and each weighs the kernel over the probability with which it is included. Of fewer than three
    evaluations for each feature the first are those of a random order of the features and its reverse, one feature
    more in each, those before others that divide it more evenly. Pairs cancel all interactions of even order. All
    `2^f` coalitions give the exact values.

    Standard errors: from leaving out one pair, with the finite population taken into account, scaled to Student's t of
    the pairs that are left over, so that 1.96 of them on each side hold the truth in 95 % of the cases. With no more
    pairs than features they are the spread of the values, which is more; features that the pairs do not tell apart have
    equal shares.

    Args:
        n_samples: Evaluations, with the empty and the full coalition; the last one of an even rest is left out.
        seed: Of the coalitions; None: torch's global stream.

    Source: I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021, sections 3.1 and 4.2 (constraint, pairs); R.
    Mitchell, J. Cooper, E. Frank and G. Holmes, Sampling Permutations for Shapley Value Estimation, JMLR 2022 (an order
    and its reverse).
    """

    fixed = False
    per_round = 2

    def __init__(self, n_samples: int = 25, seed: int | None = None) -> None:
        self._asked, self._seed = positive("n_samples", n_samples), seed
        self.n_samples = max(1, n_samples // 2)

    @abstractmethod
    def _fit(self, pairs: Pairs) -> Fit:
        """What is fitted to a sample of at least one pair."""

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """Two for each pair, the empty and the full coalition among them; warns if they are too few to be good."""
        asked = self._asked if budget is None else budget
        if asked < min(2 * features, 1 << features):
            warn_caller(
                f"{asked} evaluations are fewer than two for each of the {features} features: those that they do not "
                f"tell apart get equal shares, and the errors are large. About {4 * features} are good (n_samples or "
                "budget), or join features by a feature_mask or a larger unit",
                UserWarning,
            )
        return min(2 * self.n_samples if budget is None else budget, 1 << features)

    def least(self, features: int) -> int:
        """One pair, and the empty and the full coalition."""
        return min(4, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The empty and the full coalition, then a pair each, of which the first `features - 1` are independent."""
        ends = torch.zeros(1, features, dtype=torch.bool, device="cpu")
        yield ends if not features else torch.cat([ends, ~ends])
        draws, sizes = generator(self._seed), _Sizes(features)
        chain = sizes.chain(draws) if self._is_ordered(features) else ends[:0]
        rows = joined(chain, sizes.coalitions(self.n_samples, chain, draws))
        for row in _telling_first(rows, features - 1):
            yield torch.stack([row, ~row])

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)`: the regression, and its errors; equal shares with infinite ones from no pair."""
        worth = values.double()
        found, error = self._regressed(coalitions, worth) if coalitions.shape[1] else (worth[:0], worth[:0])
        return Estimate(precise(found, values), precise(error, values))

    def _regressed(self, coalitions: Coalitions, worth: Values) -> tuple[Values, Values]:
        first, features = coalitions[2::2], coalitions.shape[1]
        full, halves = (worth[1] - worth[0]) / 2, (worth[2::2] - worth[3::2]) / 2
        if not len(first):
            shares = (2 * full / features).expand(features, -1)
            return shares, torch.full_like(shares, 0 if features == 1 else torch.inf)
        sizes = _Sizes(features)
        fit = self._fit(Pairs(first.to(worth) * 2 - 1, *sizes.weights(first.sum(1)), sizes.pairs.sum().item()))
        freedom = len(first) - features - (features // 2 if self._is_ordered(features) else 0)
        return fit.values(full, halves), fit.errors(full, halves, freedom)

    def _is_ordered(self, features: int) -> bool:
        """Whether an order and its reverse come first, whose pairs are not independent: they count half for errors."""
        return self.n_samples < ORDERED * features


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
        sizes = torch.arange(1, self.features // 2 + 1, dtype=torch.float64, device="cpu")
        return self.of_order / (2 * sizes * (self.features - sizes))

    @property
    def of_order(self) -> Tensor:
        """`(sizes,)`: how many pairs of each size are in an order of the features and its reverse."""
        sizes = torch.arange(1, self.features // 2 + 1, dtype=torch.float64, device="cpu")
        return torch.where(2 * sizes == self.features, 1.0, 2.0).double()

    @property
    def pairs(self) -> Tensor:
        """`(sizes,)`: how many pairs of each size there are."""
        counts = [comb(self.features, size) for size in range(1, self.features // 2 + 1)]
        if self.features % 2 == 0:
            counts[-1] //= 2
        return torch.tensor([min(count, COUNTLESS) for count in counts], dtype=torch.float64, device="cpu")

    def expected(self, count: int) -> Tensor:
        """`(sizes,)`: how many of so many pairs have each size: by the kernel, but no fewer than in an order."""
        kernel, least, most = self.kernel, self.of_order, self.pairs
        rates = torch.cat([least / kernel, most / kernel]).sort().values
        totals = (rates[:, None] * kernel).clamp(least, most).sum(1)
        above = int(torch.searchsorted(totals, float(count)))
        if above in (0, len(totals)):
            return least if above == 0 else most
        share = (count - totals[above - 1]) / (totals[above] - totals[above - 1])
        return (torch.lerp(rates[above - 1], rates[above], share) * kernel).clamp(least, most)

    def weights(self, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """`(pairs,)` each, for the size of either of the pair: the weight of a pair, the chance that it is included."""
        small = torch.minimum(sizes, self.features - sizes) - 1
        expected = self.expected(len(sizes))
        return (self.kernel / expected)[small], (expected / self.pairs)[small]

    def coalitions(self, first: int, known: Coalitions, draws: torch.Generator | None) -> Iterator[Tensor]:
        """The first of each pair, `(features,)`, such that every start is a sample.

        Args:
            first: How many are drawn together at first, the known ones among them.
            known: Those that the sample has already: none, or an order.
            draws: Random numbers.
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

    def chain(self, draws: torch.Generator | None) -> Coalitions:
        """`(features - 1, features)`: the starts of a random order, those first that divide it most evenly."""
        order = torch.randperm(self.features, generator=draws, device="cpu")
        blocks, ends = [(0, self.features)], list[int]()
        for start, stop in blocks:
            if stop - start > 1:
                ends.append((start + stop) // 2)
                blocks += [(start, ends[-1]), (ends[-1], stop)]
        return order.argsort() < torch.tensor(ends, device="cpu")[:, None]


def _rounded(wanted: Tensor, count: int, most: Tensor, draws: torch.Generator | None) -> Tensor:
    """Whole numbers that sum up to the count and have the mean that is wanted, none larger than there are."""
    order = torch.randperm(len(wanted), generator=draws, device="cpu")
    edges = torch.cat(
        [torch.zeros(1, dtype=torch.float32, device="cpu"), wanted[order].cumsum(0) * (count / wanted.sum())]
    )
    edges = (edges + torch.rand(1, generator=draws, dtype=torch.float64, device="cpu")).floor()
    counts = torch.empty_like(wanted)
    counts[order] = edges[1:] - edges[:-1]
    counts = torch.minimum(counts, most)
    while counts.sum() != count:
        room = (most - counts) if counts.sum() < count else counts
        counts[room.argmax()] += 1 if counts.sum() < count else -1
    return counts


class _Drawn:
    """Coalitions of one size in random order, none twice nor seen before; of half the features, one of each pair."""

    def __init__(self, features: int, size: int, draws: torch.Generator | None, seen: Coalitions) -> None:
        self._features, self._size, self._draws = features, size, draws
        self._halves = 2 * size == features
        self._count = comb(features, size) // (2 if self._halves else 1)
        small = torch.where(seen.sum(1, keepdim=True) * 2 > features, ~seen, seen)
        self._seen = set(keys(self._first_of(small[small.sum(1) == size])))
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
        members = torch.tensor(list(combinations(range(self._features), self._size)), device="cpu")
        rows = torch.zeros(len(members), self._features, dtype=torch.bool, device="cpu").scatter_(1, members, True)
        rows = rows[rows[:, 0]] if self._halves else rows
        return rows[torch.randperm(len(rows), generator=self._draws, device="cpu")]

    def _drawn(self, count: int) -> Tensor:
        order = torch.rand(count, self._features, generator=self._draws, dtype=torch.float32, device="cpu").argsort(1)
        rows = torch.zeros(count, self._features, dtype=torch.bool, device="cpu").scatter_(
            1, order[:, : self._size], True
        )
        return self._first_of(rows)

    def _first_of(self, rows: Coalitions) -> Coalitions:
        """That of each pair which stands for it."""
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
