"""Budgets in units that only the game knows, such as passes through a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions


class Meter(Protocol):
    """What a game costs in passes or positions, which the number of evaluations does not say."""

    def spent(self) -> int:
        """So far."""

    def price(self, coalitions: Coalitions) -> int:
        """What these would cost if they were evaluated together now."""


class MeteredBudget:
    """The most that a game may cost.

    Args:
        meter: What the game costs; None: it cannot be told.
        limit: The budget.

    Raises:
        InvalidValue: there is no meter.
    """

    def __init__(self, meter: Meter | None, limit: int) -> None:
        if meter is None:
            raise InvalidValue(
                "a budget in passes or positions is for prompts of a language model; here it is in evaluations, as "
                "200, or a time, as '30 s'"
            )
        self._meter, self._limit = meter, limit

    def affordable(self, samples: Sequence[Coalitions]) -> int:
        """How many of the first samples cost no more together than is left; found by bisection."""
        left, low, high = self._limit - self._meter.spent(), 0, len(samples) + 1
        middle = len(samples)
        while low < middle:
            if self._meter.price(torch.cat(list(samples[:middle]))) <= left:
                low = middle
            else:
                high = middle
            middle = (low + high) // 2
        return low
