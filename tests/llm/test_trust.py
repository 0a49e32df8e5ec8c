"""Trust reports: against plain formulas, on games whose truth is known, and on a tiny model."""

from __future__ import annotations

import copy
import json
import math
from functools import cache
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult
from llm_attr.core.faithfulness.feature_game import AnswerGame, CoalitionGame, Spent
from llm_attr.errors import BrokenFile, InvalidShape, InvalidType, InvalidValue, NonFiniteValue, UnsupportedMethod
from llm_attr.llm.trust.evidence import Subject, limit_of
from llm_attr.llm.trust.judging import judged
from llm_attr.llm.trust.permutations import datamodelling, orders, p_value, smallest_p_value
from llm_attr.llm.trust.redundancy import candidates, overlaps
from llm_attr.llm.trust.report import TrustReport
from llm_attr.viz.text.lines.terminal import render
from tests.zoo import tiny

TEXT, ANSWER = "Aksel repairs old violins in the town near a lake", " He mends"


@cache
def lm() -> LanguageModel:
    return tiny("llama")


@cache
def shared(method: str = "kernel_shap", samples: int = 64) -> LLMAttributionResult:
    options = {} if method == "feature_ablation" else {"n_samples": samples, "seed": 0}
    return llm_attr.explain(lm(), TEXT, unit="word", target=ANSWER, method=method, **options)


def result(*how: Any) -> LLMAttributionResult:
    """A copy that shares the game and has no report."""
    copied = copy.copy(shared(*how))
    copied.provenance = dict(copied.provenance)
    return copied


class Played(AnswerGame):
    """A function of coalitions in place of a model; counts what it is asked."""

    def __init__(self, function: Any, features: int) -> None:
        self._game = CoalitionGame(function, features)

    @property
    def features(self) -> int:
        return self._game.features

    @property
    def owner(self) -> Tensor:
        return torch.arange(self.features)

    @property
    def spent(self) -> Spent:
        return self._game.spent

    def rows(self, attributions: Any) -> Tensor:
        return self._game.rows(attributions)

    def values(self, coalitions: Tensor) -> Tensor:
        return self._game.values(coalitions)

    def part(self, tokens: slice) -> AnswerGame:
        raise NotImplementedError

    def randomised(self, seed: int) -> Any:
        raise NotImplementedError


def subject(function: Any, attributions: Tensor, texts: tuple[str, ...] = (), paid: int = 64, **more: Any) -> Subject:
    size = len(attributions)
    return Subject(
        attributions=attributions.double(),
        texts=texts or tuple(f"Sentence {word} stands here." for word in "abcdefghijklmnop"[:size]),
        coalitions=torch.zeros(0, size, dtype=torch.bool),
        values=torch.zeros(0, dtype=torch.float64),
        own=True,
        paid=paid,
        game=Played(function, size),
        **more,
    )


def plain_p(attributions: list[float], rows: list[list[bool]], values: list[float]) -> float:
    def score(numbers: Any) -> float:
        sums = [sum(number for number, here in zip(numbers, row, strict=True) if here) for row in rows]
        return float(pearsonr(sums, values).statistic)

    own = score(attributions)
    tried = [score(order) for order in permutations(attributions)]
    return sum(each >= own - 1e-9 for each in tried) / len(tried)


def test_the_p_value_is_that_of_the_plain_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    attributions = torch.randn(5, generator=generator, dtype=torch.float64)
    rows = torch.rand(9, 5, generator=generator) < 0.5
    values = torch.randn(9, generator=generator, dtype=torch.float64)
    expected = plain_p(attributions.tolist(), rows.tolist(), values.tolist())
    assert p_value(attributions, rows, values, orders(5, 0)) == pytest.approx(expected)


