"""What every matplotlib figure here has in common: axes in a figure or of one's own, fonts, labels, titles.

Figures are plain `matplotlib.figure.Figure` objects: nothing is registered with pyplot unless `show` is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from llm_attr.errors import InvalidValue, MissingExtra
from llm_attr.viz.legible import label, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Tried in turn for characters that matplotlib's own font does not have.
_FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "WenQuanYi Zen Hei", "Noto Sans", "Arial Unicode MS", "Segoe UI Symbol", "Noto Emoji"),
)
_INVISIBLE = dict.fromkeys(map(ord, "\u200c\u200d\u200e\u200f\u061c\ufe0e\ufe0f"))  # means nothing to matplotlib


def show(fig: Figure) -> None:
    """Hand a figure over to pyplot and show it, in a window or in the notebook."""
    from matplotlib import pyplot

    if fig.canvas.manager is None:
        manager = pyplot.figure().canvas.manager
        if manager is not None:
            manager.canvas.figure = fig
            fig.set_canvas(manager.canvas)
    pyplot.show()


def axes_of(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """The given axes with their figure, or those of a new figure of so many inches.

    Raises:
        MissingExtra: matplotlib is not installed.
        InvalidValue: the axes are of no figure.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    if ax is None:
        fig = Figure(figsize=size, layout="constrained")
        return fig, fig.add_subplot()
    owner = ax.get_figure(root=True)
    if owner is None:
        raise InvalidValue("the axes belong to no figure")
    return owner, ax


def tick(axis: Axis, labels: Sequence[str], inches: float, leaning: str = "") -> None:
    """Labels at every place, or at every n-th where they would overlap; `leaning` ones slope, anchored at that end."""
    every = max(-(-len(labels) // max(int(inches / 0.17), 1)), 1)
    options: dict[str, Any] = {"rotation": 45, "ha": leaning, "rotation_mode": "anchor"} if leaning else {}
    axis.set_ticks(range(0, len(labels), every))
    axis.set_ticklabels(labels[::every], **font(), **options, fontsize=9 if len(labels) <= 40 else 7)


def entitle(ax: Axes, title: str) -> None:
    """A heading above the left end of the axes, if there is one."""
    if title:
        ax.set_title(line(title), loc="left", fontsize=11, pad=12, **font())


def labels_of(texts: Sequence[str], cells: int) -> list[str]:
    """Texts as labels of at most so many cells (two for CJK and emoji)."""
    return [shortened(line(text), cells) for text in texts]


def line(text: str) -> str:
    """One line that matplotlib can draw: characters that no font here has become U+FFFD."""
    shown = label(text).translate(_INVISIBLE)
    return "".join(character if ord(character) in _drawable() else "\ufffd" for character in shown)


def cells(text: str) -> int:
    """The width of a text in cells."""
    from rich.cells import cell_len

    return cell_len(text)


def font() -> dict[str, Any]:
    """How every text is written: in the fonts found, and "$" as itself."""
    return {"fontfamily": list(_families()), "parse_math": False}


@cache
def _families() -> tuple[str, ...]:
    """Matplotlib's own font and those of `_FONTS` that are installed."""
    from matplotlib.font_manager import fontManager

    installed = set(fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in _FONTS if name in installed))


@cache
def _drawable() -> frozenset[int]:
    """The code points that the fonts in use have."""
    from matplotlib.font_manager import findfont, get_font

    return frozenset(code for name in _families() for code in get_font(findfont(name)).get_charmap())
