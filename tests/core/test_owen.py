from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr.core.estimators.owen import HierarchicalOrders
from llm_attr.core.estimators.shapley import RandomOrders
from llm_attr.errors import InvalidType, InvalidValue, TooManyFeatures
from tests.core.games import all_of, as_rows, estimated, random_game, sample
from tests.reference.shapley import owen

HIERARCHIES: list[Any] = [
    [0],
    [0, 1, 2],
    [[0, 1, 2]],
    [[0, 1], [2, 3]],
    [[3, 0], 1, [2]],
    [[[0], [1, 2]], [3, 4]],
    [0, [1, [2, [3, [4]]]]],
    [[0, 1, 2], [[3, 4], 5]],
]


def count(nested: Any) -> int:
    return 1 if isinstance(nested, int) else sum(map(count, nested))


@pytest.mark.parametrize("nested", HIERARCHIES, ids=str)
def test_equal_to_the_mean_over_all_orders_that_keep_groups_together(nested: Any) -> None:
    game = random_game(count(nested))
    torch.testing.assert_close(estimated(HierarchicalOrders(nested), game).values, as_rows(owen(game.worth, nested)))


@pytest.mark.parametrize("nested", HIERARCHIES, ids=str)
def test_each_coalition_once_and_no_more_than_stated(nested: Any) -> None:
    features = count(nested)
    estimator = HierarchicalOrders(nested)
    rows = torch.cat(list(estimator.rounds(features)))
    assert len(rows) == len(rows.unique(dim=0)) == estimator.evaluations(features) == estimator.least(features)
    fewer = estimated(estimator, random_game(features))
    assert torch.equal(estimator.estimate(rows[:0], random_game(features)(rows)).values, fewer.values)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.data())
def test_random_hierarchies(data: st.DataObject) -> None:
    """Efficient on every level; a group's sum is its value among its neighbours as wholes."""
    features = data.draw(st.integers(2, 7))
    cuts = sorted(data.draw(st.sets(st.integers(1, features - 1), max_size=3)))
    groups = [list(range(a, b)) for a, b in zip([0, *cuts], [*cuts, features], strict=True)]
    game = random_game(features, seed=data.draw(st.integers(0, 1000)))
    found = estimated(HierarchicalOrders(groups), game).values
    torch.testing.assert_close(found.sum(0), game.table[-1] - game.table[0])
    whole = random_game(len(groups))
    for number, row in enumerate(all_of(len(groups))):
        members = frozenset(i for group, here in zip(groups, row, strict=True) if here for i in group)
        whole.table[number] = torch.as_tensor(game.worth(members))
    outer = estimated(HierarchicalOrders(), whole).values
    torch.testing.assert_close(torch.stack([found[group].sum(0) for group in groups]), outer)


@pytest.mark.parametrize("paired", [False, True])
def test_samples_are_orders_that_keep_groups_together(paired: bool) -> None:
    nested = [[0, 1, 2], [[3, 4], 5]]
    game = random_game(6)
    exact = estimated(HierarchicalOrders(nested), game).values
    found = estimated(HierarchicalOrders(nested, 2000, paired, seed=0), game)
    assert found.stderr is not None
    assert ((found.values - exact).abs() < 4 * found.stderr).all()
    rows, _ = sample(HierarchicalOrders(nested, 30, paired, seed=0), game)
    allowed = torch.cat(list(HierarchicalOrders(nested).rounds(6)))
    assert {tuple(row) for row in rows.tolist()} <= {tuple(row) for row in allowed.tolist()}


def test_a_flat_sample_is_that_of_permutation_shapley() -> None:
    game = random_game(5)
    one, other = HierarchicalOrders(None, 7, True, seed=2), RandomOrders(7, True, seed=2)
    torch.testing.assert_close(estimated(one, game).values, estimated(other, game).values)


def test_many_features_in_small_groups_are_exact() -> None:
    nested = [[10 * i + j for j in range(10)] for i in range(5)]
    estimator = HierarchicalOrders(nested)
    weights = torch.randn(50, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.cat(list(estimator.rounds(50)))
    assert len(rows) == 2**5 + 5 * 2**4 * (2**10 - 2)
    torch.testing.assert_close(estimator.estimate(rows, rows.double() @ weights).values, weights)


@pytest.mark.parametrize("nested", [None, [list(range(20)), list(range(20, 40))], [list(range(40))]])
def test_too_many(nested: Any) -> None:
    with pytest.raises(TooManyFeatures, match=r"over these 40 features take [\d,]+ evaluations.*n_samples=25"):
        HierarchicalOrders(nested).evaluations(40)
    assert HierarchicalOrders(nested, 3).evaluations(40) == 2 + 6 * 39


@pytest.mark.parametrize(
    ("nested", "error", "message"),
    [
        ([[0, 1], [1, 2]], InvalidValue, r"missing: none; named twice: \[1\]"),
        ([[0], [2]], InvalidValue, r"missing: \[1\]"),
        ([[0, 1], [2, 3]], InvalidValue, r"no features: \[3\]"),
        ([[0, 1], [2, -1]], InvalidValue, r"no features: \[-1\]"),
        ([[0, 1, 2], []], InvalidValue, "at least one feature"),
        ([[0, 1], "2"], InvalidType, "nested lists of feature numbers.*got '2' of type str"),
        ([[0, 1], 2.0], InvalidType, "got 2.0 of type float"),
        ([[0, 1], True], InvalidType, "got True of type bool"),
        (7, InvalidType, "got 7 of type int"),
    ],
)
def test_hierarchies_that_are_refused(nested: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HierarchicalOrders(nested).evaluations(3)