def test_many_units_are_tried_in_random_orders_and_never_give_zero() -> None:
    attributions = torch.arange(12).double()
    rows = torch.rand(30, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    places = orders(12, 0)
    assert p_value(attributions, rows, rows.double() @ attributions, places) == 1 / 10_000
    assert p_value(torch.ones(12).double(), rows, rows.double() @ attributions, places) == 1


def test_numbers_that_no_order_could_prove_are_known() -> None:
    one_hot, effects = torch.eye(8)[0].double(), torch.randn(8, generator=torch.Generator().manual_seed(0)).double()
    assert smallest_p_value(one_hot, effects, orders(8, 0)) == pytest.approx(1 / 8)
    assert smallest_p_value(effects, effects, orders(8, 0)) == pytest.approx(1 / math.factorial(8))


def test_the_interval_of_the_score() -> None:
    generator = torch.Generator().manual_seed(2)
    rows, attributions = torch.rand(20, 6, generator=generator) < 0.5, torch.randn(6, generator=generator).double()
    values = rows.double() @ attributions + torch.randn(20, generator=generator).double()
    score, (low, high) = datamodelling(attributions, rows, values)
    assert score == pytest.approx(spearmanr((rows.double() @ attributions).tolist(), values.tolist()).statistic)
    half = 1.96 * math.sqrt((1 + score**2 / 2) / 17)
    assert (low, high) == pytest.approx((math.tanh(math.atanh(score) - half), math.tanh(math.atanh(score) + half)))


def test_true_effects_are_better_than_chance_and_their_reverse_is_not() -> None:
    weights = torch.tensor([4.0, 1.0, -1.0, 0.5, 2.0, 0.0, 0.3, -0.4])

    def game(present: Tensor) -> Tensor:
        return present.float() @ weights

    good, bad = judged(subject(game, weights)), judged(subject(game, -weights))
    assert good.better_than_chance is True
    assert good.verdict.startswith("Better than chance")
    assert (good.explained, good.evaluations) == (pytest.approx(1.0), 16)
    strongest = 4.0 + 2.0
    assert good.top == (0, 4)
    assert good.necessity == pytest.approx(strongest / float(weights.sum()))
    assert good.sufficiency == pytest.approx(strongest / float(weights.sum()))
    assert good.deletion is not None
    assert good.insertion is not None
    assert good.deletion.p_value == pytest.approx(1 / (1 + good.deletion.draws))
    assert good.insertion.value > good.insertion.random
    assert bad.better_than_chance is False
    assert bad.verdict.startswith("No better than chance")
    assert bad.p_value == pytest.approx(1.0)


def test_two_units_are_too_few_to_tell() -> None:
    report = judged(subject(lambda present: present.float().sum(1), torch.tensor([2.0, 1.0])), budget=32)
    assert report.better_than_chance is None


def test_a_constant_game_is_not_judged() -> None:
    report = judged(subject(lambda present: torch.zeros(len(present)), torch.arange(8.0)), budget=32)
    assert (report.better_than_chance, report.explained) == (None, None)
    assert "rounding" in report.verdict


def test_random_attributions_pass_as_often_as_the_level_allows() -> None:
    generator = torch.Generator().manual_seed(3)
    weights = torch.tensor([6.0, 0.2, 0.1, 0.5, 0.0, -0.3, 0.3, -0.4])
    passed = sum(
        judged(
            subject(lambda present: present.float() @ weights, torch.randn(8, generator=generator)), seed=seed
        ).better_than_chance
        is True
        for seed in range(40)
    )
    assert passed <= 7  # P(more) < 0.2 % at a level of 5 %


FACT = (
    "The door is red.",
    "Marta bakes rye bread.",
    "It rains today.",
    "Rye bread is what Marta bakes.",
    "Gulls sleep.",
)


def twice(present: Tensor) -> Tensor:
    return 5.0 * (present[:, 1] | present[:, 3]).float() + 0.1 * present.float().sum(1)


def once(present: Tensor) -> Tensor:
    return 5.0 * present[:, 1].float() + 0.1 * present.float().sum(1)


def test_a_fact_stated_twice_is_found_where_single_units_say_nothing() -> None:
    single = torch.full((5,), 0.1)  # what leave-one-out finds
    report = judged(subject(twice, single, FACT), budget=5)
    assert report.redundant == [(1, 3)]
    assert report.evaluations == 5
    assert "units 2 and 4 matter only together" in report.verdict
    assert judged(subject(once, torch.tensor([0.1, 5.1, 0.1, 0.1, 0.1]), FACT), budget=5).redundant == []


def test_three_copies_are_one_group() -> None:
    texts = ("Marta bakes rye bread.", "Gulls sleep.", "Rye bread bakes Marta.", "It rains.", "Bread: Marta bakes rye.")

    def game(present: Tensor) -> Tensor:
        return 4.0 * present[:, [0, 2, 4]].any(1).float() + 0.05 * present.float().sum(1)

    assert judged(subject(game, torch.full((5,), 0.05), texts, paid=40)).redundant == [(0, 2, 4)]


def test_overlap_sees_words_in_other_forms_and_ignores_what_all_units_share() -> None:
    alike = overlaps(("The ferry is late.", "Ferries are the cause.", "The oven is hot.", ""))
    assert alike[0, 1] > alike[0, 2]
    assert torch.equal(alike, alike.T)
    assert alike.diagonal().eq(0).all()
    assert candidates(FACT, torch.zeros(5))[0] == (1, 3)
    assert len(candidates(FACT, torch.zeros(5))) == len(list(combinations(range(5), 2)))


def test_the_budget_is_kept_and_asking_again_costs_nothing() -> None:
    explained = result()
    before = explained.game.spent.evaluations if explained.game else 0
    report = explained.trust()
    assert explained.game is not None
    assert report.evaluations == explained.game.spent.evaluations - before <= 16
    assert report.unseen >= 4
    assert report.passes >= 1
    again = explained.trust()
    assert (again.evaluations, again.passes) == (0, 0)
    assert again.p_value == report.p_value
    assert explained.trust(0).better_than_chance is None
    assert explained.trust(8, seed=5).evaluations <= 8
    assert limit_of(None, 64) == limit_of(0.25, 64) == limit_of(16, 64) == 16


def test_a_report_stays_with_the_result(tmp_path: Path) -> None:
    explained = result()
    assert explained.trust_report is None
    report = explained.trust()
    assert explained.trust_report == report
    assert TrustReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert json.loads(explained.to_json())["provenance"]["trust"]["verdict"] == report.verdict
    first = " ".join(render(explained.view(), width=400, colour=False).splitlines()[:1])
    assert first.strip() == report.verdict.strip()
    page = explained.to_html()
    assert page.index('class="verdict"') < page.index("<h1>")
    explained.save(tmp_path / "saved")
    loaded = LLMAttributionResult.load(tmp_path / "saved")
    assert loaded.trust_report == report
    assert loaded == explained
    assert explained.for_output(slice(0, 1)).trust_report is None


def test_a_loaded_result_says_what_its_table_says(tmp_path: Path) -> None:
    explained = result()
    explained.save(tmp_path / "saved")
    loaded = LLMAttributionResult.load(tmp_path / "saved")
    report = loaded.trust()
    assert (report.better_than_chance, report.passes) == (None, 0)
    assert report.explained == pytest.approx(1.0, abs=1e-4)
    assert report.stability is not None
    assert "no model" in report.verdict
    other = loaded.with_attributions(torch.randn(10, generator=torch.Generator().manual_seed(0)))
    assert other.trust().p_value is not None
    with pytest.raises(UnsupportedMethod, match="nothing that judges it"):
        LLMAttributionResult(input_tokens=["a"], output_tokens=["b"], seq_attr=torch.ones(1)).trust()


def test_a_report_that_was_changed_is_refused() -> None:
    report = result().trust().to_dict()
    for wrong in ({}, report | {"p_value": "low"}, report | {"top": [-1]}, report | {"lds": math.nan}, [], "x"):
        with pytest.raises(InvalidValue, match="no trust report"):
            LLMAttributionResult(
                input_tokens=["a"], output_tokens=["b"], seq_attr=torch.ones(1), provenance={"trust": wrong}
            )
    assert issubclass(BrokenFile, InvalidValue)


def test_other_numbers_on_the_same_units() -> None:
    explained = result()
    numbers = torch.arange(10.0)
    other = explained.with_attributions(numbers)
    assert torch.equal(other.seq_attr, numbers)
    assert (other.token_attr, other.stderr, other.is_given) == (None, None, True)
    assert explained.is_given is False
    assert other.game is explained.game
    tokens = torch.rand(len(explained.output_tokens), 10)
    rows = explained.with_attributions(tokens)
    assert torch.allclose(rows.seq_attr, tokens.sum(0))
    assert torch.allclose(rows.for_output(slice(0, 1)).seq_attr, tokens[0])
    with pytest.raises(UnsupportedMethod):
        other.for_output(slice(0, 1))
    with pytest.raises(UnsupportedMethod):
        _ = other.interactions


def test_own_numbers_given_again_are_judged_by_more_and_score_as_well() -> None:
    explained = result()
    given = explained.with_attributions(explained.seq_attr).trust(0)
    assert given.unseen == 64
    assert given.better_than_chance is True


@pytest.mark.parametrize("method", ["banzhaf", "shapley_value_sampling", "odd_shap"])
def test_stability_of_every_sampled_method(method: str) -> None:
    report = result(method, 8 if method.startswith("shapley") else 36).trust(0)
    assert report.stability is not None
    assert 0 <= report.stability <= 1


def test_exact_methods_have_no_draws() -> None:
    report = result("feature_ablation").trust(budget=24)
    assert report.stability is None
    assert report.p_value is not None


def test_the_model_with_random_weights_and_nothing_of_the_users_is_changed() -> None:
    explained = result()
    before = {name: each.clone() for name, each in lm().model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    report = explained.trust(randomised=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], each) for name, each in lm().model.state_dict().items())
    assert report.randomised is not None
    assert abs(report.randomised) < 0.99
    with pytest.raises(UnsupportedMethod, match="random weights"):
        explained.with_attributions(torch.rand(10)).trust(randomised=True)


