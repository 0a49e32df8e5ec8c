from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, pairwise
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr.core.estimators.kernel_shap import AdditiveRegression
from llm_attr.core.estimators.odd_shap import MAX_PAIRS, OddRegression
from llm_attr.core.estimators.paired_sampling import PairedRegression
from llm_attr.core.estimators.shapley import AllSubsets, RandomOrders, chains, of_chains
from llm_attr.core.game.driver import play
from llm_attr.core.game.stopping import Stopping
from llm_attr.errors import InvalidValue
from llm_attr.typing import Coalitions
from tests.core.games import TableGame, all_of, as_rows, estimated, random_game, sample, smooth_game
from tests.reference.shapley import shapley
from tests.reference.surrogates import kernel_shap

REGRESSIONS = st.sampled_from([AdditiveRegression, OddRegression])
both = pytest.mark.parametrize("regression", [AdditiveRegression, OddRegression])


pytestmark = pytest.mark.usefixtures("one_thread")


class Orders(RandomOrders):
    """A single order and its reverse."""

    def __init__(self, order: torch.Tensor) -> None:
        super().__init__(1, True)
        self.order = order

    def rounds(self, features: int) -> Iterator[Coalitions]:
        yield chains(self.order, True)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.builds(random_game, st.integers(1, 6), st.integers(1, 3), st.integers(0, 10_000)),
    st.sampled_from([AdditiveRegression, OddRegression]),
)
def test_all_coalitions_give_the_shapley_values(game: TableGame, regression: type[PairedRegression]) -> None:
    found = estimated(regression(2**game.features + 10, seed=0), game)
    want = as_rows(shapley(game.worth, range(game.features)))
    torch.testing.assert_close(found.values, want, atol=1e-10, rtol=0)
    assert sorted(game.asked) == sorted(set(game.asked)) == list(range(2**game.features))
    assert found.stderr is not None
    assert found.stderr.max() == 0
    if game.features > 1:
        by_definition = torch.as_tensor(kernel_shap(game.worth, game.features))
        torch.testing.assert_close(found.values, by_definition, atol=1e-10, rtol=0)


@both
def test_many_coalitions_enumerated_are_exact(regression: type[PairedRegression]) -> None:
    game = random_game(11, 2)
    want = estimated(AllSubsets(), game).values
    found = estimated(regression(2**11, seed=0), game).values
    torch.testing.assert_close(found, want, atol=1e-10, rtol=0)


def test_no_features_and_one() -> None:
    empty = estimated(AdditiveRegression(), TableGame(torch.ones(1, 2).double()))
    assert empty.values.shape == (0, 2)
    game = random_game(1)
    torch.testing.assert_close(estimated(AdditiveRegression(), game).values, game.table[1:] - game.table[:1])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 30), st.integers(0, 300), st.integers(0, 100))
