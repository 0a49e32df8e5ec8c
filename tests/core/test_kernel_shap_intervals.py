"""Standard errors of KernelShap are honest: many seeds, 95 % intervals, the truth known, from few samples to many."""

from __future__ import annotations

import pytest
import torch

from llm_attr.core.estimators.kernel_shap import AdditiveRegression
from llm_attr.core.estimators.odd_shap import OddRegression
from llm_attr.core.estimators.paired_sampling import PairedRegression
from llm_attr.core.estimators.shapley import AllSubsets
from llm_attr.core.game.driver import play
from llm_attr.core.game.estimate import CONFIDENT
from llm_attr.core.game.stopping import Stopping
from tests.core.games import TableGame, each_number_of_seeds, estimated, random_game, smooth_game

GAMES = {
    "smooth": smooth_game(8, 0),
    "smooth too": smooth_game(8, 1),
    "of ten": smooth_game(10, 3),
    "random": random_game(8, 3, 2),
}


pytestmark = pytest.mark.usefixtures("one_thread")


REGRESSIONS = pytest.mark.parametrize("regression", [AdditiveRegression, OddRegression])


@each_number_of_seeds
@REGRESSIONS
@pytest.mark.parametrize("by_feature", [3, 4, 6, 10])
@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_intervals_hold_the_truth(
    game: TableGame, by_feature: int, regression: type[PairedRegression], seeds: int, low: float, high: float
) -> None:
    truth, samples = estimated(AllSubsets(), game).values, by_feature * game.features
    hits = torch.zeros(truth.shape[1], dtype=torch.float64)
    for seed in range(seeds):
        found = estimated(regression(samples, seed), game)
        assert found.stderr is not None
        hits += ((found.values - truth).abs() <= CONFIDENT * found.stderr).double().mean(0) / seeds
    assert low <= hits.mean() <= high + 0.005, hits


@REGRESSIONS
@pytest.mark.parametrize("samples", [6, 10, 16, 18, 24])
@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_few_evaluations_are_not_overconfident(
    game: TableGame, samples: int, regression: type[PairedRegression]
) -> None:
    truth = estimated(AllSubsets(), game).values
    hits = []
    for seed in range(20):
        found = estimated(regression(samples, seed), game)
        assert found.stderr is not None
        hits.append(((found.values - truth).abs() <= CONFIDENT * found.stderr).double().mean())
    assert torch.stack(hits).mean() >= 0.88


@REGRESSIONS
@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_a_sample_that_goes_on_from_few(game: TableGame, regression: type[PairedRegression]) -> None:
    truth = estimated(AllSubsets(), game).values
    hits = []
    for seed in range(20):
        estimator = regression(8, seed)
        played = play(game, estimator, game.features, Stopping.of(budget=6 * game.features))
        found = estimator.estimate(played.coalitions, played.values)
        assert found.stderr is not None
        hits.append(((found.values - truth).abs() <= CONFIDENT * found.stderr).double().mean())
    assert torch.stack(hits).mean() >= 0.86
