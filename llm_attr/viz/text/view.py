"""The views that pictures of text attributions are drawn from: plain texts and numbers, without models or tensors.

An `AttributionView` is one explanation, a `ComparisonView` several of the same units side by side. Both have `columns`,
so whatever draws n columns draws a single explanation as n = 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TypeAlias

import numpy as np

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.scale import Scale, extent
from llm_attr.viz.text.groups import Group, check_groups

Piece: TypeAlias = tuple[str, int | None]
"""Text of the prompt and the position of its unit, or None if it is not a feature."""


_CONTROL = re.compile(r"<\|[^<>|]{1,40}\|>\s*")
"""A control token of a chat template."""


@dataclass(frozen=True)
class AttributionView:
    """A text attribution, ready to be drawn in a terminal, as HTML or by matplotlib.

    Attributes:
        title: the heading of the picture.
        units: the prompt's units in order.
        unit_values: one value per unit; NaN if there is none.
        output_tokens: the explained tokens in order, including white space.
        output_probs: the probability of each output token.
        token_values: values of each output token for each unit, `(output tokens, units)`.
        value_name: what the values measure, with the unit, e.g. "log-probability (nats)".
        context: the prompt's text around the units that is not a feature, `len(units) + 1` strings: before the first,
            between, after the last. Without it, units are separated by a space.
        notes: names and values to print below: method, model, scoring strategy.
        groups: the documents or messages that units belong to, ordered and disjoint; a unit need not be in one.
        unit_errors: the standard error of each unit value.
        error_name: what these errors are.
        given_scale: a scale shared with other views; by default the scale of these unit values.
        unit_name: what a unit is, e.g. "sentence".
        interactions: symmetric `(units, units)`: what two units add together beyond their sum; the diagonal has the
            values of single units. NaN if there is none.
        warnings: what to know before reading the values; printed first.
        doubtful: which unit values are within the noise of the computation, and so marked.
        verdict: how far the values can be trusted, printed above everything else; "" if that was not asked.
        removal: whether a value is exactly what the score loses when only that unit is absent.
        template: ranges of characters of the prompt's text that a chat template wrote; pages fold them.
        output_around: the text of the answer before and after the explained tokens, if they are a part of it.
        output_parts: the tokens `(first, stop)` of each sentence of the output.
    """

    title: str
    units: tuple[str, ...]
    unit_values: tuple[float, ...]
    output_tokens: tuple[str, ...] = ()
    output_probs: tuple[float, ...] | None = None
    token_values: tuple[tuple[float, ...], ...] | None = None
    value_name: str = "log-probability (nats)"
    context: tuple[str, ...] | None = None
    notes: tuple[tuple[str, str], ...] = ()
    groups: tuple[Group, ...] = ()
    unit_errors: tuple[float, ...] | None = None
    error_name: str = "standard error"
    given_scale: Scale | None = None
    unit_name: str = "unit"
    interactions: tuple[tuple[float, ...], ...] | None = None
    warnings: tuple[str, ...] = ()
    doubtful: tuple[bool, ...] | None = None
    verdict: str = ""
    removal: bool = False
    template: tuple[tuple[int, int], ...] = ()
    output_around: tuple[str, str] = ("", "")
    output_parts: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        units, tokens = len(self.units), len(self.output_tokens)
        _check("unit_values", len(self.unit_values), units)
        if self.unit_errors is not None:
            _check("unit_errors", len(self.unit_errors), units)
        if self.doubtful is not None:
            _check("doubtful", len(self.doubtful), units)
        if self.output_probs is not None:
            _check("output_probs", len(self.output_probs), tokens)
        if self.context is not None:
            _check("context", len(self.context), units + 1)
        if self.token_values is not None:
            _check("token_values", len(self.token_values), tokens)
            for row in self.token_values:
                _check("each row of token_values", len(row), units)
        if self.interactions is not None:
            self._check_interactions(self.interactions)
        check_groups(self.groups, units)

    def _check_interactions(self, given: tuple[tuple[float, ...], ...]) -> None:
        _check("interactions", len(given), len(self.units))
        for row in given:
            _check("each row of interactions", len(row), len(self.units))
        table = np.asarray(given, dtype=np.float64).reshape(len(given), len(given))
        if not np.allclose(table, table.T, rtol=1e-4, atol=1e-5 * extent(table), equal_nan=True):
            first, second = np.unravel_index(np.nanargmax(np.abs(table - table.T)), table.shape)
            raise InvalidValue(
                f"interactions of the view must be symmetric; that of units {first} and {second} is "
                f"{table[first, second]:g}, the other way round {table[second, first]:g}"
            )

    @property
    def columns(self) -> tuple[AttributionView, ...]:
        """This view as the only column."""
        return (self,)

    @property
    def additive(self) -> bool:
        """Whether values of several output tokens add up: log-probabilities and logits do, probabilities do not."""
        return not self.value_name.lower().startswith("probability")

    @cached_property
    def unit_groups(self) -> tuple[Group | None, ...]:
        """The group of each unit."""
        owners: list[Group | None] = [None] * len(self.units)
        for group in self.groups:
            owners[group.first : group.stop] = [group] * (group.stop - group.first)
        return tuple(owners)

    @cached_property
    def scale(self) -> Scale:
        """The scale of the unit values."""
        return self.given_scale or Scale.of(self.unit_values)

    @property
    def limit(self) -> float:
        """The |unit value| at the ends of the scale; 0 if there is none."""
        return self.scale.limit

    @cached_property
    def page_limit(self) -> float:
        """The |value| at the ends of the one scale of a page, on which units, tokens and their table are drawn."""
        rows = () if self.given_scale else self.token_values or ()
        return max(self.limit, extent(rows) if len(rows) else 0.0)

    @property
    def ranking(self) -> tuple[int, ...]:
        """The positions of the units by descending |value|; ties in reading order, NaN last."""
        magnitudes = [-1.0 if math.isnan(value) else abs(value) for value in self.unit_values]
        return tuple(sorted(range(len(self.units)), key=lambda unit: -magnitudes[unit]))

    def own_text(self, unit: int) -> str:
        """The text of a unit, without the name of its document in brackets, or the control tokens of a step."""
        group, text = self.unit_groups[unit], self.units[unit]
        if group and group.kind == "step":
            return _CONTROL.sub(" ", text).strip() or text
        return (text.removeprefix(f"[{group.label}]").lstrip() or text) if group else text

    def pairs(self) -> list[tuple[int, int, float]]:
        """Each pair of units with a nonzero interaction, once: both positions and the value, by descending |value|."""
        if self.interactions is None:
            return []
        table = np.asarray(self.interactions, dtype=np.float64).reshape(len(self.units), len(self.units))
        first, second = np.triu_indices(len(table), 1)
        values = table[first, second]
        shown = np.flatnonzero(~np.isnan(values) & (values != 0))
        order = shown[np.argsort(-np.abs(values[shown]), kind="stable")]
        return list(zip(first[order].tolist(), second[order].tolist(), values[order].tolist(), strict=True))

    def pieces(self) -> Iterator[Piece]:
        """The prompt's text in order: `(text, position of the unit)`, or `(text, None)` if it is not a feature."""
        context = self.context or ("", *[" "] * (len(self.units) - 1), "")
        for position, unit in enumerate(self.units):
            yield from [(context[position], None)] if context[position] else []
            yield unit, position
        if self.context and self.context[-1]:
            yield self.context[-1], None

    def sections(self) -> Iterator[tuple[Group | None, list[Piece]]]:
        """The pieces in runs: those of a group, with the text between its units, and those outside any group."""
        owners = (None, *self.unit_groups, None)
        owned: list[tuple[Group | None, Piece]] = []
        following = 0
        for text, unit in self.pieces():
            before, after = owners[following : following + 2]
            owned.append((before if before is after else None, (text, None)) if unit is None else (after, (text, unit)))
            following += unit is not None
        for owner, run in groupby(owned, key=lambda piece: piece[0]):
            yield owner, [piece for _, piece in run]


