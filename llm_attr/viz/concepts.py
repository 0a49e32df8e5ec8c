"""Bars of the scores of concepts at layers, with intervals and chance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.colour import LIGHT, SERIES
from llm_attr.viz.figure import QUIET, add_caption, add_title, axes_of, drawable, font_options, set_ticks
from llm_attr.viz.scale import Floats
from llm_attr.viz.sign import Numbers, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = tuple(colour for colour in SERIES if colour != SERIES[2])  # without the grey, that of chance
_PALE = 0.28


def plot_concepts(
    layers: Sequence[str],
    concepts: Sequence[str],
    values: Numbers,
    intervals: tuple[Numbers, Numbers] | None = None,
    significant: Numbers | None = None,
    chance: Numbers | None = None,
    *,
    score_name: str = "score",
    title: str | None = None,
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """A group of bars for each layer, a bar for each concept, with intervals, over the scores of random concepts.

    Args:
        layers: the names of the layers.
        concepts: the names of the concepts, at most five.
        values: `(layers, concepts)` scores.
        intervals: the lower and upper ends of their intervals, `(layers, concepts)` each.
        significant: `(layers, concepts)`: whether a score differs from chance; other bars are pale.
        chance: `(layers, runs)` scores of random concepts: a grey band over their range, a line at the mean.
        score_name: what the scores are.
        title: the title.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidShape: values, intervals, `significant` or `chance` do not match the names.
        InvalidValue: there are no layers, no concepts, or more than five.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> plot_concepts(["conv1"], ["striped"], [[0.9]], ([[0.8]], [[0.95]]))  # doctest: +SKIP
    """
    if not layers or not 0 < len(concepts) <= len(_COLOURS):
        raise InvalidValue(
            f"bars need a layer and 1 to {len(_COLOURS)} concepts; got {len(layers)} and {len(concepts)}"
        )
    shape = (len(layers), len(concepts))
    scores = _table("values", values, shape)
    ends = None if intervals is None else [_table("intervals", each, shape) for each in intervals]
    sure = np.ones(shape, bool) if significant is None else _table("significant", significant, shape).astype(bool)
    fig, ax = axes_of(ax, (max(6.4, 2.6 + len(layers) * (0.5 + 0.34 * len(concepts))), 4.0))
    if chance is not None:
        _draw_chance(ax, to_array(chance, "chance"), len(layers))
    thick = 0.76 / len(concepts)
    for column, concept in enumerate(concepts):
        places = np.arange(len(layers)) + thick * (column - (len(concepts) - 1) / 2)
        for row, place in enumerate(places):
            alpha = 1.0 if sure[row, column] else _PALE
            ax.bar(place, scores[row, column], thick * 0.88, color=_COLOURS[column], alpha=alpha, zorder=3)
        ax.bar(0, 0, 0, color=_COLOURS[column], label=drawable(concept))
        if ends is not None:
            beyond = np.abs(np.stack(ends)[:, :, column] - scores[:, column])
            whiskers: dict[str, Any] = {"capsize": 2.5, "elinewidth": 1, "zorder": 4}
            ax.errorbar(places, scores[:, column], yerr=beyond, fmt="none", ecolor=LIGHT.ink, **whiskers)
    prefix = _shared_prefix(layers)
    _dress(ax, [layer[len(prefix) :] for layer in layers], score_name)
    pale = "pale: no more than chance" if not sure.all() else ""
    grey = "grey: random concepts, least to largest, and their mean" if chance is not None else ""
    named = f"layers: {drawable(prefix)}…" if prefix else ""
    ranges = "" if ends is None else "whiskers: intervals of the means"
    add_caption(ax, "; ".join(filter(None, [named, ranges, grey, pale])))
    font = {"family": font_options()["fontfamily"], "size": 8.5}
    ax.legend(frameon=False, prop=font, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title:
        add_title(ax, title)
    return fig, ax


def _table(name: str, given: Numbers, shape: tuple[int, int]) -> Floats:
    table = to_array(given, name)
    if table.shape != shape:
        raise InvalidShape(f"{name} must be (layers, concepts), here {shape}; given the shape {table.shape}")
    return table


def _shared_prefix(layers: Sequence[str]) -> str:
    """The modules that all names of layers begin with, up to the last dot."""
    parts = [layer.split(".")[:-1] for layer in layers]
    shared = [each[0] for each in takewhile(lambda same: len(set(same)) == 1, zip(*parts, strict=False))]
    return "".join(f"{part}." for part in shared) if len(layers) > 1 else ""


def _draw_chance(ax: Axes, chance: Floats, layers: int) -> None:
    if chance.ndim != 2 or len(chance) != layers or not chance.shape[1]:
        raise InvalidShape(f"chance must be ({layers} layers, runs); given the shape {chance.shape}")
    for row, runs in enumerate(chance):
        ax.fill_between([row - 0.46, row + 0.46], runs.min(), runs.max(), color="0.88", linewidth=0, zorder=1)
        ax.hlines(runs.mean(), row - 0.46, row + 0.46, color=QUIET, linewidth=1.0, linestyle="--", zorder=2)


def _dress(ax: Axes, layers: Sequence[str], score_name: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    ax.grid(axis="y", color="0.94", linewidth=0.8)
    ax.axhline(0, color=LIGHT.ink, linewidth=0.8)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    ax.set_ylabel(drawable(score_name), color=LIGHT.ink, **font_options())
    set_ticks(ax.xaxis, [drawable(layer) for layer in layers])
    ax.xaxis.set_tick_params(length=0)
