"""Regions of an image: superpixels coloured by their values, borders and labels of masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.viz.colour import LIGHT, colormap
from llm_attr.viz.figure import add_caption, add_title, axes_of, drawable, font_options
from llm_attr.viz.formatting import format_number
from llm_attr.viz.image import pixels
from llm_attr.viz.scale import Floats, Scale
from llm_attr.viz.sign import Numbers, SignedShares, VisualizeSign, to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STRONGEST = 0.9  # the opacity of the strongest colour, which leaves the image visible


def overlay_segments(
    image: Numbers,
    segments: Numbers,
    values: Numbers,
    ax: Axes | None = None,
    *,
    scale: Scale | None = None,
    numbers: int = 5,
    borders: bool = True,
    colorbar: bool = True,
    title: str = "",
    value_name: str = "",
    size: tuple[float, float] = (6.0, 6.0),
) -> tuple[Figure, Axes]:
    """Superpixels over the image in grey, coloured by their values, with borders between them.

    Args:
        image: `(height, width, channels)` or `(height, width)`: floats in [0, 1] or integers in [0, 255]. It must
            have the proportions of the segments, not their resolution.
        segments: `(height, width)` the number of the segment of each pixel, from 0.
        values: `(segments,)` the value of each segment; NaN is drawn like 0, without a number.
        ax: axes to draw into; by default those of a new figure.
        scale: a scale shared by several pictures; by default the scale of these values.
        numbers: how many of the strongest segments are labelled with their values, if there is room.
        borders: draw the lines between the segments.
        colorbar: draw a colour bar below the image; otherwise the caption gives the scale.
        title: the title.
        value_name: what the values measure, e.g. "logits".
        size: size of a new figure in inches.

    Raises:
        InvalidShape: the shapes of the arrays do not match.
        InvalidType: the values are not numbers, or `scale` is not a Scale.
        InvalidValue: a segment has no value, `numbers` is negative, or the image is out of range.
        MissingExtra: matplotlib is not installed.
    """
    picture, owners = pixels(image), _owners(segments)
    each = to_array(values, "values").astype(np.float64)
    _check_segments(picture, owners, each)
    if isinstance(numbers, bool) or not isinstance(numbers, int) or numbers < 0:
        raise InvalidValue(f"numbers must be how many values are written, 0 or more; given {numbers!r}")
    if not (scale is None or isinstance(scale, Scale)):
        raise InvalidType(f"scale must be a llm_attr.viz.scale.Scale or None; given {type(scale).__name__}")
    scale = scale or Scale.of(each)
    fig, ax = axes_of(ax, size)
    height, width = owners.shape
    whole = (-0.5, width - 0.5, height - 0.5, -0.5)
    grey = picture[:, :, :3].astype(np.float64).mean(2)
    ax.imshow(grey, "gray", vmin=-400, vmax=255, extent=whole)
    shares = np.nan_to_num(scale.shares(each))
    opacity = np.minimum(2.5 * np.abs(shares), _STRONGEST)
    drawn: dict[str, Any] = {
        "vmin": -1,
        "vmax": 1,
        "alpha": opacity[owners],
        "interpolation": "nearest",
        "extent": whole,
    }
    ax.imshow(shares[owners], colormap(), **drawn)
    if borders:
        _draw_borders(ax, owners)
    ax.set(xticks=[], yticks=[], xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    ax.spines[:].set_linewidth(0.4)
    _write_numbers(fig, ax, owners, each, scale, numbers)
    add_title(ax, title)
    if colorbar:
        signed = SignedShares(VisualizeSign.all, shares, scale)
        add_caption(signed.add_bar_below(ax, colormap()), _named(value_name, signed.rule))
    else:
        add_caption(ax, _named(value_name, scale.description))
    return fig, ax


def draw_mask_border(ax: Axes, mask: Numbers, border_width: int = 1, border_color: str | ArrayLike = "black") -> None:
    """Paints the border pixels of a mask.

    Args:
        ax: axes with an image.
        mask: `(height, width)` bool: True inside the region.
        border_width: the width of the painted border in pixels, inwards; 0 paints nothing.
        border_color: a matplotlib colour, or red, green and blue in [0, 1].

    Raises:
        InvalidShape: the mask is not two-dimensional.
        InvalidValue: the width is negative, or the colour is unknown.
    """
    from matplotlib.colors import to_rgb

    region = _mask(mask)
    if isinstance(border_width, bool) or not isinstance(border_width, int) or border_width < 0:
        raise InvalidValue(f"border_width must be a number of pixels, 0 or more; given {border_width!r}")
    try:
        colour = to_rgb(border_color if isinstance(border_color, str) else tuple(np.ravel(np.asarray(border_color))))
    except ValueError as error:
        raise InvalidValue(f"{border_color!r} is no colour; accepted: a matplotlib colour or (r, g, b)") from error
    inner = region
    for _ in range(border_width):
        inner = _peeled(inner)
    painted = np.zeros((*region.shape, 4))
    painted[region & ~inner] = (*colour, 1.0)
    ax.imshow(painted, interpolation="nearest")


def draw_mask_legend(
    ax: Axes,
    mask: Numbers,
    label: str,
    fontsize: float = 10,
    text_color: str = "white",
    bbox_facecolor: str = "black",
    bbox_alpha: float = 0.6,
) -> None:
    """Writes a label into a region: at its centroid, or at the pixel farthest from its border if that is outside.

    Args:
        ax: axes with an image.
        mask: `(height, width)` bool: True inside the region; an empty mask gets no label.
        label: the label.
        fontsize: its size in points.
        text_color: its colour.
        bbox_facecolor: the colour of the box behind it.
        bbox_alpha: the opacity of the box.

    Raises:
        InvalidShape: the mask is not two-dimensional.
    """
    region = _mask(mask)
    if not region.any():
        return
    rows, columns = np.nonzero(region)
    x, y = float(columns.mean()), float(rows.mean())
    if not region[round(y), round(x)]:
        x, y = _deepest(region)
    box = {"boxstyle": "round,pad=0.3", "facecolor": bbox_facecolor, "alpha": bbox_alpha, "edgecolor": "none"}
    ax.text(
        x, y, drawable(label), ha="center", va="center", fontsize=fontsize, color=text_color, bbox=box, **font_options()
    )


def _owners(segments: Numbers) -> NDArray[np.int64]:
    array = to_array(segments, "segments")
    if array.ndim != 2 or not array.size:
        raise InvalidShape(f"segments must be (height, width); given {array.shape}")
    with np.errstate(invalid="ignore"):
        owners = array.astype(np.int64)
    if (owners != array).any() or owners.min() < 0:
        raise InvalidValue(f"segments must be whole numbers from 0; given numbers from {array.min()} to {array.max()}")
    return owners


def _check_segments(picture: NDArray, owners: NDArray, values: Floats) -> None:
    if values.ndim != 1 or owners.max() >= values.size:
        raise InvalidShape(
            f"values must be (segments,), one for each of the segments 0 to {owners.max()}; given {values.shape}"
        )
    rows, columns = picture.shape[0] / owners.shape[0], picture.shape[1] / owners.shape[1]
    if not 0.98 < rows / columns < 1.02:
        raise InvalidShape(
            f"image and segments must have the same proportions; given {picture.shape[:2]} and {owners.shape}"
        )


def _mask(mask: Numbers) -> NDArray[np.bool_]:
    region = to_array(mask, "the mask")
    if region.ndim != 2 or not region.size:
        raise InvalidShape(f"a mask must be (height, width); given {region.shape}")
    return region.astype(bool)


def _peeled(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The region without its border pixels: those with one of the four neighbours outside."""
    padded = np.pad(region, 1)
    return region & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def _deepest(region: NDArray[np.bool_]) -> tuple[float, float]:
    """Column and row of a pixel of the region farthest from its border."""
    left = region
    while (inner := _peeled(left)).any():
        left = inner
    rows, columns = np.nonzero(left)
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(columns[nearest]), float(rows[nearest])


