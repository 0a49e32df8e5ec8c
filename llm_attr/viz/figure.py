"""Basics of all matplotlib figures: new or given axes, fonts, labels, captions, titles.

Figures are plain `matplotlib.figure.Figure` objects and are registered with pyplot only by `show`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np

from llm_attr.caller import warn_caller
from llm_attr.errors import InvalidType, InvalidValue, MissingExtra
from llm_attr.viz.colour import colormap
from llm_attr.viz.formatting import escape_line, truncate, unit_label
from llm_attr.viz.scale import Floats, Scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colorbar import Colorbar
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontEntry

QUIET = "0.38"
"""The grey of captions."""

APART = {"top": 0.2, "left": 0.17}
"""Inches between the middles of neighbouring labels; those at the top are slanted."""

# Tried in this order, before all other fonts, for characters that matplotlib's own font lacks.
_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "WenQuanYi Zen Hei", "Noto Sans", "Arial Unicode MS", "Segoe UI Symbol", "Noto Emoji"),
)
_PLACEHOLDERS = re.compile("last ?resort|blank|tofu|color emoji", re.IGNORECASE)  # fonts whose glyphs draw nothing
# Replacements for control pictures that no font has.
_CONTROLS = {chr(0x2400 + code): f"<U+{code:04X}>" for code in range(0x20)} | {"\u2421": "<U+007F>"}
_OWN: WeakSet[Figure] = WeakSet()  # figures created here, each with a single picture
_INVISIBLE = dict.fromkeys(map(ord, "\u200c\u200d\u200e\u200f\u061c\ufe0e\ufe0f"))  # ignored by matplotlib


def show(fig: Figure) -> None:
    """Registers a figure with pyplot and shows it, in a window or notebook."""
    from matplotlib import pyplot

    if fig.canvas.manager is None:
        manager = pyplot.figure().canvas.manager
        if manager is not None:
            manager.canvas.figure = fig
            fig.set_canvas(manager.canvas)
    pyplot.show()


def new_figure(size: tuple[float, float]) -> Figure:
    """An empty figure of this size in inches.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidValue: the size is not a pair of positive numbers.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    sides = np.asarray(size)
    if sides.shape != (2,) or sides.dtype.kind not in "fiu" or not (np.isfinite(sides).all() and sides.min() > 0):
        raise InvalidValue(f"the size of a figure must be its width and height in inches, above 0; given {size!r}")
    return Figure(figsize=size, layout="constrained")


