"""The colour scale of all pictures: blue for negative, orange for positive, zero in the middle.

The scale is colour-blind-safe. It is interpolated in OKLab, so equal steps of value look like equal steps of colour,
and both ends have the same lightness, so magnitude is not confused with sign. Text in the scale's `ink` is readable on
every colour of it (WCAG contrast of at least 4.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

from llm_attr.errors import MissingExtra

if TYPE_CHECKING:
    from matplotlib.colors import Colormap

Floats: TypeAlias = NDArray[np.float64]
_FAINT = 0.1  # below this share of the limit a value gets no highlight in a terminal


@dataclass(frozen=True)
class DivergingScale:
    """Colours from -1 (`negative`) over 0 (`zero`) to 1 (`positive`), with the `ink` for text on them."""

    negative: str
    zero: str
    positive: str
    ink: str

    def at(self, value: float) -> str | None:
        """The colour of a value in [-1, 1] as "#rrggbb"; values outside are clipped; None for NaN."""
        if math.isnan(value):
            return None
        end, share = (self.positive if value > 0 else self.negative), min(abs(value), 1.0)
        return _from_oklab((1 - share) * _to_oklab(self.zero) + share * _to_oklab(end))

    def style(self, value: float, *, basic: bool = False) -> str:
        """The rich style of text with this value; `basic` uses only the 16 standard terminal colours."""
        if math.isnan(value) or abs(value) < _FAINT:
            return ""
        if basic:
            hue = "yellow" if value > 0 else "cyan"
            return f"black on {hue}" if abs(value) >= 0.5 else hue
        return f"{self.ink} on {self.at(value)}"


LIGHT = DivergingScale(negative="#4494e3", zero="#ffffff", positive="#de6e16", ink="#17181a")
DARK = DivergingScale(negative="#2465b6", zero="#1b1c1f", positive="#a54815", ink="#f4f4f2")

STRENGTH = "#6f3fa5"
"""The end of a scale of |values|: violet, distinct from the two signs."""

SERIES = ("#733eea", "#194d41", "#b4b7bc", "#a55892", "#31a639", LIGHT.ink)
"""Colours of series side by side, apart for every common form of colour blindness; blue and orange are for signs."""


def mark(value: float) -> str:
    """The full colour of a value's sign, for bars whose length shows the magnitude; contrast 3:1 on light and dark."""
    return LIGHT.positive if value > 0 else LIGHT.negative


def contrast(first: str, second: str) -> float:
    """The WCAG 2 contrast of two colours, from 1 (the same) to 21 (black on white)."""
    darker, lighter = sorted((_luminance(first), _luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def readable_on(background: str, inks: Iterable[str] = (LIGHT.ink, DARK.ink)) -> str:
    """The first of `inks` with a contrast of 4.5 to the background; otherwise black or white, whichever is better."""
    for ink in inks:
        if contrast(ink, background) >= 4.5:
            return ink
    return max("#000000", "#ffffff", key=lambda ink: contrast(ink, background))


def colormap(scale: DivergingScale = LIGHT) -> Colormap:
    """The scale as a matplotlib colormap; NaN is transparent.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    return _listed("llm_attr", [scale.at(value) or scale.zero for value in np.linspace(-1, 1, 257)])


def ramp(end: str, zero: str = LIGHT.zero) -> Colormap:
    """Colours from zero to one end, as a matplotlib colormap for values of one sign; NaN is transparent.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    low, high = _to_oklab(zero), _to_oklab(end)
    return _listed("llm_attr_ramp", [_from_oklab((1 - share) * low + share * high) for share in np.linspace(0, 1, 257)])


def _listed(name: str, colours: list[str]) -> Colormap:
    try:
        from matplotlib.colors import ListedColormap
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    return ListedColormap(colours, name=name).with_extremes(bad=(0, 0, 0, 0))


_TO_LMS = np.array([
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
])  # fmt: skip
_TO_LAB = np.array([
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
])  # fmt: skip
_FROM_LAB, _FROM_LMS = np.linalg.inv(_TO_LAB), np.linalg.inv(_TO_LMS)


def _linear(colour: str) -> Floats:
    """Linear-light red, green and blue in [0, 1] of "#rrggbb"."""
    channels = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def _luminance(colour: str) -> float:
    return float(_linear(colour) @ np.array([0.2126, 0.7152, 0.0722]))


def _to_oklab(colour: str) -> Floats:
    return np.asarray(_TO_LAB @ np.cbrt(_TO_LMS @ _linear(colour)))


def _from_oklab(lab: Floats) -> str:
    linear = np.clip(_FROM_LMS @ (_FROM_LAB @ lab) ** 3, 0, 1)
    channels = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return _hex([round(255 * float(channel)) for channel in channels])


def _hex(channels: Sequence[int]) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in channels)
