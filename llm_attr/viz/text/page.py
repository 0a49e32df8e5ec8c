"""HTML pages of text attributions: self-contained, offline, light and dark, printable; interactive if scripts may run.

The page holds numbers (`--v`, a value's share of the limit) and classes for the signs; the style sheet makes the
colours from them, by the same scale and in the same space (OKLab) as `llm_attr.viz.colour`. Units and tokens carry
their positions (`data-unit`, `data-token`); `llm_attr.viz.text.script` adds what makes output tokens selectable.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from llm_attr.viz.colour import DARK, LIGHT
from llm_attr.viz.formatting import direction, escape_line, escape_text
from llm_attr.viz.text.barcode import barcode
from llm_attr.viz.text.elements import (
    Nested,
    Pairs,
    Value,
    are_brief,
    direction_of,
    reach_of,
    rows_of,
    scale_ends,
    sections_of,
    shortened_label,
    tokens_of,
)
from llm_attr.viz.text.finding import finding, heading
from llm_attr.viz.text.levels import Levels
from llm_attr.viz.text.ribbons import Ribbons
from llm_attr.viz.text.script import Script, linked_script
from llm_attr.viz.text.view import CORRELATION, AttributionView, ComparisonView, View, format_correlation

if TYPE_CHECKING:
    from jinja2 import Environment

_LISTED = 20  # units in the ranking before the rest is folded away
_WRITTEN = 200  # folded units that are written; a script lists more of them when they are unfolded
_CELLS = 1200  # cells of output tokens and strongest units up to which a table shows more than _LEAST units
_LEAST = 6
_MOST = 6000  # cells above which there is no table
_ROWS = 60  # units in the table of a comparison; the strongest if there are more
_WIDE, _MIDDLE = (
    {5: 3, 6: 3, 9: 3},
    {3: 3, 5: 3, 6: 3, 7: 3, 9: 3},
)  # panels in a row, by the number of columns, if not 4 and 2


def to_html(view: View, levels: Levels | None = None) -> str:
    """A self-contained HTML page.

    Args:
        view: what is drawn: one explanation, or several side by side.
        levels: the same text at several levels, for a section of its own; for one explanation only.
    """
    return _render("page.html", view, levels=levels)


def fragment(view: View, *, scripts: bool = True, styles: bool = True) -> str:
    """The content of the page as one `<div>` for a notebook or a larger page; its styles touch nothing outside it.

    Args:
        view: what is drawn.
        scripts: whether to include the numbers and the script; otherwise mount `static/attr.js` on the element.
        styles: whether to include the style sheet; otherwise load `style_sheet()`.
    """
    return _render("fragment.html", view, scripts=scripts, styles=styles)


def still(part: str, title: str, content: Mapping[str, Any], *, width: str | None = "74rem") -> str:
    """A page or fragment without scripts, from the templates `<part>.html` and `<part>.css`.

    Args:
        part: the name of the templates.
        title: the title of the page.
        content: what the templates print; every text must be escaped to visible characters already.
        width: the widest that the page gets; None for a fragment.
    """
    template = environment().get_template("still_fragment.html" if width is None else "still_page.html")
    return template.render(part=part, title=title, width=width, light=LIGHT, dark=DARK, **content)


def style_sheet() -> str:
    """The style sheet of `fragment`, for a page that shows several."""
    return environment().get_template("attribution.css").render(light=LIGHT, dark=DARK)


def _render(
    template: str, view: View, *, scripts: bool = True, styles: bool = True, levels: Levels | None = None
) -> str:
    content = _comparison(view) if isinstance(view, ComparisonView) else _explanation(view, levels)
    return (
        environment()
        .get_template(template)
        .render(
            title=escape_line(heading(view.title)),
            value_name=escape_line(view.value_name),
            notes=[(escape_line(name), escape_line(value)) for name, value in view.notes],
            comparison=isinstance(view, ComparisonView),
            scripts=scripts,
            styles=styles,
            light=LIGHT,
            dark=DARK,
            **content,
        )
    )


def _explanation(view: AttributionView, levels: Levels | None) -> dict[str, Any]:
    rows, columns = rows_of(view.columns, view.ranking[: _LISTED + _WRITTEN]), _columns(view)
    script = Script.of(view)
    others = len(view.units) - _LISTED
    return {
        "verdict": escape_line(view.verdict),
        "finding": finding(view),
        "warnings": [escape_line(warning) for warning in view.warnings],
        "sections": list(sections_of(view)),
        "direction": direction_of(view),
        "answer_direction": direction("".join(view.output_tokens)),
        "folded": any(first < last for first, last in view.template),
        "barcode": barcode(view),
        "units": [shortened_label(view.units[unit]) for unit in columns],
        "columns": columns,
        "of_units": len(view.units),
        "scale": scale_ends(view.page_limit),
        "reach": reach_of(view.columns, view.ranking),
        "strongest": rows[:_LISTED],
        "brief": are_brief(view),
        "others": rows[_LISTED:] if others <= _WRITTEN or script is None else [],
        "other_units": max(others, 0),
        "tokens": tokens_of(view, columns),
        "around": [escape_text(text) for text in view.output_around],
        "table": bool(columns),
        "left_out": len(view.output_tokens) * len(view.units) if view.token_values and not columns else 0,
        "still": not script and bool(view.token_values),
        "script": script,
        "ribbons": Ribbons.of(view),
        "pairs": Pairs.of(view),
        "levels": levels,
        "levels_scale": scale_ends(levels.scale.limit) if levels else None,
        "nested": Nested.within(levels, levels.tree(), 0, len(levels.text), opened=True) if levels else [],
        "error_name": escape_line(view.error_name),
    }


def _columns(view: AttributionView) -> tuple[int, ...]:
    """The units in the table, strongest first; none if even a few of them make too large a table."""
    if view.token_values is None or not view.output_tokens:
        return ()
    tokens, units = len(view.output_tokens), len(view.units)
    count = min(units, max(_LEAST, _CELLS // tokens))
    return view.ranking[:count] if count * tokens <= _MOST else ()


def _comparison(view: ComparisonView) -> dict[str, Any]:
    count, scale = len(view.columns), view.shared_scale
    return {
        "panels": [_panel(view, which) for which in range(count)],
        "names": [escape_line(name) for name in view.names],
        "columns": {"wide": _WIDE.get(count, min(count, 4)), "middle": _MIDDLE.get(count, 2)},
        "long": len(view.units) > _ROWS,
        "shared": None if scale is None else scale_ends(scale.limit),
        "scale_description": view.scale_description,
        "agreement": [[_correlation(value) for value in row] for row in view.agreement],
        "overlap": [[_overlap(number, view.top) for number in row] for row in view.overlap],
        "top": view.top,
        "rows": rows_of(view.columns, strongest := view.strongest(_ROWS)),
        "reach": reach_of(view.columns, strongest),
        "total": len(view.units),
        "errors": " and ".join(sorted({f"{column.error_name}s" for column in view.columns if column.unit_errors})),
        "script": linked_script(),
    }


def _panel(view: ComparisonView, which: int) -> dict[str, Any]:
    """One attribution: its heading, scale, text and strongest units."""
    column = view.columns[which]
    ranked = [unit for unit in column.ranking if abs(column.unit_values[unit]) > 0]
    return {
        "name": escape_line(view.names[which]),
        "value_name": escape_line(column.value_name),
        "scale": scale_ends(column.limit),
        "sections": list(sections_of(column)),
        "direction": direction_of(column),
        "top": rows_of((column,), ranked[: view.top]),
    }


def _correlation(value: float) -> Value:
    on_scale = Value.of(value, CORRELATION.limit)
    return Value(format_correlation(value), on_scale.share, on_scale.sign)


def _overlap(number: int, top: int) -> Value:
    return Value(f"{number}/{top}", round(number / top, 4), "pos" if number else "zero")


@cache
def environment() -> Environment:
    """The templates of this package."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("llm_attr.viz.text"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
