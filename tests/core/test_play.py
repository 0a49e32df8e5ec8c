"""How games are played: what is asked, when sampling ends, what a ledger saves, what is refused."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr.attr import FeatureAblation, Owen, PermutationShapley, ShapleyValues, ShapleyValueSampling
from llm_attr.core.estimators.banzhaf import MeanDifferences
from llm_attr.core.estimators.interactions import PairInteractions
from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.estimators.owen import HierarchicalOrders
from llm_attr.core.estimators.shapley import AllSubsets, RandomOrders
from llm_attr.core.game import coalitions as designs
from llm_attr.core.game import driver as playing
from llm_attr.core.game.driver import Estimator, play
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.errors import InvalidValue, NonFiniteValue
from llm_attr.typing import Coalitions, Values
from tests.core.games import TableGame, random_game, sample, smooth_game


def played(game: TableGame, estimator: Estimator, until: Any = None, budget: Any = None, **more: Any) -> Estimate:
    found = play(game, estimator, game.features, Stopping.of(until, budget), **more)
    return estimator.estimate(found.coalitions, found.values)


class TestStopping:
    @pytest.mark.parametrize(
        ("until", "budget", "expected"),
        [
            (None, None, Stopping()),
            (0.05, None, Stopping(tolerance=0.05)),
            (1, 200, Stopping(tolerance=1, evaluations=200)),
            ("top 3 stable", None, Stopping(top=3)),
            (" top 12 ", "30 s", Stopping(top=12, seconds=30.0)),
            (None, "200", Stopping(evaluations=200)),
            (None, "200 evaluations", Stopping(evaluations=200)),
            (None, "0.5s", Stopping(seconds=0.5)),
            (None, "2 seconds", Stopping(seconds=2.0)),
        ],
    )
    def test_is_read_from_the_public_arguments(self, until: Any, budget: Any, expected: Stopping) -> None:
        assert Stopping.of(until, budget) == expected
        assert expected.adaptive == (expected != Stopping())

    @pytest.mark.parametrize("until", [0, -0.1, float("nan"), True, "3", "top 0 stable", "top x", "sure", [0.1]])
    def test_bad_until(self, until: Any) -> None:
        with pytest.raises(InvalidValue, match=r"until must be a positive number \(the largest standard error"):
            Stopping.of(until)

    @pytest.mark.parametrize("budget", [-1, 2.5, True, "", "30 m", "-3", "1e3", [3]])
    def test_bad_budget(self, budget: Any) -> None:
        with pytest.raises(InvalidValue, match=r"budget must be a number of evaluations, e\.g\. 200, or a time"):
            Stopping.of(None, budget)

    def test_tolerance_is_a_share_of_the_largest_of_each_output(self) -> None:
        values, errors = torch.tensor([[10.0, 1.0], [2.0, -0.5]]), torch.tensor([[0.3, 0.06], [0.5, 0.01]])
        assert not Stopping(tolerance=0.05).satisfied(Estimate(values, errors))
        assert Stopping(tolerance=0.061).satisfied(Estimate(values, errors))
        assert not Stopping(tolerance=9.0).satisfied(Estimate(values, errors.fill_(torch.inf)))
        assert not Stopping(tolerance=9.0).satisfied(Estimate(values))

    def test_top_is_by_size_and_by_the_interval_of_the_difference(self) -> None:
        values = torch.tensor([[-5.0], [4.0], [1.0]])
        assert Stopping(top=2).satisfied(Estimate(values, torch.full((3, 1), 1.0)))
        assert not Stopping(top=1).satisfied(Estimate(values, torch.full((3, 1), 1.0)))
        assert Stopping(top=1).satisfied(Estimate(values, torch.full((3, 1), 0.3)))
        assert Stopping(top=7).satisfied(Estimate(values, torch.full((3, 1), 9.0)))


def test_each_distinct_coalition_is_asked_once() -> None:
    game, estimator = random_game(5), RandomOrders(40, seed=0)
    rows, _ = sample(estimator, random_game(5))
    found = play(game, estimator, 5)
    assert torch.equal(found.coalitions, rows)
    assert torch.equal(found.values, random_game(5)(rows))
    assert len(game.asked) == len(set(game.asked)) == len(rows.unique(dim=0))


@pytest.mark.parametrize("estimator", [AllSubsets(), LeaveOneOut(), HierarchicalOrders([[0, 1], [2, 3, 4]])])
@pytest.mark.parametrize("entries", [1, 12, 1 << 24])
@pytest.mark.parametrize("ledger", [None, Ledger])
def test_blocks_of_a_fixed_design_are_all_asked(
    estimator: Estimator, entries: int, ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a ledger too, whose samples would be one block."""
    expected = played(random_game(5), estimator)
    monkeypatch.setattr(designs, "BLOCK_ENTRIES", entries)
    monkeypatch.setattr("llm_attr.core.estimators.shapley.BLOCK_ENTRIES", entries)
    game = random_game(5)
    found = play(game, estimator, 5, keep=True, ledger=ledger and ledger())
    assert len(found.coalitions) == len(found.values) == estimator.evaluations(5) == len(set(game.asked))
    torch.testing.assert_close(estimator.estimate(found.coalitions, found.values).values, expected.values)