@dataclass(frozen=True)
class ComparisonView:
    """Attributions of the same units, ready to be drawn side by side.

    Attributes:
        title: the heading of the picture.
        names: the name of each attribution.
        columns: the attributions, all of the same units; `given_scale` of each is the scale it is drawn on.
        agreement: pairwise rank correlations, `(columns, columns)`; NaN if undefined.
        overlap: how many of the `top` strongest units each pair shares, `(columns, columns)`, or ().
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
        """The scale of all columns, or None if each has its own."""
        scales = {column.scale for column in self.columns}
        return scales.pop() if len(scales) == 1 else None

    @property
    def value_name(self) -> str:
        """What the values of all columns measure; "" if they measure different things."""
        names = {column.value_name for column in self.columns}
        return names.pop() if len(names) == 1 else ""

    @property
    def scale_description(self) -> str:
        """How values are mapped to colours and lengths, in words."""
        if self.shared_scale is None:
            return "each on its own scale: from minus to plus its largest |value|"
        return self.shared_scale.description

    @cached_property
    def shares(self) -> tuple[tuple[float, ...], ...]:
        """The values of each column as shares of its scale, `(columns, units)`; NaN stays NaN."""
        return tuple(tuple(column.scale.shares(column.unit_values).tolist()) for column in self.columns)

    def strongest(self, most: int) -> tuple[int, ...]:
        """The `most` units with the largest share in any column, in reading order."""
        height = [
            max((abs(share) for share in shares if not math.isnan(share)), default=-1.0)
            for shares in zip(*self.shares, strict=True)
        ]
        ranked = sorted(range(len(self.units)), key=lambda unit: -height[unit])
        return tuple(sorted(ranked[:most]))


View: TypeAlias = AttributionView | ComparisonView
"""Whatever can be drawn: one explanation or several."""

CORRELATION = Scale(1.0, "rank correlation")
"""The scale of rank correlations: from -1 (opposite orders) to 1 (the same order)."""


def format_correlation(value: float) -> str:
    """A rank correlation for print: "+0.83", "−0.55", "–" if undefined."""
    if math.isnan(value):
        return "–"
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if text[1:] == "0.00" else text


def _check(name: str, given: int, expected: int) -> None:
    if given != expected:
        raise InvalidShape(f"{name} of the view has {given} entries; expected {expected}")


def _check_square(name: str, table: Sequence[Sequence[float]], count: int) -> None:
    if [len(row) for row in table] != [count] * count:
        raise InvalidShape(f"{name} must have {count} rows of {count}; got rows of {[len(row) for row in table]}")
