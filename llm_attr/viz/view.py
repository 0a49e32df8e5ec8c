"""What a picture of a text attribution needs, and nothing of models or tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TypeAlias

import numpy as np

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.scale import Scale, extent

Piece: TypeAlias = tuple[str, int | None]
"""Text of the prompt and the position of its unit, or None where it is not a feature."""


@dataclass(frozen=True)
class Group:
    """Units that belong together in the prompt.

    Attributes:
        label: the group's own name: a document's name or id, a message's role.
        kind: what it is, e.g. "document" or "message".
        first: the position of its first unit.
        stop: the position after its last unit.
    """

    label: str
    kind: str
    first: int
    stop: int


def check_groups(groups: Sequence[Group], units: int) -> None:
    """Refuses groups that units cannot be in.

    Raises:
        InvalidValue: a group is empty, overlaps one before or goes beyond the units.
    """
    free = 0
    for group in groups:
        if not free <= group.first < group.stop <= units:
            raise InvalidValue(
                f"groups must be in order, apart and within the {units} units; {group.kind} {group.label!r} holds "
                f"units {group.first} to {group.stop}, and {free} is free"
            )
        free = group.stop


@dataclass(frozen=True)
class AttributionView:
    """A text attribution, ready to be drawn in a terminal, as HTML or by matplotlib.

    Attributes:
        title: the heading of the picture.
        units: the prompt's units in order.
        unit_values: one value per unit; nan where there is none.
        output_tokens: the explained tokens in order, with their white space.
        output_probs: the probability of each output token.
        token_values: values of each output token for each unit, `(output tokens, units)`.
        value_name: what the values measure, with the unit, e.g. "log-probability (nats)".
        context: the prompt's text around the units that is not a feature, `len(units) + 1` strings: before the first,
            between, after the last. Without it, units are shown one after the other with a space between.
        notes: names and values to print below: method, model, way of scoring.
        groups: the documents or messages that units belong to, in order and apart; a unit need not be in one.
        unit_errors: the standard error of each unit value.
        error_name: what these are.
        given_scale: the scale of the unit values, where it is not their own: one that several views share.
        unit_name: what a unit is, e.g. "sentence".
        interactions: `(units, units)` how much more two units carry together than alone, symmetric; the diagonal has
            the units' own values. nan where there is none.
        warnings: what must be known before the values are read; printed first.
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

    def __post_init__(self) -> None:
        units, tokens = len(self.units), len(self.output_tokens)
        _check("unit_values", len(self.unit_values), units)
        if self.unit_errors is not None:
            _check("unit_errors", len(self.unit_errors), units)
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
    def additive(self) -> bool:
        """Whether values of several output tokens add up: log-probabilities and logits do, probabilities do not."""
        return not self.value_name.lower().startswith("probability")

    @cached_property
    def unit_groups(self) -> tuple[Group | None, ...]:
        """The group of each unit."""
        found: list[Group | None] = [None] * len(self.units)
        for group in self.groups:
            found[group.first : group.stop] = [group] * (group.stop - group.first)
        return tuple(found)

    @cached_property
    def scale(self) -> Scale:
        """The scale of the unit values."""
        return self.given_scale or Scale.of(self.unit_values)

    @property
    def limit(self) -> float:
        """The |unit value| at the ends of the scale; 0 if there is none."""
        return self.scale.limit

    @property
    def ranking(self) -> tuple[int, ...]:
        """The positions of the units, largest |value| first; equal ones in reading order, nan last."""
        magnitudes = [-1.0 if math.isnan(value) else abs(value) for value in self.unit_values]
        return tuple(sorted(range(len(self.units)), key=lambda unit: -magnitudes[unit]))

    def pairs(self) -> list[tuple[int, int, float]]:
        """Each pair of units that has an interaction other than 0, once: its places and its value, strongest first."""
        if self.interactions is None:
            return []
        table = np.asarray(self.interactions, dtype=np.float64).reshape(len(self.units), len(self.units))
        first, second = np.triu_indices(len(table), 1)
        values = table[first, second]
        shown = np.flatnonzero(~np.isnan(values) & (values != 0))
        order = shown[np.argsort(-np.abs(values[shown]), kind="stable")]
        return list(zip(first[order].tolist(), second[order].tolist(), values[order].tolist(), strict=True))

    def pieces(self) -> Iterator[Piece]:
        """The prompt's text in order: `(text, position of the unit)`, or `(text, None)` where it is not a feature."""
        context = self.context or ("", *[" "] * (len(self.units) - 1), "")
        for position, unit in enumerate(self.units):
            yield from [(context[position], None)] if context[position] else []
            yield unit, position
        if self.context and self.context[-1]:
            yield self.context[-1], None

    def sections(self) -> Iterator[tuple[Group | None, list[Piece]]]:
        """The pieces in runs: those of a group, with the text between its units, and those outside of any."""
        owners = (None, *self.unit_groups, None)
        owned: list[tuple[Group | None, Piece]] = []
        following = 0
        for text, unit in self.pieces():
            before, after = owners[following : following + 2]
            owned.append((before if before is after else None, (text, None)) if unit is None else (after, (text, unit)))
            following += unit is not None
        for owner, run in groupby(owned, key=lambda piece: piece[0]):
            yield owner, [piece for _, piece in run]


def _check(name: str, given: int, expected: int) -> None:
    if given != expected:
        raise InvalidShape(f"{name} of the view has {given} entries; expected {expected}")
