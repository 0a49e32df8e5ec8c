"""A model as a game of features by which attributions are judged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.game.coalitions import keys
from llm_attr.core.game.driver import finite
from llm_attr.core.game.ledger import Ledger
from llm_attr.errors import InvalidShape, InvalidType, NonFiniteValue
from llm_attr.typing import Coalitions, Game, Values


@dataclass(frozen=True)
class Spent:
    """What a game has cost so far.

    Attributes:
        evaluations: Coalitions that the model evaluated.
        passes: Forward passes of the model; None if they are not counted.
    """

    evaluations: int
    passes: int | None = None

    def since(self, before: Spent) -> Spent:
        """The cost since another moment."""
        passes = None if self.passes is None or before.passes is None else self.passes - before.passes
        return Spent(self.evaluations - before.evaluations, passes)


class FeatureGame(ABC):
    """What attributions are judged by: the value of a model when only some features are present.

    Values are remembered, so that no coalition is evaluated twice by the metrics that share a game.
    """

    @property
    @abstractmethod
    def features(self) -> int:
        """The number of features."""

    @abstractmethod
    def rows(self, attributions: Any) -> Tensor:
        """float64 `(outputs, features)` on the CPU: attributions in the caller's form, for each output they explain.

        Raises:
            InvalidShape: they do not fit the features.
            InvalidType: they are not tensors.
            NonFiniteValue: they hold NaN or infinity.
        """

    @abstractmethod
    def values(self, coalitions: Coalitions) -> Values:
        """float64 `(outputs, coalitions)` for coalitions of each output, `(outputs, coalitions, features)`."""

    @property
    @abstractmethod
    def spent(self) -> Spent:
        """The cost so far."""

    def shared(self, coalitions: Coalitions, outputs: int) -> Values:
        """`(outputs, coalitions)` for coalitions that all outputs share, `(coalitions, features)`."""
        return self.values(coalitions[None].expand(outputs, -1, -1))


class AnswerGame(FeatureGame):
    """A game whose outputs are an answer and its parts."""

    @property
    @abstractmethod
    def owner(self) -> Tensor:
        """int64 `(units,)`: the feature of each unit of the prompt."""

    @abstractmethod
    def part(self, tokens: slice) -> AnswerGame:
        """The game of a part of the answer, which shares the values that are known."""

    @abstractmethod
    def randomised(self, seed: int) -> AbstractContextManager[AnswerGame]:
        """The same game of the model with random weights, which it has inside; nothing is known of it.

        Raises:
            UnsupportedMethod: the weights are not in memory (offloaded).
        """


class CoalitionGame(FeatureGame):
    """A function of coalitions, whose outputs share their features.

    Args:
        game: From bool `(coalitions, features)` to `(coalitions,)` or `(coalitions, outputs)`.
        features: The number of features.

    Example:
        >>> import torch
        >>> weights = torch.tensor([3.0, 1.0])
        >>> game = CoalitionGame(lambda present: present.float() @ weights, 2)
        >>> game.values(torch.tensor([[[True, False], [True, True]]]))
        tensor([[3., 4.]], dtype=torch.float64)
    """

    def __init__(self, game: Game, features: int) -> None:
        if not callable(game):
            raise InvalidType(f"a game is a function of coalitions (coalitions, features); got {type(game).__name__}")
        self._features, self._ledger = features, Ledger()
        self._game = self._ledger.remembering(finite(self._evaluated(game)))

    @property
    def features(self) -> int:
        """See `FeatureGame`."""
        return self._features

    @property
    def spent(self) -> Spent:
        """See `FeatureGame`."""
        return Spent(self._ledger.evaluated)

    def rows(self, attributions: Any) -> Tensor:
        """See `FeatureGame`; `(features,)` explain a single output, `(outputs, features)` each one."""
        return as_rows(attributions, self.features)

    def values(self, coalitions: Coalitions) -> Values:
        """See `FeatureGame`.

        Raises:
            InvalidShape: the game has other outputs than the attributions.
        """
        outputs, count, features = coalitions.shape
        rows, place = distinct(coalitions.reshape(-1, features))
        answers = self._game(rows)
        if answers.shape[1] != outputs:
            raise InvalidShape(
                f"the attributions explain {outputs} outputs, but the game has {answers.shape[1]}: give (features,) "
                "for one output, (outputs, features) for several"
            )
        own = torch.arange(outputs, device="cpu")[:, None].expand(outputs, count)
        return answers[place.view(outputs, count), own]

    @staticmethod
    def _evaluated(game: Game) -> Game:
        def evaluated(coalitions: Coalitions) -> Values:
            given = game(coalitions)
            answers = given if isinstance(given, Tensor) else torch.as_tensor(given, device="cpu")
            answers = answers.detach().to("cpu", torch.float64)
            if answers.dim() == 0 or len(answers) != len(coalitions):
                raise InvalidShape(
                    f"the game must give a value for each of the {len(coalitions)} coalitions; got the shape "
                    f"{tuple(answers.shape)}"
                )
            return answers.reshape(len(coalitions), -1)

        return evaluated


def distinct(coalitions: Coalitions) -> tuple[Coalitions, Tensor]:
    """The distinct rows in the order of their first occurrence, and the place of each row among them."""
    names = keys(coalitions)
    first: dict[bytes, int] = {}
    for i, name in enumerate(names):
        first.setdefault(name, i)
    order = {name: place for place, name in enumerate(first)}
    place = torch.tensor([order[name] for name in names], dtype=torch.int64, device="cpu")
    return coalitions[list(first.values())], place


def of_features(units: Tensor, owner: Tensor, features: int) -> Tensor:
    """`(outputs, features)`: the attributions of features from those of units, `(outputs, units)`.

    Units that are absent together have their common attribution if all of a group have the same one, else their sum.

    Args:
        units: The attributions.
        owner: int64 `(units,)`: the feature of each unit.
        features: The number of features.
    """
    place = owner.expand(units.shape)
    empty = units.new_zeros(len(units), features)
    highest = empty.scatter_reduce(1, place, units, "amax", include_self=False)
    lowest = empty.scatter_reduce(1, place, units, "amin", include_self=False)
    return highest if torch.equal(highest, lowest) else empty.scatter_add(1, place, units)


def as_rows(attributions: Any, features: int, name: str = "attributions") -> Tensor:
    """float64 `(outputs, features)` on the CPU.

    Raises:
        InvalidType: it is not a tensor of numbers.
        InvalidShape: it is neither `(features,)` nor `(outputs, features)`.
        NonFiniteValue: it holds NaN or infinity.
    """
    if not isinstance(attributions, Tensor):
        raise InvalidType(f"{name} must be a tensor; got {type(attributions).__name__}")
    if attributions.is_complex():
        raise InvalidType(f"{name} must be real numbers; got {attributions.dtype}")
    if attributions.dim() not in (1, 2) or attributions.shape[-1] != features or not attributions.numel():
        raise InvalidShape(
            f"{name} must have the shape ({features},) or (outputs, {features}), one for each of the {features} "
            f"features; got {tuple(attributions.shape)}"
        )
    rows = attributions.detach().to("cpu").double().reshape(-1, features)
    if not torch.isfinite(rows).all():
        raise NonFiniteValue(f"{name} hold NaN or infinity, which cannot be ranked")
    return rows
