"""The pictures of a result: terminal, HTML, notebook and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llm_attr.errors import UnsupportedMethod
from llm_attr.llm.results import export, view
from llm_attr.llm.results.data import NO_PAIRS, ResultData
from llm_attr.viz.figure import show as show_figure
from llm_attr.viz.text.figures.arcs import plot_arcs
from llm_attr.viz.text.figures.bars import plot_unit_values
from llm_attr.viz.text.figures.card import plot_card
from llm_attr.viz.text.figures.heat_map import plot_token_values
from llm_attr.viz.text.levels import plot_levels
from llm_attr.viz.text.lines.terminal import render, show
from llm_attr.viz.text.page import fragment, to_html
from llm_attr.viz.text.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llm_attr.viz.widget import AttributionWidget

NO_ROWS = "this result has no attribution of single tokens"
ASK_FOR_ROWS = "gradient methods give it with token_rows=True, which explain(..., region=...) sets"


class Pictured(ResultData):
    """A result that can be drawn; every picture is of its `view`."""

    def view(self) -> AttributionView:
        """The view that every picture of this result is drawn from."""
        return view.view(self)

    def show(self, width: int | None = None) -> None:
        """Prints the prompt coloured by attribution, the ranked units and the answer, as wide as the terminal."""
        show(self.view(), width=width)

    def render(self, width: int | None = None, colour: bool | None = None) -> str:
        """What `show` prints, as text; with ANSI escape sequences if it is coloured."""
        return render(self.view(), width=width, colour=colour)

    def to_html(self, path: str | Path | None = None, *, levels: Sequence[ResultData] = ()) -> str:
        """A self-contained HTML page.

        Args:
            path: A file to write it to.
            levels: Results for the same text by other units, shown nested in a section of their own; see `plot_levels`.

        Raises:
            InvalidValue: the levels do not match this result.
        """
        return export.written(to_html(self.view(), view.levels(self, *levels) if levels else None), path)

    def _repr_html_(self) -> str:
        return fragment(self.view())

    def widget(self) -> AttributionWidget:
        """The interactive picture for a notebook; its `selected` reads and sets the selection.

        Raises:
            MissingExtra: anywidget is not installed.
        """
        from llm_attr.viz.widget import AttributionWidget

        return AttributionWidget(self)

    def plot_seq_attr(self, show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Bar chart of the attribution of the full answer.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        return _plot(plot_unit_values, self.view(), ax, show)

    def plot_token_attr(self, show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Heat map of the attribution of each answer token.

        Raises:
            MissingExtra: matplotlib is not installed.
            UnsupportedMethod: the result has no attribution of single tokens.
        """
        if self.token_attr is None:
            raise UnsupportedMethod(f"{NO_ROWS}; use plot_seq_attr, or {ASK_FOR_ROWS}")
        return _plot(plot_token_values, self.view(), ax, show)

    def plot_interactions(self, show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Arc diagram of the strongest interactions between units, see `interactions`.

        Raises:
            MissingExtra: matplotlib is not installed.
            UnsupportedMethod: the method does not compute interactions.
        """
        drawn = self.view()
        if drawn.interactions is None:
            raise UnsupportedMethod(NO_PAIRS)
        return _plot(plot_arcs, drawn, ax, show)

    def plot_card(self, path: str | Path | None = None) -> Figure:
        """A card to share, 1200 × 630 pixels: the answer, what carried it, and a barcode of the prompt.

        Args:
            path: A file to write it to, such as "card.png".

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        figure = plot_card(self.view())
        if path is not None:
            figure.savefig(path, dpi="figure")
        return figure

    def plot_levels(self, *others: ResultData, show: bool = False, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """The text at several levels, coarse to fine: this result and `others` by other units, on one scale.

        Documents or messages that hold several units of the coarsest result add a level of their sums, marked as such
        in the picture. `to_html(levels=others)` nests the same levels in a page.

        Raises:
            MissingExtra: matplotlib is not installed.
            InvalidValue: the results differ in text or scalar, or there is only one level.
        """
        return _plot(plot_levels, view.levels(self, *others), ax, show)


def _plot(plot: Callable[..., tuple[Figure, Axes]], drawn: object, ax: Axes | None, show: bool) -> tuple[Figure, Axes]:
    figure, axes = plot(drawn, ax)
    if show:
        show_figure(figure)
    return figure, axes
