"""Standard errors are honest: many repeats with other seeds, 95 % intervals around the estimate, the truth known."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from llm_attr.core.estimators.banzhaf import MeanDifferences
from llm_attr.core.estimators.interactions import PairInteractions
from llm_attr.core.estimators.owen import HierarchicalOrders
from llm_attr.core.estimators.shapley import AllSubsets, RandomOrders
from llm_attr.core.game.driver import Estimator
from llm_attr.core.game.estimate import CONFIDENT, Estimate
from tests.core.games import TableGame, each_number_of_seeds, estimated, random_game, sample, smooth_game

GROUPS = [[0, 1, 2], [3, [4, 5]], [6, 7]]
GAMES = {"smooth": smooth_game(8, seed=0), "smooth too": smooth_game(8, seed=1), "random": random_game(8, 3, seed=2)}
each_game = pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)


def covered(truth: Tensor, repeat: Callable[[int], Estimate], seeds: int) -> Tensor:
    """`(outputs,)`: the share of features and repeats whose interval holds the truth."""
    hits = torch.zeros(truth.shape[-1], dtype=torch.float64)
    for seed in range(seeds):
        found = repeat(seed)
        assert found.stderr is not None
        assert found.stderr.isfinite().all()
        inside = (found.values - truth).abs() <= CONFIDENT * found.stderr + 1e-12
        hits += inside.flatten(0, -2).double().mean(0)
    return hits / seeds


DESIGNS: dict[str, tuple[Callable[[int], Estimator], Estimator]] = {
    "orders": (lambda seed: RandomOrders(50, False, seed), AllSubsets()),
    "pairs of orders": (lambda seed: RandomOrders(50, True, seed), AllSubsets()),
    "owen": (lambda seed: HierarchicalOrders(GROUPS, 25, True, seed), HierarchicalOrders(GROUPS)),
    "owen, not paired": (lambda seed: HierarchicalOrders(GROUPS, 40, False, seed), HierarchicalOrders(GROUPS)),
    "banzhaf, few": (lambda seed: MeanDifferences(60, seed), MeanDifferences(None)),
    "banzhaf": (lambda seed: MeanDifferences(100, seed), MeanDifferences(None)),
    "banzhaf, most": (lambda seed: MeanDifferences(220, seed), MeanDifferences(None)),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@each_number_of_seeds
@each_game
@pytest.mark.parametrize(("make", "exact"), DESIGNS.values(), ids=DESIGNS)
def test_intervals_hold_the_truth(
    make: Callable[[int], Estimator], exact: Estimator, game: TableGame, seeds: int, low: float, high: float
) -> None:
    share = covered(estimated(exact, game).values, lambda seed: estimated(make(seed), game), seeds)
    assert low <= share.mean() <= high, share


@each_number_of_seeds
@pytest.mark.parametrize(("index", "n_samples"), [("shapley", 25), ("faith_banzhaf", 120)])
def test_intervals_of_interactions(index: str, n_samples: int, seeds: int, low: float, high: float) -> None:
    game, exact = GAMES["smooth"], PairInteractions(index)  # type: ignore[arg-type]

    def repeat(seed: int) -> Estimate:
        estimator = PairInteractions(index, n_samples, seed)  # type: ignore[arg-type]
        return estimator.interactions(*sample(estimator, game))

    share = covered(exact.interactions(*sample(exact, game)).values, repeat, seeds)
    assert low <= share.mean() <= high, share


@each_number_of_seeds
def test_a_fit_with_hardly_more_samples_than_coefficients_is_not_overconfident(
    seeds: int, low: float, high: float
) -> None:
    game, exact = GAMES["smooth"], PairInteractions("faith_banzhaf")

    def repeat(seed: int) -> Estimate:
        estimator = PairInteractions("faith_banzhaf", 45, seed)
        return estimator.interactions(*sample(estimator, game))

    assert covered(exact.interactions(*sample(exact, game)).values, repeat, seeds).mean() >= 0.95
