"""The smallest set of features whose change flips an answer, searched by scores of sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

from llm_attr.errors import positive

Set: TypeAlias = tuple[int, ...]
"""Numbers of features, ascending."""

Values: TypeAlias = Callable[[Sequence[Set]], Sequence[float]]
"""How far each set is from flipping the answer; below 0 it does."""


@dataclass(frozen=True)
class SmallestSet:
    """What a search found.

    Attributes:
        members: The set; if no set flips the answer, the nearest one.
        value: Its value.
        tried: How many different sets were scored.
    """

    members: Set
    value: float
    tried: int

    @property
    def flips(self) -> bool:
        """Whether the set flips the answer."""
        return self.value < 0


class SetSearch:
    """Searches for the smallest set whose value is below 0; no set is scored twice.

    Args:
        count: The number of features.
        values: Scores sets, many at once.
        most: The largest set that is tried; None: all features.
    """

    def __init__(self, count: int, values: Values, most: int | None = None) -> None:
        self._count, self._values = positive("the number of features", count), values
        self._most = count if most is None else min(count, positive("most", most))
        self._known: dict[Set, float] = {}

    def greedy(self) -> SmallestSet:
        """Takes features in the order of what each changes alone, and all numbers of them are scored together.

        Features that the change does not need are taken out again. If no number of them flips the answer, or the set
        has a feature that alone does not bring the change nearer, the search goes on among smaller sets as a beam of
        width 1.
        """
        (start,) = self._values([()])
        singles: list[Set] = [(feature,) for feature in range(self._count)]
        self._score(singles)
        order = [feature for (feature,) in sorted(singles, key=self._rank)]
        if not self._best().flips:
            self._score([tuple(sorted(order[:size])) for size in range(2, self._most + 1)])
        best = self._pruned()
        if best.flips and all(self._known[feature,] < start for feature in best.members):
            return best
        return self.beam(1, len(best.members) - 1 if best.flips else None)

    def beam(self, width: int, most: int | None = None) -> SmallestSet:
        """Adds one feature at a time to the `width` best sets; a width of 1 is the greedy search.

        Once a set flips the answer, members without which it still does are taken out again.

        Args:
            width: How many sets are kept of each size.
            most: The largest set that is tried, if not that of the search.

        Raises:
            InvalidValue: the width is no whole number of at least 1.
        """
        kept: list[Set] = [()]
        positive("width", width)
        for _ in range(self._most if most is None else most):
            larger = {tuple(sorted({*members, new})) for members in kept for new in range(self._count)}
            candidates = sorted((members for members in larger if members not in kept), reverse=True)
            self._score(candidates)
            kept = sorted(candidates, key=self._known.__getitem__)[:width]
            if not kept or self._known[kept[0]] < 0:
                break
        return self._pruned()

    def exhaustive(self) -> SmallestSet:
        """All sets, the smaller ones first, up to the first size at which one flips the answer."""
        for size in range(1, self._most + 1):
            candidates = list(combinations(range(self._count), size))
            self._score(candidates)
            if min(self._known[members] for members in candidates) < 0:
                break
        return self._best()

    def _pruned(self) -> SmallestSet:
        """The best set, without members that it does not need: first any one, then more of them together."""
        best = self._best()
        while best.flips and len(best.members) > 1:
            without = {out: tuple(m for m in best.members if m != out) for out in best.members}
            self._score(list(without.values()))
            spare = sorted((m for m in without if self._known[without[m]] < 0), key=lambda m: self._known[without[m]])
            smaller = [tuple(m for m in best.members if m not in spare[:out]) for out in range(2, len(spare) + 1)]
            self._score([members for members in smaller if members])
            after = self._best()
            if after.members == best.members:
                break
            best = after
        return self._best()

    def _best(self) -> SmallestSet:
        flipping = [members for members, value in self._known.items() if value < 0]
        if flipping:
            members = min(flipping, key=lambda each: (len(each), self._known[each], each))
        else:
            members = min(self._known, key=lambda each: (self._known[each], len(each), each))
        return SmallestSet(members, self._known[members], len(self._known))

    def _rank(self, members: Set) -> tuple[float, Set]:
        return self._known[members], members

    def _score(self, candidates: Sequence[Set]) -> None:
        new = [members for members in dict.fromkeys(candidates) if members not in self._known]
        if new:
            self._known.update(zip(new, self._values(new), strict=True))
