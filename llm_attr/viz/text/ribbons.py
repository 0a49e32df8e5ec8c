"""Ribbons between the units of a prompt and the sentences of the answer, as wide as the one carried the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llm_attr.viz.formatting import unit_label
from llm_attr.viz.scale import extent
from llm_attr.viz.text.elements import Value, shortened_label
from llm_attr.viz.text.finding import name_of
from llm_attr.viz.text.view import AttributionView

_UNITS, _PARTS = 10, 10  # the most rows on the left and on the right
_FAINT = 0.05  # ribbons below this share of the widest are left out


@dataclass(frozen=True)
class End:
    """A row on one side: the unit of the prompt, or the tokens of the sentence, and its text."""

    text: str
    name: str
    unit: int | None = None
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class Ribbon:
    """A curve from the left side at x = 0 to the right side at x = 10, and its value."""

    path: str
    value: Value
    name: str


@dataclass(frozen=True)
class Ribbons:
    """Both sides and the ribbons between them, over rows that are one unit of length high."""

    left: list[End]
    right: list[End]
    ribbons: list[Ribbon]
    rows: int
    left_out: int

    @classmethod
    def of(cls, view: AttributionView) -> Ribbons | None:
        """None for an answer of one sentence, or without values of tokens that add up."""
        parts = view.output_parts[:_PARTS]
        if len(view.output_parts) < 2 or not view.token_values or not view.additive or len(view.units) < 2:
            return None
        table = np.asarray(view.token_values, dtype=np.float64)
        sums = np.nan_to_num(np.stack([table[first:stop].sum(0) for first, stop in parts]), posinf=0.0, neginf=0.0)
        limit = extent(sums)
        if not limit:
            return None
        strongest = np.argsort(-np.abs(sums).max(0), kind="stable")[:_UNITS]
        units = sorted(unit for unit in strongest.tolist() if np.abs(sums[:, unit]).max() >= _FAINT * limit)
        left = [End(shortened_label(view.own_text(unit)), name_of(view, unit), unit=unit) for unit in units]
        texts = ["".join(view.output_tokens[first:stop]).strip() for first, stop in parts]
        right = [
            End(unit_label(text), f"sentence {number} of the answer", tokens=part)
            for number, (text, part) in enumerate(zip(texts, parts, strict=True), 1)
        ]
        rows = max(len(left), len(right))
        ribbons = []
        for place, unit in enumerate(units):
            for part in range(len(parts)):
                if abs(sums[part, unit]) >= _FAINT * limit:
                    start, end = (_height(at, len(side), rows) for at, side in ((place, left), (part, right)))
                    path = f"M0 {start:g}C5 {start:g} 5 {end:g} 10 {end:g}"
                    value = Value.of(float(sums[part, unit]), limit)
                    ribbons.append(Ribbon(path, value, f"{left[place].name} to {right[part].name}: {value.text}"))
        ribbons.sort(key=lambda ribbon: ribbon.value.share)
        return cls(left, right, ribbons, rows, len(view.output_parts) - len(parts))


def _height(place: int, count: int, rows: int) -> float:
    """The middle of a row; the rows of the shorter side are spread over the height."""
    return round((place + 0.5) * rows / count, 3)
