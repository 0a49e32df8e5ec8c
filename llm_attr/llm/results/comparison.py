"""Comparison of explanations of the same text: to read, draw and export."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.llm.results import comparison_view, export
from llm_attr.llm.results.comparison_data import ComparisonData
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.results.labels import distinct_names
from llm_attr.viz.figure import show as show_figure
from llm_attr.viz.text.figures.bars import plot_comparison
from llm_attr.viz.text.lines.terminal import show
from llm_attr.viz.text.page import fragment, to_html
from llm_attr.viz.text.view import ComparisonView

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llm_attr.llm.results.result import LLMAttributionResult


def compare(
    results: Iterable[LLMAttributionResult], names: Sequence[str] | None = None, *, share_scale: bool | None = None
) -> Comparison:
    """Compares explanations of the same text: by other methods, or for other answers, foils, scalars or models.

    The results may use different units. Then values are summed over the finest units common to all results, so words
    and sentences are compared by sentence; `.differences` and every picture say so.

    Args:
        results: Two or more results for the same text. They are not modified.
        names: A name for each result; by default its method and whatever else distinguishes it.
        share_scale: Whether to draw all results on one scale; by default if all values have the same unit, e.g. nats.

    Raises:
        InvalidType: `results` holds something other than results, or a name is not a string.
        InvalidValue: fewer than two results, results for different texts, or names that do not match them.

    Example:
        >>> several = [explain(lm, prompt, method=name) for name in ("feature_ablation", "lime")]  # doctest: +SKIP
        >>> compare(several).show()  # doctest: +SKIP
    """
    if isinstance(results, ResultData) or not isinstance(results, Iterable):
        raise InvalidType(f"results must be a sequence of two or more LLMAttributionResult; got {results!r:.200}")
    if not (share_scale is None or isinstance(share_scale, bool)):
        raise InvalidType(f"share_scale must be True, False or None; got {share_scale!r}")
    given = list(results)
    for place, result in enumerate(given):
        if not isinstance(result, ResultData):
            raise InvalidType(f"every result must be an LLMAttributionResult; result {place} is {result!r:.200}")
    if len(given) < 2:
        raise InvalidValue(f"a comparison needs two or more results; got {len(given)}")
    return Comparison(given, distinct_names(given) if names is None else _checked(names, len(given)), share_scale)


class Comparison(ComparisonData):
    """Explanations of the same text side by side, on the units that they have in common.

    Attributes:
        results: The results, as given.
        names: A distinct name for each result.
        units: The common units: their texts, the text around them, and which units of each result they consist of.
        values: float64 `(results, units)`: attributions, summed over the units of a result in a common unit.
        stderr: float64 `(results, units)`: standard errors; NaN if there is none or the value is a sum.
        share_scale: As given to `compare`.
    """

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.names)}; {len(self.units.texts)} units)"

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each common unit (its number and text) and a column for each result.

        Raises:
            MissingExtra: pandas is not installed.
        """
        return export.comparison_to_pandas(self)

    def to_dict(self) -> dict[str, Any]:
        """Texts, numbers and provenance in plain Python types; an undefined agreement or error is None."""
        return {
            "names": list(self.names),
            "input_tokens": list(self.units.texts),
            "context": None if self.units.context is None else list(self.units.context),
            "values": self.values.tolist(),
            "stderr": _without_nan(self.stderr),
            "value_names": [column.value_name for column in self.view().columns],
            "summed_units": [self.units.counts(i).tolist() for i in range(len(self.results))],
            "agreement": _without_nan(self.agreement),
            "differences": self.differences,
            "output_texts": [result.output_text for result in self.results],
            "provenance": [result.provenance for result in self.results],
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON, also written to `path` if given; NaN and infinity become null."""
        return export.to_json(self.to_dict(), path)

    def view(self) -> ComparisonView:
        """The view that every picture of this comparison is drawn from."""
        return comparison_view.view(self)

    def show(self, width: int | None = None) -> None:
        """Prints the units with a column for each result, and their agreement, as wide as the terminal."""
        show(self.view(), width=width)

    def to_html(self, path: str | Path | None = None) -> str:
        """A self-contained HTML page, also written to `path` if given."""
        return export.written(to_html(self.view()), path)

    def _repr_html_(self) -> str:
        return fragment(self.view())

    def plot(self, show: bool = False) -> tuple[Figure, list[Axes]]:
        """A bar chart of the common units for each result, with the agreement below; the axes are in this order.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        figure, axes = plot_comparison(self.view())
        if show:
            show_figure(figure)
        return figure, axes


def _checked(names: Sequence[str], count: int) -> list[str]:
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise InvalidType(f"names must be a sequence of texts, one for each result; got {names!r}")
    for name in names:
        if not isinstance(name, str):
            raise InvalidType(f"every name must be a text; got {name!r}")
    if len(names) != count:
        raise InvalidShape(f"names must be one for each of the {count} results; got {len(names)}")
    if len(set(names)) < count or not all(name.strip() for name in names):
        raise InvalidValue(f"names must differ from each other and hold more than white space; got {list(names)!r}")
    return list(names)


def _without_nan(table: Tensor) -> list[list[float | None]]:
    return [[None if value != value else value for value in row] for row in table.tolist()]
