"""Budgets in units that only the game can measure, such as passes through a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions


class Meter(Protocol):
    """Measures the cost of a game in passes or positions."""

    def spent(self) -> int:
        """The cost so far."""

    def prices(self, samples: Sequence[Coalitions]) -> Callable[[int], int]:
        """What the first k samples would cost if they were evaluated together now, as a function of k."""


class MeteredBudget:
    """The most that a game may cost.

    Args:
        meter: Measures the cost of the game.
        limit: The budget.

    Raises:
        InvalidValue: `meter` is None: the game cannot be measured.
    """

    def __init__(self, meter: Meter | None, limit: int) -> None:
        if meter is None:
            raise InvalidValue(
                "a budget in passes or positions is for language models; here give evaluations, e.g. 200, or a time, "
                "e.g. '30 s'"
            )
        self._meter, self._limit = meter, limit

    def affordable(self, samples: Sequence[Coalitions]) -> int:
        """How many of the leading samples fit together into the rest of the budget, by bisection."""
        left, price = self._limit - self._meter.spent(), self._meter.prices(samples)
        low, middle, high = 0, len(samples), len(samples) + 1
        while low < middle:
            if price(middle) <= left:
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        return low
