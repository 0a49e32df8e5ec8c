"""Attributions of the pixels of an image: heat maps, on their own or over the image, and images shaded by them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.colour import LIGHT, ramp
from llm_attr.viz.figure import add_caption, axes_of, axes_size, drawable, font_options, new_figure, wrap_text
from llm_attr.viz.scale import Floats
from llm_attr.viz.sign import BELOW, Numbers, SignedShares, VisualizeSign, enum_member, summed, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_CHANNELS = (1, 3, 4)
_PALE = -240  # the brightness drawn as black below a heat map: a pale image lets the colours stand out


class ImageVisualizationMethod(Enum):
    """How the attributions of an image are drawn."""

    heat_map = 1
    blended_heat_map = 2
    original_image = 3
    masked_image = 4
    alpha_scaling = 5


def plot_image(
    attr: Numbers | None,
    original_image: Numbers | None = None,
    method: str | ImageVisualizationMethod = "heat_map",
    sign: str | VisualizeSign = "absolute_value",
    *,
    axes: Axes | None = None,
    outliers: float = 2.0,
    cmap: str | Colormap | None = None,
    alpha: float = 0.5,
    colorbar: bool = False,
    title: str | None = None,
    size: tuple[float, float] = (6.0, 6.0),
) -> tuple[Figure, Axes]:
    """The attributions of one image, summed over its channels.

    Args:
        attr: `(height, width, channels)` or `(height, width)`; not needed for "original_image".
        original_image: `(height, width, channels)` or `(height, width)`: floats in [0, 1] or integers in [0, 255], with
            1, 3 or 4 channels; optional for "heat_map".
        method: "heat_map"; "blended_heat_map": over the image in grey; "original_image"; "masked_image": each pixel as
            bright as its attribution is strong; "alpha_scaling": each pixel as opaque as its attribution is strong.
        sign: "all", "positive", "negative" or "absolute_value"; the last two methods do not support "all".
        axes: axes to draw into; by default those of a new figure.
        outliers: percent of the sum of |attribution| that is clipped to the ends of the scale.
        cmap: another colormap for the heat maps.
        alpha: the opacity of the heat map over the image, in [0, 1]; without `cmap` it fades to transparent at zero.
        colorbar: draw a colour bar below the image; otherwise the caption gives the scale.
        title: the title.
        size: size of a new figure in inches.

    Raises:
        InvalidShape: attributions and image differ in height or width, or the channels come first.
        InvalidType: the values are not numbers.
        InvalidValue: the method needs an image, attributions or a single sign; or a number is out of range.
        UnknownName: unknown method or sign.
        MissingExtra: matplotlib is not installed.
    """
    way, kept = enum_member(ImageVisualizationMethod, "method", method), enum_member(VisualizeSign, "sign", sign)
    if not (isinstance(alpha, Real) and 0 <= alpha <= 1):
        raise InvalidValue(f"the opacity of the heat map must be in [0, 1]; given {alpha!r}")
    image = _image(original_image, way)
    shares = _shares(attr, image, way, kept, outliers)
    colours = None if shares is None else shares.colormap(cmap)
    fig, axes = axes_of(axes, size)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_linewidth(0.4)
    if image is not None and way is not ImageVisualizationMethod.heat_map:
        _draw_image(axes, image, way, shares)
    if shares is not None and colours is not None and way.name.endswith("heat_map"):
        opacity = _opacity(shares, alpha, cmap) if way is ImageVisualizationMethod.blended_heat_map else None
        axes.imshow(shares.shares, colours, vmin=shares.lowest, vmax=1.0, alpha=opacity)
    elif way is not ImageVisualizationMethod.original_image:
        colours = _hidden_to_shown(way)
    if title is not None and title != "":
        axes.set_title(_wrapped(axes, drawable(title), 10), loc="left", fontsize=10, pad=6, **font_options())
    _explain(axes, shares, colours, colorbar)
    return fig, axes


def plot_images(
    attr: Numbers | None,
    original_image: Numbers | None,
    methods: Sequence[str | ImageVisualizationMethod],
    signs: Sequence[str | VisualizeSign],
    *,
    outliers: float = 2.0,
    cmap: str | Colormap | None = None,
    alpha: float = 0.5,
    colorbar: bool = False,
    titles: Sequence[str] | None = None,
    size: tuple[float, float] = (8.0, 6.0),
) -> tuple[Figure, list[Axes]]:
    """Several views of the same attributions side by side; see `plot_image` for the arguments.

    Args:
        attr: `(height, width, channels)` or `(height, width)`.
        original_image: `(height, width, channels)` or `(height, width)`.
        methods: one for each view.
        signs: one for each view.
        outliers: percent of the sum of |attribution| that is clipped to the ends of the scale.
        cmap: another colormap for the heat maps.
        alpha: the opacity of the heat map over the image.
        colorbar: draw a colour bar below each view.
        titles: one title for each view.
        size: size of the figure in inches.

    Raises:
        InvalidValue: no view, or not one sign and title for each; otherwise see `plot_image`.
    """
    given = f"{len(methods)} methods, {len(signs)} signs" + ("" if titles is None else f", {len(titles)} titles")
    if not methods or len(signs) != len(methods) or (titles is not None and len(titles) != len(methods)):
        raise InvalidValue(f"each view needs one method and one sign, and one title if there are any; given {given}")
    fig = new_figure(size)
    panels = list(fig.subplots(1, len(methods), squeeze=False)[0])
    for place, (panel, method, sign) in enumerate(zip(panels, methods, signs, strict=True)):
        title = titles[place] if titles else None
        options: dict[str, Any] = {
            "outliers": outliers,
            "cmap": cmap,
            "alpha": alpha,
            "colorbar": colorbar,
            "title": title,
        }
        plot_image(attr, original_image, method, sign, axes=panel, **options)
    return fig, panels


def pixels(image: Numbers) -> NDArray[np.uint8]:
    """An image as bytes, `(height, width, channels)` with 1, 3 or 4 channels.

    Raises:
        InvalidShape: it has another shape, or its channels come first.
        InvalidType: the values are not numbers.
        InvalidValue: a value is out of range.
    """
    array = to_array(image, "the image")
    array = array[:, :, None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] not in _CHANNELS or not array.size:
        raise InvalidShape(
            f"an image must be (height, width, channels) with 1, 3 or 4 channels; given {array.shape}{_turn(array)}"
        )
    floats = array.dtype.kind == "f"
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "b" or low < -1e-3 or high > (1.001 if floats else 255) or not np.isfinite(low + high):
        raise InvalidValue(
            f"an image must hold floats in [0, 1] or integers in [0, 255]; given {array.dtype} from {low:g} to {high:g}"
        )
    return (np.clip(array, 0, 1) * 255).astype(np.uint8) if floats else array.astype(np.uint8)


def _image(original_image: Numbers | None, way: ImageVisualizationMethod) -> NDArray[np.uint8] | None:
    if original_image is not None:
        return pixels(original_image)
    if way is not ImageVisualizationMethod.heat_map:
        raise InvalidValue(f"the method {way.name!r} needs original_image; only 'heat_map' does without")
    return None


def _shares(
    attr: Numbers | None,
    image: NDArray | None,
    way: ImageVisualizationMethod,
    sign: VisualizeSign,
    outliers: float,
) -> SignedShares | None:
    """The attributions as drawn by the method, `(height, width)`; None if it draws none."""
    if way is ImageVisualizationMethod.original_image:
        return None
    if attr is None:
        raise InvalidValue(f"the method {way.name!r} needs attr; only 'original_image' does without")
    if sign is VisualizeSign.all and not way.name.endswith("heat_map"):
        raise InvalidValue(
            f"the method {way.name!r} shows one strength for each pixel and cannot distinguish positive from negative; "
            "given sign 'all'; accepted: positive, negative, absolute_value"
        )
    array = to_array(attr, "attr")
    if array.ndim not in (2, 3) or not array.size:
        raise InvalidShape(f"attr must be (height, width, channels) or (height, width); given {array.shape}")
    if image is not None and array.shape[:2] != image.shape[:2]:
        raise InvalidShape(
            f"attr {array.shape} and original_image {image.shape} must have one height and width{_turn(array)}"
        )
    if image is None and array.ndim == 3 and array.shape[2] not in _CHANNELS and array.shape[0] in _CHANNELS:
        raise InvalidShape(f"attr must be (height, width, channels); given {array.shape}{_turn(array)}")
    return SignedShares.of(summed(array, 2)[:, :, 0] if array.ndim == 3 else array, sign, outliers)


def _turn(array: NDArray) -> str:
    """Advice for an array whose channels come first."""
    first = array.ndim == 3 and array.shape[0] in _CHANNELS
    return ": the channels come first; permute them to the end, as in array.transpose(1, 2, 0)" if first else ""


def _draw_image(
    axes: Axes, image: NDArray[np.uint8], way: ImageVisualizationMethod, shares: SignedShares | None
) -> None:
    if way is ImageVisualizationMethod.blended_heat_map:
        axes.imshow(_colours(image).mean(2), "gray", vmin=_PALE, vmax=255)
        return
    if way is ImageVisualizationMethod.original_image or shares is None:
        shown: Floats | NDArray[np.uint8] = image
    else:
        strength = np.nan_to_num(shares.shares)[:, :, None]
        opacity = image[:, :, 3:] if image.shape[2] == 4 else np.full_like(image[:, :, :1], 255)
        shown = _colours(image)
        if way is ImageVisualizationMethod.masked_image:
            shown = np.concatenate([shown * strength, opacity], 2) if image.shape[2] == 4 else shown * strength
        else:
            shown = np.concatenate([np.broadcast_to(shown, (*shown.shape[:2], 3)), opacity * strength], 2)
    grey = shown.shape[2] == 1
    shown = shown.astype(np.uint8)
    axes.imshow(shown[:, :, 0] if grey else shown, "gray", vmin=0, vmax=255)


def _colours(image: NDArray[np.uint8]) -> Floats:
    """The colour channels, without opacity."""
    return image[:, :, :3].astype(np.float64)


def _opacity(shares: SignedShares, alpha: float, cmap: str | Colormap | None) -> float | Floats:
    """The default colours fade to transparent at zero and leave the image visible; others have uniform opacity."""
    return alpha if cmap is not None else alpha * np.minimum(3 * np.abs(np.nan_to_num(shares.shares)), 1.0)


def _hidden_to_shown(way: ImageVisualizationMethod) -> Colormap:
    """The colours of the bar of a shaded image: from a pixel of share 0 to one that is fully shown."""
    return ramp("#ffffff", "#000000") if way is ImageVisualizationMethod.masked_image else ramp(LIGHT.ink)


def _explain(axes: Axes, shares: SignedShares | None, colours: Colormap | None, colorbar: bool) -> None:
    """The scale as a bar below the image or as a caption; without colours the room for a bar stays, to align views."""
    if not colorbar:
        if shares is not None:
            add_caption(axes, _wrapped(axes, shares.description, 8))
        return
    if shares is None or colours is None:
        axes.inset_axes(BELOW).set_axis_off()
    else:
        add_caption(shares.add_bar_below(axes, colours), _wrapped(axes, shares.rule, 8))


def _wrapped(axes: Axes, text: str, points: float) -> str:
    """The text, wrapped to about the width of the image."""
    width, height = axes_size(axes)
    low, high = axes.get_xlim()
    bottom, top = axes.get_ylim()
    return wrap_text(text, min(width, height * abs((high - low) / (top - bottom))), points)
