"""Standard errors of KernelShap are honest: many seeds, 95 % intervals, the truth known, from few samples to many."""

from __future__ import annotations

import pytest
import torch

from llm_attr.core.kernel_shap import ComplementaryPairs
from llm_attr.core.play import CONFIDENT
from llm_attr.core.shapley import AllSubsets
from tests.core.games import TableGame, each_number_of_seeds, estimated, random_game, smooth_game

GAMES = {
    "smooth": smooth_game(8, 0),
    "smooth too": smooth_game(8, 1),
    "of ten": smooth_game(10, 3),
    "random": random_game(8, 3, 2),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@each_number_of_seeds
@pytest.mark.parametrize("interactions", [True, False])
@pytest.mark.parametrize("by_feature", [3, 4, 6, 10])
@pytest.mark.parametrize("game", GAMES.values(), ids=GAMES)
def test_intervals_hold_the_truth(
    game: TableGame, by_feature: int, interactions: bool, seeds: int, low: float, high: float
) -> None:
    truth, samples = estimated(AllSubsets(), game).values, by_feature * game.features
    hits = torch.zeros(truth.shape[1], dtype=torch.float64)
    for seed in range(seeds):
        found = estimated(ComplementaryPairs(samples, interactions, seed), game)
        assert found.stderr is not None
        hits += ((found.values - truth).abs() <= CONFIDENT * found.stderr).double().mean(0) / seeds
    assert low <= hits.mean() <= high + 0.005, hits
