"""The HTML view of a comparison: the same text once for each attribution, their agreement, and a table of the units.

Self-contained and without a script; the colours and the sheet are those of `llm_attr.viz.text`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llm_attr.viz.colour import DARK, LIGHT
from llm_attr.viz.comparison import CORRELATION, ComparisonView, correlation
from llm_attr.viz.legible import legible_line, printed
from llm_attr.viz.text import ErrorBar, Value, environment, listed, sections_of
from llm_attr.viz.view import AttributionView

_ROWS = 60  # units in the table; of more the strongest
_WIDE, _MIDDLE = (
    {5: 3, 6: 3, 9: 3},
    {3: 3, 5: 3, 6: 3, 7: 3, 9: 3},
)  # texts in a row, by their number, where not 4 and 2


def to_html(view: ComparisonView) -> str:
    """A whole page: one file that needs nothing else and asks no server for anything."""
    return _render("comparison.html", view)


def fragment(view: ComparisonView) -> str:
    """The same as one `<div>` for a notebook or a larger page; its styles touch nothing outside it."""
    return _render("comparison_fragment.html", view)


@dataclass(frozen=True)
class _Top:
    """One of the strongest units of a column."""

    text: str
    value: Value


@dataclass(frozen=True)
class _Cell:
    """A value in the table of units."""

    value: Value
    error: ErrorBar | None


@dataclass(frozen=True)
class _Row:
    """A unit in the table: its text, its place and group, and a cell for each column."""

    text: str
    position: int
    group: str
    cells: tuple[_Cell, ...]


def _render(template: str, view: ComparisonView) -> str:
    count, scale = len(view.columns), view.shared_scale
    rows = list(_rows(view))
    return (
        environment()
        .get_template(template)
        .render(
            title=legible_line(view.title),
            panels=[_panel(view, which) for which in range(count)],
            names=[legible_line(name) for name in view.names],
            columns={"wide": _WIDE.get(count, min(count, 4)), "middle": _MIDDLE.get(count, 2)},
            long=len(view.units) > _ROWS,
            shared=None if scale is None else _ends(scale.limit),
            said=view.scale_said,
            value_name=legible_line(view.value_name),
            agreement=[[_agreed(value) for value in row] for row in view.agreement],
            overlap=[[_shared(number, view.top) for number in row] for row in view.overlap],
            top=view.top,
            rows=rows,
            total=len(view.units),
            errors=" and ".join(sorted({f"{column.error_name}s" for column in view.columns if column.unit_errors})),
            notes=[(legible_line(name), legible_line(value)) for name, value in view.notes],
            light=LIGHT,
            dark=DARK,
        )
    )


def _panel(view: ComparisonView, which: int) -> dict[str, object]:
    """One attribution: its heading, scale, text and strongest units."""
    column = view.columns[which]
    values = [Value.of(value, column.limit) for value in column.unit_values]
    ranked = [unit for unit in column.ranking if values[unit].sign in ("pos", "neg")]
    return {
        "name": legible_line(view.names[which]),
        "value_name": legible_line(column.value_name),
        "scale": _ends(column.limit),
        "sections": list(sections_of(column, values)),
        "top": [_Top(listed(column.units[unit]), values[unit]) for unit in ranked[: view.top]],
    }


def _rows(view: ComparisonView) -> Iterator[_Row]:
    groups = view.columns[0].unit_groups
    for unit in view.strongest(_ROWS):
        group = groups[unit]
        cells = tuple(_cell(column, unit) for column in view.columns)
        yield _Row(listed(view.units[unit]), unit, listed(group.label) if group else "", cells)


def _cell(column: AttributionView, unit: int) -> _Cell:
    return _Cell(Value.of(column.unit_values[unit], column.limit), ErrorBar.of(column, unit))


def _agreed(value: float) -> Value:
    found = Value.of(value, CORRELATION.limit)
    return Value(correlation(value), found.share, found.sign)


def _shared(number: int, top: int) -> Value:
    return Value(f"{number}/{top}", round(number / top, 4), "pos" if number else "zero")


def _ends(limit: float) -> tuple[str, str] | None:
    return (printed(-limit, limit), printed(limit, limit)) if limit else None