def _draw_borders(ax: Axes, owners: NDArray[np.int64]) -> None:
    """Lines along the edges of pixels between segments."""
    from matplotlib.collections import LineCollection

    rows, columns = np.nonzero(owners[:, 1:] != owners[:, :-1])
    upright = np.stack([np.stack([columns + 0.5, rows - 0.5], 1), np.stack([columns + 0.5, rows + 0.5], 1)], 1)
    rows, columns = np.nonzero(owners[1:] != owners[:-1])
    level = np.stack([np.stack([columns - 0.5, rows + 0.5], 1), np.stack([columns + 0.5, rows + 0.5], 1)], 1)
    lines = list(np.concatenate([upright, level]))
    ax.add_collection(LineCollection(lines, colors="#ffffff", linewidths=1.0, capstyle="projecting"))


def _write_numbers(fig: Figure, ax: Axes, owners: NDArray[np.int64], values: Floats, scale: Scale, most: int) -> None:
    """The values of the strongest visible segments, each where its segment is widest."""
    present = [number for number in np.unique(owners) if np.isfinite(values[number]) and values[number]]
    strongest = sorted(present, key=lambda number: -abs(values[number]))[:most]
    box = ax.get_position()
    inch = max(owners.shape[1] / (box.width * fig.get_figwidth()), owners.shape[0] / (box.height * fig.get_figheight()))
    taken: list[tuple[float, float]] = []
    frame = {"boxstyle": "round,pad=0.2", "facecolor": "#ffffff", "alpha": 0.8, "edgecolor": "none"}
    for number in strongest:
        x, y = _deepest(owners == number)
        if any(abs(x - other) < 0.5 * inch and abs(y - above) < 0.22 * inch for other, above in taken):
            continue
        taken.append((x, y))
        text = format_number(float(values[number]), scale.limit)
        ax.text(x, y, text, ha="center", va="center", fontsize=8, color=LIGHT.ink, bbox=frame, **font_options())


def _named(value_name: str, description: str) -> str:
    return f"{drawable(value_name)}; {description}" if value_name else description
