"""Matplotlib bar charts of the units of a text: of one explanation, or of several side by side with their agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_attr.errors import MissingExtra
from llm_attr.viz.colour import LIGHT, colormap, mark, readable_on
from llm_attr.viz.figure import (
    APART,
    add_caption,
    add_title,
    axes_of,
    axes_size,
    cell_width,
    drawable,
    figure_of,
    font_options,
    format_labels,
    set_some_ticks,
    set_ticks,
)
from llm_attr.viz.formatting import truncate, unit_label
from llm_attr.viz.scale import Floats
from llm_attr.viz.text.figures.runs import named_places, run_labels, run_size, strongest_of_runs
from llm_attr.viz.text.finding import caption
from llm_attr.viz.text.view import CORRELATION, AttributionView, ComparisonView, format_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_LONG = 14  # cells of a label from which on bars are horizontal, with their labels beside them
_LISTED = 60  # units up to which every bar has its label; a comparison shows the strongest of more
_FEWEST = 8  # vertical bars that a figure has room for at least
_LARGEST = 14.0  # inches of a figure's side
_COLUMN, _ROW = 1.75, 0.29  # inches of a column of bars, and of a row
_CELL = (0.62, 0.36)  # inches of a cell of the agreement
_WIDEST = 22.0  # inches of the figure of a comparison
_NAME = 20  # characters of a name in a line above a column
_MARGIN = 1.12  # axes extend beyond the ends of the scale, so that bars do not touch the frame


def plot_unit_values(view: AttributionView, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Bar chart of the units' values in reading order, coloured by sign, with their errors.

    Up to 60 units are all labelled: short ones below vertical bars, long ones beside horizontal bars. More units, or
    units for which the given axes are too small, get vertical bars without errors, and only the strongest are labelled;
    neighbours share a bar if there is no room.

    Args:
        view: what to draw.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    labels = format_labels(view.units, 48) if len(view.units) <= _LISTED else []
    wide, high = (math.inf, math.inf) if ax is None else _places(ax)
    lie = max(map(cell_width, labels), default=0) > _LONG or len(labels) > wide
    if len(view.units) > _LISTED or (lie and len(labels) > high):
        fig, ax = axes_of(ax, (_LARGEST, 4.5))
        _draw_many(ax, view)
    elif lie:
        fig, ax = axes_of(ax, (8.0, max(1.5 + 0.25 * len(labels), 2.5)))
        _draw_lying(ax, view, labels)
    else:
        fig, ax = axes_of(ax, (min(max(1.5 + 0.36 * len(labels), 5.0), _LARGEST), 4.0))
        _draw_upright(ax, view, labels)
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    add_title(ax, caption(view))
    return fig, ax


def _places(ax: Axes) -> tuple[float, float]:
    """How many labels fit below and beside the axes."""
    width, height = axes_size(ax)
    return 0.6 * width / APART["top"], height / APART["left"]


def _draw_lying(ax: Axes, view: AttributionView, labels: list[str]) -> None:
    _draw_lying_bars(ax, view, range(len(labels)), 0.72)
    ax.invert_yaxis()
    ax.set_ymargin(0.5 / max(len(labels), 1))
    set_ticks(ax.yaxis, labels)
    if view.given_scale:
        ax.set_xlim(-view.limit * 1.05, view.limit * 1.05)
    add_caption(ax, drawable(view.value_name), _caption(view))


def _draw_lying_bars(ax: Axes, view: AttributionView, units: Sequence[int], height: float) -> None:
    """Horizontal bars of these units, with whiskers and a line at zero."""
    values, colours, whiskers = _bars(view, units)
    ax.barh(range(len(units)), values, xerr=whiskers.pop("errors"), color=colours, height=height, **whiskers)
    ax.axvline(0, color="0.25", linewidth=0.8)
    ax.grid(axis="x", color="0.9", linewidth=0.8)


def _draw_upright(ax: Axes, view: AttributionView, labels: list[str]) -> None:
    values, colours, whiskers = _bars(view, range(len(labels)))
    ax.bar(range(len(labels)), values, yerr=whiskers.pop("errors"), color=colours, width=0.72, **whiskers)
    ax.set_xmargin(max(0.5, (_FEWEST - len(labels)) / 2) / max(len(labels), 1))
    set_ticks(ax.xaxis, labels, leaning="right")
    _dress_upright(ax, view)
    add_caption(ax, _caption(view))


def _draw_many(ax: Axes, view: AttributionView) -> None:
    """One bar for each run of units, with the strongest units labelled above."""
    width = ax.bbox.width / figure_of(ax).dpi
    size = run_size(len(view.units), width)
    values = strongest_of_runs(np.asarray(view.unit_values)[None], 1, size)[0]
    drawn = np.nan_to_num(values, nan=0.0, posinf=view.limit, neginf=-view.limit)
    ax.bar(range(len(drawn)), drawn, color=[mark(value) for value in drawn], width=1.0 if size > 1 else 0.8)
    ax.set_xlim(-0.5, len(drawn) - 0.5)
    ax.xaxis.tick_top()
    named = named_places(np.asarray(view.unit_values), size, width / APART["top"])
    set_some_ticks(ax, "top", run_labels(view.units, named, size), width)
    for unit in named:
        ax.axvline(unit // size, color="0.88", linewidth=0.6, zorder=0)
    _dress_upright(ax, view)
    notes = [f"{len(view.units):,} units in the order of the prompt; the strongest are named, with their places"]
    notes += [f"each bar: the strongest of {size} units"] if size > 1 else []
    notes += ["errors are not drawn"] if view.unit_errors is not None else []
    add_caption(ax, "; ".join(notes), view.scale.description)


def _dress_upright(ax: Axes, view: AttributionView) -> None:
    ax.axhline(0, color="0.25", linewidth=0.8)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_ylabel(drawable(view.value_name), **font_options())
    if view.given_scale:
        ax.set_ylim(-view.limit * 1.05, view.limit * 1.05)


def _bars(view: AttributionView, units: Sequence[int]) -> tuple[Floats, list[str], dict[str, Any]]:
    """Finite lengths and colours of the units' bars, and how their errors are drawn."""
    chosen, limit = list(units), view.limit
    values = np.nan_to_num(np.asarray(view.unit_values)[chosen], nan=0.0, posinf=limit, neginf=-limit)
    errors = None if view.unit_errors is None else np.nan_to_num(np.asarray(view.unit_errors)[chosen], posinf=0.0)
    whiskers = {"errors": errors, "ecolor": "0.25", "capsize": 2, "error_kw": {"linewidth": 0.9}}
    return values, [mark(value) for value in values], whiskers


