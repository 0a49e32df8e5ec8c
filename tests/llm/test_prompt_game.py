"""A prompt as a game that judges attributions: what it scores, what it remembers, and what a result lends it."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LanguageModel, Prompt, metrics
from llm_attr.attr import FeatureAblation, LLMAttribution, ProductBaselines, TextTemplateInput
from llm_attr.errors import InvalidShape, InvalidType, UnsupportedMethod
from tests.reference import faithfulness as plain
from tests.zoo import tiny

TEXT, ANSWER = "Aksel repairs old violins", " He mends"


@cache
def lm() -> LanguageModel:
    return tiny("llama")


@cache
def result() -> Any:
    return llm_attr.explain(lm(), TEXT, unit="word", target=ANSWER)


def value(present: set[int]) -> float:
    """The log-probability of the answer after the words that are present, in a plain pass."""
    prompt = Prompt(TEXT, unit="word").bind(lm())
    tokens = prompt.variant([i in present for i in range(4)]).tokens
    ids = torch.tensor([list(tokens)])
    answer = torch.tensor(result().output_ids)
    with torch.no_grad():
        logits = lm().model(input_ids=torch.cat([ids, answer[None]], 1)).logits[0].double()
    rows = logits[ids.shape[1] - 1 : -1].log_softmax(-1)
    return float(rows[torch.arange(len(answer)), answer].sum())


def test_curves_are_those_of_plain_passes() -> None:
    attribution = [0.3, 2.0, -1.0, 0.5]
    order = plain.ranked(attribution)
    game = llm_attr.prompt_game(lm(), TEXT, unit="word", target=ANSWER)
    for removing, metric in ((True, metrics.deletion), (False, metrics.insertion)):
        score = metric(torch.tensor(attribution), game)
        assert score.curve is not None
        known = score.curve[0, : len(order)] if removing else score.curve[0, 1:]
        expected = plain.curve(value, order, removing)
        assert known.tolist() == pytest.approx(expected[: len(order)] if removing else expected[1:], abs=1e-4)


def test_a_result_lends_its_table() -> None:
    game = result().game
    before = game.spent
    assert metrics.monotonicity(result(), result()).evaluations == 0
    score = metrics.deletion(result().seq_attr, result())
    assert 0 < score.evaluations < 5
    assert score.passes is not None
    assert score.passes > 0
    again = metrics.deletion(result().seq_attr, game)
    assert (again.evaluations, again.passes) == (0, 0)
    assert game.spent.evaluations - before.evaluations == score.evaluations
    assert torch.equal(score.values, again.values)


def test_a_prompt_and_a_result_make_the_same_game() -> None:
    built = llm_attr.prompt_game(lm(), TEXT, unit="word", target=ANSWER)
    attribution = torch.tensor([1.0, 3.0, 2.0, 0.0])
    first, second = metrics.deletion(attribution, built), metrics.deletion(attribution, result())
    assert torch.allclose(first.values, second.values, atol=1e-4)


def test_tokens_and_parts_of_the_answer() -> None:
    rows = metrics.deletion(result().token_attr, result())
    tokens = len(result().output_ids)
    assert rows.values.shape == (tokens,)
    assert rows.curve is not None
    part = result().for_output(slice(0, 1))
    score = metrics.deletion(part.seq_attr, part)
    assert float(score.values) == pytest.approx(float(rows.values[0]), abs=1e-5)
    assert float(metrics.deletion(part.token_attr, part).values) == pytest.approx(float(score.values))
    with pytest.raises(InvalidShape, match="rows of units"):
        metrics.deletion(torch.rand(tokens + 2, 4), result())


@pytest.mark.parametrize("scalar", ["prob", "logit", "entropy", "kl", "margin"])
def test_every_quantity(scalar: str) -> None:
    found = llm_attr.explain(lm(), TEXT, unit="word", target=ANSWER, scalar=scalar)
    game = llm_attr.prompt_game(lm(), TEXT, unit="word", target=ANSWER, scalar=scalar)
    attribution = torch.tensor([1.0, 3.0, 2.0, 0.0])
    first, second = (metrics.deletion(attribution, each).values for each in (found, game))
    assert torch.allclose(first, second, atol=1e-4)


def test_a_foil_and_a_gradient_method() -> None:
    for method in ("feature_ablation", "input_x_gradient"):
        found = llm_attr.explain(lm(), TEXT, unit="word", target=ANSWER, foil=" She sings", method=method)
        game = llm_attr.prompt_game(lm(), TEXT, unit="word", target=ANSWER, foil=" She sings")
        first, second = (metrics.comprehensiveness(found.seq_attr, each).values for each in (found, game))
        assert torch.allclose(first, second, atol=1e-4)


def test_units_that_are_absent_together() -> None:
    inp = TextTemplateInput("{} {} {} sings", ["Aksel", "old", "Brit"])
    mask = torch.tensor([[0, 1, 0]])
    found = LLMAttribution(FeatureAblation(lm().model), lm()).attribute(inp, target=ANSWER, feature_mask=mask)
    assert found.game.features == 2
    assert torch.equal(found.game.rows(found)[0], found.seq_attr[:2].double())
    assert torch.allclose(found.game.rows(torch.tensor([1.0, 2.0, 4.0])), torch.tensor([[5.0, 2.0]]).double())
    assert metrics.deletion(found, found).curve.shape == (1, 3)


def test_random_baselines_stay_drawn() -> None:
    inp = TextTemplateInput("{} mends {}", ["Aksel", "violins"], ProductBaselines([["Brit", "Ole"], ["boats"]]))
    found = LLMAttribution(FeatureAblation(lm().model), lm()).attribute(inp, target=ANSWER)
    first = metrics.deletion(found, found)
    fresh = type(found.game)(found.game.asked, found.table.owner)
    assert torch.allclose(metrics.deletion(found, fresh).values, first.values, atol=1e-4)


def test_copies_share_the_game_and_files_do_not_have_it() -> None:
    assert pickle.loads(pickle.dumps(result())).game is None
    with pytest.raises(UnsupportedMethod, match="no model to ask"):
        metrics.deletion(result().seq_attr, pickle.loads(pickle.dumps(result())))


def test_a_game_is_of_one_prompt() -> None:
    with pytest.raises(InvalidType, match="one prompt"):
        llm_attr.prompt_game(lm(), [TEXT, TEXT])
