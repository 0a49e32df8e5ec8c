"""The coalitions by which an explanation is judged: those that were paid for, and a few more within a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm_attr.core.faithfulness.feature_game import AnswerGame
from llm_attr.core.game.coalitions import distinct, keys
from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.typing import Coalitions, Values

SHARE = 0.25
"""Coalitions that a report evaluates by default, as a share of those that the explanation did."""

TRIES = 20
"""Coalitions drawn for each one that is wanted, before none are taken to be left."""


@dataclass(frozen=True)
class Sample:
    """The sample of coalitions that attributions were estimated from.

    Attributes:
        estimate: The attributions `(features,)` from some rows of the sample, none of them twice.
        kept: How many of the first rows every sample has.
        period: How many rows one draw consists of.
    """

    estimate: Callable[[Tensor], Values]
    kept: int
    period: int


@dataclass(frozen=True)
class Subject:
    """An explanation that is judged, and what is known of its game.

    Attributes:
        attributions: float64 `(features,)`.
        texts: The text of each feature.
        coalitions: Bool `(coalitions, features)`: those that were paid for.
        values: float64 `(coalitions,)`: their values, of the full answer.
        own: Whether the attributions were computed from these values.
        paid: The evaluations that the explanation took.
        game: Evaluates others; None without a model.
        units: The positions of each feature's units; None: each unit is a feature.
        sample: How the attributions were sampled; None if they were not, or nothing was left out.
        noise: Nats by which rounding moves a value; None where that is unknown.
    """

    attributions: Tensor
    texts: tuple[str, ...]
    coalitions: Coalitions
    values: Values
    own: bool
    paid: int
    game: AnswerGame | None = None
    units: tuple[tuple[int, ...], ...] | None = None
    sample: Sample | None = None
    noise: float | None = None

    @property
    def features(self) -> int:
        """The number of features."""
        return len(self.attributions)

    def positions(self, features: tuple[int, ...]) -> tuple[int, ...]:
        """The positions of the units of some features, in the order of the features."""
        if self.units is None:
            return features
        return tuple(unit for feature in features for unit in self.units[feature])


def limit_of(budget: int | float | None, paid: int) -> int:
    """How many coalitions a budget allows.

    Args:
        budget: A number of coalitions, or as a float a share of those paid for; None: `SHARE` of them.
        paid: How many the explanation took.

    Raises:
        InvalidType: it is no number.
        InvalidValue: it is negative, infinite or NaN.
    """
    if budget is None:
        return int(SHARE * paid)
    if isinstance(budget, bool) or not isinstance(budget, int | float):
        raise InvalidType(
            "budget must be a number of coalitions, e.g. 32, or a share of those that the explanation took, e.g. 0.5; "
            f"got {type(budget).__name__}"
        )
    if not 0 <= budget < float("inf"):
        raise InvalidValue(f"budget must be 0 or larger, and finite; got {budget}")
    return budget if isinstance(budget, int) else int(budget * paid)


@dataclass
class Evidence:
    """Known values of a game, and a plan of further ones.

    Args:
        subject: What is judged.
        limit: How many further coalitions may be evaluated.
    """

    subject: Subject
    limit: int
    known: dict[bytes, float] = field(init=False)
    _planned: dict[bytes, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        names, values = keys(self.subject.coalitions), self.subject.values.tolist()
        self.known = dict(zip(names, values, strict=True))

    @property
    def left(self) -> int:
        """How many further coalitions may be planned; 0 without a model."""
        return 0 if self.subject.game is None else self.limit - len(self._planned)

    def plan(self, *coalitions: Tensor) -> bool:
        """Plans coalitions, all or none of them; whether they will be known."""
        rows = torch.stack(coalitions)
        new = dict(zip(keys(rows), rows, strict=True))
        new = {name: row for name, row in new.items() if name not in self.known and name not in self._planned}
        if len(new) > self.left:
            return not new
        self._planned |= new
        return True

    def plan_unseen(self, count: int, seed: int) -> Coalitions:
        """Plans `count` random halves of the features that are not known, or as many as there are."""
        subject, generator = self.subject, torch.Generator().manual_seed(seed)
        chosen: dict[bytes, Tensor] = {}
        for _ in range(TRIES * count):
            order = torch.rand(subject.features, generator=generator, dtype=torch.float64, device="cpu").argsort()
            row = order.argsort() < subject.features // 2
            (name,) = keys(row[None])
            if name not in self.known and name not in chosen and self.plan(row):
                chosen[name] = row
            if len(chosen) == count:
                break
        return torch.stack(list(chosen.values())) if chosen else subject.coalitions[:0]

    def evaluate(self) -> None:
        """Evaluates what was planned, all of it together."""
        if self._planned and self.subject.game is not None:
            values = self.subject.game.shared(torch.stack(list(self._planned.values())), 1)[0]
            self.known |= zip(self._planned, values.tolist(), strict=True)

    def value(self, row: Tensor) -> float | None:
        """The value of a coalition, if it is known."""
        return self.known.get(keys(row[None])[0])

    def values(self, rows: Coalitions) -> Values:
        """float64 `(coalitions,)`: the values of known coalitions."""
        return torch.tensor([self.known[name] for name in keys(rows)], dtype=torch.float64, device="cpu")

    def paid(self) -> Coalitions:
        """The distinct coalitions that were paid for."""
        return distinct(self.subject.coalitions)[0] if len(self.subject.coalitions) else self.subject.coalitions


def without(features: int, absent: tuple[int, ...]) -> Tensor:
    """Bool `(features,)`: all but some."""
    row = torch.ones(features, dtype=torch.bool, device="cpu")
    row[list(absent)] = False
    return row
