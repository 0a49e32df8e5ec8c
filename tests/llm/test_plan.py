"""What a plan says is what is counted afterwards, or no less."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from typer.testing import CliRunner

import llm_attr
from llm_attr import Prompt, cli, explain, plan
from llm_attr.attr import ProductBaselines, TextTemplateInput
from llm_attr.core.registry import snake_case
from llm_attr.errors import ContextTooLong, InvalidTarget, InvalidValue, LlmAttrError, UnknownKeyword, UnknownName
from llm_attr.llm.model.language_model import LanguageModel
from tests.benchmarks.jobs import RAG12, TMPL10, TOKEN54, Job
from tests.zoo import tiny

TEXT = "Dave sails boats. Mira bakes bread. It rained. Who sails?"
TARGET = " Dave sails a boat."
COUNTED = ("passes", "positions", "head_rows", "backward", "forward_mode")
OPTIONS: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 7, "return_convergence_delta": True},
    "layer_integrated_gradients": {"n_steps": 5},
    "discretized_integrated_gradients": {"n_steps": 3},
    "sequential_integrated_gradients": {"n_steps": 2, "return_convergence_delta": True},
    "noise_tunnel": {"nt_samples": 2, "n_steps": 3},
    "lime": {"seed": 3},
    "kernel_shap": {"seed": 3},
}

GLOBAL = ("shapley_value_sampling",)
"""Methods that draw from the global streams unless they are given a seed (lime and kernel_shap are, above)."""


@pytest.fixture(scope="module", params=["llama", "bloom", "mistral"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny(request.param, "byte_bos")


@pytest.fixture(scope="module")
def llama() -> LanguageModel:
    return tiny("llama", "byte_bos")


def compared(lm: LanguageModel, prompt: Any = TEXT, **asked: Any) -> tuple[llm_attr.Plan, Any]:
    """A plan, made before the explanation that it is of."""
    planned = plan(lm, prompt, measure=False, **asked)
    result = explain(lm, prompt, **asked)
    counted = result.provenance
    for name in COUNTED:
        if planned.exact:
            assert getattr(planned, name) == counted[name], name
        else:
            assert getattr(planned, name) >= counted[name], name
    assert planned.check_positions >= counted["check_positions"]
    assert planned.evaluations >= counted.get("variants", 0)
    assert planned.peak_bytes > 0
    return planned, result


@pytest.mark.filterwarnings("ignore:gradient x input sums to zero")
@pytest.mark.filterwarnings("ignore:no ReLU of the model depends on the input")
@pytest.mark.parametrize("method", llm_attr.methods())
def test_every_method(lm: LanguageModel, method: str) -> None:
    planned, result = compared(lm, method=method, target=TARGET, **OPTIONS.get(method, {}))
    assert planned.answer_tokens == len(result.output_ids)
    if planned.forward_mode and not planned.exact:
        planned, _ = compared(lm, method=method, target=TARGET, **OPTIONS.get(method, {}))
    assert planned.exact == (method not in GLOBAL)
    if planned.exact:
        assert planned.evaluations == result.provenance.get("variants", 0)


@pytest.mark.parametrize("method", ["feature_ablation", "shapley_values", "input_x_gradient", "integrated_gradients"])
@pytest.mark.parametrize("gen_args", [None, {"max_new_tokens": 4, "do_sample": False}, {"max_new_tokens": 500}])
def test_answers_that_are_not_there_yet(llama: LanguageModel, method: str, gen_args: Any) -> None:
    options = {"n_steps": 3} if method == "integrated_gradients" else {}
    planned, result = compared(llama, method=method, gen_args=gen_args, **options)
    assert not planned.exact
    longest = 25 if gen_args is None else gen_args["max_new_tokens"]
    room = llama.context_length - len(llama.encode(TEXT, special_tokens=True)) + 1
    assert planned.answer_tokens == min(longest, room) >= len(result.output_ids)


def test_more_tokens_may_take_less_than_fewer_and_the_plan_has_both(llama: LanguageModel) -> None:
    planned = plan(llama, TEXT, method="input_x_gradient", measure=False)
    assert planned.forward_mode > 0
    assert planned.backward > 0


@pytest.mark.parametrize(
    "asked",
    [
        {"use_cached_outputs": False},
        {"perturbations_per_eval": 2},
        {"num_trials": 2},
        {"scalar": "kl"},
        {"foil": " Mira bakes."},
        {"scalar": lambda logits, ids: logits.amax(-1)},
        {"unit": "token"},
        {"method": "integrated_gradients", "n_steps": 2, "token_rows": False},
        {"method": "integrated_gradients", "n_steps": 2, "foil": " Mira bakes.", "token_rows": True},
        {"method": "integrated_gradients", "n_steps": 2, "scalar": "kl", "token_rows": True},
        {"method": "integrated_gradients", "n_steps": 2, "scalar": "prob"},
        {"method": "integrated_gradients", "n_steps": 2, "scalar": lambda logits, ids: logits.amax()},
        {"method": "integrated_gradients", "n_steps": 2, "until": 0.5, "token_rows": True},
        {"method": "integrated_gradients", "n_steps": 2, "layer": "model.layers.1"},
        {"method": "gradient_shap", "layer": "model.layers.0.mlp.up_proj"},
        {"method": "gradient_shap", "seed": None, "token_rows": True},
        {"method": "noise_tunnel", "attribution_method": "saliency", "nt_samples": 3},
    ],
)
def test_other_arguments(llama: LanguageModel, asked: dict[str, Any]) -> None:
    compared(llama, target=TARGET, **asked)


@pytest.mark.filterwarnings("ignore:sampling ended by its budget")
@pytest.mark.parametrize(
    "asked",
    [
        {"budget": 60},
        {"budget": "1500 positions"},
        {"budget": "9 passes"},
        {"budget": "40 evaluations", "until": 0.5},
        {"until": 0.5},
        {"budget": "0.2 s"},
        {"seed": None},
        {"seed": None, "budget": "1500 positions"},
    ],
)
def test_samples(llama: LanguageModel, asked: dict[str, Any]) -> None:
    given = {"seed": 1, "n_samples": 2, "unit": "word"} | asked
    planned, _ = compared(llama, method="shapley_value_sampling", target=TARGET, **given)
    assert planned.exact == (given["seed"] == 1 and "until" not in asked and "s" not in str(asked["budget"]).split())


def test_budgets_in_passes_and_positions_are_kept(lm: LanguageModel) -> None:
    options = {"method": "permutation_shapley", "target": TARGET, "unit": "word", "n_samples": 2, "seed": 0}
    used = 0
    for limit in (2500, 6000, 12000):
        found = explain(lm, TEXT, budget=f"{limit} positions", **options).provenance
        assert used < found["positions"] <= limit
        used = found["positions"]
    assert used > 6000
    passes = explain(lm, TEXT, budget="30 passes", **options).provenance["passes"]
    assert 10 < passes <= 30
    for few in ("20 positions", "1 passes"):
        with pytest.raises(InvalidValue, match=f"a budget of {few} is too small: one estimate over"):
            explain(lm, TEXT, budget=few, **options)
    with pytest.raises(InvalidValue, match=r"'2000 positions'\); got '5 potatoes'"):
        explain(lm, TEXT, budget="5 potatoes", **options)


def test_a_budget_in_positions_is_for_texts_alone() -> None:
    method = llm_attr.attr.ShapleyValueSampling(lambda x: x.sum(1))
    with pytest.raises(InvalidValue, match="for language models"):
        method.attribute(torch.ones(1, 3), budget="100 positions")


def test_several_prompts_share_what_they_have_in_common(llama: LanguageModel) -> None:
    prompts = [TEXT, TEXT.replace("Who", "Why"), "Dave sails boats. Who?"]
    planned = plan(llama, prompts, target=TARGET, measure=False)
    results = explain(llama, prompts, target=TARGET)
    assert planned.exact
    assert planned.positions == results[0].provenance["positions"]
    gradients = {"method": "integrated_gradients", "n_steps": 3, "target": TARGET, "token_rows": True}
    scalars = ["log_prob", "contrast", "entropy"]
    explain(llama, TEXT, **gradients)  # tells whether the model has forward mode
    each = explain(llama, prompts, scalar=scalars, foil=" Mira bakes.", **gradients)
    planned = plan(llama, prompts, scalar=scalars, foil=" Mira bakes.", measure=False, **gradients)
    assert planned.exact
    for shared, alone, same in each:
        assert shared.provenance["positions"] == same.provenance["positions"] != alone.provenance["positions"]
    runs = [result.provenance["positions"] for shared, alone, _ in each for result in (shared, alone)]
    assert planned.positions == sum(runs)


def test_random_baselines_of_an_input(llama: LanguageModel) -> None:
    baselines = ProductBaselines([["Mira", "Aksel"], ["bread", "cakes"]])
    prompt = TextTemplateInput("{} sails {}. Who?", ["Dave", "boats"], baselines=baselines)
    planned, _ = compared(llama, prompt, target=TARGET, num_trials=3)
    assert not planned.exact


def test_nothing_is_generated_run_or_drawn(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(type(llama.model), "forward", refuse)
    monkeypatch.setattr(type(llama.model), "generate", refuse)
    before = (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist())
    for method in llm_attr.methods():
        plan(llama, TEXT, method=method, measure=False, target=TARGET, **OPTIONS.get(method, {}))
    plan(llama, TEXT, measure=False)
    plan(llama, TEXT, method="saliency", measure=False)
    assert before == (random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist())


def test_time_is_measured_once(llama: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plan(llama, TEXT, target=TARGET)
    assert first.seconds > 0
    assert plan(llama, TEXT, target=TARGET, method="saliency").seconds > 0

    @wraps(type(llama.model).forward)
    def unwanted(*_: Any, **__: Any) -> None:
        raise AssertionError("a plan ran the model")

    monkeypatch.setattr(type(llama.model), "forward", unwanted)
    assert plan(llama, TEXT, target=TARGET).seconds == first.seconds
    assert all(parameter.grad is None for parameter in llama.model.parameters())


def test_what_is_refused_is_refused_as_it_is_by_explain(llama: LanguageModel) -> None:
    for asked, error in (
        ({"method": "feature_ablatoin"}, UnknownName),
        ({"n_sampels": 3}, UnknownKeyword),
        ({"n_sampels": 3, "method": "saliency"}, UnknownKeyword),
        ({"unit": "sentance"}, UnknownName),
        ({"target": TARGET, "foil": TARGET}, InvalidTarget),
        ({"target": TARGET * 60}, ContextTooLong),
        ({"method": "lime", "budget": "much"}, InvalidValue),
        ({"method": "permutation_shapley", "budget": "3 positions"}, InvalidValue),
    ):
        messages = []
        for ask in (plan, explain):
            with pytest.raises(error) as caught:
                ask(llama, TEXT, **{"target": TARGET} | asked)
            messages.append(str(caught.value))
        assert messages[0] == messages[1]
        assert issubclass(error, LlmAttrError)


def test_how_it_prints(llama: LanguageModel) -> None:
    planned = plan(llama, TEXT, target=TARGET, measure=False)
    lines = str(planned).splitlines()
    assert f"token positions:   {planned.positions:,}" in lines
    assert "time:              not measured" in lines
    assert planned.to_dict()["positions"] == planned.positions
    bounded = str(plan(llama, TEXT, method="permutation_shapley", until=0.01, target=TARGET))
    assert "at most" in bounded
    assert llm_attr.Plan(**planned.to_dict()) == planned
    huge = plan(llama, Prompt(TEXT * 2, unit="token"), method="permutation_shapley", budget="5 s", target=TARGET)
    assert huge.seconds <= 5


def test_a_model_without_forward_mode_goes_backwards() -> None:
    """Its activation function has no derivative in a direction; that is seen the first time."""
    lm = tiny("bloom", "byte_bos")
    asked = {"method": "integrated_gradients", "n_steps": 2, "target": TARGET, "token_rows": True}
    first, result = compared(lm, **asked)
    assert first.forward_mode > 0
    assert not first.exact
    assert result.provenance["backward"] >= len(result.output_ids)
    second, again = compared(lm, **asked)
    assert second.exact
    assert second.forward_mode == 0
    assert torch.equal(again.token_attr, result.token_attr)
    assert again.provenance["passes"] < result.provenance["passes"]


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "method", "options"),
    [
        (TMPL10, "FeatureAblation", {}),
        (TMPL10, "ShapleyValueSampling", {"seed": 0, "n_samples": 2}),
        (TOKEN54, "FeatureAblation", {}),
        (TOKEN54, "InputXGradient", {}),
        (TOKEN54, "IntegratedGradients", {"n_steps": 3, "token_rows": False}),
        (RAG12, "FeatureAblation", {}),
    ],
)
def test_jobs_of_the_benchmarks(smollm: LanguageModel, job: Job, method: str, options: dict[str, Any]) -> None:
    """Passes and positions are those of the plan; time and memory stand beside it in the output (`-s`)."""
    inp = job.make_input(llm_attr.attr, smollm.tokenizer)
    asked: dict[str, Any] = {"method": snake_case(method), "target": job.target, **options}
    if method == "InputXGradient":
        asked["token_rows"] = False
    planned = plan(smollm, inp, **asked)
    with watched_memory() as memory:
        started = perf_counter()
        counted = explain(smollm, inp, **asked).provenance
        seconds = perf_counter() - started
    for name in COUNTED:
        assert getattr(planned, name) >= counted[name], name
        assert not planned.exact or getattr(planned, name) == counted[name], name
    print(
        f"\n{job.name} {method} {options}: {planned.passes} passes, {planned.positions} positions, exact "
        f"{planned.exact}; planned {planned.seconds:.1f} s, took {seconds:.1f} s; planned "
        f"{planned.peak_bytes / 1e6:.0f} MB, took {memory[0] / 1e6:.0f} MB"
    )


@contextmanager
def watched_memory() -> Iterator[list[int]]:
    """By how many bytes the process is larger at most than before; looked at every 20 ms."""
    process, done, found = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.02):
            found[0] = max(found[0], process.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def test_the_command_line_prints_it_and_explains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama", "byte_bos")
    monkeypatch.setattr("llm_attr.llm.model.language_model.load_model", lambda name: lm)
    monkeypatch.setattr("llm_attr.llm.explain.explain", None)
    (tmp_path / "p.txt").write_text(TEXT, encoding="utf-8")
    arguments = ["explain", "--prompt-file", str(tmp_path / "p.txt"), "--target", TARGET, "--plan"]
    done = CliRunner().invoke(cli.app, arguments)
    assert done.exit_code == 0, done.output
    assert f"token positions:   {plan(lm, TEXT, target=TARGET).positions:,}" in done.output
