"""Attributions of a time series: behind the line of each channel, behind all lines, or as the colours of the lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llm_attr.errors import InvalidShape, InvalidValue, UnknownKeyword
from llm_attr.viz.colour import LIGHT
from llm_attr.viz.figure import QUIET, add_caption, add_title, axes_of, drawable, font_options, new_figure
from llm_attr.viz.scale import Floats
from llm_attr.viz.sign import Numbers, SignedShares, VisualizeSign, enum_member, summed, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_DASHES = ("-", "--", ":", "-.")
_INKS = (LIGHT.ink, "0.45", "0.65")


class TimeseriesVisualizationMethod(Enum):
    """How the attributions of a time series are drawn."""

    overlay_individual = 1
    overlay_combined = 2
    colored_graph = 3


def plot_timeseries(
    attr: Numbers,
    data: Numbers,
    x_values: Numbers | None = None,
    method: str | TimeseriesVisualizationMethod = "overlay_individual",
    sign: str | VisualizeSign = "absolute_value",
    channel_labels: Sequence[str] | None = None,
    *,
    channels_last: bool = True,
    axes: Axes | Iterable[Axes] | None = None,
    outliers: float = 2.0,
    cmap: str | Colormap | None = None,
    alpha: float = 0.7,
    colorbar: bool = False,
    title: str | None = None,
    size: tuple[float, float] = (6.0, 6.0),
    line_options: dict[str, Any] | None = None,
) -> tuple[Figure, list[Axes]]:
    """The attributions of a time series of several channels, on one scale.

    Args:
        attr: `(times, channels)`, or `(channels, times)` without `channels_last`.
        data: the values of the series, like `attr`.
        x_values: `(times,)` the ascending times of the values; by default 0, 1, 2, ...
        method: "overlay_individual": each channel's attributions behind its own line; "overlay_combined": the sums over
            the channels behind all lines; "colored_graph": each channel's line in the colours of its attributions.
        sign: "all", "positive", "negative" or "absolute_value".
        channel_labels: one name for each channel.
        channels_last: whether channels are the last axis.
        axes: axes to draw into, one for each channel or one for "overlay_combined"; by default those of a new figure.
        outliers: percent of the sum of |attribution| that is clipped to the ends of the scale.
        cmap: another colormap.
        alpha: the opacity of the colours behind the lines.
        colorbar: draw a colour bar; otherwise the caption gives the scale.
        title: the title.
        size: size of a new figure in inches.
        line_options: properties of matplotlib's `Line2D` ("colored_graph": `LineCollection`).

    Raises:
        InvalidShape: the shapes of the arrays do not match, or there are not as many names or axes as channels.
        InvalidType: the values are not numbers.
        InvalidValue: `x_values` do not ascend, or a number is out of range.
        UnknownName: unknown method or sign.
        UnknownKeyword: an unknown line property.
        MissingExtra: matplotlib is not installed.
    """
    way, kept = enum_member(TimeseriesVisualizationMethod, "method", method), enum_member(VisualizeSign, "sign", sign)
    values, series = _by_channel(attr, "attr", channels_last), _by_channel(data, "data", channels_last)
    if values.shape != series.shape:
        raise InvalidShape(f"attr and data must have one shape; given {np.shape(attr)} and {np.shape(data)}")
    if not (isinstance(alpha, Real) and 0 <= alpha <= 1):
        raise InvalidValue(f"the opacity of the colours must be in [0, 1]; given {alpha!r}")
    times = _times(x_values, series.shape[1])
    names = _names(channel_labels, len(series))
    combined = way is TimeseriesVisualizationMethod.overlay_combined
    shares = SignedShares.of(summed(values, 0) if combined else values, kept, outliers)
    colours = shares.colormap(cmap)
    options = _options(line_options or {}, way)
    fig, panels = _panels(axes, 1 if combined else len(series), size)
    if combined:
        _shade(panels[0], times, shares, 0, colours, alpha)
        _draw_lines(fig, panels[0], times, series, names, options)
    for place in range(0 if combined else len(series)):
        panel = panels[place]
        if way is TimeseriesVisualizationMethod.colored_graph:
            _draw_coloured(panel, times, series[place], shares, place, colours, options)
        else:
            _shade(panel, times, shares, place, colours, alpha)
            panel.plot(times, series[place], **{"color": LIGHT.ink, "linewidth": 1.2, **options})
        panel.set_ylabel(drawable(names[place]) if names else "", **font_options())
    _finish(fig, panels, times, shares, colours, colorbar, title or "")
    return fig, panels


def _by_channel(numbers: Numbers, name: str, channels_last: bool) -> Floats:
    """`(channels, times)`."""
    array = to_array(numbers, name)
    if array.ndim != 2 or not array.size:
        form = "(times, channels)" if channels_last else "(channels, times)"
        raise InvalidShape(f"{name} must be {form}; given {array.shape}")
    array = array.astype(np.float64)
    return array.T if channels_last else array


def _times(x_values: Numbers | None, length: int) -> Floats:
    if x_values is None:
        return np.arange(length, dtype=np.float64)
    times = to_array(x_values, "x_values").astype(np.float64)
    if times.shape != (length,):
        raise InvalidShape(f"x_values must have one value for each of the {length} times; given {times.shape}")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise InvalidValue("x_values must be finite and ascending")
    return times


def _names(channel_labels: Sequence[str] | None, channels: int) -> list[str]:
    if channel_labels is None:
        return []
    if len(channel_labels) != channels:
        raise InvalidShape(f"channel_labels must name each of the {channels} channels; given {len(channel_labels)}")
    return [str(name) for name in channel_labels]


def _options(given: dict[str, Any], way: TimeseriesVisualizationMethod) -> dict[str, Any]:
    """Line properties under their full names, e.g. "linewidth" for "lw"."""
    if not given:
        return {}
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.collections import LineCollection
    from matplotlib.lines import Line2D

    kind = LineCollection if way is TimeseriesVisualizationMethod.colored_graph else Line2D
    unknown = [name for name in given if not hasattr(kind, f"set_{name}")]
    if unknown:
        accepted = {name.removeprefix("set_") for name in dir(kind) if name.startswith("set_")}
        raise UnknownKeyword("visualize_timeseries_attr", unknown, accepted)
    try:
        return dict(normalize_kwargs(given, kind))
    except TypeError as error:
        raise InvalidValue(f"a property of the lines is given twice; {error}") from error


def _panels(axes: Axes | Iterable[Axes] | None, count: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    if axes is None:
        fig = new_figure(size)
        return fig, list(fig.subplots(count, 1, sharex=True, squeeze=False)[:, 0])
    panels = list(np.ravel(np.asarray(axes, dtype=object)))
    if len(panels) != count:
        raise InvalidShape(f"the method needs axes for {count} panels; given {len(panels)}")
    return axes_of(panels[0], size)[0], panels


def _edges(times: Floats) -> Floats:
    """`(times + 1,)` the midpoints between neighbours, extended at both ends by the same step."""
    if times.size == 1:
        return np.array([times[0] - 0.5, times[0] + 0.5])
    middles = (times[:-1] + times[1:]) / 2
    return np.concatenate([[2 * times[0] - middles[0]], middles, [2 * times[-1] - middles[-1]]])


def _shade(axes: Axes, times: Floats, shares: SignedShares, channel: int, colours: Colormap, alpha: float) -> None:
    """The attributions as stripes behind the lines, over the full height."""
    stripes = axes.pcolormesh(
        _edges(times),
        [0, 1],
        shares.shares[channel][None],
        cmap=colours,
        vmin=shares.lowest,
        vmax=1,
        alpha=alpha,
        linewidth=0,
        antialiased=False,
        snap=True,
        transform=axes.get_xaxis_transform(),
        zorder=0,
    )
    stripes.sticky_edges.y.clear()


def _draw_lines(
    fig: Figure, axes: Axes, times: Floats, series: Floats, names: list[str], options: dict[str, Any]
) -> None:
    """All channels in one frame, distinguished by dashes and greys, since colours show the attributions."""
    for place, row in enumerate(series):
        look = {
            "color": _INKS[place // len(_DASHES) % len(_INKS)],
            "linestyle": _DASHES[place % len(_DASHES)],
            "linewidth": 1.2,
        }
        label = {"label": drawable(names[place])} if names else {}
        axes.plot(times, row, **{**look, **label, **options}, zorder=3)
    if names:
        arranged = fig.get_layout_engine() is not None
        place_of = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if arranged else {"loc": "best"}
        fonts = {"family": font_options()["fontfamily"], "size": 8}
        legend = axes.legend(**place_of, frameon=not arranged, borderaxespad=0.3, prop=fonts)
        for text in legend.get_texts():
            text.set_parse_math(False)


def _draw_coloured(
    axes: Axes,
    times: Floats,
    row: Floats,
    shares: SignedShares,
    channel: int,
    colours: Colormap,
    options: dict[str, Any],
) -> None:
    """A line in segments, each around one time in the colour of its attribution, on an outline."""
    from matplotlib.collections import LineCollection

    edges = _edges(times)
    heights = np.interp(edges, times, row)
    pieces = np.stack(
        [np.stack([edges[:-1], heights[:-1]], 1), np.stack([times, row], 1), np.stack([edges[1:], heights[1:]], 1)], 1
    )
    pieces[0, 0], pieces[-1, 2] = pieces[0, 1], pieces[-1, 1]
    axes.plot(times, row, color=QUIET, linewidth=4.4, solid_capstyle="round")
    look = {"linewidth": 3.2, "capstyle": "round", "joinstyle": "round", **options}
    axes.add_collection(LineCollection(list(pieces), array=shares.shares[channel], cmap=colours, **look))
    axes.collections[-1].set_clim(shares.lowest, 1)


def _finish(
    fig: Figure,
    panels: list[Axes],
    times: Floats,
    shares: SignedShares,
    colours: Colormap,
    colorbar: bool,
    title: str,
) -> None:
    edges = _edges(times)
    for panel in panels:
        panel.set_xlim(edges[0], edges[-1])
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=8)
    add_title(panels[0], title)
    if not colorbar:
        add_caption(panels[-1], shares.description)
        return
    bar = shares.add_bar(fig, colours, ax=panels, fraction=0.05, pad=0.03)
    bar.set_label(shares.rule, fontsize=8, color=QUIET)


def channel_axes(panels: list[Axes]) -> Axes | NDArray[Any]:
    """The axes of a single panel, or those of several as an array `(panels,)`."""
    return panels[0] if len(panels) == 1 else np.array(panels, dtype=object)
