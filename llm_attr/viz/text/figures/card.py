"""A card to share: what carried an answer, as a picture of 1200 × 630 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llm_attr.errors import MissingExtra
from llm_attr.viz.colour import LIGHT, mark
from llm_attr.viz.figure import drawable, font_options, wrap_text
from llm_attr.viz.formatting import format_number, truncate
from llm_attr.viz.text.barcode import barcode
from llm_attr.viz.text.finding import finding, heading
from llm_attr.viz.text.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PAPER, _QUIET = "#f3f3f0", "#62656b"
_SIZE, _DPI = (12.0, 6.3), 100
_LEFT, _WIDE = 0.05, 0.9  # of the width
_INCHES = _SIZE[0] * _WIDE
_UNITS = 3
_BOLD = 0.88  # letters of a bold text that fit, as a share of those that are not bold
_LEADING = 1.35  # the height of a line, in that of its font
_FAINT = 0.03  # stripes below this share of the limit have no colour


def plot_card(view: AttributionView) -> Figure:
    """The answer, the finding, a barcode of the prompt's units and the strongest of them; save it with `dpi="figure"`.

    Args:
        view: what is drawn.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("matplotlib", "plot") from error
    figure = Figure(figsize=_SIZE, dpi=_DPI, facecolor=_PAPER)
    top = _write(figure, heading(view.title), 0.93, 26, most=2, weight="bold")
    top = _write(figure, "".join(phrase.text for phrase in finding(view)), top - 0.03, 17, most=4)
    _stripes(figure, view, min(top - 0.08, 0.46))
    _strongest(figure, view, min(top - 0.08, 0.46) - 0.09)
    notes = dict(view.notes)
    about = " · ".join(filter(None, (notes.get("model", "").partition(",")[0], notes.get("method", ""), "llm_attr")))
    figure.text(_LEFT, 0.06, drawable(about), size=13, color=_QUIET, va="bottom", **font_options())
    return figure


def _write(figure: Figure, text: str, top: float, size: int, most: int, **options: Any) -> float:
    """Text in at most `most` lines from `top` downwards, both in shares of the height; returns where it ends."""
    lines = wrap_text(drawable(text), _INCHES * (_BOLD if "weight" in options else 1), size).split("\n") if text else []
    if len(lines) > most:
        lines = [*lines[: most - 1], lines[most - 1].rstrip(" .,;:") + " …"]
    figure.text(
        _LEFT,
        top,
        "\n".join(lines),
        size=size,
        color=LIGHT.ink,
        va="top",
        linespacing=1.35,
        **options,
        **font_options(),
    )
    return top - len(lines) * size * _LEADING / 72 / _SIZE[1]


def _stripes(figure: Figure, view: AttributionView, bottom: float) -> None:
    """The barcode as axes of its own."""
    stripes = barcode(view)
    ax = figure.add_axes((_LEFT, bottom, _WIDE, 0.05))
    ax.set(xlim=(0, max(len(stripes), 1)), ylim=(0, 1), xticks=[], yticks=[], facecolor=LIGHT.zero)
    ax.spines[:].set_color("#d6d6d0")
    for place, stripe in enumerate(stripes):
        share = stripe.value.share if stripe.value.share >= _FAINT else 0.0
        sign = -1.0 if stripe.value.sign == "neg" else 1.0
        ax.axvspan(place, place + 1, facecolor=LIGHT.at(sign * share), linewidth=0)


def _strongest(figure: Figure, view: AttributionView, top: float) -> None:
    """The strongest units: value, bar and text."""
    limit = view.limit or 1.0
    for row, unit in enumerate(view.ranking[:_UNITS]):
        value, middle = view.unit_values[unit], top - 0.075 * row
        number = format_number(value, view.limit)
        figure.text(_LEFT + 0.07, middle, number, size=15, color=LIGHT.ink, ha="right", va="center", **font_options())
        share = min(abs(value) / limit, 1.0) if value == value else 0.0
        ax = figure.add_axes((_LEFT + 0.085, middle - 0.02, 0.16, 0.04))
        ax.set(xlim=(0, 1), ylim=(0, 1))
        ax.set_axis_off()
        ax.barh(0.5, share, height=1.0, color=mark(value))
        text = truncate(drawable(view.own_text(unit)), 66)
        figure.text(_LEFT + 0.26, middle, text, size=15, color=LIGHT.ink, va="center", **font_options())
