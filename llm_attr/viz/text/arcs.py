"""Pairs of units that matter together, as arcs between them: a matplotlib figure, and the SVG of the page."""

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
from llm_attr.viz.text.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 20
"""Pairs that are drawn unless another number is asked for."""

_ALL = 40  # units up to which every unit has its place; of more, those of the pairs drawn
_LONG = 20  # cells of a label, its number included, from which on units stand below each other
_WIDEST, _THINNEST = 5.0, 1.2  # points of an arc's line
_ROW, _DEPTH = 1.75, 9.0  # rem: of a unit's row on the page, of the longest arc


@dataclass(frozen=True)
class Arc:
    """A pair of units: their places among those shown, the value, and its share of the scale."""

    first: int
    second: int
    value: float
    share: float


@dataclass(frozen=True)
class Arcs:
    """What a diagram of pairs shows.

    Attributes:
        units: the positions of the units that are shown, in the order of the prompt.
        arcs: the strongest pairs, strongest first.
        scale: that of all pairs; the units' own values do not count.
        left_out: pairs with a value other than 0 that are not shown.
    """

    units: tuple[int, ...]
    arcs: tuple[Arc, ...]
    scale: Scale
    left_out: int

    @classmethod
    def of(cls, view: AttributionView, most: int = MOST) -> Arcs:
        """The strongest pairs of a view.

        Raises:
            InvalidValue: the view holds no pairs, or `most` is below 1.
        """
        if view.interactions is None:
            raise InvalidValue("the attribution holds no pairs of units; method 'pairwise_interactions' finds them")
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
    """An arc for each of the strongest pairs of units: its colour says sign and strength, its width |value|.

    Short units stand along a line with arcs above; long ones below each other, with arcs at the left. Each unit's own
    value is beside it. Of more than 40 units only those of the pairs are shown.

    Args:
        view: what to draw; with `interactions`.
        ax: axes to draw into; by default those of a new figure.
        most: pairs to draw; the picture says how many are left out.

    Raises:
        InvalidValue: the view has no interactions, or `most` is below 1.
        MissingExtra: matplotlib is not installed.
    """
    found = Arcs.of(view, most)
    labels = _labels(view, found)
    lying = max(map(cell_width, labels), default=0) > _LONG
    count, reach = max(len(labels), 2), max((abs(arc.second - arc.first) for arc in found.arcs), default=1) / 2
    fig, ax = axes_of(ax, _size(labels, count, reach, lying))
    for arc in reversed(found.arcs):
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
    colour_bar(ax, found.scale, f"interaction, {view.value_name}", **bar)
    add_caption(ax, _told(view, found), found.scale.description)
    add_title(ax, view.title)
    return fig, ax


def _labels(view: AttributionView, found: Arcs) -> list[str]:
    """Each unit's text and its own value; its place where some are left out."""
    texts = format_labels([view.units[unit] for unit in found.units], 44)
    own = np.diagonal(np.asarray(view.interactions, dtype=np.float64)) if view.interactions else np.zeros(0)
    places = [f"{unit + 1:,}" if len(found.units) < len(view.units) else "" for unit in found.units]
    numbers = ["" if math.isnan(own[unit]) else format_number(own[unit], view.limit) for unit in found.units]
    return [join_label(*parts) for parts in zip(places, texts, numbers, strict=True)]


def _size(labels: list[str], count: int, reach: float, lying: bool) -> tuple[float, float]:
    """Inches at which arcs of half a circle stay nearly round."""
    if not lying:
        return min(max(2.0 + 0.5 * count, 5.5), 14.0), min(1.8 + 0.5 * reach, 6.0)
    width = 1.6 + 0.09 * max(map(cell_width, labels)) + min(max(0.45 * reach, 1.2), 6.0)
    return max(width, 5.5), max(1.6 + 0.3 * count, 2.6)


def _told(view: AttributionView, found: Arcs) -> str:
    told = "beside each unit its own value"
    if found.left_out:
        told += f"; the {len(found.arcs)} strongest of {found.left_out + len(found.arcs):,} pairs"
    if len(found.units) < len(view.units):
        told += f"; units of these pairs only, {len(found.units)} of {len(view.units):,}"
    return told


def _draw(ax: Axes, arc: Arc, lying: bool) -> None:
    """Half an ellipse as high as it is wide, with a grey edge that keeps faint ones visible."""
    turn = np.linspace(0, math.pi, 60)
    half = (arc.second - arc.first) / 2
    along, away = (arc.first + arc.second) / 2 - half * np.cos(turn), half * np.sin(turn)
    line = (-away, along) if lying else (along, away)
    width = _THINNEST + (_WIDEST - _THINNEST) * abs(arc.share)
    ax.plot(*line, color="0.72", linewidth=width + 1.0, solid_capstyle="butt", zorder=2)
    ax.plot(*line, color=LIGHT.at(arc.share), linewidth=width, solid_capstyle="butt", zorder=2)