def test_until_a_tolerance() -> None:
    game = smooth_game(8)
    sure = played(game, RandomOrders(5, True, seed=0), until=0.02)
    exact = played(smooth_game(8), AllSubsets()).values
    assert sure.stderr is not None
    assert (sure.stderr.amax(0) <= 0.02 * sure.values.abs().amax(0)).all()
    assert ((sure.values - exact).abs().amax(0) < 0.08 * exact.abs().amax(0)).all()


def test_n_samples_is_the_least() -> None:
    game, estimator = smooth_game(8), RandomOrders(30, seed=0)
    found = play(game, estimator, 8, Stopping.of(until=100.0))
    assert len(found.coalitions) == 30 * 9


def leading_game() -> TableGame:
    """Feature 0 is worth 12 and the others, with some noise, next to nothing."""
    noise = 0.1 * random_game(8, outputs=1).table
    return TableGame(12 * torch.arange(256).remainder(2)[:, None] + noise)


def test_a_clear_lead_is_seen_from_few_orders() -> None:
    game = leading_game()
    found = play(game, RandomOrders(paired=True, seed=0), 8, Stopping.of("top 1 stable"))
    assert (found.n_samples, found.met) == (5, True)
    assert len(game.asked) <= 72
    assert play(leading_game(), RandomOrders(paired=True, seed=0), 8).n_samples == 25


@pytest.mark.parametrize(
    ("until", "budget", "words"),
    [
        (1e-6, 60, "by its budget of 60 evaluations, after .* until=1e-06"),
        ("top 4 stable", "40 evaluations", "by its budget of 40 evaluations, after .* do not yet separate the top 4"),
        (1e-6, "0.01 s", "by its budget of 0.01 s, after"),
    ],
)
def test_a_budget_that_ends_the_sampling_before_says_what_is_lacking(until: Any, budget: Any, words: str) -> None:
    with pytest.warns(RuntimeWarning, match=words) as told:
        found = play(random_game(8), RandomOrders(paired=True, seed=0), 8, Stopping.of(until, budget))
    assert found.met is False
    assert told[0].filename == __file__


def test_nobody_who_did_not_ask_is_told() -> None:
    assert play(random_game(5), RandomOrders(seed=0), 5, Stopping.of(budget=20)).met is None
    fixed = play(random_game(5), AllSubsets(), 5)
    assert (fixed.n_samples, fixed.met) == (None, None)


def test_a_budget_alone_is_spent_in_one_go() -> None:
    calls: list[int] = []
    game = random_game(8)

    def counted(coalitions: Coalitions) -> Values:
        calls.append(len(coalitions))
        return game(coalitions)

    play(counted, RandomOrders(5, seed=0), 8, Stopping.of(budget=100))
    assert len(calls) == 1


