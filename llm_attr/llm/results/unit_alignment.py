"""Alignment of units: the finest units that several explanations of the same text have in common."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llm_attr.errors import InvalidValue
from llm_attr.viz.text.groups import Group

if TYPE_CHECKING:
    from llm_attr.llm.results.data import ResultData

_SHOWN = 40  # characters of two texts around their first difference


@dataclass(frozen=True)
class CommonUnits:
    """Units whose boundaries are unit boundaries in each of several results.

    Attributes:
        texts: The text of each unit.
        owners: For each result, the common unit that each of its own units belongs to.
        context: The text before, between and after the units, or None.
        groups: The documents or messages that they belong to.
    """

    texts: tuple[str, ...]
    owners: tuple[tuple[int, ...], ...]
    context: tuple[str, ...] | None
    groups: tuple[Group, ...]

    @classmethod
    def of(cls, results: Sequence[ResultData], names: Sequence[str]) -> CommonUnits:
        """The common units of results with the same units, or with the same text (up to white space) in other units.

        A unit of white space belongs to the unit before it.

        Raises:
            InvalidValue: the texts of the units differ, or a result has no units.
        """
        first = results[0].input_tokens
        if not all(result.input_tokens for result in results):
            raise InvalidValue("results without units cannot be compared: at least one has none")
        if all(result.input_tokens == first for result in results):
            owners = [tuple(range(len(first)))] * len(results)
        else:
            owners = _owners([["".join(text.split()) for text in result.input_tokens] for result in results], names)
        coarsest = min(range(len(results)), key=lambda which: len(results[which].input_tokens))
        return _common(results[coarsest], owners[coarsest], tuple(owners))

    def sums(self, values: Tensor, which: int) -> Tensor:
        """Values of a result's own units `(own units,)`, summed by common unit: float64 `(units,)`."""
        owner = torch.tensor(self.owners[which], dtype=torch.long, device="cpu")
        return torch.zeros(len(self.texts), dtype=torch.float64, device="cpu").index_add(
            0, owner, values.detach().cpu().double()
        )

    def counts(self, which: int) -> Tensor:
        """The number of a result's own units in each common unit, int64 `(units,)`."""
        return torch.bincount(
            torch.tensor(self.owners[which], dtype=torch.long, device="cpu"), minlength=len(self.texts)
        )


def _owners(letters: Sequence[Sequence[str]], names: Sequence[str]) -> list[tuple[int, ...]]:
    """From the units of each result without white space."""
    texts = ["".join(units) for units in letters]
    for text, name in zip(texts, names, strict=True):
        if text != texts[0] or not text:
            raise InvalidValue(_differ(texts[0], text, names[0], name))
    edges = [list(accumulate(map(len, units), initial=0)) for units in letters]
    ends = sorted(set.intersection(*map(set, edges)) - {0})
    return [
        tuple(
            bisect_right(ends, start) if units[place] else bisect_left(ends, start)
            for place, start in enumerate(starts[:-1])
        )
        for units, starts in zip(letters, edges, strict=True)
    ]


def _differ(one: str, other: str, name: str, other_name: str) -> str:
    if not (one and other):
        return "results of different units can be compared only where the units hold more than white space"
    place = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    start = max(0, place - _SHOWN // 2)
    shown = [repr(text[start : start + _SHOWN]) for text in (one, other)]
    return (
        "the results must be of the same text, in the same or in other units; without white space the units of "
        f"{name!r} and {other_name!r} differ from character {place} on: {shown[0]} and {shown[1]}"
    )


def _common(guide: ResultData, owner: tuple[int, ...], owners: tuple[tuple[int, ...], ...]) -> CommonUnits:
    """The common units in the text of a result."""
    count = len(guide.input_tokens)
    starts = [place for place in range(count) if place == 0 or owner[place] != owner[place - 1]]
    stops = [*starts[1:], count]
    between = guide.context or ["", *[" "] * (count - 1), ""]
    texts = tuple(
        "".join(_joined(guide.input_tokens, between, start, stop)) for start, stop in zip(starts, stops, strict=True)
    )
    context = None if guide.context is None else (*(guide.context[start] for start in starts), guide.context[-1])
    edges = {*starts, count}
    groups = tuple(
        Group(group.label, group.kind, owner[group.first], owner[group.stop - 1] + 1)
        for group in guide.groups
        if group.first in edges and group.stop in edges and group.first < group.stop
    )
    return CommonUnits(texts, owners, context, groups)


def _joined(units: Sequence[str], between: Sequence[str], start: int, stop: int) -> Iterator[str]:
    for place in range(start, stop):
        yield between[place] if place > start else ""
        yield units[place]
