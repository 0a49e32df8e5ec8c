"""The elements of an HTML page: values, passages of the prompt, rows of units, pairs and nested levels.

Their fields are what the templates print; every text is already escaped to visible characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from llm_attr.viz.formatting import escape_line, escape_text, format_number, format_percent, unit_label
from llm_attr.viz.text.arcs import Arcs
from llm_attr.viz.text.levels import Levels, Node
from llm_attr.viz.text.view import AttributionView, Piece

_LABEL = 160  # characters of a unit in lists
_DEEPEST = 5.0  # the horizontal reach of the longest arc, in rows


@dataclass(frozen=True)
class Value:
    """A number on a scale: its text, its share of the limit, the class of its sign, and its error bar."""

    text: str
    share: float
    sign: str
    error: ErrorBar | None = None

    @classmethod
    def of(cls, value: float, limit: float, error: float = math.nan) -> Value:
        if math.isnan(value):
            return cls("nan", 0.0, "none")
        share = min(abs(value) / limit, 1.0) if limit else 0.0
        sign = "pos" if value > 0 else "neg" if value < 0 else "zero"
        return cls(format_number(value, limit), round(share, 4), sign, ErrorBar.of(value, error, limit))


@dataclass(frozen=True)
class ErrorBar:
    """A standard error as a line on a bar: its middle and half its length, as shares of the limit."""

    middle: float
    half: float
    text: str

    @classmethod
    def of(cls, value: float, error: float, limit: float) -> ErrorBar | None:
        """None if there is no bar or no finite error."""
        if not (limit and math.isfinite(error) and math.isfinite(value)):
            return None
        low, high = max(value - error, -limit) / limit, min(value + error, limit) / limit
        return cls(round((low + high) / 2, 4), round((high - low) / 2, 4), format_number(error, limit).lstrip("+"))


def scale_ends(limit: float) -> tuple[str, str] | None:
    """The numbers at both ends of a scale; None for a scale without values."""
    return (format_number(-limit, limit), format_number(limit, limit)) if limit else None


def unit_value(view: AttributionView, unit: int) -> Value:
    """The value of a unit on the scale of its view, with its error."""
    error = math.nan if view.unit_errors is None else view.unit_errors[unit]
    return Value.of(view.unit_values[unit], view.limit, error)


@dataclass(frozen=True)
class Row:
    """A unit in a list or table, with a value for each of n columns, and whether the first is within the noise."""

    text: str
    position: int
    group: str
    values: tuple[Value, ...]
    doubtful: bool = False


def rows_of(columns: Sequence[AttributionView], units: Iterable[int]) -> list[Row]:
    """A row for each of these units of one or several views."""
    return [_row(columns, unit) for unit in units]


def _row(columns: Sequence[AttributionView], unit: int) -> Row:
    group = columns[0].unit_groups[unit]
    label = shortened_label(group.label) if group else ""
    values, doubtful = tuple(unit_value(view, unit) for view in columns), columns[0].doubtful
    return Row(shortened_label(columns[0].units[unit]), unit, label, values, bool(doubtful and doubtful[unit]))


@dataclass(frozen=True)
class Passage:
    """Text of the prompt, and its unit if it is one; a gap is white space next to the edge of a group."""

    text: str
    position: int | None = None
    value: Value | None = None
    gap: bool = False


@dataclass(frozen=True)
class Section:
    """Consecutive passages: those of a group, with its name and the sum of its units, or those outside any group."""

    passages: list[Passage]
    label: str = ""
    kind: str = ""
    total: str = ""


def sections_of(view: AttributionView) -> Iterator[Section]:
    """The prompt's text in the sections of the view."""
    for group, pieces in view.sections():
        if group:
            total = format_number(sum(view.unit_values[group.first : group.stop]), view.limit)
            passages = [_passage(view, piece) for piece in pieces]
            yield Section(passages, shortened_label(group.label), escape_line(group.kind), total)
        else:
            yield Section([passage for piece in pieces for passage in _outside(view, piece)])


def _passage(view: AttributionView, piece: Piece) -> Passage:
    text, unit = piece
    return Passage(escape_text(text), unit, None if unit is None else unit_value(view, unit))