def test_until_the_top_is_stable() -> None:
    game = smooth_game(8)
    game.table = game.table[:, :1]
    found = played(game, RandomOrders(5, True, seed=0), until="top 1 stable")
    exact = played(smooth_game(8), AllSubsets()).values[:, 0]
    assert found.values[:, 0].abs().argmax() == exact.abs().argmax()


@pytest.mark.parametrize("budget", [16, 30, 77, 200, 256])
@pytest.mark.parametrize("estimator", [RandomOrders(9, True, seed=0), MeanDifferences(9, seed=0)])
def test_a_budget_of_evaluations_is_kept_and_used(budget: int, estimator: Estimator) -> None:
    game = random_game(8)
    played(game, estimator, budget=budget)
    assert budget - 16 < len(game.asked) <= budget
    assert len(game.asked) == len(set(game.asked))


def test_budget_and_until_the_first_ends_it() -> None:
    game = random_game(8)
    with pytest.warns(RuntimeWarning, match="by its budget of 60 evaluations"):
        played(game, RandomOrders(2, seed=0), until=1e-6, budget=60)
    assert len(game.asked) <= 60
    game = random_game(8)
    played(game, RandomOrders(2, seed=0), until=10.0, budget=200)
    assert len(game.asked) < 60


def test_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(10_000))
    monkeypatch.setattr(playing, "monotonic", lambda: float(next(now)))
    game = random_game(8)
    found = play(game, RandomOrders(25, seed=0), 8, Stopping.of(budget="10 s"))
    assert 9 <= len(found.coalitions) <= 11 * 9
    now = iter(range(10_000))
    known = Ledger()
    play(random_game(8), AllSubsets(), 8, ledger=known)
    again = play(game, RandomOrders(25, seed=0), 8, Stopping.of(budget="10 s"), ledger=known)
    assert 9 <= len(again.coalitions) <= 11 * 9


def test_a_time_that_is_over_at_once_still_gives_an_estimate() -> None:
    found = play(random_game(6), RandomOrders(25, True, seed=0), 6, Stopping.of(budget="0 s"))
    assert len(found.coalitions) == 14


@pytest.mark.parametrize(
    ("estimator", "least"),
    [
        (RandomOrders(5), 9),
        (RandomOrders(5, True), 16),
        (HierarchicalOrders(None, 5), 16),
        (MeanDifferences(5), 2),
        (PairInteractions("faith_banzhaf", 99), 38),
    ],
)
def test_a_budget_too_small_for_one_estimate(estimator: Estimator, least: int) -> None:
    game = random_game(8)
    with pytest.raises(InvalidValue, match=f"a budget of {least - 1} evaluations is too small.*8 features .*{least}"):
        played(game, estimator, budget=least - 1)
    assert not game.asked
    played(game, estimator, budget=least)


def test_what_is_known_costs_nothing() -> None:
    known = Ledger()
    played(random_game(5), AllSubsets(), ledger=known)
    game = random_game(5)
    played(game, RandomOrders(4, seed=0), ledger=known)
    played(game, RandomOrders(4, seed=0), budget=0, ledger=known)
    assert not game.asked
    some = Ledger()
    played(random_game(5), LeaveOneOut(), ledger=some)
    with pytest.raises(InvalidValue, match="a budget of 1 evaluations is too small"):
        played(game, RandomOrders(4, seed=0), budget=1, ledger=some)


def test_a_design_that_runs_out_ends() -> None:
    game = random_game(4)
    found = played(game, MeanDifferences(5, seed=0), until=1e-9)
    assert sorted(game.asked) == list(range(16))
    assert found.stderr is not None
    assert found.stderr.max() == 0
    game = random_game(4)
    played(game, MeanDifferences(5, seed=0), budget=500)
    assert sorted(game.asked) == list(range(16))


