"""Matplotlib figure of a comparison: a column of bars for each attribution, and below it how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_attr.errors import MissingExtra
from llm_attr.viz.colour import LIGHT, colormap, mark, readable_on
from llm_attr.viz.comparison import CORRELATION, ComparisonView, correlation
from llm_attr.viz.figure import cells, font, labels_of, line
from llm_attr.viz.legible import label, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

_ROWS = 60  # units that are drawn; of more the strongest
_COLUMN, _ROW = 1.75, 0.29  # inches of a column of bars, and of a row
_CELL = (0.62, 0.36)  # inches of a cell of the agreement
_LARGEST = 22.0  # inches of a figure's width
_NAME = 20  # characters of a name in a line above a column
_MARGIN = 1.12  # axes reach beyond the ends of the scale, so that bars do not touch the frame


def plot(view: ComparisonView) -> tuple[Figure, list[Axes]]:
    """Bars from zero for each unit, a column for each attribution, with errors; the rank agreement with its numbers.

    Args:
        view: what to draw; of more than 60 units the strongest.

    Returns:
        The figure, and its axes: those of the columns, then those of the agreement.

    Raises:
        MissingExtra: if matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    count, shown = len(view.columns), view.strongest(_ROWS)
    texts = [view.units[unit] for unit in shown]
    if len(shown) < len(view.units):
        texts = [f"{unit + 1}  {label(text)}" for unit, text in zip(shown, texts, strict=True)]
    labels = labels_of(texts, 44)
    left = 0.9 + 0.072 * max(map(cells, labels), default=0)
    width = min(max(left + _COLUMN * count, 6.5), _LARGEST)
    heights = 1.75 + _ROW * max(len(shown), 2), 1.15 + _CELL[1] * count
    figure = Figure(figsize=(width, sum(heights)), layout=ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09))
    (above,), (below,) = figure.subfigures(2, 1, height_ratios=heights, squeeze=False)
    columns = list(above.subplots(1, count, sharey=True, squeeze=False)[0])
    for which, ax in enumerate(columns):
        _bars(ax, view, which, shown)
    columns[0].set_yticks(range(len(shown)), labels, **font(), fontsize=9)
    columns[0].set_ylim(max(len(shown), 1) - 0.4, -0.6)
    above.suptitle(line(view.title), x=0.01, ha="left", fontsize=12, **font())
    above.supxlabel(_said(view, len(shown)), fontsize=9, color="0.3", **font())
    return figure, [*columns, _agreement(below, view, width)]


def _bars(ax: Axes, view: ComparisonView, which: int, shown: Sequence[int]) -> None:
    """The bars of one attribution."""
    column = view.columns[which]
    limit = column.limit
    values = np.nan_to_num(
        np.asarray([column.unit_values[unit] for unit in shown]), nan=0.0, posinf=limit, neginf=-limit
    )
    errors = None if column.unit_errors is None else [column.unit_errors[unit] for unit in shown]
    whiskers: dict[str, Any] = {"ecolor": "0.25", "capsize": 2, "error_kw": {"linewidth": 0.9}}
    lengths = None if errors is None else np.nan_to_num(np.asarray(errors), posinf=0.0)
    ax.barh(
        np.arange(len(shown)), values, xerr=lengths, color=[mark(value) for value in values], height=0.7, **whiskers
    )
    ax.axvline(0, color="0.25", linewidth=0.8)
    end = (limit or 1.0) * _MARGIN
    ax.set_xlim(-end, end)
    ax.locator_params(axis="x", nbins=4)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    ax.tick_params(axis="x", labelsize=8)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.set_title(_heading(f"{which + 1} {view.names[which]}"), fontsize=9.5, loc="left", **font())
    if not view.value_name:
        ax.set_xlabel(_heading(column.value_name), fontsize=8, **font())


def _heading(name: str) -> str:
    """A name in at most three lines."""
    return "\n".join(wrap(shortened(line(name), 3 * _NAME - 6), _NAME))


def _said(view: ComparisonView, shown: int) -> str:
    """What is drawn, and on which scale."""
    left_out = f"the {shown} strongest of {len(view.units):,} units" if shown < len(view.units) else ""
    return "; ".join(filter(None, (line(view.value_name) if view.value_name else "", view.scale_said, left_out)))


def _agreement(figure: SubFigure, view: ComparisonView, width: float) -> Axes:
    """The rank correlations as a coloured table at the left, with the names beside it."""
    count = len(view.columns)
    names = labels_of([f"{key} {name}" for key, name in enumerate(view.names, 1)], 34)
    needed = _CELL[0] * count
    rest = max(width - needed - 0.3 - 0.075 * max(map(cells, names)), 0.01)
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
        ax[0].text(column, row, correlation(float(value)), ha="center", va="center", fontsize=8, color=ink)
    ax[0].set_xticks(range(count), [str(key) for key in range(1, count + 1)], fontsize=9)
    ax[0].set_yticks(range(count), names, fontsize=9, **font())
    ax[0].xaxis.tick_top()
    ax[0].tick_params(length=0)
    ax[0].spines[:].set_visible(False)
    ax[0].set_title("Spearman's rank correlation of the units' values, −1 to +1", loc="left", fontsize=9.5)
    return ax[0]
