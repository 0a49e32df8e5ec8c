"""L-Shapley: Shapley values of the small games of a feature and its neighbours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.estimators.shapley import MAX_FEATURES, numbered, shapley_values, shown
from llm_attr.core.game.estimate import Estimate
from llm_attr.errors import InvalidValue, TooManyFeatures, UnknownName
from llm_attr.typing import Coalitions, Values

Others: TypeAlias = Literal["absent", "present"]
"""The state of the features outside the neighbourhood."""


class Neighbourhoods(BaseEstimator):
    """The Shapley value of each feature in the game of the features at most `radius` positions away.

    `phi_i = sum over S in N(i) without i of |S|! (n - |S| - 1)! / n! (v(S with i) - v(S))`, n features in N(i)

    Args:
        radius: Neighbours on each side, in the order of the features.
        others: Whether features outside the neighbourhood are `absent`, as in the paper, or `present`.

    Source: J. Chen, L. Song, M. J. Wainwright and M. I. Jordan, L-Shapley and C-Shapley, ICLR 2019, definition 1.
    """

    def __init__(self, radius: int = 2, others: Others = "absent") -> None:
        if isinstance(radius, bool) or not isinstance(radius, int) or radius < 0:
            raise InvalidValue(f"radius must be a whole number of at least 0; got {radius!r}")
        if others not in get_args(Others):
            raise UnknownName("others", others, get_args(Others))
        self._radius, self._others = radius, others

    def size(self, features: int) -> int:
        """The number of distinct subsets of all neighbourhoods, at most `1 + f 4^radius`.

        Raises:
            TooManyFeatures: there are too many to enumerate.
        """
        count = 1 + sum(1 << min(2 * self._radius, after) for after in range(features))
        if count > 1 << MAX_FEATURES:
            raise TooManyFeatures(
                f"neighbourhoods of radius {self._radius} over {features} features take {shown(count)} evaluations; at "
                f"most {1 << MAX_FEATURES:,} can be enumerated: use a smaller radius"
            )
        return count

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The empty set, then the sets whose first feature is 0, then 1, ...; or their complements."""
        self.size(features)
        yield self._with_others(torch.zeros(1, features, dtype=torch.bool, device="cpu"))
        for first in range(features):
            size = min(2 * self._radius, features - first - 1)
            rows = torch.zeros(1 << size, features, dtype=torch.bool, device="cpu")
            rows[:, first] = True
            rows[:, first + 1 : first + 1 + size] = numbered(torch.arange(1 << size, device="cpu"), size)
            yield self._with_others(rows)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """The local values; neighbourhoods of the same shape are computed together."""
        features = coalitions.shape[1]
        shapes: dict[tuple[int, int], list[int]] = {}
        for feature in range(features):
            low, high = max(0, feature - self._radius), min(features, feature + self._radius + 1)
            shapes.setdefault((feature - low, high - low), []).append(feature)
        attributions = values.new_zeros(
            features, *values.shape[1:], dtype=torch.promote_types(values.dtype, torch.float32)
        )
        for (place, size), centres in shapes.items():
            rows = self._rows(features, torch.tensor(centres, device="cpu") - place, size)
            local = shapley_values(values[rows].transpose(0, 1).flatten(1))[place]
            attributions[centres] = local.view(len(centres), -1)
        return Estimate(attributions)

    def _with_others(self, rows: Coalitions) -> Coalitions:
        return rows if self._others == "absent" else ~rows

    def _rows(self, features: int, lows: Tensor, size: int) -> Tensor:
        """`(neighbourhoods, 2^size)`: the row of the design for each subset of each neighbourhood."""
        sizes = [1 << min(2 * self._radius, features - first - 1) for first in range(features)]
        starts = torch.tensor([1, *sizes], device="cpu").cumsum(0)
        subsets = torch.arange(1 << size, device="cpu")
        if self._others == "present":
            subsets = subsets.flip(0)
        first = numbered(subsets, size).int().argmax(1)
        return torch.where(subsets > 0, starts[lows[:, None] + first] + (subsets >> (first + 1)), 0)
