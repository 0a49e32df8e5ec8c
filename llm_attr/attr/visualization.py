"""Plots of attributions, with the names and arguments of Captum's module.

Images and masks are `(height, width, channels)`. Every plot shows its scale. The drawing is done by `llm_attr.viz`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from llm_attr.errors import InvalidType, UnknownKeyword
from llm_attr.viz.figure import show
from llm_attr.viz.image import ImageVisualizationMethod, plot_image, plot_images
from llm_attr.viz.overlay import draw_mask_border, draw_mask_legend, overlay_segments
from llm_attr.viz.sign import Numbers, VisualizeSign
from llm_attr.viz.text.records import (
    Html,
    VisualizationDataRecord,
    format_classname,
    format_special_tokens,
    format_tooltip,
    format_word_importances,
    table_of,
)
from llm_attr.viz.timeseries import TimeseriesVisualizationMethod, channel_axes, plot_timeseries

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = [
    "ImageVisualizationMethod",
    "TimeseriesVisualizationMethod",
    "VisualizationDataRecord",
    "VisualizeSign",
    "draw_mask_border",
    "draw_mask_legend",
    "format_classname",
    "format_special_tokens",
    "format_tooltip",
    "format_word_importances",
    "overlay_segments",
    "visualize_image_attr",
    "visualize_image_attr_multiple",
    "visualize_text",
    "visualize_timeseries_attr",
]

_IMAGE_OPTIONS = {"outlier_perc": "outliers", "cmap": "cmap", "alpha_overlay": "alpha", "show_colorbar": "colorbar"}


def visualize_image_attr(
    attr: Numbers | None,
    original_image: Numbers | None = None,
    method: str | ImageVisualizationMethod = "heat_map",
    sign: str | VisualizeSign = "absolute_value",
    plt_fig_axis: tuple[Figure, Axes] | None = None,
    outlier_perc: float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.5,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[float, float] = (6, 6),
    use_pyplot: bool = True,
) -> tuple[Figure, Axes]:
    """Draw the attributions of one image, summed over its channels.

    Args:
        attr: `(height, width, channels)` or `(height, width)`; may be None for the method "original_image".
        original_image: as `attr`, floats in [0, 1] or integers in [0, 255]; required except for "heat_map".
        method: "heat_map", "blended_heat_map", "original_image", "masked_image" or "alpha_scaling".
        sign: "all", "positive", "negative" or "absolute_value"; "masked_image" and "alpha_scaling" do not take "all".
        plt_fig_axis: a figure and its axes to draw into; the caller shows the figure.
        outlier_perc: the percentage of the sum of |attribution| clipped at the ends of the scale, in [0, 100).
        cmap: the colours of the heat maps.
        alpha_overlay: the opacity of a blended heat map, in [0, 1]; without `cmap` it fades out towards zero.
        show_colorbar: draw a colour bar below the image, instead of a line of text with the scale.
        title: the title.
        fig_size: the size of a new figure in inches.
        use_pyplot: register a new figure with pyplot and show it; otherwise the figure is only returned.

    Raises:
        InvalidShape: the shapes of attributions and image do not match, or their channels come first.
        InvalidType: they are not numbers.
        InvalidValue: the method needs an image, attributions or a single sign, or a number is out of range.
        UnknownName: there is no such method or sign.
        MissingExtra: matplotlib is not installed.
    """
    fig, ax = plot_image(
        attr,
        original_image,
        method,
        sign,
        axes=None if plt_fig_axis is None else _given(plt_fig_axis),
        outliers=outlier_perc,
        cmap=cmap,
        alpha=alpha_overlay,
        colorbar=show_colorbar,
        title=title,
        size=fig_size,
    )
    if use_pyplot and plt_fig_axis is None:
        show(fig)
    return fig, ax


def visualize_image_attr_multiple(
    attr: Numbers | None,
    original_image: Numbers | None,
    methods: Sequence[str | ImageVisualizationMethod],
    signs: Sequence[str | VisualizeSign],
    titles: Sequence[str] | None = None,
    fig_size: tuple[float, float] = (8, 6),
    use_pyplot: bool = True,
    **kwargs: Any,
) -> tuple[Figure, Axes | list[Axes]]:
    """Draw several views of the attributions of one image side by side.

    Args:
        attr: `(height, width, channels)` or `(height, width)`.
        original_image: as `attr`, floats in [0, 1] or integers in [0, 255].
        methods: one per view, see `visualize_image_attr`.
        signs: one per view, see `visualize_image_attr`.
        titles: one title per view.
        fig_size: the size of the figure in inches.
        use_pyplot: register the figure with pyplot and show it; otherwise the figure is only returned.
        **kwargs: `outlier_perc`, `cmap`, `alpha_overlay` and `show_colorbar` of `visualize_image_attr`.

    Returns:
        The figure, and the axes of a single view or a list of the axes of several.

    Raises:
        InvalidValue: there is no view, or not one sign and title per view; otherwise see `visualize_image_attr`.
        UnknownKeyword: a keyword is not one of these.
    """
    unknown = [name for name in kwargs if name not in _IMAGE_OPTIONS]
    if unknown:
        raise UnknownKeyword("visualize_image_attr_multiple", unknown, _IMAGE_OPTIONS)
    options = {_IMAGE_OPTIONS[name]: value for name, value in kwargs.items()}
    fig, panels = plot_images(attr, original_image, methods, signs, titles=titles, size=fig_size, **options)
    if use_pyplot:
        show(fig)
    return fig, panels[0] if len(panels) == 1 else panels


def visualize_timeseries_attr(
    attr: Numbers,
    data: Numbers,
    x_values: Numbers | None = None,
    method: str | TimeseriesVisualizationMethod = "overlay_individual",
    sign: str | VisualizeSign = "absolute_value",
    channel_labels: Sequence[str] | None = None,
    channels_last: bool = True,
    plt_fig_axis: tuple[Figure, Axes | Sequence[Axes]] | None = None,
    outlier_perc: float = 2,
    cmap: str | Colormap | None = None,
    alpha_overlay: float = 0.7,
    show_colorbar: bool = False,
    title: str | None = None,
    fig_size: tuple[float, float] = (6, 6),
    use_pyplot: bool = True,
    **pyplot_kwargs: Any,
) -> tuple[Figure, Axes | NDArray[Any]]:
    """Draw the attributions of a multi-channel time series.

    Args:
        attr: `(times, channels)`, or `(channels, times)` without `channels_last`.
        data: the values of the series, as `attr`.
        x_values: `(times,)`, ascending; by default 0, 1, 2, ...
        method: "overlay_individual", "overlay_combined" or "colored_graph".
        sign: "all", "positive", "negative" or "absolute_value".
        channel_labels: one name per channel.
        channels_last: whether the channels are the last axis.
        plt_fig_axis: a figure and its axes to draw into, one per channel or one for "overlay_combined"; the caller
            shows the figure.
        outlier_perc: the percentage of the sum of |attribution| clipped at the ends of the scale, in [0, 100).
        cmap: the colours.
        alpha_overlay: the opacity of the colours behind the lines.
        show_colorbar: draw a colour bar, instead of a line of text with the scale.
        title: the title.
        fig_size: the size of a new figure in inches.
        use_pyplot: register a new figure with pyplot and show it; otherwise the figure is only returned.
        **pyplot_kwargs: line properties such as `linewidth`.

    Returns:
        The figure, and the axes of a single panel or an array `(channels,)` of axes.

    Raises:
        InvalidShape: the shapes of the arrays do not match, or there is not one name or axis per channel.
        InvalidType: they are not numbers.
        InvalidValue: `x_values` are not ascending, or a number is out of range.
        UnknownName: there is no such method or sign.
        UnknownKeyword: lines do not have this property.
        MissingExtra: matplotlib is not installed.
    """
    fig, panels = plot_timeseries(
        attr,
        data,
        x_values,
        method,
        sign,
        channel_labels,
        channels_last=channels_last,
        axes=None if plt_fig_axis is None else _given(plt_fig_axis),
        outliers=outlier_perc,
        cmap=cmap,
        alpha=alpha_overlay,
        colorbar=show_colorbar,
        title=title,
        size=fig_size,
        line_options=pyplot_kwargs,
    )
    if use_pyplot and plt_fig_axis is None:
        show(fig)
    return fig, channel_axes(panels)


def visualize_text(datarecords: Iterable[VisualizationDataRecord], legend: bool = True) -> Html:
    """Draw classified texts as a table: labels, score, and the words coloured by their attributions.

    A notebook displays the table immediately. The attribute `data` of the result is the HTML, also without IPython.

    Args:
        datarecords: the texts, which share one scale.
        legend: explain the colours above the table.

    Raises:
        InvalidShape: a record has more words than attributions.
        InvalidType: an item is not a record, or its numbers are not numbers.
    """
    if isinstance(datarecords, VisualizationDataRecord):
        raise InvalidType("visualize_text takes a list of VisualizationDataRecords; got a single one: put it in [ ]")
    html = table_of(datarecords, legend)
    html.draw()
    return html


def _given(plt_fig_axis: tuple[Figure, Any]) -> Any:
    """The axes in a pair of figure and axes."""
    if not (isinstance(plt_fig_axis, tuple | list) and len(plt_fig_axis) == 2):
        raise InvalidType(f"plt_fig_axis must be a pair (figure, axes); given {type(plt_fig_axis).__name__}")
    return plt_fig_axis[1]
