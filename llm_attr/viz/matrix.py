"""Matplotlib figures of text attributions: bars of the units, and a heat map of output tokens and units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from llm_attr.errors import InvalidValue
from llm_attr.viz.colour import colormap, mark, readable_on
from llm_attr.viz.figure import axes_of, cells, entitle, font, labels_of, line, tick
from llm_attr.viz.legible import printed
from llm_attr.viz.scale import extent
from llm_attr.viz.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONG = 14  # cells of a label from which on bars lie, with their labels beside them
_LARGEST = 22.0  # inches of a figure's side
_NUMBERED = 400  # cells of the heat map that get their number, where there is room


def plot_unit_values(view: AttributionView, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Bars of the units' values in the order of the prompt, from zero, coloured by sign, with their standard errors.

    Short labels stand below upright bars, long ones beside lying bars. The figure grows with the units up to a
    cap; then labels are thinned.

    Args:
        view: what to draw.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        MissingExtra: if matplotlib is not installed.
    """
    labels = labels_of(view.units, 48)
    lying = max(map(cells, labels), default=0) > _LONG
    length = min(1.5 + (0.28 if lying else 0.36) * len(labels), _LARGEST)
    fig, ax = axes_of(ax, (8.0, max(length, 2.5)) if lying else (max(length, 5.0), 4.0))
    values = np.nan_to_num(np.asarray(view.unit_values), nan=0.0, posinf=view.limit, neginf=-view.limit)
    colours = [mark(value) for value in values]
    places = np.arange(len(labels))
    whiskers: dict[str, Any] = {"ecolor": "0.25", "capsize": 2, "error_kw": {"linewidth": 0.9}}
    errors = None if view.unit_errors is None else np.nan_to_num(np.asarray(view.unit_errors), posinf=0.0)
    if lying:
        ax.barh(places, values, xerr=errors, color=colours, height=0.72, **whiskers)
        ax.invert_yaxis()
        ax.axvline(0, color="0.25", linewidth=0.8)
        ax.set_ymargin(0.5 / max(len(labels), 1))
        tick(ax.yaxis, labels, ax.bbox.height / fig.dpi)
    else:
        ax.bar(places, values, yerr=errors, color=colours, width=0.72, **whiskers)
        ax.axhline(0, color="0.25", linewidth=0.8)
        ax.set_xmargin(0.5 / max(len(labels), 1))
        tick(ax.xaxis, labels, ax.bbox.width / fig.dpi, leaning="right")
    _finish(ax, view, value_axis="x" if lying else "y")
    return fig, ax


def plot_token_values(view: AttributionView, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """A heat map of the values of each output token (rows) for each unit (columns), white at zero.

    Cells hold their numbers while they are few; nan cells stay empty.

    Args:
        view: what to draw.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidValue: if the view has no token values.
        MissingExtra: if matplotlib is not installed.
    """
    if not view.token_values or not view.units:
        raise InvalidValue("the attribution has no values of single output tokens; plot the units' values instead")
    table = np.asarray(view.token_values, dtype=np.float64)
    rows, columns = table.shape
    cell = 0.62 if table.size <= _NUMBERED else 0.3
    fig, ax = axes_of(ax, (min(3.5 + cell * columns, _LARGEST), min(2.6 + 0.3 * rows, _LARGEST)))
    width, height = ax.bbox.width / fig.dpi, ax.bbox.height / fig.dpi
    limit = extent(table)
    end = limit or 1.0
    image = ax.imshow(table, cmap=colormap(), vmin=-end, vmax=end, aspect="auto", interpolation="none")
    ax.xaxis.tick_top()
    tick(ax.xaxis, labels_of(view.units, 20), width, leaning="left")
    tick(ax.yaxis, labels_of(view.output_tokens, 20), height)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if table.size <= _NUMBERED and width / columns > 0.4 and height / rows > 0.14:
        _write_numbers(ax, table, limit)
    bar = fig.colorbar(image, ax=ax, shrink=0.8, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label(line(view.value_name), **font())
    entitle(ax, view.title)
    return fig, ax


def _write_numbers(ax: Axes, table: np.ndarray, limit: float) -> None:
    colours = colormap()
    for (row, column), value in np.ndenumerate(table):
        if np.isnan(value):
            continue
        red, green, blue, _ = colours((value / limit + 1) / 2 if limit else 0.5, bytes=True)
        ink = readable_on(f"#{int(red):02x}{int(green):02x}{int(blue):02x}")
        ax.text(column, row, printed(value, limit), ha="center", va="center", fontsize=7.5, color=ink)


def _finish(ax: Axes, view: AttributionView, value_axis: str) -> None:
    set_label = ax.set_xlabel if value_axis == "x" else ax.set_ylabel
    set_label(line(view.value_name), **font())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x" if value_axis == "x" else "y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    entitle(ax, view.title)
