"""The picture of a benchmark: a share for each method with its interval, and chance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from llm_attr.viz.colour import SERIES
from llm_attr.viz.figure import add_caption, add_title, axes_of, drawable, font_options

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_shares(
    names: Sequence[str],
    shares: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    chance: float,
    title: str,
) -> Figure:
    """Dots with intervals, the best on top, and a line at chance.

    Args:
        names: the name of each method.
        shares: what each finds, between 0 and 1.
        intervals: low and high of each; NaN where there is none.
        chance: what drawing at random finds.
        title: the heading.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    fig, ax = axes_of(None, (8.0, 1.4 + 0.3 * max(len(names), 2)))
    order = sorted(range(len(names)), key=lambda place: shares[place])
    for height, place in enumerate(order):
        low, high = intervals[place]
        if low == low:
            ax.plot([low, high], [height, height], color="0.45", linewidth=1.4, solid_capstyle="butt")
        ax.plot(shares[place], height, "o", color=SERIES[0], markersize=7)
        ax.text(1.03, height, f"{shares[place]:.2f}", va="center", fontsize=9, **font_options())
    ax.axvline(chance, color="0.6", linewidth=1, linestyle=(0, (4, 3)))
    ax.set(xlim=(0, 1), ylim=(-0.7, len(names) - 0.3))
    ax.set_yticks(range(len(order)), [drawable(names[place]) for place in order], fontsize=9, **font_options())
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)
    add_caption(ax, "share of the planted units that are ranked first; lines: 95 % intervals; dashed: chance")
    add_title(ax, title)
    return fig
