"""The HTML view of a text attribution: self-contained, offline, light and dark, printable; alive where scripts may run.

The page holds numbers (`--v`, a value's share of the limit) and classes for the signs; the style sheet makes the
colours from them, by the same scale and in the same space (OKLab) as `llm_attr.viz.colour`. Units and tokens carry
their positions (`data-unit`, `data-token`); `llm_attr.viz.interactive` adds what makes output tokens selectable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from llm_attr.viz.arcs import Arcs
from llm_attr.viz.colour import DARK, LIGHT
from llm_attr.viz.interactive import Script
from llm_attr.viz.legible import label, legible, legible_line, percent, printed
from llm_attr.viz.levels import Levels, Node
from llm_attr.viz.scale import extent
from llm_attr.viz.view import AttributionView, Piece

if TYPE_CHECKING:
    from jinja2 import Environment

_LISTED = 20  # units in the ranking before the rest is folded away
_LABEL = 160  # characters of a unit in lists
_DEEPEST = 5.0  # rows of units: as far as an arc reaches to the side
_CELLS = 3000  # the largest table of output tokens and units that is written


def to_html(view: AttributionView, levels: Levels | None = None) -> str:
    """A whole page: one file that needs nothing else and asks no server for anything.

    Args:
        view: what is drawn.
        levels: the same text at several levels, for a section of its own.
    """
    return _render("attribution.html", view, levels=levels)


def fragment(view: AttributionView, *, scripts: bool = True) -> str:
    """The same as one `<div>` for a notebook or a larger page; its styles touch nothing outside it.

    Args:
        view: what is drawn.
        scripts: whether it brings its numbers and the module; else `static/attr.js` is to be mounted on it.
    """
    return _render("fragment.html", view, scripts=scripts)


@dataclass(frozen=True)
class Value:
    """A number as the page shows it: its text, and how far to which side of the scale it lies."""

    text: str
    share: float
    sign: str

    @classmethod
    def of(cls, value: float, limit: float) -> Value:
        if math.isnan(value):
            return cls("nan", 0.0, "none")
        share = min(abs(value) / limit, 1.0) if limit else 0.0
        sign = "pos" if value > 0 else "neg" if value < 0 else "zero"
        return cls(printed(value, limit), round(share, 4), sign)


@dataclass(frozen=True)
class _Passage:
    """Text of the prompt, a unit where it has a position; a gap is white space that a group's edge stands for."""

    text: str
    position: int | None = None
    value: Value | None = None
    gap: bool = False


@dataclass(frozen=True)
class _Section:
    """Passages in a row: those of a group, with its name and the sum of its units, or those outside of any."""

    passages: list[_Passage]
    label: str = ""
    kind: str = ""
    total: str = ""


@dataclass(frozen=True)
class _Row:
    """A unit in the ranking."""

    text: str
    position: int
    value: Value
    group: str
    error: ErrorBar | None = None


@dataclass(frozen=True)
class ErrorBar:
    """A standard error as a line on a bar: its middle and half its length, as shares of the limit."""

    middle: float
    half: float
    text: str

    @classmethod
    def of(cls, view: AttributionView, unit: int) -> ErrorBar | None:
        """None where there is no finite one, or no bar."""
        error = math.nan if view.unit_errors is None else view.unit_errors[unit]
        value, limit = view.unit_values[unit], view.limit
        if not (limit and math.isfinite(error) and math.isfinite(value)):
            return None
        low, high = max(value - error, -limit) / limit, min(value + error, limit) / limit
        return cls(round((low + high) / 2, 4), round((high - low) / 2, 4), printed(error, limit).lstrip("+"))


@dataclass(frozen=True)
class _Token:
    """A token of the output, with its values for every unit if they fit on the page."""

    text: str
    breaks: int
    position: int
    probability: float | None
    percent: str
    cells: tuple[Value, ...]


@dataclass(frozen=True)
class _Scale:
    """The numbers at the ends of a scale; the same on both sides of zero."""

    low: str
    high: str

    @classmethod
    def of(cls, limit: float) -> _Scale:
        return cls(printed(-limit, limit), printed(limit, limit)) if limit else cls("", "")


@dataclass(frozen=True)
class _Pair:
    """Two units, their places for the reader, and what they are worth together."""

    first: str
    second: str
    places: str
    value: Value


@dataclass(frozen=True)
class _Pairs:
    """The strongest pairs: a list, and arcs over rows of units, one row high each."""

    pairs: list[_Pair]
    rows: list[tuple[int, str, str]]
    arcs: list[tuple[str, Value]]
    depth: float
    scale: _Scale
    left_out: int

    @classmethod
    def of(cls, view: AttributionView) -> _Pairs | None:
        """None where there are no pairs with a value."""
        if not view.pairs():
            return None
        found = Arcs.of(view)
        texts, limit = [listed(view.units[unit]) for unit in found.units], found.scale.limit
        own = [printed(view.interactions[unit][unit], view.limit) for unit in found.units] if view.interactions else []
        numbers = [unit + 1 for unit in found.units]
        reach = max(arc.second - arc.first for arc in found.arcs) / 2
        depth = min(reach, _DEEPEST)
        pairs, arcs = [], []
        for arc in found.arcs:
            value, places = Value.of(arc.value, limit), f"{numbers[arc.first]}, {numbers[arc.second]}"
            pairs.append(_Pair(texts[arc.first], texts[arc.second], places, value))
            half = (arc.second - arc.first) / 2
            arcs.append((f"M0 {arc.first}A{half / reach * depth:.3f} {half:g} 0 0 0 0 {arc.second}", value))
        rows = list(zip(numbers, texts, own, strict=True))
        return cls(pairs, rows, arcs[::-1], depth + 0.3, _Scale.of(limit), found.left_out)