def _caption(view: AttributionView) -> str:
    """The caption: whiskers and scale."""
    whiskers = [] if view.unit_errors is None else [f"whiskers: {drawable(view.error_name)}"]
    return "; ".join([*whiskers, view.scale.description])


def plot_comparison(view: ComparisonView) -> tuple[Figure, list[Axes]]:
    """Bar charts of the same units, a column for each attribution, with errors; below them the rank agreement.

    Args:
        view: what to draw; only the 60 strongest units if there are more.

    Returns:
        The figure and its axes: the columns, then the agreement.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    count, shown = len(view.columns), view.strongest(_LISTED)
    texts = [view.units[unit] for unit in shown]
    if len(shown) < len(view.units):
        texts = [f"{unit + 1}  {unit_label(text)}" for unit, text in zip(shown, texts, strict=True)]
    labels = format_labels(texts, 44)
    left = 0.9 + 0.072 * max(map(cell_width, labels), default=0)
    width = min(max(left + _COLUMN * count, 6.5), _WIDEST)
    heights = 1.75 + _ROW * max(len(shown), 2), 1.15 + _CELL[1] * count
    figure = Figure(figsize=(width, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))
    (above,), (below,) = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)
    columns = list(above.subplots(1, count, sharey=True, squeeze=False)[0])
    for which, ax in enumerate(columns):
        _draw_column(ax, view, which, shown)
    columns[0].set_yticks(range(len(shown)), labels, **font_options(), fontsize=9)
    columns[0].set_ylim(max(len(shown), 1) - 0.4, -0.6)
    above.suptitle(drawable(view.title), x=0.01, ha="left", fontsize=12, **font_options())
    above.supxlabel(_said(view, len(shown)), fontsize=9, color="0.3", **font_options())
    return figure, [*columns, _agreement(below, view, width)]


def _draw_column(ax: Axes, view: ComparisonView, which: int, shown: Sequence[int]) -> None:
    """The bars of one attribution."""
    column = view.columns[which]
    _draw_lying_bars(ax, column, shown, 0.7)
    end = (column.limit or 1.0) * _MARGIN
    ax.set_xlim(-end, end)
    ax.locator_params(axis="x", nbins=4)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.set_title(_heading(f"{which + 1} {view.names[which]}"), fontsize=9.5, loc="left", **font_options())
    if not view.value_name:
        ax.set_xlabel(_heading(column.value_name), fontsize=8, **font_options())


def _heading(name: str) -> str:
    """A name on at most three lines."""
    return "\n".join(wrap(truncate(drawable(name), 3 * _NAME - 6), _NAME))


def _said(view: ComparisonView, shown: int) -> str:
    """The caption: quantity, scale, and how many units are left out."""
    left_out = f"the {shown} strongest of {len(view.units):,} units" if shown < len(view.units) else ""
    return "; ".join(
        filter(None, (drawable(view.value_name) if view.value_name else "", view.scale_description, left_out))
    )


def _agreement(figure: SubFigure, view: ComparisonView, width: float) -> Axes:
    """The rank correlations as a coloured table, with the names beside it."""
    count = len(view.columns)
    names = format_labels([f"{key} {name}" for key, name in enumerate(view.names, 1)], 34)
    needed = _CELL[0] * count
    rest = max(width - needed - 0.3 - 0.075 * max(map(cell_width, names)), 0.01)
    ax = figure.subplots(1, 2, width_ratios=(needed, rest), squeeze=False)[0]
    ax[1].remove()
    table = np.asarray(view.agreement, dtype=np.float64)
    shown = np.where(np.eye(count, dtype=bool), np.nan, table)
    ax[0].imshow(shown, cmap=colormap(), vmin=-CORRELATION.limit, vmax=CORRELATION.limit, aspect="auto")
    for edge in np.arange(count - 1) + 0.5:
        ax[0].axhline(edge, color=LIGHT.zero, linewidth=2)
        ax[0].axvline(edge, color=LIGHT.zero, linewidth=2)
    for (row, column), value in np.ndenumerate(table):
        ink = "0.45" if row == column or np.isnan(value) else readable_on(LIGHT.at(value) or LIGHT.zero)
        ax[0].text(column, row, format_correlation(float(value)), ha="center", va="center", fontsize=8, color=ink)
    ax[0].set_xticks(range(count), [str(key) for key in range(1, count + 1)], fontsize=9)
    ax[0].set_yticks(range(count), names, fontsize=9, **font_options())
    ax[0].xaxis.tick_top()
    ax[0].tick_params(length=0)
    ax[0].spines[:].set_visible(False)
    ax[0].set_title("Spearman's rank correlation of the units' values, −1 to +1", loc="left", fontsize=9.5)
    return ax[0]
