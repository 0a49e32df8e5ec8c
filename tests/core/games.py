"""Known games: every coalition's value in a table."""

from __future__ import annotations

from itertools import islice

import pytest
import torch
from torch import Tensor

from llm_attr.core.estimators.shapley import numbered
from llm_attr.core.game.driver import Estimator
from llm_attr.core.game.estimate import Estimate
from llm_attr.typing import Coalitions, Values

each_number_of_seeds = pytest.mark.parametrize(
    ("seeds", "low", "high"), [(20, 0.8, 1.0), pytest.param(200, 0.9, 0.98, marks=pytest.mark.statistical)]
)
"""Where 95 % intervals are counted that hold the truth: between which shares of so many seeds."""


class TableGame:
    """The game of a table `(2^features, outputs)`, in the order of the coalitions' numbers; counts what it is asked."""

    def __init__(self, table: Tensor) -> None:
        self.table, self.features = table, (len(table) - 1).bit_length()
        self.asked: list[int] = []

    def __call__(self, coalitions: Coalitions) -> Values:
        numbers = (coalitions.long() << torch.arange(self.features)).sum(1)
        self.asked += numbers.tolist()
        return self.table[numbers]

    def worth(self, members: frozenset[int]) -> object:
        """As the reference formulas ask."""
        return self.table[sum(1 << i for i in members)].numpy()


def random_game(features: int, outputs: int = 2, seed: int = 0) -> TableGame:
    generator = torch.Generator().manual_seed(seed)
    return TableGame(torch.randn(1 << features, outputs, generator=generator, dtype=torch.float64))


def all_of(features: int) -> Coalitions:
    return numbered(torch.arange(1 << features), features)


def smooth_game(features: int, seed: int = 0) -> TableGame:
    """Games as models make them: saturating, multiplying, choosing; none additive, `(2^features, 4)`."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(features, 4, generator=generator, dtype=torch.float64)
    present = all_of(features).double()
    sums = present @ weights
    chosen = present[:, 2:4].amax(1) - present[:, 4:].prod(1) + present[:, 0] * present[:, 1]
    columns = [sums[:, 0].tanh(), torch.sigmoid(3 * sums[:, 1] - 1), sums[:, 2].exp() / 5, chosen + 0.3 * sums[:, 3]]
    return TableGame(torch.stack(columns, 1))


def sample(estimator: Estimator, game: TableGame) -> tuple[Coalitions, Values]:
    """What the estimator asks for by itself, and the answers."""
    rows = torch.cat(list(islice(estimator.rounds(game.features), None if estimator.fixed else estimator.n_samples)))
    return rows, game(rows)


def estimated(estimator: Estimator, game: TableGame) -> Estimate:
    return estimator.estimate(*sample(estimator, game))


def as_rows(found: dict) -> Tensor:
    return torch.stack([torch.as_tensor(found[i]) for i in sorted(found)])
