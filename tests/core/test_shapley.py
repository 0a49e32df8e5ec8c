"""Shapley values: the definition, the axioms, and every other way to them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_attr.core.estimators.kernel_shap import AdditiveRegression
from llm_attr.core.estimators.owen import HierarchicalOrders
from llm_attr.core.estimators.shapley import AllSubsets, RandomOrders, shown
from llm_attr.core.game import coalitions as designs
from llm_attr.core.game.driver import play
from llm_attr.errors import InvalidValue, TooManyFeatures
from tests.core.games import TableGame, all_of, as_rows, estimated, random_game, sample
from tests.reference.shapley import shapley, shapley_over_subsets

games = st.builds(random_game, st.integers(1, 6), st.integers(1, 3), st.integers(0, 10_000))
properties = settings(max_examples=40, deadline=None, derandomize=True)


def exact(game: TableGame) -> Tensor:
    return estimated(AllSubsets(), game).values


@properties
@given(games)
def test_the_definition_owen_without_groups_and_kernel_shap_on_all_coalitions_agree(game: TableGame) -> None:
    features = range(game.features)
    want = as_rows(shapley_over_subsets(game.worth, features))
    torch.testing.assert_close(exact(game), want)
    torch.testing.assert_close(estimated(HierarchicalOrders(list(features)), game).values, want)
    torch.testing.assert_close(estimated(HierarchicalOrders(), game).values, want)
    fit = AdditiveRegression(2**game.features, seed=0)
    found = play(game, fit, game.features)
    torch.testing.assert_close(fit.estimate(found.coalitions, found.values).values, want, rtol=1e-9, atol=1e-10)


def test_over_subsets_is_over_orders() -> None:
    game = random_game(5)
    torch.testing.assert_close(exact(game), as_rows(shapley(game.worth, range(5))))


@properties
@given(games)
def test_efficiency(game: TableGame) -> None:
    torch.testing.assert_close(exact(game).sum(0), game.table[-1] - game.table[0])


@properties
@given(games, st.data())
def test_symmetry(game: TableGame, data: st.DataObject) -> None:
    """Two features that can be exchanged get the same, and names do not matter."""
    i, j = (data.draw(st.integers(0, game.features - 1)) for _ in range(2))
    rows = all_of(game.features)
    swapped = rows.clone()
    swapped[:, [i, j]] = rows[:, [j, i]]
    other = TableGame(game(swapped))
    order = list(range(game.features))
    order[i], order[j] = order[j], order[i]
    torch.testing.assert_close(exact(other), exact(game)[order])
    alike = exact(TableGame(game.table + other.table))
    torch.testing.assert_close(alike[i], alike[j])


@properties
@given(games, st.data())
def test_null_player(game: TableGame, data: st.DataObject) -> None:
    i = data.draw(st.integers(0, game.features - 1))
    rows = all_of(game.features)
    rows[:, i] = False
    blind = TableGame(game(rows))
    assert exact(blind)[i].abs().max() < 1e-14
    for paired in (False, True):
        assert estimated(RandomOrders(3, paired, seed=0), blind).values[i].abs().max() == 0


@properties
@given(st.integers(1, 6), st.integers(0, 1000), st.floats(-3, 3))
def test_linearity(features: int, seed: int, factor: float) -> None:
    one, other = random_game(features, seed=seed), random_game(features, seed=seed + 1)
    together = TableGame(one.table + factor * other.table)
    torch.testing.assert_close(exact(together), exact(one) + factor * exact(other))


@pytest.mark.parametrize("paired", [False, True])
def test_random_orders_are_efficient_and_converge(paired: bool) -> None:
    game = random_game(5)
    few = estimated(RandomOrders(3, paired, seed=1), game)
    torch.testing.assert_close(few.values.sum(0), game.table[-1] - game.table[0])
    many = estimated(RandomOrders(3000, paired, seed=1), game)
    assert many.stderr is not None
    assert ((many.values - exact(game)).abs() < 4 * many.stderr).all()
    assert (many.stderr < few.stderr).all()


def test_pairs_have_no_error_where_only_two_features_interact() -> None:
    rows = all_of(6).double()
    pairs = rows[:, 0] * rows[:, 1] - 3 * rows[:, 2] * rows[:, 5]
    game = TableGame((rows @ torch.arange(6.0).double() + pairs)[:, None])
    found = estimated(RandomOrders(2, paired=True, seed=0), game)
    torch.testing.assert_close(found.values, exact(game))
    assert found.stderr is not None
    assert found.stderr.max() < 1e-12


def test_one_sample_knows_nothing_of_its_error() -> None:
    found = estimated(RandomOrders(1, seed=0), random_game(3))
    assert found.stderr is not None
    assert found.stderr.isinf().all()


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("features", [1, 2, 3, 7])
def test_the_cost_is_stated(features: int, paired: bool) -> None:
    estimator = RandomOrders(4, paired, seed=0)
    rows, _ = sample(estimator, random_game(features))
    assert len(rows.unique(dim=0)) <= estimator.evaluations(features)
    first = next(estimator.rounds(features))
    assert len(first.unique(dim=0)) == estimator.least(features)
    assert estimator.evaluations(features, 3) == min(3, 2**features)


def test_orders_are_those_of_the_global_stream_or_of_the_seed() -> None:
    torch.manual_seed(3)
    expected = [torch.randperm(6) for _ in range(4)]
    torch.manual_seed(3)
    rows, _ = sample(RandomOrders(4), random_game(6))
    for chain, order in zip(rows.view(4, 7, 6), expected, strict=True):
        for step, feature in enumerate(order):
            assert (chain[step + 1] ^ chain[step]).nonzero().item() == feature
    state = torch.get_rng_state()
    one, _ = sample(RandomOrders(4, seed=5), random_game(6))
    again, _ = sample(RandomOrders(4, seed=5), random_game(6))
    assert torch.equal(one, again)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("entries", [1, 7, 40, 10**6])
def test_blocks_do_not_matter(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_attr.core.estimators.shapley.BLOCK_ENTRIES", entries)
    rows = torch.cat(list(AllSubsets().rounds(5)))
    assert torch.equal(rows, all_of(5))
    assert designs.keys(rows) == sorted(set(designs.keys(rows)), key=designs.keys(rows).index)


def test_half_precision_is_summed_in_fp32() -> None:
    game = random_game(7)
    half = estimated(AllSubsets(), TableGame(game.table.half()))
    assert half.values.dtype == torch.float32
    torch.testing.assert_close(half.values.double(), exact(TableGame(game.table.half().double())), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("features", "count"), [(21, "2,097,152"), (25, "33,554,432"), (150_528, r"over 10\^453")])
def test_too_many_features(features: int, count: str) -> None:
    with pytest.raises(TooManyFeatures, match=rf"take 2\^{features} = {count}.*at most 20 features.*KernelShap"):
        AllSubsets().evaluations(features)


def test_counts_in_words() -> None:
    assert shown(1234) == "1,234"
    assert shown(10**20) in ("over 10^19", "over 10^20")


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "3"])
def test_bad_sample_sizes(wrong: object) -> None:
    with pytest.raises(InvalidValue, match="n_samples must be a whole number of at least 1"):
        RandomOrders(wrong)  # type: ignore[arg-type]
