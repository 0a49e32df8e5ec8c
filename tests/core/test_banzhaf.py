from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr.core.estimators.banzhaf import MeanDifferences
from llm_attr.core.estimators.shapley import AllSubsets
from llm_attr.errors import InvalidValue, TooManyFeatures
from tests.core.games import TableGame, all_of, as_rows, estimated, random_game, sample
from tests.reference.shapley import banzhaf


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.builds(random_game, st.integers(1, 6), st.integers(1, 3), st.integers(0, 10_000)))
def test_equal_to_the_definition_also_when_a_sample_reaches_all(game: TableGame) -> None:
    want = as_rows(banzhaf(game.worth, range(game.features)))
    torch.testing.assert_close(estimated(MeanDifferences(None), game).values, want)
    all_drawn = estimated(MeanDifferences(2**game.features + 10), game)
    torch.testing.assert_close(all_drawn.values, want)
    assert all_drawn.stderr is not None
    assert all_drawn.stderr.max() == 0


def test_equal_to_shapley_where_only_two_features_interact() -> None:
    rows = all_of(5).double()
    game = TableGame((rows.sum(1) + rows[:, 0] * rows[:, 1])[:, None])
    torch.testing.assert_close(
        estimated(MeanDifferences(None), game).values, estimated(AllSubsets(), game).values, atol=1e-12, rtol=0
    )


def test_no_coalition_is_drawn_twice() -> None:
    rows, _ = sample(MeanDifferences(50, seed=3), random_game(6))
    assert len(rows) == len(rows.unique(dim=0)) == 50
    assert torch.equal(rows, sample(MeanDifferences(50, seed=3), random_game(6))[0])
    assert not torch.equal(rows, sample(MeanDifferences(50, seed=4), random_game(6))[0])


def test_the_estimate_is_a_difference_of_means() -> None:
    game = random_game(6)
    rows, values = sample(MeanDifferences(20, seed=0), game)
    found = MeanDifferences(20).estimate(rows, values)
    for i in range(6):
        want = values[rows[:, i]].mean(0) - values[~rows[:, i]].mean(0)
        torch.testing.assert_close(found.values[i], want)


def test_unknown_features_say_so() -> None:
    rows = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 0, 1]]).bool()
    found = MeanDifferences(3).estimate(rows, torch.tensor([[1.0], [2.0], [4.0]]))
    assert found.stderr is not None
    assert found.values[0].item() == 0
    assert found.stderr.isinf().flatten().tolist() == [True, True, True]


def test_more_features_than_can_be_enumerated() -> None:
    estimator = MeanDifferences(200, seed=0)
    rows = torch.cat([row for row, _ in zip(estimator.rounds(60), range(200), strict=False)])
    weights = torch.randn(60, 1, generator=torch.Generator().manual_seed(0))
    found = estimator.estimate(rows, rows.float() @ weights)
    assert found.stderr is not None
    assert ((found.values - weights).abs() < 4 * found.stderr).all()
    with pytest.raises(TooManyFeatures):
        MeanDifferences(None).evaluations(60)


def test_cost() -> None:
    assert MeanDifferences(100).evaluations(4) == 16
    assert MeanDifferences(100).evaluations(10) == 100
    assert MeanDifferences(100).evaluations(10, 30) == 30
    assert MeanDifferences(None).evaluations(10) == MeanDifferences(None).least(10) == 1024
    assert MeanDifferences(100).least(10) == 2
    with pytest.raises(InvalidValue, match="n_samples"):
        MeanDifferences(0)
