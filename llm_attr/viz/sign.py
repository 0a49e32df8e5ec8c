"""Selection of values by sign, and the selected values as shares of their scale."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, MissingExtra, UnknownName
from llm_attr.viz.colour import LIGHT, STRENGTH, colormap, ramp
from llm_attr.viz.figure import figure_of
from llm_attr.viz.formatting import format_number
from llm_attr.viz.scale import Floats, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_Member = TypeVar("_Member", bound=Enum)

BELOW = (0, -0.075, 1, 0.04)
"""The place of a colour bar below an image, in its axes' coordinates."""

Numbers: TypeAlias = ArrayLike | Tensor
"""Numbers to draw: anything numpy accepts, or a tensor on any device."""


class VisualizeSign(Enum):
    """Which attributions are drawn: positive, negative (as magnitudes), all magnitudes, or all with their sign."""

    positive = 1
    absolute_value = 2
    negative = 3
    all = 4


def enum_member(kind: type[_Member], what: str, given: object) -> _Member:
    """The member of an enumeration, given by itself or by name.

    Raises:
        UnknownName: there is no such member.
    """
    if isinstance(given, kind):
        return given
    if isinstance(given, str) and given in kind.__members__:
        return kind[given]
    raise UnknownName(what, given, kind.__members__)


def to_array(numbers: Numbers, name: str) -> NDArray:
    """Real numbers as a detached numpy array.

    Raises:
        InvalidShape: the rows have different lengths.
        InvalidType: the values are not real numbers.
    """
    if isinstance(numbers, Tensor):
        numbers = numbers.detach().cpu()
        numbers = (numbers.double() if numbers.is_floating_point() else numbers).resolve_conj().numpy()
    try:
        array = np.asarray(numbers)
    except (ValueError, RuntimeError) as error:
        raise InvalidShape(
            f"{name} must be one array or tensor, or lists of one length of plain numbers; {error}"
        ) from error
    if array.dtype.kind not in "fiub":
        raise InvalidType(f"{name} must be an array or tensor of real numbers; given {_described(numbers, array)}")
    return array


def summed(array: NDArray, axis: int) -> NDArray:
    """The sums along an axis, which is kept with length 1; NaN where infinities of both signs meet."""
    with np.errstate(invalid="ignore"):
        return np.asarray(array.sum(axis, keepdims=True))


@dataclass(frozen=True)
class SignedShares:
    """Values selected by sign, as shares of their scale.

    Attributes:
        sign: the selection.
        shares: the selected values in [-1, 1], or in [0, 1] if they have no sign.
        scale: the value that a share of 1 represents.
    """

    sign: VisualizeSign
    shares: Floats
    scale: Scale

    @classmethod
    def of(cls, values: ArrayLike, sign: VisualizeSign, outliers: float = 0.0) -> SignedShares:
        """Values of any shape, on the scale of the selected ones.

        Raises:
            InvalidValue: `outliers` is not in [0, 100).
        """
        array = np.asarray(values, dtype=np.float64)
        if sign is VisualizeSign.positive:
            array = np.maximum(array, 0.0)
        elif sign is VisualizeSign.negative:
            array = np.maximum(-array, 0.0)
        elif sign is VisualizeSign.absolute_value:
            array = np.abs(array)
        scale = Scale.of(array, outliers=outliers)
        return cls(sign, scale.shares(array), scale)

    @property
    def lowest(self) -> float:
        """The share at the low end of the colours: -1, or 0 if the values have no sign."""
        return -1.0 if self.sign is VisualizeSign.all else 0.0

    def colormap(self, given: str | Colormap | None = None) -> Colormap:
        """The colours from `lowest` to 1, unless others are given.

        Raises:
            InvalidValue: matplotlib has no colormap of that name.
            MissingExtra: matplotlib is not installed.
        """
        if given is not None:
            try:
                from matplotlib import colormaps
            except ImportError as error:
                raise MissingExtra("matplotlib", "plot") from error

            try:
                return colormaps.get_cmap(given)
            except (ValueError, TypeError) as error:
                accepted = "a matplotlib Colormap or one of the names in matplotlib.colormaps"
                raise InvalidValue(f"{given!r} is no colour map; accepted: {accepted}") from error
        if self.sign is VisualizeSign.all:
            return colormap()
        ends = {VisualizeSign.positive: LIGHT.positive, VisualizeSign.negative: LIGHT.negative}
        return ramp(ends.get(self.sign, STRENGTH))

    def ticks(self) -> dict[float, str]:
        """The shares at both ends and at zero, with the values that they represent."""
        limit = self.scale.limit
        if not limit:
            return {0.0: "0"}
        if self.sign is VisualizeSign.all:
            return {-1.0: format_number(-limit, limit), 0.0: "0", 1.0: format_number(limit, limit)}
        return {0.0: "0", 1.0: self._end}

    @property
    def description(self) -> str:
        """The scale in words, for a caption."""
        if not self.scale.limit:
            kept = self.sign in (VisualizeSign.positive, VisualizeSign.negative)
            return f"no {self.sign.name} value" if kept else self.scale.description
        if self.sign is VisualizeSign.all:
            return self.scale.description
        return f"end of the scale: {self._end} ({self.scale.rule})"

    @property
    def rule(self) -> str:
        """How the scale was chosen, in words."""
        return self.scale.rule if self.scale.limit else self.description

    def add_bar(self, fig: Figure, colours: Colormap, **place: Any) -> Colorbar:
        """A colour bar with the values at both ends and at zero."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        bar = fig.colorbar(ScalarMappable(Normalize(self.lowest, 1), colours), **place)
        ticks = self.ticks()
        bar.set_ticks(list(ticks), labels=list(ticks.values()))
        bar.outline.set_linewidth(0.4)
        bar.ax.tick_params(length=0, labelsize=8)
        return bar

    def add_bar_below(self, axes: Axes, colours: Colormap) -> Axes:
        """The same below an image; returns the axes of the bar."""
        below = axes.inset_axes(BELOW)
        self.add_bar(figure_of(axes), colours, cax=below, orientation="horizontal")
        for place, label in zip(self.ticks(), below.get_xticklabels(), strict=True):
            label.set_horizontalalignment("right" if place == 1 else "left" if place == self.lowest else "center")
        return below

    @property
    def _end(self) -> str:
        limit = self.scale.limit
        if self.sign is VisualizeSign.absolute_value:
            return f"|{format_number(limit, limit).lstrip('+')}|"
        return format_number(-limit if self.sign is VisualizeSign.negative else limit, limit)


def _described(numbers: object, array: NDArray) -> str:
    return f"an array of {array.dtype}" if isinstance(numbers, np.ndarray) else f"{type(numbers).__name__}"
