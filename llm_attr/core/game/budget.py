"""Budgets in units that only the game knows: what has been spent, and what the next coalitions cost."""

from __future__ import annotations

from typing import Protocol

import torch

from llm_attr.core.game.ledger import Ledger
from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions


class Meter(Protocol):
    """What a game costs in passes or positions, which evaluations do not tell."""

    def spent(self) -> int:
        """So far."""

    def price(self, coalitions: Coalitions) -> int:
        """What these would cost if they were asked for together now."""


class Bill:
    """What has been spent, and what the samples cost that wait to be evaluated together."""

    def __init__(self, meter: Meter | None, ledger: Ledger, limit: int) -> None:
        if meter is None:
            raise InvalidValue(
                "a budget in passes or positions is for prompts of a language model; here it is in evaluations, as "
                "200, or a time, as '30 s'"
            )
        self._meter, self._ledger, self._limit = meter, ledger, limit
        self._waiting: list[Coalitions] = []
        self._price, self._seen = 0, ledger.asked

    def is_beyond(self, sample: Coalitions) -> bool:
        """Whether one more sample would cost more than is left; together they cost no more than one by one."""
        if self._ledger.asked != self._seen:
            self._waiting, self._price, self._seen = [], 0, self._ledger.asked
        self._waiting.append(sample)
        left = self._limit - self._meter.spent()
        self._price += self._meter.price(sample)
        if self._price > left:
            self._price = self._meter.price(torch.cat(self._waiting))
        return self._price > left