def test_the_design(features: int, more: int, seed: int) -> None:
    estimator = AdditiveRegression(2 * features + more, seed=seed)
    rows = torch.cat(list(islice(estimator.rounds(features), estimator.n_samples)))
    assert not rows[0].any()
    assert rows[1].all()
    assert torch.equal(rows[2::2], ~rows[3::2])
    assert len(rows) == len(rows.unique(dim=0)) == min(2 * features + more - more % 2, 2**features)
    assert len(rows) == estimator.evaluations(features)
    first = rows[2 : 2 * features : 2].double()
    assert torch.linalg.matrix_rank(first - first.mean(1, keepdim=True)) == features - 1
    sizes = rows[2::2].sum(1)
    counts = torch.minimum(sizes, features - sizes).bincount(minlength=features // 2 + 1)[1:]
    assert all(
        count <= comb(features, size) / (2 if 2 * size == features else 1) for size, count in enumerate(counts, 1)
    )


def test_sizes_are_drawn_by_the_kernel_and_enumerated_when_all_are_due() -> None:
    rows = torch.cat(list(islice(AdditiveRegression(402, seed=0).rounds(20), 201)))
    sizes = rows[2::2].sum(1)
    counts = torch.minimum(sizes, 20 - sizes).bincount(minlength=11)[1:]
    assert counts[0] == 20
    kernel = 1 / (torch.arange(2, 11) * (20 - torch.arange(2, 11)))
    kernel[-1] /= 2
    torch.testing.assert_close(counts[1:].float(), kernel / kernel.sum() * 180, atol=2.01, rtol=0)


def test_every_coalition_of_a_size_is_as_likely() -> None:
    seen = torch.zeros(32)
    for seed in range(400):
        row = next(islice(AdditiveRegression(16, seed=seed).rounds(5), 1, 2))[0]
        seen[(row.long() << torch.arange(5)).sum()] += 1
    pairs = seen + seen.flip(0)
    one, two = [pairs[1 << i] for i in range(5)], [pairs[n] for n in range(16) if n.bit_count() == 2]
    assert sum(one) / 400 == pytest.approx(0.6, abs=0.08)
    assert max(one) - min(one) < 45
    assert max(two) - min(two) < 35


@both
@pytest.mark.parametrize("samples", [16, 24, 40])
def test_efficiency_and_additive_games(regression: type[PairedRegression], samples: int) -> None:
    estimator = regression(samples, seed=1)
    game = random_game(8)
    found = estimated(estimator, game).values
    torch.testing.assert_close(found.sum(0), game.table[-1] - game.table[0])
    slopes = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    additive = estimated(estimator, TableGame(all_of(8).double() @ slopes + 4))
    torch.testing.assert_close(additive.values, slopes)
    pairwise = (all_of(8).double() @ slopes) ** 2
    want = estimated(AllSubsets(), TableGame(pairwise)).values
    torch.testing.assert_close(estimated(estimator, TableGame(pairwise)).values, want)


@both
def test_it_is_linear_and_gives_each_output_its_own(regression: type[PairedRegression]) -> None:
    estimator, game = regression(30, seed=0), random_game(7, 3)
    whole = estimated(estimator, game)
    for i in range(3):
        one = estimated(estimator, TableGame(game.table[:, i : i + 1]))
        torch.testing.assert_close(one.values, whole.values[:, i : i + 1])
        assert whole.stderr is not None
        torch.testing.assert_close(one.stderr, whole.stderr[:, i : i + 1])
    mixed = estimated(estimator, TableGame(game.table @ torch.tensor([[1.0], [2.0], [-3.0]]).double())).values
    torch.testing.assert_close(mixed, whole.values @ torch.tensor([[1.0], [2.0], [-3.0]]).double())


def test_interactions_make_a_sample_worth_more() -> None:
    game = smooth_game(10, 3)
    want = estimated(AllSubsets(), game).values

    def error(samples: int, regression: type[PairedRegression]) -> float:
        found = torch.stack([estimated(regression(samples, seed), game).values for seed in range(20)])
        return ((found - want) ** 2).sum(1).mean().sqrt().item()

    assert error(50, OddRegression) < error(50, AdditiveRegression)
    assert error(200, OddRegression) < 0.85 * error(200, AdditiveRegression)


def test_a_sample_of_more_pairs_than_a_model_takes() -> None:
    game = random_game(12, 1)
    samples = 2 * MAX_PAIRS + 4
    assert torch.equal(
        estimated(OddRegression(samples, 0), game).values,
        estimated(AdditiveRegression(samples, 0), game).values,
    )


def test_stored_values_are_read_again_in_half_precision_too() -> None:
    game, estimator = random_game(6), AdditiveRegression(30, seed=0)
    rows, values = sample(estimator, game)
    again = AdditiveRegression(30, seed=99).estimate(rows, values)
    torch.testing.assert_close(again.values, estimator.estimate(rows, values).values)
    assert estimator.estimate(rows, values.half()).values.dtype == torch.float32


def test_few_samples_tell_what_they_can() -> None:
    game = smooth_game(10)
    with pytest.warns(UserWarning, match="25 evaluations are fewer than two for each of the 30 features: "):
        assert AdditiveRegression().evaluations(30) == 24
    truth, errors = estimated(AllSubsets(), game).values, []
    for samples in (2, 4, 8, 14, 20):
        found = [estimated(AdditiveRegression(samples, seed), game) for seed in range(20)]
        errors.append(torch.stack([each.values - truth for each in found]).pow(2).mean().sqrt().item())
        for each in found:
            torch.testing.assert_close(each.values.sum(0), game.table[-1] - game.table[0])
            assert each.stderr is not None
            assert each.stderr.isfinite().all() == (samples > 2)
    assert errors == sorted(errors, reverse=True)
    blocks = estimated(AdditiveRegression(8, seed=0), game).values
    assert len(blocks.mul(1e9).round().unique(dim=0)) == 4
    with pytest.raises(InvalidValue, match="n_samples must be a whole number"):
        AdditiveRegression(0)
    with pytest.raises(InvalidValue, match=r"a budget of 3 evaluations is too small.* at least 4"):
        play(random_game(10), AdditiveRegression(seed=0), 10, Stopping.of(budget=3))


@both
def test_an_order_and_its_reverse_are_their_mean(regression: type[PairedRegression]) -> None:
    game = random_game(9)
    rows, values = sample(regression(18, seed=3), game)
    chain = sorted(rows[2::2].tolist(), key=sum)
    order = [
        next(i for i in range(9) if more[i] and not less[i]) for less, more in pairwise([[0] * 9, *chain, [1] * 9])
    ]
    rising = play(game, Orders(torch.tensor(order)), 9)
    want = of_chains(rising.coalitions, rising.values, True)
    torch.testing.assert_close(regression(18).estimate(rows, values).values, want.values)


def test_from_the_least_budget_to_a_sample_that_is_sure() -> None:
    game = smooth_game(10)
    least = play(game, AdditiveRegression(seed=0), 10, Stopping.of(budget=20))
    assert len(least.coalitions) == 20
    few = AdditiveRegression(4, seed=0)
    sure = play(game, few, 10, Stopping.of(until=0.1, budget=1000))
    reached = few.estimate(sure.coalitions, sure.values)
    assert 30 < len(sure.coalitions) < 1000
    assert reached.stderr is not None
    assert (reached.stderr.amax(0) <= 0.1 * reached.values.abs().amax(0)).all()
