"""Matplotlib heat map of output tokens and units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from llm_attr.errors import InvalidValue
from llm_attr.viz.colour import colormap, readable_on
from llm_attr.viz.figure import (
    APART,
    add_caption,
    add_title,
    axes_of,
    colour_bar,
    format_labels,
    set_some_ticks,
    set_ticks,
)
from llm_attr.viz.formatting import format_number
from llm_attr.viz.scale import Floats, Scale
from llm_attr.viz.text.figures.runs import MAX_LABEL, named_places, run_labels, run_size, strongest_of_runs
from llm_attr.viz.text.finding import caption
from llm_attr.viz.text.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LARGEST = 14.0  # inches of a figure's side
_NUMBERED = 400  # cells of the heat map that get their number, if there is room
_SAID = 0.05  # share of the limit from which on a cell has its number


def plot_token_values(view: AttributionView, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Heat map of the values of each output token (rows) for each unit (columns), white at zero.

    Cells show numbers from 5 % of the limit on, if there are few cells; NaN cells are empty. If labels do not fit, only
    the strongest units and tokens have one; if cells do not fit, neighbours share one, with the value of the strongest.

    Args:
        view: what to draw.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidValue: the view has no token values.
        MissingExtra: matplotlib is not installed.
    """
    if not view.token_values or not view.units:
        raise InvalidValue("the attribution has no values of single output tokens; plot the units' values instead")
    table = np.asarray(view.token_values, dtype=np.float64)
    rows, columns = table.shape
    cell = 0.5 if table.size <= _NUMBERED else 0.3
    fig, ax = axes_of(ax, (min(3.5 + cell * columns, _LARGEST), min(2.6 + 0.3 * rows, _LARGEST)))
    width, height = ax.bbox.width / fig.dpi, ax.bbox.height / fig.dpi
    scale, tall, wide = Scale.of(table), run_size(rows, height), run_size(columns, width)
    drawn = np.clip(strongest_of_runs(table, tall, wide), -scale.limit, scale.limit)
    end = scale.limit or 1.0
    ax.imshow(drawn, cmap=colormap(), vmin=-end, vmax=end, aspect="auto", interpolation="none")
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(table.size > _NUMBERED)
    ax.spines[:].set(color="0.85", linewidth=0.8)
    strengths = np.abs(np.nan_to_num(table, nan=0.0))
    _label(ax, "top", view.units, strengths.max(0), wide, width)
    _label(ax, "left", view.output_tokens, strengths.max(1), tall, height)
    if table.size <= _NUMBERED and width / columns > 0.4 and height / rows > 0.14:
        _write_numbers(ax, table, scale.limit)
    colour_bar(ax, scale, view.value_name)
    parts = [f"{size} {what}" for size, what in ((tall, "tokens"), (wide, "units")) if size > 1]
    add_caption(ax, f"each cell: the strongest of {' × '.join(parts)}" if parts else "", scale.description)
    add_title(ax, caption(view))
    return fig, ax


def _label(ax: Axes, side: str, texts: tuple[str, ...], strengths: Floats, size: int, inches: float) -> None:
    """The labels of a side of the heat map: all of them, or the strongest with their places."""
    if len(texts) * APART[side] <= inches:
        labels = format_labels(texts, MAX_LABEL, exact=side == "left")
        set_ticks(ax.xaxis if side == "top" else ax.yaxis, labels, leaning="left" if side == "top" else "")
    else:
        named = named_places(strengths, size, inches / APART[side])
        set_some_ticks(ax, side, run_labels(texts, named, size, exact=side == "left"), inches)


def _write_numbers(ax: Axes, table: Floats, limit: float) -> None:
    colours = colormap()
    for (row, column), value in np.ndenumerate(table):
        if np.isnan(value) or abs(value) < _SAID * limit:
            continue
        red, green, blue, _ = colours((value / limit + 1) / 2 if limit else 0.5, bytes=True)
        ink = readable_on(f"#{int(red):02x}{int(green):02x}{int(blue):02x}")
        ax.text(column, row, format_number(value, limit), ha="center", va="center", fontsize=7.5, color=ink)