def test_explain_makes_the_report_and_a_part_has_its_own() -> None:
    explained = llm_attr.explain(
        lm(),
        TEXT,
        unit="word",
        target=ANSWER,
        method="kernel_shap",
        n_samples=64,
        seed=0,
        trust=True,
        region=slice(0, 2),
    )
    assert explained.trust_report is not None
    assert explained.region == (0, 2)
    both = llm_attr.explain(lm(), [TEXT, TEXT], unit="word", target=ANSWER, trust=True)
    assert all(each.trust_report is not None for each in both)
    with pytest.raises(InvalidType, match="trust must be"):
        llm_attr.explain(lm(), TEXT, trust=1)  # type: ignore[call-overload]


def test_a_gradient_method_is_judged_by_a_model() -> None:
    explained = llm_attr.explain(lm(), TEXT, unit="word", target=ANSWER, method="input_x_gradient", token_rows=False)
    report = explained.trust(32)
    assert report.evaluations == 32
    assert report.p_value is not None
    assert report.stability is None


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"budget": -1}, InvalidValue),
        ({"budget": True}, InvalidType),
        ({"budget": "10 s"}, InvalidType),
        ({"budget": math.nan}, InvalidValue),
        ({"k": 0}, InvalidValue),
        ({"k": 11}, InvalidValue),
        ({"k": 1.5}, InvalidType),
        ({"seed": None}, InvalidType),
        ({"randomised": 1}, InvalidType),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        result().trust(**arguments)


@pytest.mark.parametrize(
    ("numbers", "error"),
    [
        ([1.0] * 10, InvalidType),
        (torch.ones(9), InvalidShape),
        (torch.ones(1, 10), InvalidShape),
        (torch.full((10,), math.nan), NonFiniteValue),
    ],
)
def test_wrong_numbers(numbers: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        result().with_attributions(numbers)
