"""Matplotlib figures of text attributions: bars of the units, and a heat map of output tokens and units.

What a figure cannot show one by one, it merges: neighbours become runs, a run has the value of its strongest member, so
that one needle in a long text stays as strong as it is. The picture says how many a run holds, and names the strongest.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_attr.errors import InvalidValue
from llm_attr.viz.colour import colormap, mark, readable_on
from llm_attr.viz.figure import (
    APART,
    axes_of,
    beside,
    cells,
    colour_bar,
    entitle,
    figure_of,
    font,
    labels_of,
    line,
    room,
    say,
    tick,
    tick_some,
)
from llm_attr.viz.legible import printed
from llm_attr.viz.scale import Floats, Scale
from llm_attr.viz.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LONG = 14  # cells of a label from which on bars lie, with their labels beside them
_LISTED = 60  # units up to which every bar has its label
_FEWEST = 8  # upright bars that a figure has room for
_LARGEST = 14.0  # inches of a figure's side
_FINEST = 0.05  # inches of the narrowest bar or cell
_WIDEST = 20  # cells of a label
_NAMED = 24  # labels of strongest units, where not all fit
_NUMBERED = 400  # cells of the heat map that get their number, where there is room


def plot_unit_values(view: AttributionView, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Bars of the units' values in the order of the prompt, from zero, coloured by sign, with their errors.

    Up to 60 units, each has its label: short ones stand below upright bars, long ones beside lying bars. More units, or
    those that given axes are too small for, stand upright without errors, the strongest of them named; neighbours share
    a bar where there is no room.

    Args:
        view: what to draw.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        MissingExtra: if matplotlib is not installed.
    """
    labels = labels_of(view.units, 48) if len(view.units) <= _LISTED else []
    wide, high = (math.inf, math.inf) if ax is None else _places(ax)
    lie = max(map(cells, labels), default=0) > _LONG or len(labels) > wide
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
    entitle(ax, view.title)
    return fig, ax


def _places(ax: Axes) -> tuple[float, float]:
    """How many labels axes have room for below them, and beside them."""
    width, height = room(ax)
    return 0.6 * width / APART["top"], height / APART["left"]


def _draw_lying(ax: Axes, view: AttributionView, labels: list[str]) -> None:
    values, colours, whiskers = _bars(view)
    ax.barh(range(len(labels)), values, xerr=whiskers.pop("errors"), color=colours, height=0.72, **whiskers)
    ax.invert_yaxis()
    ax.axvline(0, color="0.25", linewidth=0.8)
    ax.set_ymargin(0.5 / max(len(labels), 1))
    ax.grid(axis="x", color="0.9", linewidth=0.8)
    tick(ax.yaxis, labels)
    if view.given_scale:
        ax.set_xlim(-view.limit * 1.05, view.limit * 1.05)
    say(ax, line(view.value_name), _told(view))


def _draw_upright(ax: Axes, view: AttributionView, labels: list[str]) -> None:
    values, colours, whiskers = _bars(view)
    ax.bar(range(len(labels)), values, yerr=whiskers.pop("errors"), color=colours, width=0.72, **whiskers)
    ax.set_xmargin(max(0.5, (_FEWEST - len(labels)) / 2) / max(len(labels), 1))
    tick(ax.xaxis, labels, leaning="right")
    _stand(ax, view)
    say(ax, _told(view))


