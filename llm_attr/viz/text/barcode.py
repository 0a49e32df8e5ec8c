"""The barcode of a view: a stripe for each unit in its colour, in the order of the prompt."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from llm_attr.viz.text.elements import Value, unit_value
from llm_attr.viz.text.finding import name_of
from llm_attr.viz.text.view import AttributionView

STRIPES = 240
"""The most stripes; of more units, neighbours share one and the strongest of them gives its colour."""


@dataclass(frozen=True)
class Stripe:
    """A stripe: the unit that gives its colour, and that unit's value and name."""

    unit: int
    value: Value
    name: str


def barcode(view: AttributionView) -> list[Stripe]:
    """The stripes of a view; none for fewer than two units."""
    units = len(view.units)
    count = min(units, STRIPES)
    if count < 2:
        return []
    place = {unit: rank for rank, unit in enumerate(view.ranking)}
    edges = [stripe * units // count for stripe in range(count + 1)]
    chosen = [min(range(first, stop), key=place.__getitem__) for first, stop in pairwise(edges)]
    return [Stripe(unit, unit_value(view, unit), name_of(view, unit)) for unit in chosen]