def axes_of(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The given axes with their figure, or the axes of a new figure of this size in inches.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidType: `ax` is not matplotlib Axes.
        InvalidValue: the axes belong to no figure, or the size is not a pair of positive numbers.
    """
    if ax is None:
        fig = new_figure(size)
        _OWN.add(fig)
        return fig, fig.add_subplot()
    return figure_of(ax), ax


def figure_of(ax: Axes) -> Figure:
    """The top-level figure of the axes.

    Raises:
        InvalidType: `ax` is not matplotlib Axes.
        InvalidValue: the axes belong to no figure.
    """
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise InvalidType(f"axes must be matplotlib Axes; given {type(ax).__name__}")
    owner = ax.get_figure(root=True)
    if owner is None:
        raise InvalidValue("the axes belong to no figure")
    return owner


def axes_size(ax: Axes) -> tuple[float, float]:
    """An upper bound on the width and height of the axes in inches, before the figure is drawn."""
    fig, slot = figure_of(ax), ax.get_subplotspec()
    page = ax.get_figure(root=False) or fig
    width, height = page.bbox.width / fig.dpi, page.bbox.height / fig.dpi
    if slot is None or fig.get_layout_engine() is None:
        box = ax.get_position()
        return box.width * width, box.height * height
    rows, columns = slot.get_gridspec().get_geometry()
    return 0.95 * width * len(slot.colspan) / columns, 0.8 * height * len(slot.rowspan) / rows


def _breadth(ax: Axes) -> float:
    """The width in inches for text above or below the axes; less if a layout engine makes room for labels."""
    return axes_size(ax)[0] * (1.1 if figure_of(ax).get_layout_engine() is None else 0.8)


def wrap_text(text: str, inches: float, points: float) -> str:
    """The text, wrapped to lines of about this width in inches at this font size."""
    from textwrap import fill

    characters = inches * 72 / (0.58 * points) * len(text) / max(cell_width(text), 1)
    return fill(text, max(int(characters), 12))


def set_ticks(axis: Axis, labels: Sequence[str], leaning: str = "") -> None:
    """Labels at 0, 1, 2, ...; slanted and anchored at the `leaning` end if given."""
    axis.set_ticks(range(len(labels)))
    axis.set_ticklabels(labels, **font_options(), **_slope(leaning), fontsize=9 if len(labels) <= 40 else 7)


def set_some_ticks(ax: Axes, side: str, labels: dict[float, str], inches: float) -> None:
    """Labels for some places only, moved apart if they would overlap, each with a line to its place.

    Args:
        ax: axes with limits.
        side: "top" (slanted labels) or "left".
        labels: the label of each place.
        inches: the length of that side.
    """
    from matplotlib.patches import ConnectionPatch
    from matplotlib.transforms import offset_copy

    top = side == "top"
    axis, ends = (ax.xaxis, sorted(ax.get_xlim())) if top else (ax.yaxis, sorted(ax.get_ylim()))
    places = sorted(labels)
    spots = spread(places, APART[side] / inches * (ends[1] - ends[0]), *ends)
    axis.set_ticks(spots)
    axis.set_ticklabels(
        [labels[place] for place in places], **font_options(), **_slope("left" if top else ""), fontsize=8
    )
    ax.tick_params("x" if top else "y", length=0, pad=15)
    edge = ax.get_xaxis_transform() if top else ax.get_yaxis_transform()
    outer = offset_copy(edge, figure_of(ax), *((0, 14) if top else (-14, 0)), units="points")
    for place, spot in zip(places, spots.tolist(), strict=True):
        start, end = ((place, 1.0), (spot, 1.0)) if top else ((0.0, place), (0.0, spot))
        ax.add_artist(ConnectionPatch(start, end, edge, outer, color="0.6", linewidth=0.6, clip_on=False))


def spread(places: Sequence[float], gap: float, low: float, high: float) -> Floats:
    """The nearest places (least squares) in the same order that are at least `gap` apart and in `[low, high]`.

    Args:
        places: in order.
        gap: the minimum distance of neighbours; reduced if there is no room for it.
        low: the lowest place.
        high: the highest place.
    """
    gap = min(gap, (high - low) / max(len(places) - 1, 1))
    blocks: list[tuple[float, int]] = []  # mean and size of each group of neighbours that were pushed together
    for number, place in enumerate(places):
        mean, size = place - number * gap, 1
        while blocks and blocks[-1][0] >= mean:
            other, more = blocks.pop()
            mean, size = (mean * size + other * more) / (size + more), size + more
        blocks.append((mean, size))
    even = np.repeat([mean for mean, _ in blocks], [size for _, size in blocks])
    return np.clip(even, low, high - gap * max(len(places) - 1, 0)) + gap * np.arange(len(places))


def colour_bar(ax: Axes, scale: Scale, name: str, **options: Any) -> Colorbar:
    """A colour bar next to the axes, labelled with what the values measure."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    end = scale.limit or 1.0
    colours = ScalarMappable(Normalize(-end, end), colormap())
    bar = figure_of(ax).colorbar(colours, ax=ax, **{"pad": 0.02, "aspect": 30, **options})
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, color=QUIET)
    bar.set_label(drawable(name), fontsize=8, **font_options())
    return bar


def add_caption(ax: Axes, *lines: str) -> None:
    """A caption in small lines below the axes; empty lines are omitted, long ones wrapped."""
    ax.xaxis.set_label_position("bottom")
    wrapped = [wrap_text(each, _breadth(ax), 8) for text in lines for each in text.split("\n") if each]
    ax.set_xlabel("\n".join(wrapped), loc="left", fontsize=8, color=QUIET, labelpad=8, **font_options())


def _slope(end: str) -> dict[str, Any]:
    return {"rotation": 45, "ha": end, "rotation_mode": "anchor"} if end else {}


def add_title(ax: Axes, title: str) -> None:
    """A left-aligned title, if any: one line of a figure created here, otherwise up to two lines of the axes."""
    if not title:
        return
    fig = figure_of(ax)
    if fig in _OWN:
        text = truncate(drawable(title), max(int(fig.bbox.width / fig.dpi / 0.1), 12))
        fig.suptitle(text, x=0.01, ha="left", fontsize=11, **font_options())
        return
    width = _breadth(ax)
    text = wrap_text(truncate(drawable(title), max(int(2 * width / 0.1), 20)), width, 11)
    ax.set_title(text, loc="left", fontsize=11, pad=12, **font_options())


