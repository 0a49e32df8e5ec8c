"""The change of each unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llm_attr.core.concepts.significance import holm
from llm_attr.errors import NonFiniteValue
from llm_attr.llm.diff.noise import NONE, Error, error_of, freedom_of, p_value
from llm_attr.llm.diff.pairs import Pair
from llm_attr.llm.results.data import ResultData


@dataclass(frozen=True)
class Side:
    """A unit in one of the explanations.

    Attributes:
        units: The positions of the units of the result that it consists of.
        text: Its text.
        value: Its attribution, in nats or the unit of the scalar.
        share: The value as a share of the sum of the absolute values of the explanation.
        rank: Its place by attribution, from 1 for the largest.
        error: The standard error of the value, of sampling and rounding.
    """

    units: tuple[int, ...]
    text: str
    value: float
    share: float
    rank: int
    error: float


@dataclass(frozen=True)
class UnitDiff:
    """A unit in both explanations.

    Attributes:
        status: `same`, `rewritten` (another text on either side), `only_first` or `only_second`.
        first: The unit in the first explanation; None if it is not there.
        second: The unit in the second.
        change: The second value minus the first; of a unit in only one, its value there, with the sign of the change.
        error: The standard error of the change.
        p_value: How likely noise alone makes a change this large, by Holm's method for all units together.
        significant: Whether that is below the level of the diff.
    """

    status: str
    first: Side | None
    second: Side | None
    change: float
    error: float
    p_value: float
    significant: bool

    @property
    def text(self) -> str:
        """The text, in the second explanation where both have one."""
        side = self.second or self.first
        return "" if side is None else side.text


def unit_diffs(
    results: Sequence[ResultData], pairs: Sequence[Pair], alpha: float, least: float
) -> tuple[UnitDiff, ...]:
    """The change of each pair of units.

    Raises:
        NonFiniteValue: attributions are NaN or infinite.
    """
    for result in results:
        if not result.seq_attr.isfinite().all():
            raise NonFiniteValue("attributions that are NaN or infinite cannot be compared; explain again")
    sides = [_sides(result, pairs, which) for which, result in enumerate(results)]
    changes = [_value(second) - _value(first) for first, second in zip(*sides, strict=True)]
    freedom = [freedom_of(result) for result in results]
    errors = [
        _error(results[0], pair.first, freedom[0]).beside(_error(results[1], pair.second, freedom[1])) for pair in pairs
    ]
    alone = [p_value(change, error, least) for change, error in zip(changes, errors, strict=True)]
    adjusted = holm(torch.tensor(alone, dtype=torch.float64, device="cpu")).tolist()
    return tuple(
        UnitDiff(pair.status, first, second, change, error.total, adjusted[place], adjusted[place] < alpha)
        for place, (pair, first, second, change, error) in enumerate(zip(pairs, *sides, changes, errors, strict=True))
    )


def _sides(result: ResultData, pairs: Sequence[Pair], which: int) -> list[Side | None]:
    own = [(pair.first, pair.second)[which] for pair in pairs]
    values = [sum(float(result.seq_attr[unit]) for unit in units) for units in own]
    total = sum(map(abs, values))
    order = sorted((place for place, units in enumerate(own) if units), key=lambda place: -values[place])
    ranks = {place: rank for rank, place in enumerate(order, 1)}
    return [
        Side(
            units=units,
            text=pairs[place].texts[which] or "",
            value=values[place],
            share=values[place] / total if total else 0.0,
            rank=ranks[place],
            error=error_of(result, units, None).total,
        )
        if units
        else None
        for place, units in enumerate(own)
    ]


def _value(side: Side | None) -> float:
    return 0.0 if side is None else side.value


def _error(result: ResultData, units: tuple[int, ...], freedom: int | None) -> Error:
    return error_of(result, units, freedom) if units else NONE
