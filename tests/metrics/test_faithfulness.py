"""Metrics on games of features against their plain references, and what holds for every model and attribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_attr import metrics
from llm_attr.core.faithfulness.orders import random_sets
from llm_attr.core.faithfulness.retention import keep_probabilities
from tests.reference import faithfulness as plain

FEATURES = 5
numbers = st.lists(st.integers(-9, 9), min_size=FEATURES, max_size=FEATURES)
apart = st.permutations([-2.5, -1.0, 0.5, 3.0, 4.0])
tables = st.lists(st.integers(-20, 20), min_size=2**FEATURES, max_size=2**FEATURES)


def game_of(table: list[int]) -> Callable[[Tensor], Tensor]:
    """A game with any value for any coalition."""
    values, weights = torch.tensor(table, dtype=torch.float64), 2 ** torch.arange(FEATURES)
    return lambda coalitions: values[(coalitions * weights).sum(1)]


def value_of(table: list[int]) -> plain.Value:
    return lambda present: float(table[sum(2**i for i in present)])


def number(score: metrics.Score) -> float:
    return float(score.values[0])


@given(tables, apart)
@settings(max_examples=30)
def test_curves(table: list[int], attribution: list[float]) -> None:
    rows, game, value = torch.tensor(attribution), game_of(table), value_of(table)
    order = plain.ranked(attribution)
    assert number(metrics.deletion(rows, game)) == pytest.approx(plain.area(plain.curve(value, order, True)))
    assert number(metrics.insertion(rows, game)) == pytest.approx(plain.area(plain.curve(value, order, False)))
    for fractions in ((0.01, 0.05, 0.1, 0.2, 0.5), (0.4, 1.0)):
        for name, removing in (("comprehensiveness", True), ("sufficiency", False)):
            score = getattr(metrics, name)(rows, game, fractions)
            assert number(score) == pytest.approx(plain.aopc(value, attribution, fractions, removing))
    drops = metrics.top_k_drop(rows, game, [1, 3]).values[0].tolist()
    assert drops == pytest.approx([plain.drop(value, attribution, k) for k in (1, 3)])


@given(tables, apart)
@settings(max_examples=30)
def test_responses(table: list[int], attribution: list[float]) -> None:
    rows, game, value = torch.tensor(attribution), game_of(table), value_of(table)
    if table[0] == table[-1]:
        assert metrics.rise(rows, game).values.isnan().all()
        assert metrics.deletion(rows, game, normalize=True).values.isnan().all()
        return
    for mode in ("deletion", "insertion"):
        removing = mode == "deletion"
        expected = plain.area(plain.response(value, plain.ranked(attribution), removing))
        assert number(metrics.rise(rows, game, mode)) == pytest.approx(expected)
        assert number(metrics.mas(rows, game, mode)) == pytest.approx(plain.mas(value, attribution, removing))


@given(tables, numbers)
@settings(max_examples=20)
def test_correlations(table: list[int], attribution: list[int]) -> None:
    rows, game, value = torch.tensor(attribution).double(), game_of(table), value_of(table)
    assert number(metrics.monotonicity(rows, game)) == pytest.approx(plain.monotonicity(value, attribution), abs=1e-9)
    score = metrics.linear_datamodelling_score(rows, game, 12, keep=0.4, seed=3)
    ablations = random_sets(FEATURES, 12, 0.4, 3)
    assert (ablations.sum(1) == 2).all()
    sets = [set(row.nonzero().flatten().tolist()) for row in ablations]
    assert number(score) == pytest.approx(plain.lds(value, attribution, sets), abs=1e-9)
    assert score.stderr is not None


@given(numbers, numbers)
@settings(max_examples=30)
def test_attributions_alone(first: list[int], second: list[int]) -> None:
    a, b = torch.tensor(first).double(), torch.tensor(second).double()
    assert number(metrics.sparseness(a)) == pytest.approx(plain.gini(first), abs=1e-12)
    found = metrics.rank_agreement(a, b, k=2)
    assert float(found.spearman[0, 1]) == pytest.approx(plain.spearman(first, second), abs=1e-12)
    assert float(found.kendall[0, 1]) == pytest.approx(plain.kendall(first, second), abs=1e-12)
    for k in (1, 2, 4):
        expected = plain.recovery(first, {1, 3}, k)
        assert number(metrics.recovery_at_k(a, [1, 3], k)) == pytest.approx(expected)


@given(tables, numbers, st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
@settings(max_examples=15)
def test_soft_metrics(table: list[int], attribution: list[int], retained: float) -> None:
    table[-1] = table[0] + 10
    rows, game, value = torch.tensor(attribution).double(), game_of(table), value_of(table)
    low, span = min(attribution), max(attribution) - min(attribution)
    scaled = [(a - low) / span if span else 0.5 for a in attribution]
    for removing, metric in ((True, metrics.soft_comprehensiveness), (False, metrics.soft_sufficiency)):
        share = 1 - retained if removing else retained
        strong = plain.scaled_to_mean(scaled, share)
        assert keep_probabilities(rows[None], share)[0].tolist() == pytest.approx(strong, abs=1e-7)
        keep = [1 - p for p in strong] if removing else strong
        assert sum(keep) / FEATURES == pytest.approx(retained)
        score = metric(rows, game, retained, n_samples=400)
        error = 5 * float(score.stderr[0]) + 1e-9 if score.stderr is not None else 0.0
        assert abs(number(score) - plain.soft(value, keep, removing)) <= error + 0.02
    unscaled = metrics.soft_sufficiency(rows, game, n_samples=400)
    error = 5 * float(unscaled.stderr[0]) if unscaled.stderr is not None else 0.0
    assert abs(number(unscaled) - plain.soft(value, scaled, False)) <= error + 0.02


RANKED: dict[str, Callable[..., metrics.Score]] = {
    "deletion": metrics.deletion,
    "insertion": metrics.insertion,
    "comprehensiveness": metrics.comprehensiveness,
    "sufficiency": metrics.sufficiency,
    "top_k_drop": metrics.top_k_drop,
    "monotonicity": metrics.monotonicity,
    "rise": metrics.rise,
    "mas": metrics.mas,
    "soft_comprehensiveness": lambda *given: metrics.soft_comprehensiveness(*given, retained=0.5, n_samples=400),
    "soft_sufficiency": lambda *given: metrics.soft_sufficiency(*given, retained=0.5, n_samples=400),
    "linear_datamodelling_score": lambda *given: metrics.linear_datamodelling_score(*given, n_ablations=30),
}
SAMPLED = {"soft_comprehensiveness", "soft_sufficiency", "linear_datamodelling_score"}


@pytest.mark.parametrize("name", sorted(RANKED.keys() - SAMPLED))
@given(table=tables, attribution=apart, order=st.permutations(range(FEATURES)))
@settings(max_examples=10)
def test_the_order_of_the_features_does_not_matter(
    name: str, table: list[int], attribution: list[float], order: list[int]
) -> None:
    game, rows = game_of(table), torch.tensor(attribution)

    def renamed(coalitions: Tensor) -> Tensor:
        back = torch.empty_like(coalitions)
        back[:, order] = coalitions
        return game(back)

    first, second = RANKED[name](rows, game), RANKED[name](rows[order], renamed)
    assert torch.allclose(first.values, second.values, equal_nan=True)


@pytest.mark.parametrize("name", sorted({"deletion", "insertion", "comprehensiveness", "sufficiency", "top_k_drop"}))
@given(table=tables)
@settings(max_examples=10)
def test_equal_attributions_are_at_chance(name: str, table: list[int]) -> None:
    value, equal = value_of(table), torch.ones(FEATURES)
    score = RANKED[name](equal, game_of(table), tie_draws=64)
    measures: dict[str, Callable[[list[int]], float]] = {
        "deletion": lambda order: plain.area(plain.curve(value, order, True)),
        "insertion": lambda order: plain.area(plain.curve(value, order, False)),
        "comprehensiveness": lambda order: plain.aopc(value, by_rank(order), FRACTIONS, True),
        "sufficiency": lambda order: plain.aopc(value, by_rank(order), FRACTIONS, False),
        "top_k_drop": lambda order: plain.drop(value, by_rank(order), 1),
    }
    chance = plain.over_ties(measures[name], [1.0] * FEATURES)
    assert score.stderr is not None
    assert abs(number(score) - chance) <= 5 * float(score.stderr[0]) + 1e-9


FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)


def by_rank(order: list[int]) -> list[float]:
    """An attribution with this order."""
    return [float(-order.index(i)) for i in range(len(order))]


def test_equal_attributions_predict_nothing() -> None:
    game = game_of(list(range(2**FEATURES)))
    for constant in (torch.zeros(FEATURES), torch.full((FEATURES,), 2.0)):
        assert number(metrics.linear_datamodelling_score(constant, game)) == 0
        assert number(metrics.monotonicity(constant, game)) == 0
        assert number(metrics.recovery_at_k(constant, [2], 1)) == pytest.approx(1 / FEATURES)
        assert number(metrics.sparseness(constant)) == pytest.approx(0, abs=1e-12)


@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.booleans())
@settings(max_examples=20)
def test_a_perfect_explanation_of_a_linear_model_has_no_infidelity(weights: list[float], normalize: bool) -> None:
    w, x = torch.tensor(weights, dtype=torch.float64), torch.arange(8.0, dtype=torch.float64).view(2, 4)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randn(inputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        return noise, inputs - noise

    def model(inputs: Tensor) -> Tensor:
        return inputs @ w + 1

    found = metrics.infidelity(model, perturb, x, w.expand(2, 4), normalize=normalize, n_perturb_samples=6)
    assert found.abs().max() < 1e-20
    scaled = metrics.infidelity(model, perturb, x, 3 * w.expand(2, 4), normalize=True, n_perturb_samples=6)
    assert scaled.abs().max() < 1e-20


def test_infidelity_and_sensitivity_by_their_definitions() -> None:
    x, attribution = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64), torch.tensor([[0.3, 1.0, -1.0]]).double()
    drawn: list[Tensor] = []

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        drawn.append(torch.randn_like(inputs))
        return drawn[-1], inputs - drawn[-1]

    found = metrics.infidelity(lambda z: z.prod(1), perturb, x, attribution, n_perturb_samples=7)
    rows = drawn[0].tolist()
    expected = plain.infidelity(lambda z: z[0] * z[1] * z[2], x[0].tolist(), attribution[0].tolist(), rows)
    assert float(found) == pytest.approx(expected)
    moved: list[Tensor] = []

    def shift(inputs: Tensor) -> Tensor:
        moved.append(inputs + 0.1 * torch.randn_like(inputs))
        return moved[-1]

    sensitivity = metrics.sensitivity_max(lambda z: z.square(), x, shift, n_perturb_samples=5)
    expected = plain.sensitivity(lambda z: [v * v for v in z], x[0].tolist(), moved[0].tolist())
    assert float(sensitivity) == pytest.approx(expected)


def test_nothing_removed_changes_nothing() -> None:
    game, rows = game_of(list(range(2**FEATURES))), torch.arange(5.0)
    assert number(metrics.comprehensiveness(rows, game, [0.0])) == 0
    assert number(metrics.sufficiency(rows, game, [1.0])) == pytest.approx((2**FEATURES - 1) / 2)
    score = metrics.deletion(rows, game)
    assert score.curve is not None
    assert float(score.curve[0, 0]) == 2**FEATURES - 1


def test_a_game_is_asked_once_for_each_coalition() -> None:
    asked: list[int] = []

    def game(coalitions: Tensor) -> Tensor:
        asked.append(len(coalitions))
        return coalitions.double().sum(1)

    shared = metrics.CoalitionGame(game, FEATURES)
    rows = torch.arange(5.0)
    first = metrics.deletion(rows, shared)
    assert first.evaluations == sum(asked) == FEATURES + 1
    assert metrics.comprehensiveness(rows, shared).evaluations == 0
    values, stderr = metrics.rise(rows, shared)
    assert values.shape == (1,)
    assert stderr is None
    assert sum(asked) == FEATURES + 1


def test_chance() -> None:
    weights = torch.tensor([5.0, 3.0, 2.0, 1.0, 0.0])

    def linear(coalitions: Tensor) -> Tensor:
        return coalitions.float() @ weights

    for metric in (metrics.deletion, metrics.insertion):
        tested = metrics.chance(metric, weights, linear, permutations=40)
        better = (
            tested.score.values > tested.mean if tested.score.higher_is_better else tested.score.values < tested.mean
        )
        assert bool(better)
        assert tested.permuted.shape == (40, 1)
        assert float(tested.p_value) < 0.1
        worst = metrics.chance(metric, -weights, linear, permutations=40)
        assert float(worst.p_value) > 0.9
    with pytest.raises(TypeError, match="one number per output"):
        metrics.chance(metrics.top_k_drop, weights, linear, k=[1, 2])


def test_seeds_leave_the_streams_alone() -> None:
    game: Any = game_of(list(range(2**FEATURES)))
    state = torch.get_rng_state()
    for metric in RANKED.values():
        metric(torch.ones(FEATURES), game)
    metrics.chance(metrics.deletion, torch.arange(5.0), game, permutations=3)
    assert torch.equal(state, torch.get_rng_state())
