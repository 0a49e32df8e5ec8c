"""Explanations of text shared by several processes are those of one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, explain
from llm_attr.errors import ContextTooLong, InvalidType, NonFiniteScore, OutOfStep, UnknownName
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import PrefixTree, Query
from llm_attr.llm.scoring.shared_engine import shares
from tests.parallel.processes import launch, needs_gloo, values
from tests.zoo import tiny, tiny_model, tokenizer_of

pytestmark = [
    needs_gloo,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.* will take (at most )?about"),  # on a busy machine
]

FACTS = "Aksel repairs violins. Berit paints boats. Carl sings. Dora cooks fish. What does Aksel do?"
SHORT = ["One two three. Four five. Seven. What next?", "Rain falls. Snow melts. Who knows?"]
PROMPTS = [FACTS, *SHORT]
ANSWER = " He repairs violins."


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel(tiny_model("llama").double(), tokenizer_of("byte_bos"))


CASES: dict[str, Callable[..., Any]] = {
    "ablation": lambda lm, **how: explain(lm, FACTS, target=ANSWER, **how),
    "several": lambda lm, **how: explain(lm, PROMPTS, target=" yes", **how),
    "generated": lambda lm, **how: explain(lm, PROMPTS, gen_args={"max_new_tokens": 4}, **how),
    "sampled": lambda lm, **how: explain(lm, PROMPTS, gen_args={"max_new_tokens": 4, "do_sample": True}, **how),
    "kernel_shap": lambda lm, **how: explain(
        lm, FACTS, unit="word", method="kernel_shap", n_samples=40, target=ANSWER, **how
    ),
    "until": lambda lm, **how: explain(
        lm, FACTS, method="permutation_shapley", until="top 1 stable", target=ANSWER, **how
    ),
    "passes": lambda lm, **how: explain(
        lm, FACTS, unit="word", method="permutation_shapley", budget="2000 positions", target=ANSWER, **how
    ),
    "reference": lambda lm, **how: explain(lm, FACTS, scalar=["kl", "log_prob"], target=ANSWER, **how),
    "foil": lambda lm, **how: explain(lm, FACTS, foil=" He sings.", target=ANSWER, **how),
    "no cache": lambda lm, **how: explain(lm, FACTS, use_cached_outputs=False, target=ANSWER, **how),
    "mask": lambda lm, **how: explain(lm, llm_attr.Prompt(FACTS, absence="mask"), target=ANSWER, **how),
}


def seed_streams(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)


def results(found: Any) -> list[LLMAttributionResult]:
    return [result for one in found for result in results(one)] if isinstance(found, list) else [found]


@pytest.fixture(scope="module")
def alone(lm: LanguageModel) -> dict[str, Any]:
    found = {}
    for name, case in CASES.items():
        seed_streams(5)
        found[name] = results(case(lm))
    return found


@pytest.fixture(scope="module", params=[2, 3])
def shared(request: pytest.FixtureRequest, lm: LanguageModel, alone: dict[str, Any]) -> list[dict[str, Any]]:
    def work(rank: int) -> dict[str, Any]:
        found = {}
        for name, case in CASES.items():
            seed_streams(5 if rank == 0 else 6)
            found[name] = results(case(lm, parallel=True))
        return found

    return values(work, request.param)


@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_process(name: str, shared: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    for found in shared:
        for here, there in zip(alone[name], found[name], strict=True):
            assert here.output_ids == there.output_ids
            torch.testing.assert_close(here.seq_attr, there.seq_attr, rtol=0, atol=1e-6)
            torch.testing.assert_close(here.token_attr, there.token_attr, rtol=0, atol=1e-6)
            processes = there.provenance["processes"]
            assert sum(each["positions"] for each in processes) == there.provenance["positions"]
            assert here.provenance["processes"] is None


def test_positions_are_divided(lm: LanguageModel) -> None:
    units: dict[str, Any] = {"unit": "word", "method": "kernel_shap", "n_samples": 64, "target": ANSWER}
    one = explain(lm, FACTS, **units).provenance["positions"]
    (found, _) = values(lambda rank: explain(lm, FACTS, parallel=True, **units).provenance, 2)
    each = [process["positions"] for process in found["processes"]]
    assert sum(each) <= 1.15 * one
    assert max(each) <= one / 1.6


@pytest.mark.parametrize(
    ("differing", "named"),
    [
        (lambda lm, rank: explain(lm, [FACTS, SHORT[rank]], target=ANSWER, parallel=True), "prompts"),
        (lambda lm, rank: explain(lm, FACTS, target=[ANSWER, " no"][rank], parallel=True), "target"),
        (
            lambda lm, rank: explain(lm, FACTS, target=ANSWER, scalar=["prob", "log_prob"][rank], parallel=True),
            "scalars and options",
        ),
        (lambda lm, rank: explain(tiny(["llama", "gpt2"][rank]), FACTS, target=ANSWER, parallel=True), "model"),
        (
            lambda lm, rank: explain(
                lm, FACTS, target=ANSWER, method="kernel_shap", unit="word", n_samples=40 + rank, parallel=True
            ),
            "options",
        ),
    ],
    ids=["prompts", "target", "scalars", "model", "options"],
)
def test_different_arguments_are_refused(differing: Callable[..., Any], named: str, lm: LanguageModel) -> None:
    for outcome in launch(lambda rank: differing(lm, rank), 2):
        assert isinstance(outcome.error, OutOfStep)
        assert f"; {named} differ" in str(outcome.error)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["hook", "adapter"])
def test_hooks_and_adapters_are_compared(kind: str) -> None:
    def work(rank: int) -> None:
        model = tiny_model("llama").double()
        if kind == "hook" and rank:
            model.register_forward_hook(lambda module, given, output: None)
        if kind == "adapter":
            model = get_peft_model(model, LoraConfig(target_modules=["q_proj"]))
        own = LanguageModel(model, tokenizer_of("byte_bos"))
        with model.disable_adapter() if kind == "adapter" and rank else nullcontext():
            explain(own, FACTS, target=ANSWER, parallel=True)

    for outcome in launch(work, 2):
        assert isinstance(outcome.error, OutOfStep)
        assert "hooks and adapters differ" in str(outcome.error)


def test_errors_are_those_of_one_process(lm: LanguageModel) -> None:
    outcomes = launch(lambda rank: explain(lm, "a " * 2000, target=ANSWER, parallel=True), 2)
    assert [type(outcome.error) for outcome in outcomes] == [ContextTooLong] * 2


def test_broken_weights_of_one_process(lm: LanguageModel) -> None:
    def work(rank: int) -> None:
        if rank == 1:
            lm.model.lm_head.weight.data[7] = torch.nan  # after the fingerprint's samples this is another model
        explain(lm, FACTS, target=ANSWER, parallel=True)

    outcomes = launch(work, 2)
    assert all(isinstance(outcome.error, OutOfStep | NonFiniteScore) for outcome in outcomes)


def test_without_parallel_nothing_is_shared(lm: LanguageModel) -> None:
    def work(rank: int) -> list[float]:
        return explain(lm, PROMPTS[rank], target=ANSWER).seq_attr.tolist()

    one, other = values(work, 2)
    assert one == pytest.approx(explain(lm, PROMPTS[0], target=ANSWER).seq_attr.tolist(), abs=1e-9)
    assert other == pytest.approx(explain(lm, PROMPTS[1], target=ANSWER).seq_attr.tolist(), abs=1e-9)


def test_shares_are_subtrees() -> None:
    prefix = tuple(range(100))
    queries = [Query(Variant.plain((*prefix, first, *range(50))), (1, 2)) for first in (8, 3, 5, 9, 7, 1)]
    order, places = shares(queries, 2, by_prefix=True)
    parts = [[queries[i] for i in order[a:b]] for a, b in pairwise(places)]
    sizes = [len(PrefixTree.of(part)) for part in parts]
    assert max(sizes) <= len(PrefixTree.of(queries)) / 2 + 101
    assert sum(sizes) == len(PrefixTree.of(queries)) + 100


GRADIENTS: dict[str, Callable[..., Any]] = {
    "path": lambda lm, **how: explain(lm, FACTS, method="integrated_gradients", n_steps=5, target=ANSWER, **how),
    "tokens": lambda lm, **how: explain(
        lm, FACTS, method="integrated_gradients", n_steps=3, token_rows=True, target=ANSWER, **how
    ),
    "one pass": lambda lm, **how: explain(lm, FACTS, method="input_x_gradient", target=ANSWER, **how),
    "many": lambda lm, **how: explain(lm, PROMPTS, method="input_x_gradient", gen_args={"max_new_tokens": 3}, **how),
    "two quantities": lambda lm, **how: explain(
        lm, PROMPTS, method="integrated_gradients", n_steps=3, scalar=["kl", "log_prob"], target=" yes", **how
    ),
    "foil": lambda lm, **how: explain(lm, FACTS, method="saliency", foil=" No.", target=ANSWER, **how),
    "words": lambda lm, **how: explain(
        lm, FACTS, method="input_x_gradient", unit="paragraph", target=ANSWER * 3, **how
    ),
    "drawn": lambda lm, **how: explain(
        lm, PROMPTS, method="gradient_shap", n_samples=4, target=" yes", seed=None, **how
    ),
    "noise": lambda lm, **how: explain(
        lm, FACTS, method="noise_tunnel", attribution_method="input_x_gradient", nt_samples=5, target=ANSWER, **how
    ),
    "rules": lambda lm, **how: explain(lm, PROMPTS, method="lrp", target=" yes", **how),
}


@pytest.fixture(scope="module")
def gradients_alone(lm: LanguageModel) -> dict[str, Any]:
    found = {}
    for name, case in GRADIENTS.items():
        seed_streams(5)
        found[name] = results(case(lm))
    return found


@pytest.fixture(scope="module", params=[2, 3])
def gradients(request: pytest.FixtureRequest, lm: LanguageModel, gradients_alone: Any) -> list[dict[str, Any]]:
    def work(rank: int) -> dict[str, Any]:
        found = {}
        for name, case in GRADIENTS.items():
            seed_streams(5 if rank == 0 else 6)
            found[name] = results(case(lm, parallel=True))
        return found

    return values(work, request.param)


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_equal_those_of_one_process(
    name: str, gradients: list[dict[str, Any]], gradients_alone: dict[str, Any]
) -> None:
    for found in gradients:
        for here, there in zip(gradients_alone[name], found[name], strict=True):
            assert here.output_ids == there.output_ids
            torch.testing.assert_close(here.seq_attr, there.seq_attr, rtol=0, atol=1e-6)
            torch.testing.assert_close(here.token_attr, there.token_attr, rtol=0, atol=1e-6)
            torch.testing.assert_close(here.output_probs, there.output_probs, rtol=0, atol=1e-6)
            processes = there.provenance["processes"]
            assert sum(each["positions"] for each in processes) == there.provenance["positions"]
            assert here.provenance["processes"] is None


def test_points_of_a_path_are_divided(lm: LanguageModel) -> None:
    path: dict[str, Any] = {"method": "integrated_gradients", "n_steps": 20, "target": ANSWER}
    one = explain(lm, FACTS, **path).provenance["positions"]
    (found, _) = values(lambda rank: explain(lm, FACTS, parallel=True, **path).provenance, 2)
    assert max(process["positions"] for process in found["processes"]) <= one / 1.6


def test_the_first_process_has_the_ledger(lm: LanguageModel, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "method": "kernel_shap", "n_samples": 16, "seed": 1, "target": ANSWER, "scalar": ["log_prob", "kl"],
        "ledger": tmp_path / "f",
    }  # fmt: skip

    def work(rank: int) -> list[list[LLMAttributionResult]]:
        explain(lm, FACTS, target=ANSWER, ledger=tmp_path / "f", parallel=True)
        return [explain(lm, FACTS, parallel=True, **asked) for _ in range(2)]

    expected = explain(lm, FACTS, **{**asked, "ledger": None})
    for first, again in values(work, 2):
        assert first[0].provenance["passes"] > 0
        assert again[0].provenance["passes"] == 0
        assert again[0].provenance["from_ledger"] == again[0].provenance["variants"]
        for one, other, alone in zip(first, again, expected, strict=True):
            torch.testing.assert_close(one.seq_attr, other.seq_attr, rtol=0, atol=1e-6)
            torch.testing.assert_close(one.seq_attr, alone.seq_attr, rtol=0, atol=1e-6)


def test_a_wrong_argument_of_one_process_ends_the_call_of_all(lm: LanguageModel) -> None:
    def work(rank: int) -> list[float]:
        with pytest.raises(UnknownName, match="guess"):
            explain(lm, FACTS, target=ANSWER, parallel=True, method="guess" if rank else "feature_ablation")
        return explain(lm, FACTS, target=ANSWER, parallel=True).seq_attr.tolist()

    first, second = values(work, 2)
    assert first == second


def test_parallel_is_true_or_false(lm: LanguageModel) -> None:
    with pytest.raises(InvalidType, match="parallel must be True or False; got 2"):
        explain(lm, FACTS, target=ANSWER, parallel=2)  # type: ignore[call-overload]
