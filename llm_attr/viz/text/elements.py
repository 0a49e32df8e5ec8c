"""The elements of an HTML page: values, passages of the prompt, rows of units, pairs and nested levels.

Their fields are what the templates print; every text is already escaped to visible characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from llm_attr.viz.formatting import direction, escape_line, escape_text, format_number, format_percent, unit_label
from llm_attr.viz.scale import extent
from llm_attr.viz.text.figures.arcs import Arcs
from llm_attr.viz.text.folded import Folded
from llm_attr.viz.text.levels import Levels, Node
from llm_attr.viz.text.view import AttributionView, Piece

_LABEL = 160  # characters of a unit in lists
_BESIDE, _AROUND = 12, 24  # pieces of the prompt that are looked at beside a word, and characters that are shown
_SIGNS = {"pos": 1, "neg": -1, "zero": 0, "none": 0}
_DOT = 0.01  # values below this share of the limit are dots in the table
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
        low, high = (value - error) / limit, (value + error) / limit
        return cls(round((low + high) / 2, 4), round((high - low) / 2, 4), format_number(error, limit).lstrip("+"))


def reach_of(columns: Sequence[AttributionView], units: Iterable[int]) -> tuple[float, float]:
    """How far bars and error bars reach to the left and right of zero, as shares of the limit.

    The shorter side has at least a twelfth of the longer, so that zero can be seen.
    """
    low = high = 0.0
    for unit in units:
        for view in columns:
            value = unit_value(view, unit)
            ends = [value.share * _SIGNS[value.sign]]
            if value.error:
                ends += [value.error.middle - value.error.half, value.error.middle + value.error.half]
            low, high = max(low, *(-end for end in ends)), max(high, *ends)
    least = max(low, high) / 12 or 1.0
    return round(max(low, least), 4), round(max(high, least), 4)


def scale_ends(limit: float) -> tuple[str, str] | None:
    """The numbers at both ends of a scale; None for a scale without values."""
    return (format_number(-limit, limit), format_number(limit, limit)) if limit else None


def unit_value(view: AttributionView, unit: int) -> Value:
    """The value of a unit on the scale of its page, with its error."""
    error = math.nan if view.unit_errors is None else view.unit_errors[unit]
    return Value.of(view.unit_values[unit], view.page_limit, error)


@dataclass(frozen=True)
class Row:
    """A unit in a list or table, with a value for each of n columns, and whether the first is within the noise.

    Of a unit of a few words, `before` and `after` are the words around it.
    """

    text: str
    position: int
    group: str
    values: tuple[Value, ...]
    doubtful: bool = False
    before: str = ""
    after: str = ""


def rows_of(columns: Sequence[AttributionView], units: Iterable[int]) -> list[Row]:
    """A row for each of these units of one or several views."""
    first = columns[0]
    around = _Around(first) if are_brief(first) else None
    return [_row(columns, unit, around) for unit in units]


def are_brief(view: AttributionView) -> bool:
    """Whether the units are words or tokens, which say little alone: under three words on average."""
    return bool(view.units) and sum(len(unit.split()) for unit in view.units) < 3 * len(view.units)


def _row(columns: Sequence[AttributionView], unit: int, around: _Around | None) -> Row:
    view, doubtful = columns[0], columns[0].doubtful
    group = view.unit_groups[unit]
    label = shortened_label(group.label) if group and len(view.groups) > 1 else ""
    text = shortened_label(view.own_text(unit))
    before, after = around.of(unit) if around else ("", "")
    values = tuple(unit_value(each, unit) for each in columns)
    return Row(text, unit, label, values, bool(doubtful and doubtful[unit]), before, after)


class _Around:
    """The words of the prompt beside its units."""

    def __init__(self, view: AttributionView) -> None:
        self.pieces = list(view.pieces())
        self.places = {unit: place for place, (_, unit) in enumerate(self.pieces) if unit is not None}

    def of(self, unit: int) -> tuple[str, str]:
        """A few words before and after a unit, as far as its line goes."""
        place = self.places[unit]
        before = "".join(text for text, _ in self.pieces[max(place - _BESIDE, 0) : place]).rpartition("\n")[2]
        after = "".join(text for text, _ in self.pieces[place + 1 : place + 1 + _BESIDE]).partition("\n")[0]
        before, after = (before if len(before) <= _AROUND else "…" + before[-_AROUND:].partition(" ")[2]), after
        if len(after) > _AROUND:
            after = after[:_AROUND].rpartition(" ")[0] + "…"
        return escape_text(before), escape_text(after)


@dataclass(frozen=True)
class Passage:
    """Text of the prompt, and its unit if it is one; a gap is white space next to the edge of a group.

    A passage that the chat template wrote has a glyph that stands for it while it is folded.
    """

    text: str
    position: int | None = None
    value: Value | None = None
    gap: bool = False
    glyph: str = ""


@dataclass(frozen=True)
class Section:
    """Consecutive passages: those of a group, with its name and the sum of its units, or those outside any group."""

    passages: list[Passage]
    label: str = ""
    kind: str = ""
    total: str = ""
    direction: str = "ltr"


def sections_of(view: AttributionView) -> Iterator[Section]:
    """The prompt's text in the sections of the view."""
    folded = Folded(view.template)
    for group, pieces in view.sections():
        if group:
            total = format_number(sum(view.unit_values[group.first : group.stop]), view.page_limit)
            passages = [passage for piece in pieces for passage in _passages(view, piece, folded)]
            along = direction("".join(text for text, _ in pieces))
            yield Section(passages, shortened_label(group.label), escape_line(group.kind), total, along)
        else:
            yield Section([passage for piece in pieces for passage in _outside(view, piece, folded)])


