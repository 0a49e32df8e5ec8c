"""A text at several levels, e.g. documents, sentences and words: their nesting, and an icicle plot in matplotlib.

A level is an explanation of its own, or sums over the groups of another level. These differ (leaving out a document is
not the same as leaving out its sentences one by one), so each level says which it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from llm_attr.errors import InvalidValue
from llm_attr.viz.colour import LIGHT
from llm_attr.viz.figure import add_caption, add_title, axes_of, cell_width, colour_bar, drawable, font_options
from llm_attr.viz.formatting import format_number, truncate
from llm_attr.viz.scale import Scale
from llm_attr.viz.text.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 12.0  # inches of a figure
_READABLE = 120  # characters of a readable line of text
_LINES = 12  # lines at most
_CELL = 0.062  # inches of a cell of a label
_GAP = 0.75  # rows between lines of text
_EDGED = 0.05  # inches of the smallest part with a visible edge
_SEAM = 0.004  # inches of white space at each side of a part


@dataclass(frozen=True)
class Part:
    """A stretch of the text with its value.

    Attributes:
        start: its first character in the text.
        stop: the character after its last.
        label: a name, or the text itself.
        value: its attribution; NaN if there is none.
    """

    start: int
    stop: int
    label: str
    value: float


@dataclass(frozen=True)
class Level:
    """Ordered, disjoint parts of the text.

    Attributes:
        name: what the parts are, e.g. "sentences".
        summed: whether the values are sums over the units of another level, rather than an explanation of their own.
        parts: the parts.
    """

    name: str
    summed: bool
    parts: tuple[Part, ...]

    @property
    def description(self) -> str:
        """The name and the origin of the values: "documents: sums of their units"."""
        return f"{self.name}: {'sums of their units' if self.summed else 'their own explanation'}"


@dataclass(frozen=True)
class Node:
    """A part with the parts of finer levels that start in it."""

    part: Part
    level: int
    inner: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Levels:
    """A text at several levels, the coarsest first.

    Attributes:
        title: the heading.
        text: the full text.
        levels: the levels, from the fewest parts to the most.
        scale: the scale shared by all levels, from those with values of their own; sums may lie beyond its ends.
        value_name: what the values measure.
    """

    title: str
    text: str
    levels: tuple[Level, ...]
    scale: Scale
    value_name: str

    @classmethod
    def of(cls, *views: AttributionView) -> Levels:
        """The levels of one text: one for each view, and above them the sums over the groups of the coarsest view.

        Raises:
            InvalidValue: the views differ in text or quantity, lack the text around their units, or make up only one
                level.
        """
        text = _text(views)
        ordered = sorted(views, key=lambda view: len(view.units))
        levels = [Level(_plural(view.unit_name), False, tuple(_parts(view))) for view in ordered]
        if (sums := _sums(ordered[0], levels[0])) is not None:
            levels.insert(0, sums)
        if len(levels) < 2:
            raise InvalidValue(
                "there is one level only: give explanations of the same text by other units, or of a prompt with "
                "documents or messages"
            )
        values = [[part.value for part in level.parts] for level in levels if not level.summed]
        return cls(views[0].title, text, tuple(levels), Scale.of(*values), views[0].value_name)

    def tree(self) -> list[Node]:
        """The parts of the coarsest level, each with the parts of the next level that start in it, and so on.

        A part that starts in no part of the level above is moved one level up.
        """
        roots: list[Node] = []
        parts = [(part.start, number, part) for number, level in enumerate(self.levels) for part in level.parts]
        above: list[Node] = []
        for _, number, part in sorted(parts, key=lambda it: (it[0], it[1])):
            while above and (above[-1].level >= number or above[-1].part.stop <= part.start):
                above.pop()
            node = Node(part, number)
            (above[-1].inner if above else roots).append(node)
            above.append(node)
        return roots


def plot_levels(levels: Levels, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Icicle plot: a row of boxes for each level; a box is as wide as its text is long and coloured by its value.

    The text is cut into at most twelve lines, of up to 120 characters if that is enough. Labels are shown where they
    fit.

    Args:
        levels: what to draw.
        ax: axes to draw into; by default those of a new figure.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    lines, rows = _lines(levels), len(levels.levels)
    height, longest = len(lines) * (rows + _GAP) - _GAP, max(stop - start for start, stop in lines)
    fig, ax = axes_of(ax, (_WIDTH, max(1.5 + 0.24 * height, 2.4)))
    tops = [number * (rows + _GAP) for number in range(len(lines))]
    names = {top + row + 0.5: level.name for top in tops for row, level in enumerate(levels.levels)}
    ax.set(xlim=(0, longest), ylim=(height, 0), xticks=[], yticks=list(names))
    ax.set_yticklabels(list(names.values()), fontsize=8, **font_options())
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    colour_bar(ax, levels.scale, levels.value_name)
    extent = f"characters {lines[0][0] + 1:,} to {lines[-1][1]:,} of {len(levels.text):,}"
    extent += ", line by line" if len(lines) > 1 else ""
    add_caption(ax, extent, "; ".join(level.description for level in levels.levels), levels.scale.description)
    add_title(ax, levels.title)
    fig.draw_without_rendering()  # fixes the width that labels have to fit
    inch = longest / (ax.bbox.width / fig.dpi)
    for top, line_of_text in zip(tops, lines, strict=True):
        _draw_line(ax, levels, line_of_text, top, inch)
    return fig, ax


def _draw_line(ax: Axes, levels: Levels, span: tuple[int, int], top: float, inch: float) -> None:
    """The boxes of all levels over the characters of one line; `inch` is the number of characters per inch."""
    from matplotlib.collections import PolyCollection

    start, stop = span
    boxes, colours = [], []
    ax.fill_between([0, stop - start], top, top + len(levels.levels), color="0.955", linewidth=0, zorder=0)
    for row, level in enumerate(levels.levels):
        shares = levels.scale.shares([part.value for part in level.parts]).tolist()
        for part, share in zip(level.parts, shares, strict=True):
            if part.stop <= start or part.start >= stop:
                continue
            left, right = max(part.start, start) - start, min(part.stop, stop) - start
            seam = min(_SEAM * inch, (right - left) / 8)
            low, high = top + row + 0.03, top + row + 0.97
            boxes.append([(left + seam, low), (right - seam, low), (right - seam, high), (left + seam, high)])
            colours.append(LIGHT.at(share) or (1.0, 1.0, 1.0, 0.0))
            room = int((right - left) / inch / _CELL)
            if text := _fitting(part, room, levels.scale.limit):
                middle = (left + right) / 2, top + row + 0.5
                ax.text(*middle, text, ha="center", va="center", fontsize=7.5, color=LIGHT.ink, **font_options())
    edges = [0.5 if (box[1][0] - box[0][0]) / inch > _EDGED else 0.0 for box in boxes]
    ax.add_collection(PolyCollection(boxes, facecolors=colours, edgecolors="0.82", linewidths=edges, zorder=1))


def _fitting(part: Part, room: int, limit: float) -> str:
    """The label and value if both fit, otherwise the label, shortened if enough of it remains, otherwise nothing."""
    text = drawable(part.label)
    number = f"  {format_number(part.value, limit)}"
    if cell_width(text + number) + 1 <= room:
        return text + number
    return truncate(text, room) if room >= min(cell_width(text), 8) else ""


def _lines(levels: Levels) -> list[tuple[int, int]]:
    """Lines of similar length from the first part to the last, cut where a part starts, preferably a coarse one."""
    parts = [part for level in levels.levels for part in level.parts]
    first, last = min(part.start for part in parts), max(part.stop for part in parts)
    length = last - first
    count = min(max(math.ceil(length / _READABLE), 1), _LINES)
    ends = [first]
    for number in range(1, count):
        goal = first + round(length * number / count)
        near = [min((part.start for part in level.parts), key=lambda at: abs(at - goal)) for level in levels.levels]
        ends.append(next((at for at in near if abs(at - goal) <= length / count / 5), goal))
    return [(start, stop) for start, stop in pairwise([*sorted(set(ends)), last]) if stop > start]


def _text(views: Sequence[AttributionView]) -> str:
    """The text shared by all views."""
    texts = []
    for view in views:
        if not view.units or view.context is None:
            raise InvalidValue("levels need the whole text: the view has no units, or not the text around them")
        texts.append("".join(text for text, _ in view.pieces()))
        if view.value_name != views[0].value_name:
            raise InvalidValue(
                f"levels must measure the same thing; got {views[0].value_name!r} and {view.value_name!r}"
            )
        if texts[-1] != texts[0]:
            pairs = zip(texts[0], texts[-1], strict=False)
            same = next((at for at, (one, other) in enumerate(pairs) if one != other), min(map(len, texts)))
            raise InvalidValue(
                f"levels must cover the same text; {texts[0][same : same + 40]!r} and "
                f"{texts[-1][same : same + 40]!r} differ from character {same} on"
            )
    return texts[0]


def _parts(view: AttributionView) -> list[Part]:
    pieces = list(view.pieces())
    starts = accumulate((len(text) for text, _ in pieces), initial=0)
    named = [group for group in view.groups if group.kind == view.unit_name and group.stop - group.first == 1]
    alone = {group.first: group.label for group in named}
    return [
        Part(start, start + len(text), alone.get(unit, "") or text, view.unit_values[unit])
        for start, (text, unit) in zip(starts, pieces, strict=False)
        if unit is not None
    ]


def _sums(view: AttributionView, level: Level) -> Level | None:
    """The groups of a view with the sums of their units; None if the groups are the units."""
    if not view.groups or all(group.stop - group.first == 1 for group in view.groups):
        return None
    parts = []
    for group in view.groups:
        units = level.parts[group.first : group.stop]
        parts.append(Part(units[0].start, units[-1].stop, group.label, math.fsum(unit.value for unit in units)))
    kinds = list(dict.fromkeys(group.kind for group in view.groups))
    return Level(" and ".join(map(_plural, kinds)), True, tuple(parts))


def _plural(name: str) -> str:
    return name if name.endswith("s") else f"{name}s"