@dataclass(frozen=True)
class _Nested:
    """A part of a text at some level: the text before it, its label, its value and the parts inside."""

    before: str
    label: str
    value: Value
    kind: str
    inner: list[_Nested]
    after: str
    open: bool = False

    @classmethod
    def within(cls, levels: Levels, nodes: list[Node], start: int, stop: int, *, opened: bool = False) -> list[_Nested]:
        """The parts of these nodes, with the text between `start` and `stop` that is in none of them."""
        strongest = max((abs(node.part.value) for node in nodes), default=0.0)
        found = []
        for node in nodes:
            part = node.part
            found.append(
                cls(
                    before=legible(levels.text[start : part.start]),
                    label=legible(part.label) if not node.inner else listed(part.label),
                    value=Value.of(part.value, levels.scale.limit),
                    kind=levels.levels[node.level].name,
                    inner=cls.within(levels, node.inner, part.start, part.stop),
                    after=legible(levels.text[part.stop : stop]) if node is nodes[-1] else "",
                    open=opened and abs(part.value) == strongest,
                )
            )
            start = part.stop
        return found


def _render(template: str, view: AttributionView, *, scripts: bool = True, levels: Levels | None = None) -> str:
    values = [Value.of(value, view.limit) for value in view.unit_values]
    rows = [_row(view, unit, values[unit]) for unit in view.ranking]
    table_limit = extent([value for row in view.token_values or () for value in row])
    size = len(view.output_tokens) * len(view.units)
    return (
        environment()
        .get_template(template)
        .render(
            title=legible_line(view.title),
            value_name=legible_line(view.value_name),
            notes=[(legible_line(name), legible_line(value)) for name, value in view.notes],
            warnings=[legible_line(warning) for warning in view.warnings],
            sections=list(sections_of(view, values)),
            units=[listed(unit) for unit in view.units],
            scale=_Scale.of(view.limit),
            strongest=rows[:_LISTED],
            others=rows[_LISTED:],
            tokens=_tokens(view, table_limit if size <= _CELLS else None),
            table_scale=_Scale.of(table_limit),
            table=view.token_values is not None and 0 < size <= _CELLS,
            left_out=size if view.token_values is not None and size > _CELLS else 0,
            script=Script.of(view),
            scripts=scripts,
            pairs=_Pairs.of(view),
            levels=levels,
            levels_scale=_Scale.of(levels.scale.limit) if levels else None,
            nested=_Nested.within(levels, levels.tree(), 0, len(levels.text), opened=True) if levels else [],
            error_name=legible_line(view.error_name),
            light=LIGHT,
            dark=DARK,
        )
    )


def _row(view: AttributionView, unit: int, value: Value) -> _Row:
    group = view.unit_groups[unit]
    return _Row(listed(view.units[unit]), unit, value, listed(group.label) if group else "", ErrorBar.of(view, unit))


def sections_of(view: AttributionView, values: list[Value]) -> Iterator[_Section]:
    """The prompt's text in the sections of the view, with what the page shows of each unit."""
    for group, pieces in view.sections():
        if group:
            total = printed(sum(view.unit_values[group.first : group.stop]), view.limit)
            passages = [_passage(piece, values) for piece in pieces]
            yield _Section(passages, listed(group.label), legible_line(group.kind), total)
        else:
            yield _Section([passage for piece in pieces for passage in _outside(piece, values, bool(view.groups))])


def _passage(piece: Piece, values: list[Value]) -> _Passage:
    text, unit = piece
    return _Passage(legible(text), unit, None if unit is None else values[unit])


def _outside(piece: Piece, values: list[Value], edged: bool) -> Iterator[_Passage]:
    """The piece; where groups have edges, white space at the ends of what is no unit apart from the rest."""
    passage = _passage(piece, values)
    body = passage.text.strip()
    if not edged or passage.value:
        yield passage
    else:
        start, _, end = passage.text.partition(body) if body else (passage.text, "", "")
        parts = _Passage(start, gap=True), _Passage(body), _Passage(end, gap=True)
        yield from (part for part in parts if part.text)


def _tokens(view: AttributionView, table_limit: float | None) -> list[_Token]:
    probabilities: tuple[float | None, ...] = view.output_probs or (None,) * len(view.output_tokens)
    tokens = []
    for position, (text, probability) in enumerate(zip(view.output_tokens, probabilities, strict=True)):
        row = view.token_values[position] if view.token_values and table_limit is not None else ()
        tokens.append(
            _Token(
                text=legible_line(text),
                breaks=text.count("\n"),
                position=position,
                probability=None if probability is None or math.isnan(probability) else round(probability, 4),
                percent="" if probability is None else percent(probability),
                cells=tuple(Value.of(value, table_limit or 0.0) for value in row),
            )
        )
    return tokens


def listed(unit: str) -> str:
    """A unit's text for lists, cut where it is long."""
    line = label(unit)
    return line if len(line) <= _LABEL else line[:_LABEL].rstrip() + "…"


@cache
def environment() -> Environment:
    """The templates of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("llm_attr.viz"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