def direction_of(view: AttributionView) -> str:
    """The direction of the prompt: of its first text that the template did not write."""
    folded = Folded(view.template)
    own = (part for text, _ in view.pieces() for part, glyph in folded.parts(text) if not glyph)
    return next((found for part in own if (found := direction(part)) == "rtl" or any(map(str.isalpha, part))), "ltr")


def _passages(view: AttributionView, piece: Piece, folded: Folded) -> Iterator[Passage]:
    """A unit, or text between units with what the template wrote apart."""
    text, unit = piece
    if unit is not None:
        folded.past(text)
        yield Passage(escape_text(text), unit, unit_value(view, unit))
        return
    for part, glyph in folded.parts(text):
        yield Passage(escape_text(part), glyph=escape_line(glyph))


def _outside(view: AttributionView, piece: Piece, folded: Folded) -> Iterator[Passage]:
    """The same; beside groups, white space at the ends of text that is not a unit becomes gaps."""
    for passage in _passages(view, piece, folded):
        body = passage.text.strip()
        if not view.groups or passage.value or passage.glyph:
            yield passage
        else:
            start, _, end = passage.text.partition(body) if body else (passage.text, "", "")
            parts = Passage(start, gap=True), Passage(body), Passage(end, gap=True)
            yield from (part for part in parts if part.text)


@dataclass(frozen=True)
class Token:
    """A token of the output as running text and as one line, with its value for every unit if they are shown.

    `need` is how far the strongest unit moved it, as a share of the limit of the page.
    """

    text: str
    line: str
    position: int
    percent: str
    need: float
    values: tuple[Value, ...]


def tokens_of(view: AttributionView, columns: Sequence[int]) -> list[Token]:
    """The tokens of the output, with their values for these units."""
    rows, limit = view.token_values, view.page_limit
    return [
        Token(
            text=escape_text(text),
            line=escape_line(text),
            position=position,
            percent="" if view.output_probs is None else format_percent(view.output_probs[position]),
            need=0.0 if not rows or not limit else round(min(extent(rows[position]) / limit, 1.0), 3),
            values=tuple(_cell(rows[position][unit], limit) for unit in columns) if rows else (),
        )
        for position, text in enumerate(view.output_tokens)
    ]


def _cell(value: float, limit: float) -> Value:
    """A value in the table: below a hundredth of the limit only a dot."""
    cell = Value.of(value, limit)
    return replace(cell, text="·") if abs(value) < _DOT * limit else cell


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
