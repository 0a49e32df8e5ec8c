"""Matplotlib figures of text attributions: bars of the units, and a heat map of output tokens and units.

Figures are plain `matplotlib.figure.Figure` objects: nothing is registered with pyplot unless `show` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_attr.errors import InvalidValue, MissingExtra
from llm_attr.viz.colour import colormap, extent, mark, readable_on
from llm_attr.viz.legible import label, printed, shortened
from llm_attr.viz.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_LONG = 14  # cells of a label from which on bars lie, with their labels beside them
_LARGEST = 22.0  # inches of a figure's side
_NUMBERED = 400  # cells of the heat map that get their number, where there is room
# Tried in turn for characters that matplotlib's own font does not have.
_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "WenQuanYi Zen Hei", "Noto Sans", "Arial Unicode MS", "Segoe UI Symbol", "Noto Emoji"),
)
_INVISIBLE = dict.fromkeys(map(ord, "\u200c\u200d\u200e\u200f\u061c\ufe0e\ufe0f"))  # means nothing to matplotlib


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
    labels = _labels(view.units, 48)
    lying = max(map(_cells, labels), default=0) > _LONG
    length = min(1.5 + (0.28 if lying else 0.36) * len(labels), _LARGEST)
    fig, ax = _axes(ax, (8.0, max(length, 2.5)) if lying else (max(length, 5.0), 4.0))
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
        _tick(ax.yaxis, labels, ax.bbox.height / fig.dpi)
    else:
        ax.bar(places, values, yerr=errors, color=colours, width=0.72, **whiskers)
        ax.axhline(0, color="0.25", linewidth=0.8)
        ax.set_xmargin(0.5 / max(len(labels), 1))
        _tick(ax.xaxis, labels, ax.bbox.width / fig.dpi, leaning="right")
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
    fig, ax = _axes(ax, (min(3.5 + cell * columns, _LARGEST), min(2.6 + 0.3 * rows, _LARGEST)))
    width, height = ax.bbox.width / fig.dpi, ax.bbox.height / fig.dpi
    limit = extent(table)
    end = limit or 1.0
    image = ax.imshow(table, cmap=colormap(), vmin=-end, vmax=end, aspect="auto", interpolation="none")
    ax.xaxis.tick_top()
    _tick(ax.xaxis, _labels(view.units, 20), width, leaning="left")
    _tick(ax.yaxis, _labels(view.output_tokens, 20), height)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    if table.size <= _NUMBERED and width / columns > 0.4 and height / rows > 0.14:
        _write_numbers(ax, table, limit)
    bar = fig.colorbar(image, ax=ax, shrink=0.8, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label(_line(view.value_name), **_font())
    _title(ax, view)
    return fig, ax


def show(fig: Figure) -> None:
    """Hand a figure over to pyplot and show it, in a window or in the notebook."""
    from matplotlib import pyplot

    if fig.canvas.manager is None:
        manager = pyplot.figure().canvas.manager
        if manager is not None:
            manager.canvas.figure = fig
            fig.set_canvas(manager.canvas)
    pyplot.show()


def _axes(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    if ax is None:
        fig = Figure(figsize=size, layout="constrained")
        return fig, fig.add_subplot()
    owner = ax.get_figure(root=True)
    if owner is None:
        raise InvalidValue("the axes belong to no figure")
    return owner, ax


def _write_numbers(ax: Axes, table: np.ndarray, limit: float) -> None:
    colours = colormap()
    for (row, column), value in np.ndenumerate(table):
        if np.isnan(value):
            continue
        red, green, blue, _ = colours((value / limit + 1) / 2 if limit else 0.5, bytes=True)
        ink = readable_on(f"#{int(red):02x}{int(green):02x}{int(blue):02x}")
        ax.text(column, row, printed(value, limit), ha="center", va="center", fontsize=7.5, color=ink)


def _tick(axis: Axis, labels: Sequence[str], inches: float, leaning: str = "") -> None:
    """Labels at every place, or at every n-th where they would overlap; `leaning` ones slope, anchored at that end."""
    every = max(-(-len(labels) // max(int(inches / 0.17), 1)), 1)
    options: dict[str, Any] = {"rotation": 45, "ha": leaning, "rotation_mode": "anchor"} if leaning else {}
    axis.set_ticks(range(0, len(labels), every))
    axis.set_ticklabels(labels[::every], **_font(), **options, fontsize=9 if len(labels) <= 40 else 7)


def _finish(ax: Axes, view: AttributionView, value_axis: str) -> None:
    set_label = ax.set_xlabel if value_axis == "x" else ax.set_ylabel
    set_label(_line(view.value_name), **_font())
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="x" if value_axis == "x" else "y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    _title(ax, view)


def _title(ax: Axes, view: AttributionView) -> None:
    if view.title:
        ax.set_title(_line(view.title), loc="left", fontsize=11, pad=12, **_font())


def _labels(texts: Sequence[str], cells: int) -> list[str]:
    return [shortened(_line(text), cells) for text in texts]


def _line(text: str) -> str:
    """One line that matplotlib can draw: characters that no font here has become U+FFFD."""
    shown = label(text).translate(_INVISIBLE)
    return "".join(character if ord(character) in _drawable() else "\ufffd" for character in shown)


def _cells(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)


def _font() -> dict[str, Any]:
    """How every text is written: in the fonts found, and "$" as itself."""
    return {"fontfamily": list(_families()), "parse_math": False}


@cache
def _families() -> tuple[str, ...]:
    """Matplotlib's own font and those of `_FONTS` that are installed."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in _FONTS if name in installed))


@cache
def _drawable() -> frozenset[int]:
    """The code points that the fonts in use have."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(code for name in _families() for code in get_font(findfont(name)).get_charmap())