def _outside(view: AttributionView, piece: Piece) -> Iterator[Passage]:
    """The piece; beside groups, white space at the ends of text that is not a unit becomes gaps."""
    passage = _passage(view, piece)
    body = passage.text.strip()
    if not view.groups or passage.value:
        yield passage
    else:
        start, _, end = passage.text.partition(body) if body else (passage.text, "", "")
        parts = Passage(start, gap=True), Passage(body), Passage(end, gap=True)
        yield from (part for part in parts if part.text)


@dataclass(frozen=True)
class Token:
    """A token of the output, with its value for every unit if they are shown."""

    text: str
    breaks: int
    position: int
    percent: str
    values: tuple[Value, ...]


def tokens_of(view: AttributionView, limit: float | None) -> list[Token]:
    """The tokens of the output; their values on a scale with this limit, or without values for None."""
    shown = view.token_values if limit is not None else None
    return [
        Token(
            text=escape_line(text),
            breaks=text.count("\n"),
            position=position,
            percent="" if view.output_probs is None else format_percent(view.output_probs[position]),
            values=tuple(Value.of(value, limit or 0.0) for value in (shown[position] if shown else ())),
        )
        for position, text in enumerate(view.output_tokens)
    ]


@dataclass(frozen=True)
class Pair:
    """Two units, their places in the prompt, and their interaction."""

    first: str
    second: str
    places: str
    value: Value


@dataclass(frozen=True)
class Pairs:
    """The strongest pairs: a list, and arcs over rows of units that are one unit of length high."""

    pairs: list[Pair]
    rows: list[tuple[int, str, str]]
    arcs: list[tuple[str, Value]]
    depth: float
    scale: tuple[str, str] | None
    left_out: int

    @classmethod
    def of(cls, view: AttributionView) -> Pairs | None:
        """None if no pair has a value."""
        if not view.pairs():
            return None
        drawn = Arcs.of(view)
        texts, limit = [shortened_label(view.units[unit]) for unit in drawn.units], drawn.scale.limit
        own = [format_number(view.interactions[unit][unit], view.limit) for unit in drawn.units if view.interactions]
        numbers = [unit + 1 for unit in drawn.units]
        reach = max(arc.second - arc.first for arc in drawn.arcs) / 2
        depth = min(reach, _DEEPEST)
        pairs, arcs = [], []
        for arc in drawn.arcs:
            value, places = Value.of(arc.value, limit), f"{numbers[arc.first]}, {numbers[arc.second]}"
            pairs.append(Pair(texts[arc.first], texts[arc.second], places, value))
            half = (arc.second - arc.first) / 2
            arcs.append((f"M0 {arc.first}A{half / reach * depth:.3f} {half:g} 0 0 0 0 {arc.second}", value))
        rows = list(zip(numbers, texts, own, strict=True))
        return cls(pairs, rows, arcs[::-1], depth + 0.3, scale_ends(limit), drawn.left_out)


@dataclass(frozen=True)
class Nested:
    """A part of a text at some level: the text before it, its label, its value and the parts inside."""

    before: str
    label: str
    value: Value
    kind: str
    inner: list[Nested]
    after: str
    open: bool = False

    @classmethod
    def within(cls, levels: Levels, nodes: list[Node], start: int, stop: int, *, opened: bool = False) -> list[Nested]:
        """The parts of these nodes, with the text between `start` and `stop` that is in none of them."""
        strongest = max((abs(node.part.value) for node in nodes), default=0.0)
        parts = []
        for node in nodes:
            part = node.part
            parts.append(
                cls(
                    before=escape_text(levels.text[start : part.start]),
                    label=escape_text(part.label) if not node.inner else shortened_label(part.label),
                    value=Value.of(part.value, levels.scale.limit),
                    kind=levels.levels[node.level].name,
                    inner=cls.within(levels, node.inner, part.start, part.stop),
                    after=escape_text(levels.text[part.stop : stop]) if node is nodes[-1] else "",
                    open=opened and abs(part.value) == strongest,
                )
            )
            start = part.stop
        return parts


def shortened_label(unit: str) -> str:
    """A unit's text for lists, cut if it is long."""
    line = unit_label(unit)
    return line if len(line) <= _LABEL else line[:_LABEL].rstrip() + "…"
