"""Several explanations of the same text beside each other, and how far they agree."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm_attr.core.agreement import rank_correlation, top_overlap
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, MissingExtra
from llm_attr.llm.results.json_text import json_text
from llm_attr.llm.results.labels import differences, distinct_names
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.llm.results.unit_alignment import CommonUnits
from llm_attr.viz.comparison import ComparisonView

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def compare(
    results: Iterable[LLMAttributionResult], names: Sequence[str] | None = None, *, share_scale: bool | None = None
) -> Comparison:
    """Puts explanations of the same text beside each other: other methods, answers, foils, scalars or models.

    The units of the results may differ. Then values are summed over the finest units that all of them have in common,
    so that of words and sentences the sentences are compared; `.differences` and every picture say so.

    Args:
        results: Two or more, of the same text. They are not changed.
        names: A name for each; by default those of the methods, and what else tells them apart.
        share_scale: Whether all are drawn on one scale; None: where all values are in the same unit, as nats.

    Raises:
        InvalidType: something is no result, or a name is no text.
        InvalidValue: there are fewer than two results, they are of different texts, or the names do not fit.

    Example:
        >>> found = [explain(lm, prompt, method=name) for name in ("feature_ablation", "lime")]  # doctest: +SKIP
        >>> compare(found).show()  # doctest: +SKIP
    """
    if isinstance(results, LLMAttributionResult) or not isinstance(results, Iterable):
        raise InvalidType(f"results must be a sequence of two or more LLMAttributionResult; got {results!r:.200}")
    if not (share_scale is None or isinstance(share_scale, bool)):
        raise InvalidType(f"share_scale must be True, False or None; got {share_scale!r}")
    given = list(results)
    for place, result in enumerate(given):
        if not isinstance(result, LLMAttributionResult):
            raise InvalidType(f"every result must be an LLMAttributionResult; result {place} is {result!r:.200}")
    if len(given) < 2:
        raise InvalidValue(f"a comparison needs two or more results; got {len(given)}")
    return Comparison(given, distinct_names(given) if names is None else _checked(names, len(given)), share_scale)


class Comparison:
    """Explanations of the same text beside each other, on the units that they have in common.

    Attributes:
        results: The results, as they were given.
        names: A name for each, all different.
        units: The common units: their texts, the text around them, and which units of each result they are made of.
        values: float64 `(results, units)`: attributions, summed where a common unit is made of several.
        stderr: float64 `(results, units)`: standard errors; nan where there is none or the value is a sum.
        share_scale: As given to `compare`.
    """

    def __init__(
        self, results: Sequence[LLMAttributionResult], names: Sequence[str], share_scale: bool | None = None
    ) -> None:
        self.results, self.names, self.share_scale = tuple(results), tuple(names), share_scale
        self.units = CommonUnits.of(self.results, self.names)
        self.values = torch.stack([self.units.sums(result.seq_attr, i) for i, result in enumerate(self.results)])
        self.stderr = torch.stack([self._errors(i) for i in range(len(self.results))])

    @cached_property
    def agreement(self) -> Tensor:
        """Spearman's rank correlation of the unit values, float64 `(results, results)`.

        Equal values have the mean of their ranks; nan stands where the values of a result are all equal or hold nan.
        """
        return rank_correlation(self.values)

    def top_agreement(self, k: int = 3) -> Tensor:
        """How many of the `k` units of largest |value| each two results share, as a share of `k`.

        Float64 `(results, results)`; of equal |values| the unit that comes first in the text is the stronger.

        Raises:
            InvalidType: `k` is no integer.
            InvalidValue: `k` is not between 1 and the number of units.
        """
        if isinstance(k, bool) or not isinstance(k, int):
            raise InvalidType(f"k must be an integer; got {k!r}")
        if not 1 <= k <= len(self.units.texts):
            raise InvalidValue(f"k must be between 1 and the number of units, {len(self.units.texts)}; got {k}")
        return top_overlap(self.values, k)

    @cached_property
    def differences(self) -> dict[str, list[str]]:
        """What differs between the results, apart from their methods: a text for each result, by aspect."""
        return differences(self.results, self.units)

    def __repr__(self) -> str:
        return f"Comparison({', '.join(self.names)}; {len(self.units.texts)} units)"

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with a row for each common unit (its number and text) and a column for each result.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise MissingExtra("pandas", "data") from error
        texts = self.units.texts
        index = pd.MultiIndex.from_arrays([range(len(texts)), list(texts)], names=["unit", "text"])
        return pd.DataFrame(self.values.T.numpy(), index=index, columns=pd.Index(self.names, name="result"))

    def to_dict(self) -> dict[str, Any]:
        """Texts, numbers and provenance in plain Python types; None stands where there is no agreement or error."""
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
        """`to_dict` as JSON text, also written to a file if a path is given; nan and infinity become null."""
        return json_text(self.to_dict(), path)

    def view(self) -> ComparisonView:
        """What pictures of this comparison are drawn from."""
        from llm_attr.llm.results.comparison_view import view

        return view(self)

    def show(self, width: int | None = None) -> None:
        """Prints the units with a column for each result, and how far the results agree, as wide as the terminal."""
        from llm_attr.viz.comparison_terminal import show

        show(self.view(), width=width)

    def to_html(self, path: str | Path | None = None) -> str:
        """A page that needs nothing from elsewhere, also written to a file if a path is given."""
        from llm_attr.viz.comparison_page import to_html

        page = to_html(self.view())
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        from llm_attr.viz.comparison_page import fragment

        return fragment(self.view())

    def plot(self, show: bool = False) -> tuple[Figure, list[Axes]]:
        """Bars of each result over the same units, and below them the agreement; the axes in this order.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        from llm_attr.viz import figure as surface
        from llm_attr.viz.comparison_figure import plot

        figure, axes = plot(self.view())
        if show:
            surface.show(figure)
        return figure, axes

    def _errors(self, which: int) -> Tensor:
        stderr = self.results[which].stderr
        if stderr is None:
            return torch.full((len(self.units.texts),), torch.nan, dtype=torch.float64, device="cpu")
        return self.units.sums(stderr, which).where(self.units.counts(which) == 1, torch.nan)


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
