"""Lines over the strength of an attack, and over the training of gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.colour import LIGHT, SERIES
from llm_attr.viz.figure import QUIET, add_title, axes_of, drawable, font_options, spread
from llm_attr.viz.scale import Floats
from llm_attr.viz.sign import Numbers, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = tuple(colour for colour in SERIES if colour != SERIES[2])  # without the grey, that of gates that close
_LABEL = 0.045  # the least distance between labels at the end of lines, as a share of the axis


def plot_attack_ladder(
    strengths: Numbers,
    metrics: Mapping[str, Numbers],
    *,
    original: float | None = None,
    ranges: Mapping[str, tuple[Numbers, Numbers]] | None = None,
    strength_name: str = "strength",
    metric_name: str = "accuracy",
    title: str | None = None,
    size: tuple[float, float] = (7.0, 4.0),
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """A metric under attacks of growing strength: a line of steps for each attack, named at its end.

    Args:
        strengths: `(strengths,)`, ascending.
        metrics: for each attack by name `(strengths,)`, as `AttackComparator` gives them; at most five attacks.
        original: the metric without an attack, as a line across.
        ranges: for attacks with several attempts the least and the largest value, `(strengths,)` each, as an area.
        strength_name: what the strength is.
        metric_name: what the metric is.
        title: the title.
        size: size of a new figure in inches.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidShape: a metric has not a value for each strength.
        InvalidValue: there is no attack, more than five, or the strengths do not ascend.
        MissingExtra: matplotlib is not installed.
    """
    places = _values("strengths", strengths)
    if not 0 < len(metrics) <= len(_COLOURS):
        raise InvalidValue(f"a ladder has 1 to {len(_COLOURS)} attacks; given {len(metrics)}")
    if (np.diff(places) <= 0).any():
        raise InvalidValue("the strengths must ascend")
    lines = {name: _values(f"the metric of {name!r}", values, len(places)) for name, values in metrics.items()}
    fig, ax = axes_of(ax, size)
    if original is not None:
        ax.axhline(original, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
        place: dict[str, Any] = {"xytext": (4, -4), "textcoords": "offset points", "va": "top"}
        ax.annotate("no attack", (0, original), xycoords=("axes fraction", "data"), color=QUIET, fontsize=8, **place)
    for (name, values), colour in zip(lines.items(), _COLOURS, strict=False):
        ax.plot(places, values, color=colour, marker="o", markersize=4, linewidth=1.6, zorder=3)
        if ranges and name in ranges:
            low, high = (_values(f"the range of {name!r}", side, len(places)) for side in ranges[name])
            ax.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    shown = [*(value for line in lines.values() for value in line), *([] if original is None else [original])]
    _name_ends(ax, places[-1], {name: line[-1] for name, line in lines.items()}, _COLOURS, shown)
    _finish(ax, strength_name, metric_name, title)
    return fig, ax


def plot_gates(
    probabilities: Numbers,
    names: Sequence[str],
    *,
    steps: Numbers | None = None,
    threshold: float = 0.5,
    step_name: str = "training step",
    title: str | None = None,
    size: tuple[float, float] = (7.0, 4.0),
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """The probability that each gate is open, over training; gates that end open are coloured and named.

    Args:
        probabilities: `(steps, gates)`: `get_gate_active_probs()` from time to time.
        names: a name for each gate.
        steps: `(steps,)` when they were read; by default 0, 1, 2, ...
        threshold: from where on a gate counts as open.
        step_name: what the steps are.
        title: the title.
        size: size of a new figure in inches.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidShape: there are not as many names as gates, or times as steps.
        InvalidValue: a probability is not between 0 and 1.
        MissingExtra: matplotlib is not installed.
    """
    table = to_array(probabilities, "probabilities")
    if table.ndim != 2 or table.shape[1] != len(names) or not len(table):
        raise InvalidShape(f"probabilities must be (steps, {len(names)} gates); given the shape {table.shape}")
    if not ((table >= 0) & (table <= 1)).all():
        raise InvalidValue("probabilities must be between 0 and 1")
    times = np.arange(len(table), dtype=float) if steps is None else _values("steps", steps, len(table))
    fig, ax = axes_of(ax, size)
    order = sorted(range(len(names)), key=lambda gate: -table[-1, gate])
    opened = [gate for gate in order if table[-1, gate] >= threshold]
    colours = {gate: _COLOURS[place % len(_COLOURS)] for place, gate in enumerate(opened)}
    for gate in reversed(order):
        bold = gate in colours
        ax.plot(times, table[:, gate], color=colours.get(gate, "0.75"), linewidth=1.8 if bold else 1.0, zorder=2 + bold)
    ax.axhline(threshold, color=QUIET, linewidth=0.8, linestyle=":", zorder=1)
    ends = {names[gate]: table[-1, gate] for gate in order}
    _name_ends(ax, times[-1], ends, [colours.get(gate, "0.5") for gate in order], [0.0, 1.0])
    ax.set_ylim(-0.03, 1.03)
    _finish(ax, step_name, "probability that the gate is open", title)
    return fig, ax


def _values(name: str, given: Numbers, count: int | None = None) -> Floats:
    values = to_array(given, name)
    if values.ndim != 1 or not len(values) or (count is not None and len(values) != count):
        raise InvalidShape(f"{name} must be {count or 'one or more'} values; given the shape {values.shape}")
    return values


def _name_ends(ax: Axes, x: float, ends: Mapping[str, float], colours: Sequence[str], shown: Sequence[float]) -> None:
    """Names behind the last point of each line, apart from each other."""
    low, high = min(shown), max(shown)
    margin = 0.05 * ((high - low) or 1.0)
    ax.set_ylim(low - margin, high + margin)
    order = sorted(range(len(ends)), key=lambda i: list(ends.values())[i])
    values = [list(ends.values())[i] for i in order]
    places = spread(values, _LABEL * (high - low + 2 * margin), low - margin, high + margin)
    for i, place in zip(order, places, strict=True):
        name = drawable(list(ends)[i])
        ax.annotate(name, (1.015, place), xycoords=("axes fraction", "data"), color=colours[i], fontsize=8.5,
                    va="center", annotation_clip=False, **font_options())  # fmt: skip


def _finish(ax: Axes, across: str, up: str, title: str | None) -> None:
    ax.set_xlabel(drawable(across), color=LIGHT.ink, **font_options())
    ax.set_ylabel(drawable(up), color=LIGHT.ink, **font_options())
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    if title:
        add_title(ax, title)
