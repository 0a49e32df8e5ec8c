"""Matplotlib figures of curves over removed or added features, with their areas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.colour import LIGHT, SERIES
from llm_attr.viz.figure import add_caption, add_title, axes_of, drawable, font_options
from llm_attr.viz.sign import Numbers, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_curves(
    names: Sequence[str],
    fractions: Numbers,
    values: Numbers,
    *,
    removing: bool = True,
    value_name: str = "output",
    title: str = "",
    ax: Axes | None = None,
) -> tuple[Figure, Axes]:
    """Curves of an output while features are removed or added; the legend has the area between each and zero.

    Args:
        names: the name of each curve.
        fractions: `(points,)` the share of the features that are removed or added, ascending.
        values: `(curves, points)` the output there.
        removing: whether features are removed, so that a low curve is a good one.
        value_name: what is measured, with the unit.
        title: the title.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        InvalidShape: names, fractions and values do not match.
        InvalidValue: a number is not finite, fractions do not ascend, or there are more curves than colours.
        MissingExtra: matplotlib is not installed.

    Example:
        >>> score = deletion(attributions, game)  # doctest: +SKIP
        >>> plot_curves(["mine"], score.fractions, score.curve[:1], value_name="log-probability")  # doctest: +SKIP
    """
    along, rows = to_array(fractions, "fractions"), np.atleast_2d(to_array(values, "values"))
    if along.ndim != 1 or len(along) < 2 or rows.shape != (len(names), len(along)):
        raise InvalidShape(
            f"values must have the shape ({len(names)} curves, points) for two fractions or more; got {rows.shape} for "
            f"{along.shape}"
        )
    if not (np.isfinite(along).all() and np.isfinite(rows).all() and (np.diff(along) > 0).all()):
        raise InvalidValue("fractions and values must be finite, and the fractions ascending")
    if len(rows) > len(SERIES):
        raise InvalidValue(f"at most {len(SERIES)} curves can be told apart; got {len(rows)}")
    fig, ax = axes_of(ax, (8.4, 3.8))
    for name, row, colour in zip(names, rows, SERIES, strict=False):
        area = float(np.sum((row[1:] + row[:-1]) / 2 * np.diff(along)))
        ax.plot(along, row, color=colour, linewidth=2, label=f"{drawable(name)}: area {area:.3g}")
        ax.fill_between(along, row, 0.0, color=colour, alpha=0.1, linewidth=0)
    ax.set_xlim(along[0], along[-1])
    ax.set_ylabel(drawable(value_name), fontsize=9, **font_options())
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)
    ax.axhline(0, color=LIGHT.ink, linewidth=0.6)
    better = "a lower curve is better" if removing else "a higher curve is better"
    add_caption(ax, f"share of the features {'removed' if removing else 'added'}, strongest first; {better}")
    ax.legend(
        frameon=False,
        prop={"family": font_options()["fontfamily"], "size": 8.5},
        loc="upper left",
        bbox_to_anchor=(1.0, 1.0),
    )
    add_title(ax, title)
    return fig, ax
