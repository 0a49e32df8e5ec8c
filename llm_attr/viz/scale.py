"""The scale of a picture: how values become shares of a limit, and its description in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llm_attr.errors import InvalidValue
from llm_attr.viz.formatting import format_number

Floats: TypeAlias = NDArray[np.float64]


def extent(values: ArrayLike) -> float:
    """The largest finite |value|; 0 if there is none."""
    magnitudes = np.abs(np.asarray(values, dtype=np.float64))
    return float(np.max(magnitudes, initial=0.0, where=np.isfinite(magnitudes)))


@dataclass(frozen=True)
class Scale:
    """A symmetric scale from `-limit` to `limit`, for one picture or shared by several to make them comparable.

    Attributes:
        limit: the |value| at the ends; 0 if all values are 0.
        rule: how the limit was chosen, in words.
    """

    limit: float
    rule: str = "the largest |value|"

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and self.limit >= 0):
            raise InvalidValue(f"the limit of a scale must be a finite number of 0 or more; given {self.limit!r}")

    @classmethod
    def of(cls, *values: ArrayLike, outliers: float = 0.0, limit: float | None = None) -> Scale:
        """The scale of the values; shared if there are several arrays.

        Args:
            values: numbers of any shape; values that are not finite are ignored.
            outliers: percent of the sum of |value| to clip: the largest values, which together make up at most this
                share, are drawn like the ends, and the smallest of them is the limit.
            limit: an explicit limit.

        Raises:
            InvalidValue: `outliers` is not in [0, 100), or `limit` is not positive and finite.
        """
        if limit is not None:
            if not (math.isfinite(limit) and limit > 0):
                raise InvalidValue(f"the limit of a scale must be a positive finite number; given {limit!r}")
            return cls(float(limit), "given")
        if not (isinstance(outliers, Real) and 0 <= outliers < 100):
            raise InvalidValue(f"outliers are a percentage in [0, 100); given {outliers!r}")
        magnitudes = np.concatenate(
            [np.zeros(0), *(np.abs(np.asarray(array, dtype=np.float64)).ravel() for array in values)]
        )
        shared = f", shared by {len(values)}" if len(values) > 1 else ""
        if not outliers:
            return cls(extent(magnitudes), f"the largest |value|{shared}")
        ordered = np.sort(magnitudes[np.isfinite(magnitudes)])
        below = np.cumsum(ordered)
        place = int(np.searchsorted(below, below[-1] * (1 - outliers / 100))) if ordered.size else 0
        rule = f"{outliers:g} % of the sum of |values| lies at the ends{shared}"
        return cls(float(ordered[min(place, ordered.size - 1)]) if ordered.size else 0.0, rule)

    def shares(self, values: ArrayLike) -> Floats:
        """Values as shares of the limit, clipped to [-1, 1]; NaN stays NaN."""
        array = np.asarray(values, dtype=np.float64)
        return np.clip(array / self.limit, -1.0, 1.0) if self.limit else np.clip(array, -1.0, 1.0)

    @property
    def description(self) -> str:
        """The scale in words, for a caption: "ends of the scale: ±0.520 (the largest |value|)"."""
        if not self.limit:
            return "no value other than 0"
        return f"ends of the scale: ±{format_number(self.limit, self.limit).lstrip('+')} ({self.rule})"