def _draw_many(ax: Axes, view: AttributionView) -> None:
    """One bar for each run of units, the strongest units named above."""
    width = ax.bbox.width / figure_of(ax).dpi
    size = _run_size(len(view.units), width)
    values = _strongest(np.asarray(view.unit_values)[None], 1, size)[0]
    drawn = np.nan_to_num(values, nan=0.0, posinf=view.limit, neginf=-view.limit)
    ax.bar(range(len(drawn)), drawn, color=[mark(value) for value in drawn], width=1.0 if size > 1 else 0.8)
    ax.set_xlim(-0.5, len(drawn) - 0.5)
    ax.xaxis.tick_top()
    named = _named(np.asarray(view.unit_values), size, width / APART["top"])
    tick_some(ax, "top", _labels(view.units, named, size), width)
    for unit in named:
        ax.axvline(unit // size, color="0.88", linewidth=0.6, zorder=0)
    _stand(ax, view)
    told = [f"{len(view.units):,} units in the order of the prompt; the strongest are named, with their places"]
    told += [f"each bar: the strongest of {size} units"] if size > 1 else []
    told += ["errors are not drawn"] if view.unit_errors is not None else []
    say(ax, "; ".join(told), view.scale.said)


def _stand(ax: Axes, view: AttributionView) -> None:
    ax.axhline(0, color="0.25", linewidth=0.8)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_ylabel(line(view.value_name), **font())
    if view.given_scale:
        ax.set_ylim(-view.limit * 1.05, view.limit * 1.05)


def _bars(view: AttributionView) -> tuple[Floats, list[str], dict[str, Any]]:
    """Finite lengths, colours, and how errors are drawn."""
    values = np.nan_to_num(np.asarray(view.unit_values), nan=0.0, posinf=view.limit, neginf=-view.limit)
    errors = None if view.unit_errors is None else np.nan_to_num(np.asarray(view.unit_errors), posinf=0.0)
    whiskers = {"errors": errors, "ecolor": "0.25", "capsize": 2, "error_kw": {"linewidth": 0.9}}
    return values, [mark(value) for value in values], whiskers


def _told(view: AttributionView) -> str:
    """What the figure has to say of its whiskers and its scale."""
    whiskers = [] if view.unit_errors is None else [f"whiskers: {line(view.error_name)}"]
    return "; ".join([*whiskers, view.scale.said])


def plot_token_values(view: AttributionView, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """A heat map of the values of each output token (rows) for each unit (columns), white at zero.

    Cells hold their numbers while they are few; nan cells stay empty. Where not every unit or token has room for a
    label, the strongest have theirs; where there is no room for a cell, neighbours share one, with the value of the
    strongest of them.

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
    scale, tall, wide = Scale.of(table), _run_size(rows, height), _run_size(columns, width)
    drawn = np.clip(_strongest(table, tall, wide), -scale.limit, scale.limit)
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
    say(ax, f"each cell: the strongest of {' × '.join(parts)}" if parts else "", scale.said)
    entitle(ax, view.title)
    return fig, ax


def _label(ax: Axes, side: str, texts: tuple[str, ...], strengths: Floats, size: int, inches: float) -> None:
    """All labels of a side of the heat map, or the strongest with their places."""
    if len(texts) * APART[side] <= inches:
        labels = labels_of(texts, _WIDEST, exact=side == "left")
        tick(ax.xaxis if side == "top" else ax.yaxis, labels, leaning="left" if side == "top" else "")
    else:
        named = _named(strengths, size, inches / APART[side])
        tick_some(ax, side, _labels(texts, named, size, exact=side == "left"), inches)


def _labels(texts: tuple[str, ...], named: list[int], size: int, *, exact: bool = False) -> dict[float, str]:
    """The places in the prompt or output, from 1, with the texts, by the bar or cell that they are in."""
    labels = labels_of([texts[place] for place in named], _WIDEST, exact=exact)
    return {place // size: beside(f"{place + 1:,}", label) for place, label in zip(named, labels, strict=True)}


def _run_size(count: int, inches: float) -> int:
    """How many neighbours share a bar or cell."""
    return math.ceil(count / max(int(inches / _FINEST), 1))


def _strongest(table: Floats, tall: int, wide: int) -> Floats:
    """The value of largest magnitude of each block of `tall` rows and `wide` columns; nan where there is none."""
    rows, columns = -(-table.shape[0] // tall), -(-table.shape[1] // wide)
    padded = np.full((rows * tall, columns * wide), np.nan)
    padded[: table.shape[0], : table.shape[1]] = table
    blocks = padded.reshape(rows, tall, columns, wide).swapaxes(1, 2).reshape(rows, columns, tall * wide)
    places = np.where(np.isnan(blocks), -1.0, np.abs(blocks)).argmax(-1)
    return np.asarray(np.take_along_axis(blocks, places[..., None], -1)[..., 0])


def _named(values: Floats, size: int, room: float) -> list[int]:
    """The strongest places, at most one of each run of `size` neighbours, as many as there is room for."""
    found: dict[int, int] = {}
    magnitudes = np.abs(np.nan_to_num(values, nan=0.0))
    for place in np.argsort(-magnitudes, kind="stable").tolist():
        if len(found) == min(_NAMED, max(int(room), 1)) or not magnitudes[place]:
            break
        found.setdefault(place // size, place)
    return sorted(found.values())


def _write_numbers(ax: Axes, table: Floats, limit: float) -> None:
    colours = colormap()
    for (row, column), value in np.ndenumerate(table):
        if np.isnan(value):
            continue
        red, green, blue, _ = colours((value / limit + 1) / 2 if limit else 0.5, bytes=True)
        ink = readable_on(f"#{int(red):02x}{int(green):02x}{int(blue):02x}")
        ax.text(column, row, printed(value, limit), ha="center", va="center", fontsize=7.5, color=ink)
