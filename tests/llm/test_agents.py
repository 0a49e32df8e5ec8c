"""Orders of evaluation and dominance, against plain formulas on games whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LLMAttributionResult, Prompt
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import InvalidType, InvalidValue, UnknownName, UnsupportedMethod
from llm_attr.llm.agents.dominance import dominance, units_named
from llm_attr.llm.agents.orders import orders
from llm_attr.llm.scoring.scorer import Scorer
from llm_attr.llm.scoring.text_game import TextGame
from tests.llm.test_trust import Played
from tests.llm.traces import PLAIN, long_model

WEIGHTS = torch.tensor([1.0, -2.0, 4.0, 0.5], dtype=torch.float64)
TEXTS = ["rule", "question", "result", "thought"]


def synergy(rows: Any) -> Any:
    present = rows.double()
    return present @ WEIGHTS + 3 * present[:, 1] * present[:, 2]


def test_orders_are_their_definitions() -> None:
    game = Played(synergy, 4)
    found = orders(game)
    assert found.reveal is not None
    assert found.drop is not None
    assert found.keep is not None
    assert found.prefixes is not None
    assert found.reveal.tolist() == [1.0, -2.0, 7.0, 0.5]
    assert found.drop.tolist() == [1.0, 1.0, 7.0, 0.5]
    assert found.keep.tolist() == [1.0, -2.0, 4.0, 0.5]
    assert found.prefixes.tolist() == [0.0, 1.0, -1.0, 6.0, 6.5]
    assert float(found.reveal.sum()) == float(found.prefixes[-1] - found.prefixes[0])
    assert found.to_dict()["keep"] == found.keep.tolist()


def test_only_what_is_asked_for_is_evaluated_and_once() -> None:
    game = Played(synergy, 4)
    only = orders(game, "reveal")
    assert only.drop is None
    assert only.keep is None
    assert only.evaluations == 5
    assert orders(game, "reveal").evaluations == 0
    assert orders(Played(synergy, 4)).evaluations == 5 + 3 + 3  # the prefixes have one of each of the others
    with pytest.raises(UnknownName, match="order of evaluation 'hide'"):
        orders(game, "hide")


def exact(function: Any, units: list[int]) -> float:
    """What units add, on average over all contexts of the others and of themselves."""
    rows = torch.cartesian_prod(*[torch.tensor([False, True])] * 4)
    with_all, without = rows.clone(), rows.clone()
    with_all[:, units], without[:, units] = True, False
    return float((function(with_all) - function(without)).mean())


def test_dominance_is_the_difference_of_gains() -> None:
    found = dominance(Played(synergy, 4), [2], [0, 1], TEXTS, 4000, 0)
    expected = exact(synergy, [2]) - exact(synergy, [0, 1])
    assert found.margin == pytest.approx(expected, abs=4 * found.stderr + 1e-9)
    assert found.margin == pytest.approx(found.untrusted - found.trusted)
    assert found.loo_margin == 7.0 - 1.0
    assert (found.strongest, found.dominated) == (2, True)
    assert "“result”" in found.verdict
    assert found.to_dict()["dominated"] is True


def test_the_error_is_that_of_repeated_draws() -> None:
    def shaped(rows: Any) -> Any:
        present = rows.double()
        return present @ WEIGHTS + 3 * present[:, 1] * present[:, 2] * present[:, 3]

    draws = [dominance(Played(shaped, 4), [2], [1], TEXTS, 32, seed) for seed in range(200)]
    margins = torch.tensor([each.margin for each in draws])
    claimed = torch.tensor([each.stderr**2 for each in draws]).mean().sqrt()
    assert float(claimed / margins.std()) == pytest.approx(1.0, abs=0.2)


def test_verdicts() -> None:
    def of(first: float, second: float) -> Any:
        return dominance(
            Played(lambda rows: rows.double() @ torch.tensor([first, second]).double(), 2), [0], [1], "ab", 8, 0
        )

    assert of(2.0, 1.0).verdict.startswith("Untrusted text carries")
    assert of(1.0, 2.0).verdict.startswith("Trusted text carries")
    assert of(1.0, 2.0).dominated is False
    assert of(1.0, 1.0).verdict.startswith("It is open")
    assert of(1.0, 1.0).dominated is None
    assert of(-1.0, -2.0).verdict.startswith("Neither")


@pytest.mark.parametrize(
    ("untrusted", "trusted", "samples", "error", "text"),
    [
        ([0], [0, 1], 8, InvalidValue, "either trusted or untrusted; both have 'rule'"),
        ([], [1], 8, InvalidValue, "no untrusted unit"),
        ([0], [], 8, InvalidValue, "no trusted unit"),
        ([0], [1], 3, InvalidValue, "at least 4"),
        ([0], [1], 8.0, InvalidType, "whole number"),
    ],
)
def test_bad_groups(untrusted: Any, trusted: Any, samples: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        dominance(Played(synergy, 4), untrusted, trusted, TEXTS, samples, 0)


def test_names_of_units() -> None:
    about = {
        "role": ["tools", "user", "assistant", "tool"],
        "message": [-1, 0, 1, 2],
        "name": ["look", "", "look", "look"],
        "untrusted": [False, False, False, True],
    }
    groups = [""] * 4
    assert units_named(None, about, groups, True) == [3]
    assert units_named(None, about, groups, False) == [0, 1, 2]
    assert units_named("look", about, groups, True) == [3]
    assert units_named(["tools", 1], about, groups, True) == [0, 2]
    assert units_named("a.txt", {}, ["a.txt", "a.txt", "b.txt", ""], True) == [0, 1]
    with pytest.raises(UnknownName, match="'web'"):
        units_named("web", about, groups, True)
    with pytest.raises(UnsupportedMethod, match="only a trace"):
        units_named(None, {}, groups, True)


@pytest.fixture(scope="module")
def result() -> LLMAttributionResult:
    return llm_attr.explain(long_model(), Prompt.from_trace(PLAIN, target="$.to"))


def test_results_of_traces(result: LLMAttributionResult) -> None:
    found = result.orders()
    assert found.drop is not None
    torch.testing.assert_close(found.drop.float(), result.seq_attr.float(), atol=1e-3, rtol=1e-3)
    measured = result.dominance(samples=8)
    assert measured.untrusted_units == (3,)
    assert measured.trusted_units == (0, 1, 2)
    again = result.dominance(samples=8)
    assert (again.margin, again.evaluations) == (measured.margin, 0)
    assert result.dominance("tool", "user", samples=4).trusted_units == (1,)
    assert result.dominance("user", samples=4).trusted_units == (0, 2, 3)
    game = llm_attr.prompt_game(long_model(), Prompt.from_trace(PLAIN, target="$.to"))
    own, again = orders(game).reveal, found.reveal
    assert own is not None
    assert again is not None
    torch.testing.assert_close(own, again, atol=1e-4, rtol=1e-4)


def test_documents_can_be_named(result: LLMAttributionResult) -> None:
    prompt = Prompt.from_documents("Who?", {"a": "Ann is here.", "b": "Bo is there."}, chat=False)
    of_documents = llm_attr.explain(long_model(), prompt, target=" Ann")
    assert of_documents.dominance("a", "b", samples=4).untrusted_units == (0,)
    with pytest.raises(UnsupportedMethod, match="only a trace"):
        of_documents.dominance()


def test_a_loaded_result_has_no_model(result: LLMAttributionResult, tmp_path: Any) -> None:
    result.save(tmp_path / "r")
    loaded = LLMAttributionResult.load(tmp_path / "r")
    for ask in (loaded.orders, loaded.dominance):
        with pytest.raises(UnsupportedMethod, match="no model that could score"):
            ask()


def test_reveal_of_a_long_trace_takes_the_positions_of_less_than_two_prompts() -> None:
    lm = long_model()
    step = "The pump was seen to and the valve is shut. " * 12
    messages = [{"role": "user", "content": step} for _ in range(9)]
    messages += [{"role": "user", "content": "Go on."}, {"role": "assistant", "content": "I open the valve."}]
    game = llm_attr.prompt_game(lm, Prompt.from_trace(messages, unit="step"))
    assert game.features == 10
    with Evaluator("price", 1) as evaluator:
        scorer = Scorer(lm)
        asked = game.asked
        text = TextGame(asked.inp, asked.features, asked.answer, scorer, evaluator, scalars=(asked.scalar,))
        rows = torch.ones(11, 10, dtype=torch.bool).tril(-1)
        queries = [query for variant in text.variants(rows) for query in text.asked(variant)]
        price = scorer.price(queries)
    assert price.positions - price.check_positions < 2 * len(asked.prompt)
