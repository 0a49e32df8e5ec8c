"""What a picture of a text attribution needs, and nothing of models or tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from llm_attr.errors import InvalidShape
from llm_attr.viz.colour import extent


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

    def __post_init__(self) -> None:
        units, tokens = len(self.units), len(self.output_tokens)
        _check("unit_values", len(self.unit_values), units)
        if self.output_probs is not None:
            _check("output_probs", len(self.output_probs), tokens)
        if self.context is not None:
            _check("context", len(self.context), units + 1)
        if self.token_values is not None:
            _check("token_values", len(self.token_values), tokens)
            for row in self.token_values:
                _check("each row of token_values", len(row), units)

    @property
    def limit(self) -> float:
        """The largest finite |unit value|: the ends of the colour scale. 0 if there is none."""
        return extent(self.unit_values)

    @property
    def ranking(self) -> tuple[int, ...]:
        """The positions of the units, largest |value| first; equal ones in reading order, nan last."""
        magnitudes = [-1.0 if math.isnan(value) else abs(value) for value in self.unit_values]
        return tuple(sorted(range(len(self.units)), key=lambda unit: -magnitudes[unit]))

    def pieces(self) -> Iterator[tuple[str, int | None]]:
        """The prompt's text in order: `(text, position of the unit)`, or `(text, None)` where it is not a feature."""
        context = self.context or ("", *[" "] * (len(self.units) - 1), "")
        for position, unit in enumerate(self.units):
            yield from [(context[position], None)] if context[position] else []
            yield unit, position
        if self.context and self.context[-1]:
            yield self.context[-1], None


def _check(name: str, given: int, expected: int) -> None:
    if given != expected:
        raise InvalidShape(f"{name} of the view has {given} entries; expected {expected}")
