from __future__ import annotations

from typing import get_args

import pytest
import torch

from llm_attr.core.estimators.local_shapley import Neighbourhoods, Others
from llm_attr.core.estimators.shapley import AllSubsets
from llm_attr.errors import InvalidValue, TooManyFeatures, UnknownName
from tests.core.games import as_rows, estimated, random_game, sample
from tests.reference.shapley import local_shapley

each_kind = pytest.mark.parametrize("others", get_args(Others))


@each_kind
@pytest.mark.parametrize("radius", [0, 1, 2, 3])
@pytest.mark.parametrize("features", [1, 2, 3, 5, 7])
def test_equal_to_the_definition(features: int, radius: int, others: Others) -> None:
    game = random_game(features)
    want = as_rows(local_shapley(game.worth, features, radius, others))
    torch.testing.assert_close(estimated(Neighbourhoods(radius, others), game).values, want)


@each_kind
@pytest.mark.parametrize("radius", [0, 1, 2, 9])
@pytest.mark.parametrize("features", [1, 2, 6, 9])
def test_each_coalition_once_and_as_many_as_stated(features: int, radius: int, others: Others) -> None:
    estimator = Neighbourhoods(radius, others)
    rows, _ = sample(estimator, random_game(features))
    assert len(rows) == len(rows.unique(dim=0)) == estimator.evaluations(features) == estimator.least(features)
    assert len(rows) <= 1 + features * 4**radius
    assert len(rows) <= 2**features


@each_kind
def test_a_large_radius_is_shapley(others: Others) -> None:
    game = random_game(6)
    torch.testing.assert_close(estimated(Neighbourhoods(5, others), game).values, estimated(AllSubsets(), game).values)


def test_linear_in_the_number_of_features() -> None:
    estimator = Neighbourhoods(2)
    assert estimator.evaluations(2000) - estimator.evaluations(1000) == 16_000
    weights = torch.randn(300, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.cat(list(estimator.rounds(300)))
    torch.testing.assert_close(estimator.estimate(rows[:0], rows.double() @ weights).values, weights)


def test_refused() -> None:
    with pytest.raises(TooManyFeatures, match=r"radius 9 over 50 features take [\d,]+ evaluations.*smaller radius"):
        Neighbourhoods(9).evaluations(50)
    with pytest.raises(InvalidValue, match="radius must be a whole number of at least 0; got -1"):
        Neighbourhoods(-1)
    with pytest.raises(UnknownName, match=r"others 'there'.*absent, present"):
        Neighbourhoods(1, "there")  # type: ignore[arg-type]
