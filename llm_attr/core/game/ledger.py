"""A cache of the values of coalitions."""

from __future__ import annotations

import torch

from llm_attr.core.game.coalitions import keys
from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions, Game, Values


class Ledger:
    """Stores the value of every coalition of one game.

    Attributes:
        asked: Number of coalitions requested so far.
        evaluated: Number of coalitions that the game evaluated.
        shape: Shape of the game's output for one coalition, if known.
    """

    def __init__(self) -> None:
        self._values: dict[bytes, Values] = {}
        self._owner: object = None
        self.shape: torch.Size | None = None
        self.asked = 0
        self.evaluated = 0

    def __len__(self) -> int:
        """The number of distinct coalitions stored."""
        return len(self._values)

    def claim(self, name: object) -> None:
        """Ties the ledger to the game with this name.

        Raises:
            InvalidValue: it holds the values of another game.
        """
        if self._owner not in (None, name):
            raise InvalidValue(
                "this ledger holds the values of another game (other inputs, baselines, target, features or model); "
                "give each its own Ledger()"
            )
        self._owner = name

    @property
    def names(self) -> set[bytes]:
        """The keys of the stored coalitions, see `coalitions.keys`."""
        return set(self._values)

    def learn(self, coalitions: Coalitions, values: Values) -> None:
        """Stores the values of coalitions that were evaluated elsewhere."""
        self._values.update(zip(keys(coalitions), values.unbind(), strict=True))

    def remembering(self, game: Game) -> Game:
        """The same game, which evaluates only coalitions that are not in the ledger, each once."""

        def remembered(coalitions: Coalitions) -> Values:
            names = keys(coalitions)
            new = {name: i for i, name in reversed(list(enumerate(names))) if name not in self._values}
            if new:
                rows = sorted(new.values())
                self._values.update(zip((names[i] for i in rows), game(coalitions[rows]).unbind(), strict=True))
            self.asked += len(names)
            self.evaluated += len(new)
            return torch.stack([self._values[name] for name in names])

        return remembered
