"""Sampled methods on prompts: they play the same game as on tensors, and say how sure they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from llm_attr import LLMAttributionResult, Prompt, explain
from llm_attr.attr import FeatureAblation, LLMAttribution, PermutationShapley, ShapleyValues
from llm_attr.core.estimators.shapley import AllSubsets
from llm_attr.core.evaluator import Progress, watching
from llm_attr.errors import InvalidValue, TooManyFeatures, UnknownKeyword
from llm_attr.llm.model.language_model import LanguageModel
from tests.reference.scoring import answer_log_probs
from tests.zoo import tiny

TEXT = "Dave sails. Mira bakes bread. It rained. Who sails?"
TARGET = " Dave sails a boat."


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama", "byte_bos")


def exact(lm: LanguageModel) -> LLMAttributionResult:
    return explain(lm, TEXT, method="shapley_values", target=TARGET)


def test_exact_values_are_those_of_the_game_played_by_hand(lm: LanguageModel) -> None:
    result = exact(lm)
    bound = Prompt(TEXT, unit="sentence").bind(lm)
    coalitions = torch.cat(list(AllSubsets().rounds(4)))
    rows = []
    for coalition in coalitions.tolist():
        variant = bound.variant(coalition)
        tokens = list(variant.tokens) or [lm.tokenizer.bos_token_id]
        rows.append(answer_log_probs(lm.model, tokens, list(result.output_ids)))
    worth = torch.stack(rows)
    worth = torch.cat([worth.sum(1, keepdim=True), worth], 1)
    expected = AllSubsets().estimate(coalitions, worth).values.T
    torch.testing.assert_close(result.seq_attr, expected[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(result.token_attr, expected[1:], rtol=1e-4, atol=1e-4)
    assert result.stderr is None
    assert result.provenance["variants"] == 16


def test_a_sample_says_its_error_and_finds_the_exact_values(lm: LanguageModel) -> None:
    truth = exact(lm)
    result = explain(lm, TEXT, method="permutation_shapley", target=TARGET, n_samples=40)
    assert result.stderr.shape == result.seq_attr.shape
    assert result.token_stderr.shape == result.token_attr.shape
    assert ((result.seq_attr - truth.seq_attr).abs() <= 4 * result.stderr + 1e-4).all()
    assert [one.stderr for one in result.top(4)] == [result.stderr[one.position].item() for one in result.top(4)]
    assert result.top(1)[0].stderr is not None
    assert truth.top(1)[0].stderr is None


def test_a_part_of_the_answer_and_a_stored_result_have_their_errors(lm: LanguageModel, tmp_path: Path) -> None:
    result = explain(lm, TEXT, method="permutation_shapley", target=TARGET, n_samples=5)
    part = result.for_output(slice(1, 3))
    assert part.stderr.shape == (4,)
    assert torch.equal(part.token_stderr, result.token_stderr[1:3])
    assert not torch.equal(part.stderr, result.stderr)
    result.save(tmp_path / "run")
    again = LLMAttributionResult.load(tmp_path / "run")
    assert again == result
    assert again.for_output(slice(1, 3)) == part


def test_until_and_budget_end_the_sample(lm: LanguageModel) -> None:
    few = explain(lm, TEXT, method="shapley_value_sampling", target=TARGET, n_samples=2, seed=0, budget=7)
    assert few.provenance["variants"] <= 7
    sure = explain(lm, TEXT, method="permutation_shapley", target=TARGET, n_samples=2, until=0.05)
    assert sure.stderr.max() <= 0.05 * sure.seq_attr.abs().max()
    with pytest.raises(InvalidValue, match="budget of 3 evaluations is too small"):
        explain(lm, TEXT, method="permutation_shapley", target=TARGET, budget=3)
    with pytest.raises(InvalidValue, match="top 3 stable"):
        explain(lm, TEXT, method="permutation_shapley", target=TARGET, until="soon")


def test_how_the_sampling_ended_is_in_the_provenance(lm: LanguageModel) -> None:
    sure = explain(lm, TEXT, method="permutation_shapley", target=TARGET, until=10.0).provenance
    assert {name: sure[name] for name in ("n_samples", "until", "budget", "met", "method_seed")} == {
        "n_samples": 5, "until": 10.0, "budget": None, "met": True, "method_seed": 0,
    }  # fmt: skip
    with pytest.warns(RuntimeWarning, match="by its budget of 9 evaluations") as told:
        short = explain(lm, TEXT, method="permutation_shapley", target=TARGET, until=1e-9, budget=9, seed=3)
    assert told[0].filename == __file__
    assert (short.provenance["met"], short.provenance["method_seed"]) == (False, 3)
    exact = explain(lm, TEXT, method="shapley_values", target=TARGET).provenance
    assert {exact[name] for name in ("n_samples", "until", "budget", "met", "method_seed")} == {None}


def test_options_that_mean_nothing_to_a_method_are_refused(lm: LanguageModel) -> None:
    with pytest.raises(UnknownKeyword, match="until"):
        explain(lm, TEXT, method="feature_ablation", target=TARGET, until=0.1)
    with pytest.raises(UnknownKeyword, match="n_samples"):
        explain(lm, TEXT, method="shapley_values", target=TARGET, n_samples=3)


def test_too_many_units_for_exact_values(lm: LanguageModel) -> None:
    with pytest.raises(TooManyFeatures, match="at most 20"):
        explain(lm, "one two three " * 7 + "four", unit="word", method="shapley_values", target=TARGET)


def test_a_list_of_prompts_is_sampled_as_each_alone(lm: LanguageModel) -> None:
    prompts = [TEXT, "Mira bakes. Dave sails."]
    options = {"method": "permutation_shapley", "target": TARGET, "n_samples": 3}
    for one, alone in zip(explain(lm, prompts, **options), [explain(lm, p, **options) for p in prompts], strict=True):
        torch.testing.assert_close(one.seq_attr, alone.seq_attr, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one.stderr, alone.stderr, rtol=1e-3, atol=1e-4)


def test_the_design_is_drawn_ahead_whatever_ends_the_sampling(lm: LanguageModel) -> None:
    states = []
    for limit in ({}, {"budget": 7}):
        torch.manual_seed(5)
        explain(lm, TEXT, method="shapley_value_sampling", target=TARGET, **limit)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_the_global_stream_is_drawn_from_once_and_only_where_captum_does(lm: LanguageModel) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = explain(lm, TEXT, method="shapley_value_sampling", target=TARGET, n_samples=3)
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    for _ in range(3):
        torch.randperm(4)
    assert torch.equal(after, torch.get_rng_state())
    torch.set_rng_state(before)
    assert torch.equal(
        explain(lm, TEXT, method="shapley_value_sampling", target=TARGET, n_samples=3).seq_attr, first.seq_attr
    )
    before = torch.get_rng_state()
    explain(lm, TEXT, method="permutation_shapley", target=TARGET, n_samples=3)
    assert torch.equal(before, torch.get_rng_state())


def test_wrappers_take_the_methods_and_their_options(lm: LanguageModel) -> None:
    wrapped = LLMAttribution(PermutationShapley(lm.model), lm.tokenizer)
    result = wrapped.attribute(Prompt(TEXT, unit="sentence"), target=TARGET, n_samples=4, paired=False, seed=3)
    assert result.stderr is not None
    assert result.table.options == {"n_samples": 4, "paired": False, "seed": 3}
    whole = LLMAttribution(ShapleyValues(lm.model), lm.tokenizer).attribute(
        Prompt(TEXT, unit="sentence"), target=TARGET
    )
    ablated = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer).attribute(Prompt(TEXT), target=TARGET)
    assert whole.seq_attr.shape == ablated.seq_attr.shape == (4,)


def test_progress_reaches_its_end(lm: LanguageModel) -> None:
    seen: list[Progress] = []
    with watching(seen.append):
        explain(lm, TEXT, method="permutation_shapley", target=TARGET, n_samples=6)
    assert seen[-1].done == seen[-1].total