def test_repeats_end_sampling_within_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "MAX_ROWS", 500)
    game = random_game(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = play(game, RandomOrders(5, seed=0), 3, Stopping.of(budget=100))
    assert 500 < len(found.coalitions) <= 700
    assert len(game.asked) == 8


def test_sampling_gives_up_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(playing, "MAX_ROWS", 500)
    with pytest.warns(
        RuntimeWarning,
        match="sampling ended after all 64 coalitions, less precise .* largest attribution; until=1e-06",
    ):
        played(random_game(6), RandomOrders(5, seed=0), until=1e-6)


@pytest.mark.parametrize("options", [{"until": 0.1}, {"budget": 100}])
def test_methods_that_evaluate_all_take_neither(options: dict[str, Any]) -> None:
    game = random_game(4)
    with pytest.raises(InvalidValue, match="until and budget are for sampled methods"):
        played(game, HierarchicalOrders(), **options)
    assert not game.asked
    with pytest.raises(InvalidValue, match="until and budget are for sampled methods"):
        Owen(lambda x: x.sum(1)).attribute(torch.ones(1, 3), **options)


class TestNonFinite:
    @pytest.mark.parametrize(
        "estimator", [AllSubsets(), RandomOrders(50, seed=0), MeanDifferences(8), HierarchicalOrders()]
    )
    @pytest.mark.parametrize("odd", [torch.nan, torch.inf, -torch.inf])
    def test_names_the_coalition(self, estimator: Estimator, odd: float) -> None:
        game = random_game(3)
        game.table[0b010, 1] = odd
        message = rf"the output is {odd} \(entry 1\) with the features \[0, 2\] absent, of 3 features; 1 of"
        with pytest.raises(NonFiniteValue, match=message):
            played(game, estimator)

    def test_of_the_whole(self) -> None:
        game = random_game(2)
        game.table[3] = torch.nan
        with pytest.raises(NonFiniteValue, match="with nothing absent"):
            played(game, AllSubsets())

    def test_of_a_model(self) -> None:
        x = torch.tensor([[1.0, 2.0, 3.0]])
        for method in (ShapleyValues, ShapleyValueSampling, PermutationShapley):
            with pytest.raises(NonFiniteValue, match=r"the output is -inf .* with the features \[0.*\] absent"):
                method(lambda x: x[:, 0].log()).attribute(x)

    def test_ablation_passes_it_on_as_captum_does(self) -> None:
        found = FeatureAblation(lambda x: x[:, 0].log() + x[:, 1]).attribute(torch.tensor([[1.0, 2.0]]))
        assert found.tolist() == [[torch.inf, 2.0]]

    def test_of_a_promise(self) -> None:
        def forward(x: Tensor) -> torch.futures.Future[Tensor]:
            promise: torch.futures.Future[Tensor] = torch.futures.Future()
            promise.set_result(x[:, 0].log())
            return promise

        with pytest.raises(Exception, match=r"NonFiniteValue.*the output is -inf"):
            ShapleyValues(forward).attribute_future(torch.tensor([[1.0, 2.0]])).wait()


def test_estimates_follow_from_what_was_asked() -> None:
    """As stored results are estimated anew: by another estimator of the same options."""
    game = random_game(6)
    pairs: list[tuple[Estimator, Estimator]] = [
        (RandomOrders(5, True, seed=1), RandomOrders(5, True, seed=1)),
        (HierarchicalOrders([[0, 1, 2], [3, 4, 5]], 5), HierarchicalOrders([[0, 1, 2], [3, 4, 5]], 5)),
        (MeanDifferences(30), MeanDifferences(30)),
        (PairInteractions("shapley", 3), PairInteractions("shapley", 3)),
        (PairInteractions("faith_banzhaf", 40), PairInteractions("faith_banzhaf", 40)),
    ]
    for one, other in pairs:
        found = play(game, one, 6, Stopping.of(budget=60))
        first, second = (each.estimate(found.coalitions, found.values) for each in (one, other))
        assert torch.equal(first.values, second.values)
        assert first.stderr is not None
        assert second.stderr is not None
        assert torch.equal(first.stderr, second.stderr)


def test_a_plain_function_is_a_game() -> None:
    def game(coalitions: Coalitions) -> Values:
        return coalitions.double().prod(1, keepdim=True)

    found = play(game, AllSubsets(), 3)
    values = AllSubsets().estimate(found.coalitions, found.values).values
    torch.testing.assert_close(values, torch.full((3, 1), 1 / 3, dtype=torch.float64))
