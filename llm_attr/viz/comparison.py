"""What a picture of several attributions of the same text needs, and nothing of models or tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.scale import Scale
from llm_attr.viz.view import AttributionView


@dataclass(frozen=True)
class ComparisonView:
    """Attributions of the same units, ready to be drawn beside each other.

    Attributes:
        title: the heading of the picture.
        names: the name of each attribution.
        columns: the attributions, all of the same units; `given_scale` of each is the scale that it is drawn on.
        agreement: the rank correlation of each two, `(columns, columns)`; nan where there is none.
        overlap: how many of the `top` strongest units each two share, `(columns, columns)`; () where none is told.
        top: how many units count as the strongest.
        notes: names and values to print below: what differs.
    """

    title: str
    names: tuple[str, ...]
    columns: tuple[AttributionView, ...]
    agreement: tuple[tuple[float, ...], ...]
    overlap: tuple[tuple[int, ...], ...] = ()
    top: int = 3
    notes: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.columns)
        if count < 2:
            raise InvalidValue(f"a comparison needs two or more attributions; got {count}")
        if len(self.names) != count:
            raise InvalidShape(f"a comparison of {count} attributions has as many names; got {len(self.names)}")
        _check_square("agreement", self.agreement, count)
        if self.overlap:
            _check_square("overlap", self.overlap, count)
        if any(column.units != self.units or column.context != self.columns[0].context for column in self.columns):
            raise InvalidValue("the attributions of a comparison must be of the same units of the same text")

    @property
    def units(self) -> tuple[str, ...]:
        """The texts of the units."""
        return self.columns[0].units

    @cached_property
    def shared_scale(self) -> Scale | None:
        """The scale of all columns, or None where each has its own."""
        scales = {column.scale for column in self.columns}
        return scales.pop() if len(scales) == 1 else None

    @property
    def value_name(self) -> str:
        """What the values of all columns measure; "" where they measure different things."""
        names = {column.value_name for column in self.columns}
        return names.pop() if len(names) == 1 else ""

    @property
    def scale_said(self) -> str:
        """How values become colours and lengths, in words."""
        if self.shared_scale is None:
            return "each on its own scale: from minus to plus its largest |value|"
        return self.shared_scale.said

    @cached_property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """Each column's values as shares of its scale, `(columns, units)`; nan stays nan."""
        return tuple(tuple(column.scale.shares(column.unit_values).tolist()) for column in self.columns)

    def strongest(self, most: int) -> tuple[int, ...]:
        """The `most` units of the largest share in any column, in the order of the text."""
        height = [
            max((abs(share) for share in shares if not math.isnan(share)), default=-1.0)
            for shares in zip(*self.shares, strict=True)
        ]
        ranked = sorted(range(len(self.units)), key=lambda unit: -height[unit])
        return tuple(sorted(ranked[:most]))


CORRELATION = Scale(1.0, "rank correlation")
"""The scale of rank correlations: -1 for opposite orders, 1 for the same."""


def correlation(value: float) -> str:
    """A rank correlation for print: "+0.83", "1", "–" for none."""
    if math.isnan(value):
        return "–"
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def _check_square(name: str, table: Sequence[Sequence[float]], count: int) -> None:
    if [len(row) for row in table] != [count] * count:
        raise InvalidShape(f"{name} must have {count} rows of {count}; got rows of {[len(row) for row in table]}")