def format_labels(texts: Sequence[str], cells: int, *, exact: bool = False) -> list[str]:
    """Texts as labels of at most this many cells (two for CJK and emoji); `exact` shows surrounding line breaks."""
    return [truncate(drawable(text, exact=exact), cells) for text in texts]


def drawable(text: object, *, exact: bool = False) -> str:
    """A text or number as one line that matplotlib can draw: characters that no installed font has become U+FFFD.

    Warns:
        UserWarning: about such characters, once for each kind.
    """
    text = str(text)
    shown = (escape_line(text) or "(empty)" if exact else unit_label(text)).translate(_INVISIBLE)
    fonts = _fonts()
    missing = {character for character in shown if not fonts.draw(character)}
    if missing & _CONTROLS.keys():
        shown = "".join(_CONTROLS.get(each, each) if each in missing else each for each in shown)
        missing -= _CONTROLS.keys()
    for kind in sorted(set(map(_kind, missing))):
        warn_caller(
            f"no installed font draws {kind}, shown as \ufffd in pictures: install one that does (for example Noto "
            "Sans CJK for Chinese, Japanese and Korean), or give its file to "
            "matplotlib.font_manager.fontManager.addfont",
            UserWarning,
        )
    return "".join("\ufffd" if character in missing else character for character in shown)


def _kind(character: str) -> str:
    """The kind of a character: "CJK letters", "HANGUL letters", "some symbols and emoji"."""
    if not unicodedata.category(character).startswith(("L", "M")):
        return "some symbols and emoji"
    return f"{unicodedata.name(character, 'unnamed').split()[0]} letters"


def join_label(*parts: str) -> str:
    """Parts of a label from left to right, even if one of them is written from right to left."""
    return "  ".join(f"\u200e{part}\u200e" for part in parts if part)


def cell_width(text: str) -> int:
    """The width of a text in terminal cells."""
    from rich.cells import cell_len

    return cell_len(text)


def font_options() -> dict[str, Any]:
    """Text properties: the fonts chosen by `drawable`, and "$" without special meaning."""
    return {"fontfamily": list(_fonts().used), "parse_math": False}


class _Fonts:
    """The fonts that text is drawn in: matplotlib's own, then each installed one that has a missing character."""

    def __init__(self) -> None:
        from matplotlib import get_data_path
        from matplotlib.font_manager import fontManager

        own = Path(get_data_path())
        entries = sorted(fontManager.ttflist, key=_distance)
        self._files = {entry.name: entry.fname for entry in reversed(entries)}  # the plainest of each family
        others = {entry.name for entry in entries if own not in Path(entry.fname).parents}
        known = [name for name in _FONTS if name in others]
        self.used = ["DejaVu Sans"]
        self._families = [*self.used, *known, "STIXGeneral", *sorted(others.difference(known))]
        self._drawable: dict[str, bool] = {}

    def draw(self, character: str) -> bool:
        """Whether some font has the character; that font is used from then on."""
        if character not in self._drawable:
            has = (name for name in self._families if ord(character) in _characters(name, self._files.get(name)))
            family = next(has, None)
            if family is not None and family not in self.used:
                self.used.append(family)
            self._drawable[character] = family is not None
        return self._drawable[character]


def _fonts() -> _Fonts:
    """The fonts in matplotlib's current list, to which users may add."""
    try:
        from matplotlib.font_manager import fontManager
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    return _fonts_of(len(fontManager.ttflist), fontManager.ttflist[-1].fname)


@cache
def _fonts_of(count: int, last: str) -> _Fonts:
    return _Fonts()


def _distance(entry: FontEntry) -> tuple[bool, int]:
    """How far a font is from an upright one of normal weight."""
    from matplotlib.font_manager import weight_dict

    weight = entry.weight if isinstance(entry.weight, int) else weight_dict.get(entry.weight, 400)
    return entry.style != "normal", abs(weight - 400)


@cache
def _characters(family: str, file: str | None) -> frozenset[int]:
    """The code points of a font; empty if its glyphs draw nothing or the file is damaged."""
    from matplotlib.font_manager import get_font

    if file is None or _PLACEHOLDERS.search(family):
        return frozenset()
    try:
        return frozenset(get_font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
