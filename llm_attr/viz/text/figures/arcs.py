"""Interactions between pairs of units as arcs: their layout, used by the page as well, and a matplotlib figure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from llm_attr.errors import InvalidValue
from llm_attr.viz.colour import LIGHT
from llm_attr.viz.figure import (
    add_caption,
    add_title,
    axes_of,
    cell_width,
    colour_bar,
    format_labels,
    join_label,
    set_ticks,
)
from llm_attr.viz.formatting import format_number
from llm_attr.viz.scale import Scale
from llm_attr.viz.text.finding import caption
from llm_attr.viz.text.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 20
"""The default number of pairs drawn."""

_ALL = 40  # units up to which all are shown; of more, only those of the drawn pairs
_LONG = 20  # cells of a label, including its number, from which on units are listed vertically
_WIDEST, _THINNEST = 5.0, 1.2  # points of an arc's line
_ROW, _DEPTH = 1.75, 9.0  # rem: of a unit's row on the page, of the longest arc


@dataclass(frozen=True)
class Arc:
    """A pair of units: their places among the shown units, the value, and its share of the scale."""

    first: int
    second: int
    value: float
    share: float


@dataclass(frozen=True)
class Arcs:
    """The layout of an arc diagram.

    Attributes:
        units: the positions of the shown units, in reading order.
        arcs: the strongest pairs in descending order.
        scale: the scale of all pairs, without the units' own values.
        left_out: how many pairs with a nonzero value are not shown.
    """

    units: tuple[int, ...]
    arcs: tuple[Arc, ...]
    scale: Scale
    left_out: int

    @classmethod
    def of(cls, view: AttributionView, most: int = MOST) -> Arcs:
        """The strongest pairs of a view.

        Raises:
            InvalidValue: the view has no interactions, or `most` is below 1.
        """
        if view.interactions is None:
            raise InvalidValue("the attribution holds no pairs of units; use method 'pairwise_interactions'")
        if most < 1:
            raise InvalidValue(f"most must be 1 or more pairs; got {most!r}")
        pairs = view.pairs()
        scale = Scale.of([value for *_, value in pairs])
        shown = pairs[:most]
        units = tuple(range(len(view.units)))
        if len(units) > _ALL:
            units = tuple(sorted({unit for first, second, _ in shown for unit in (first, second)}))
        places = {unit: place for place, unit in enumerate(units)}
        shares = scale.shares([value for *_, value in shown]).tolist()
        arcs = [
            Arc(places[first], places[second], value, share)
            for (first, second, value), share in zip(shown, shares, strict=True)
        ]
        return cls(units, tuple(arcs), scale, len(pairs) - len(shown))


def plot_arcs(view: AttributionView, ax: Axes | None = None, *, most: int = MOST) -> tuple[Figure, Axes]:
    """Arc diagram of the strongest pairs of units: colour shows the value, width its magnitude.

    Short units are placed along a line with arcs above, long ones in a column with arcs at the left, each with its own
    value. Of more than 40 units, only those of the drawn pairs are shown.

    Args:
        view: what to draw; needs `interactions`.
        ax: axes to draw into; by default those of a new figure.
        most: the number of pairs to draw; the caption says how many are left out.

    Raises:
        InvalidValue: the view has no interactions, or `most` is below 1.
        MissingExtra: matplotlib is not installed.
    """
    layout = Arcs.of(view, most)
    labels = _labels(view, layout)
    lying = max(map(cell_width, labels), default=0) > _LONG
    count, reach = max(len(labels), 2), max((abs(arc.second - arc.first) for arc in layout.arcs), default=1) / 2
    fig, ax = axes_of(ax, _size(labels, count, reach, lying))
    for arc in reversed(layout.arcs):
        _draw(ax, arc, lying)
    ends = (-0.7, count - 0.3)
    points = np.arange(len(labels)), np.zeros(len(labels))
    ax.plot(*(points[::-1] if lying else points), "o", color=LIGHT.ink, markersize=4, zorder=4, clip_on=False)
    if lying:
        ax.set(xlim=(-reach * 1.08, 0), ylim=ends[::-1])
        ax.yaxis.tick_right()
        set_ticks(ax.yaxis, labels)
    else:
        ax.set(xlim=ends, ylim=(0, reach * 1.08))
        set_ticks(ax.xaxis, labels, leaning="right")
    (ax.xaxis if lying else ax.yaxis).set_ticks([])
    ax.tick_params(length=0, pad=8)
    ax.spines[:].set_visible(False)
    bar = {"location": "left", "shrink": 0.9} if lying else {}
    colour_bar(ax, layout.scale, f"interaction, {view.value_name}", **bar)
    add_caption(ax, _caption(view, layout), layout.scale.description)
    add_title(ax, caption(view))
    return fig, ax


def _labels(view: AttributionView, layout: Arcs) -> list[str]:
    """Each unit's text and its own value, and its place if some units are left out."""
    texts = format_labels([view.units[unit] for unit in layout.units], 44)
    own = np.diagonal(np.asarray(view.interactions, dtype=np.float64)) if view.interactions else np.zeros(0)
    places = [f"{unit + 1:,}" if len(layout.units) < len(view.units) else "" for unit in layout.units]
    numbers = ["" if math.isnan(own[unit]) else format_number(own[unit], view.limit) for unit in layout.units]
    return [join_label(*parts) for parts in zip(places, texts, numbers, strict=True)]


def _size(labels: list[str], count: int, reach: float, lying: bool) -> tuple[float, float]:
    """The size in inches at which half-circle arcs stay nearly round."""
    if not lying:
        return min(max(2.0 + 0.5 * count, 5.5), 14.0), min(1.8 + 0.5 * reach, 6.0)
    width = 1.6 + 0.09 * max(map(cell_width, labels)) + min(max(0.45 * reach, 1.2), 6.0)
    return max(width, 5.5), max(1.6 + 0.3 * count, 2.6)


def _caption(view: AttributionView, layout: Arcs) -> str:
    caption = "beside each unit its own value"
    if layout.left_out:
        caption += f"; the {len(layout.arcs)} strongest of {layout.left_out + len(layout.arcs):,} pairs"
    if len(layout.units) < len(view.units):
        caption += f"; units of these pairs only, {len(layout.units)} of {len(view.units):,}"
    return caption


def _draw(ax: Axes, arc: Arc, lying: bool) -> None:
    """Half an ellipse with a grey edge that keeps faint arcs visible."""
    turn = np.linspace(0, math.pi, 60)
    half = (arc.second - arc.first) / 2
    along, away = (arc.first + arc.second) / 2 - half * np.cos(turn), half * np.sin(turn)
    line = (-away, along) if lying else (along, away)
    width = _THINNEST + (_WIDEST - _THINNEST) * abs(arc.share)
    ax.plot(*line, color="0.72", linewidth=width + 1.0, solid_capstyle="butt", zorder=2)
    ax.plot(*line, color=LIGHT.at(arc.share), linewidth=width, solid_capstyle="butt", zorder=2)
