from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_attr.attr import PairwiseInteractions
from llm_attr.core.estimators.interactions import Index, PairInteractions
from llm_attr.core.estimators.shapley import AllSubsets
from llm_attr.errors import InvalidValue, TooManyFeatures, UnknownName
from tests.core.games import TableGame, all_of, estimated, random_game, sample
from tests.reference.shapley import faith_banzhaf, shapley_interaction

each_index = pytest.mark.parametrize("index", get_args(Index))
games = st.builds(random_game, st.integers(1, 6), st.integers(1, 2), st.integers(0, 10_000))
properties = settings(max_examples=30, deadline=None, derandomize=True)


def matrix(estimator: PairInteractions, game: TableGame) -> Tensor:
    return estimator.interactions(*sample(estimator, game)).values


@properties
@given(games)
def test_shapley_index_is_its_definition_with_the_values_on_the_diagonal(game: TableGame) -> None:
    found, features = matrix(PairInteractions(), game), range(game.features)
    for i in features:
        for j in features:
            if i != j:
                want = torch.as_tensor(shapley_interaction(game.worth, features, i, j))
                torch.testing.assert_close(found[i, j], want)
    values = estimated(AllSubsets(), game).values
    torch.testing.assert_close(found.diagonal().T, values)
    torch.testing.assert_close(estimated(PairInteractions(), game).values, values)


@properties
@given(games)
def test_faith_banzhaf_is_the_least_squares_fit(game: TableGame) -> None:
    found = matrix(PairInteractions("faith_banzhaf"), game)
    if game.features == 1:
        torch.testing.assert_close(found[0, 0], game.table[1] - game.table[0])
        return
    effects, pairs = faith_banzhaf(game.worth, range(game.features))
    for i, want in effects.items():
        torch.testing.assert_close(found[i, i], torch.as_tensor(want))
    for (i, j), want in pairs.items():
        torch.testing.assert_close(found[i, j], torch.as_tensor(want))
        assert torch.equal(found[i, j], found[j, i])


@each_index
def test_a_game_of_pairs_by_hand(index: Index) -> None:
    """V = 2 x0 + 3 x0 x1 - x2 x3: interactions 3 and -1, whatever the index."""
    rows = all_of(4).double()
    game = TableGame((2 * rows[:, 0] + 3 * rows[:, 0] * rows[:, 1] - rows[:, 2] * rows[:, 3])[:, None])
    found = matrix(PairInteractions(index), game)[..., 0]
    main = [3.5, 1.5, -0.5, -0.5] if index == "shapley" else [2.0, 0, 0, 0]
    want = torch.diag(torch.tensor(main).double())
    want[0, 1] = want[1, 0] = 3
    want[2, 3] = want[3, 2] = -1
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("features", [2, 3, 4, 5, 6])
def test_every_two_features_meet_in_every_round(features: int) -> None:
    game = random_game(features)
    estimator = PairInteractions("shapley", 400, seed=0)
    rows, values = sample(estimator, game)
    assert len(next(estimator.rounds(features)).unique(dim=0)) <= estimator.least(features)
    found = estimator.interactions(rows, values)
    assert found.stderr is not None
    exact = matrix(PairInteractions(), game)
    assert ((found.values - exact).abs() <= 4.5 * found.stderr + 1e-12).all()
    assert torch.equal(found.values, found.values.transpose(0, 1))
    one = PairInteractions("shapley", 1, seed=0).interactions(*sample(PairInteractions("shapley", 1, seed=0), game))
    assert one.stderr is not None
    assert one.stderr.isinf().all()
    torch.testing.assert_close(one.values.diagonal().sum(1), game.table[-1] - game.table[0])


def test_a_fit_to_a_sample() -> None:
    game = random_game(6)
    exact = matrix(PairInteractions("faith_banzhaf"), game)
    part = PairInteractions("faith_banzhaf", 50, seed=1)
    found = part.interactions(*sample(part, game))
    assert found.stderr is not None
    assert ((found.values - exact).abs() <= 4 * found.stderr).all()
    whole = PairInteractions("faith_banzhaf", 64, seed=1)
    found = whole.interactions(*sample(whole, game))
    torch.testing.assert_close(found.values, exact)
    assert found.stderr is not None
    assert found.stderr.max() == 0


def test_a_game_of_pairs_is_found_exactly_by_few_samples() -> None:
    rows = all_of(8).double()
    game = TableGame((rows[:, 0] * rows[:, 7] - rows[:, 3])[:, None])
    estimator = PairInteractions("faith_banzhaf", 60, seed=0)
    torch.testing.assert_close(
        matrix(estimator, game), matrix(PairInteractions("faith_banzhaf"), game), atol=1e-9, rtol=0
    )


def test_cost() -> None:
    assert PairInteractions().evaluations(10) == 1024
    assert PairInteractions("shapley", 2).evaluations(20) == 2 + 2 * 10 * 2 * 19
    assert PairInteractions("shapley", 2).least(20) == 2 + 10 * 2 * 19
    assert PairInteractions("faith_banzhaf", 300).evaluations(20) == 300
    assert PairInteractions("faith_banzhaf", 300).least(20) == 212
    with pytest.raises(InvalidValue, match="has 211 coefficients and needs n_samples of at least 212; got 100"):
        PairInteractions("faith_banzhaf", 100).evaluations(20)
    with pytest.raises(TooManyFeatures, match="n_samples"):
        PairInteractions().evaluations(30)
    with pytest.raises(UnknownName, match="index 'sii'"):
        PairInteractions("sii")  # type: ignore[arg-type]


@each_index
def test_of_a_model(index: Index) -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.5, 1.0]])
    method = PairwiseInteractions(lambda x: torch.stack([x[:, 0] * x[:, 1], x.sum(1)], 1))
    found = method.interactions(x, index=index)
    assert found.shape == (4, 3, 3)
    torch.testing.assert_close(found[[0, 2], 0, 1], x[:, 0] * x[:, 1])
    torch.testing.assert_close(found[1], torch.diag(x[0]))
    main = method.attribute(x, index=index)
    torch.testing.assert_close(main.flatten(0, 1), found.diagonal(dim1=1, dim2=2))
    with pytest.raises(InvalidValue, match="return_stderr is for sampled methods"):
        method.interactions(x, index=index, return_stderr=True)
    values, errors = method.interactions(x, index=index, n_samples=8, return_stderr=True)
    assert values.shape == errors.shape == found.shape
