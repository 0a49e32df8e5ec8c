"""The fields of a comparison: results on the units that they have in common, and how far they agree."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from llm_attr.core.agreement import rank_correlation, top_overlap
from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.results.labels import differences
from llm_attr.llm.results.unit_alignment import CommonUnits


class ComparisonData:
    """The fields of a `Comparison`, documented there, and properties computed from them."""

    def __init__(self, results: Sequence[ResultData], names: Sequence[str], share_scale: bool | None = None) -> None:
        self.results, self.names, self.share_scale = tuple(results), tuple(names), share_scale
        self.units = CommonUnits.of(self.results, self.names)
        self.values = torch.stack([self.units.sums(result.seq_attr, i) for i, result in enumerate(self.results)])
        self.stderr = torch.stack([self._errors(i) for i in range(len(self.results))])

    @cached_property
    def agreement(self) -> Tensor:
        """Spearman's rank correlation of the unit values, float64 `(results, results)`.

        Ties get their mean rank; NaN if the values of a result are all equal or contain NaN.
        """
        return rank_correlation(self.values)

    def top_agreement(self, k: int = 3) -> Tensor:
        """The fraction of the `k` units with the largest |value| that each pair of results shares.

        Float64 `(results, results)`; ties are broken in reading order.

        Raises:
            InvalidType: `k` is not an integer.
            InvalidValue: `k` is not between 1 and the number of units.
        """
        if isinstance(k, bool) or not isinstance(k, int):
            raise InvalidType(f"k must be an integer; got {k!r}")
        if not 1 <= k <= len(self.units.texts):
            raise InvalidValue(f"k must be between 1 and the number of units, {len(self.units.texts)}; got {k}")
        return top_overlap(self.values, k)

    @cached_property
    def differences(self) -> dict[str, list[str]]:
        """The aspects other than the method in which the results differ, each with a text per result."""
        return differences(self.results, self.units)

    def _errors(self, which: int) -> Tensor:
        stderr = self.results[which].stderr
        if stderr is None:
            return torch.full((len(self.units.texts),), torch.nan, dtype=torch.float64, device="cpu")
        return self.units.sums(stderr, which).where(self.units.counts(which) == 1, torch.nan)
