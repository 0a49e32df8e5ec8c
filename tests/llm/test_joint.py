"""Several prompts scored together against each alone, and what that costs."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Progress, Prompt, watching
from llm_attr.attr import FeatureAblation, LLMAttribution, ProductBaselines, TextTemplateInput, TextTokenInput
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import Cancelled, ContextTooLong, EmptyPrompt, InvalidShape, InvalidType, NonFiniteScore
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring import batch as joint
from llm_attr.llm.scoring import passes
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.scorer import Scorer
from llm_attr.llm.scoring.strategy import strategy_for
from tests.reference.scoring import answer_log_probs, distinct_prefixes
from tests.zoo import CONTEXT, FAMILIES, TREE_FAMILIES, tiny, tiny_model, tokenizer_of

TOLERANCE = 1e-4
COUNTERS = ("passes", "positions", "head_rows")
TEXTS = [
    "The mill was white. It was old.",
    "The mill was white. It is new. Who?",
    "Dave came.",
    "One. Two. Three. Four.",
]
TARGETS: list[Any] = [" He likes fishing.", [7, 9, 11], [300], [7, 9]]
SYSTEM = {"role": "system", "content": "Be brief. Be kind. Answer in one word."}
CHATS = [[SYSTEM, {"role": "user", "content": text}] for text in TEXTS]
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"

_models: dict[str, LanguageModel] = {}


def model_of(family: str) -> LanguageModel:
    if family not in _models:
        tokenizer = copy.deepcopy(tokenizer_of("byte_bos"))
        tokenizer.chat_template = TEMPLATE
        _models[family] = LanguageModel(tiny_model(family), tokenizer, f"tiny {family}")
    return _models[family]


def values(found: LLMAttributionResult) -> torch.Tensor:
    assert found.token_attr is not None
    return torch.cat([found.seq_attr[None], found.token_attr])


def check_alike(together: list[LLMAttributionResult], alone: list[LLMAttributionResult]) -> None:
    for first, second in zip(together, alone, strict=True):
        assert first.output_ids == second.output_ids
        assert first.input_tokens == second.input_tokens
        assert (values(first) - values(second)).abs().max() < TOLERANCE
        assert (first.output_probs - second.output_probs).abs().max() < TOLERANCE


def total(results: list[LLMAttributionResult], name: str) -> int:
    return sum(result.provenance[name] for result in results)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompts", [TEXTS, CHATS], ids=["texts", "chats"])
@pytest.mark.parametrize("positions", [9, 512])
def test_each_as_alone(family: str, prompts: list[Any], positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "positions_that_fit", lambda _: positions)
    lm = model_of(family)
    together = llm_attr.explain(lm, prompts, target=TARGETS)
    alone = [llm_attr.explain(lm, one, target=target) for one, target in zip(prompts, TARGETS, strict=True)]
    check_alike(together, alone)
    kind = "prefix tree" if family in TREE_FAMILIES else "whole sequences"
    assert all(result.provenance["scoring"].startswith(kind) for result in together)
    assert {result.provenance["prompts"] for result in together} == {len(prompts)}
    assert {result.provenance["prompts"] for result in alone} == {1}
    assert len({tuple(result.provenance[name] for name in COUNTERS) for result in together}) == 1
    assert together[0].provenance["passes"] <= total(alone, "passes")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cached", [True, False])
def test_queries_of_any_answers_are_exact(family: str, cached: bool) -> None:
    """Answers of other lengths, that are parts of each other, and that go on like another's prompt."""
    lm = model_of(family)
    rows = [(3, 4, 5), (3, 4, 5, 6, 7), (3,), (9, 8, 7, 6, 5, 4, 3, 2), tuple(range(20, 60))]
    answers = [(6,), (6, 7), (6, 8), (6, 7, 8, 9, 10, 11, 12, 13), (300,)]
    queries = [Query(Variant.plain(row), answer) for row in rows for answer in answers]
    scorer = Scorer(lm, cached)
    with Evaluator("test", len(queries)) as evaluator:
        found = scorer.score([*queries, *queries[::-1]], evaluator)
        assert evaluator.done == len(queries)
    for query, scores in zip([*queries, *queries[::-1]], found, strict=True):
        expected = answer_log_probs(lm.model, query.variant.tokens, query.answer)
        assert scores.shape == expected.shape
        assert (scores - expected).abs().max() < TOLERANCE
    if cached and family in TREE_FAMILIES:
        assert scorer.cost.positions == distinct_prefixes([query.tokens for query in queries])


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_what_is_shared_is_computed_once(family: str) -> None:
    lm = model_of(family)
    for prompts, shared in ((CHATS, True), (["xa", "yb"], True), (TEXTS, True), (TEXTS[:1], False)):
        together = llm_attr.explain(lm, prompts, target=[7, 9, 11], unit="word")[0].provenance
        alone = [llm_attr.explain(lm, one, target=[7, 9, 11], unit="word") for one in prompts]
        assert (together["positions"] < total(alone, "positions")) == shared
        assert together["head_rows"] <= total(alone, "head_rows")
        assert (together["passes"] < total(alone, "passes")) == shared


@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_the_same_prompt_again(family: str) -> None:
    lm = model_of(family)
    once = llm_attr.explain(lm, TEXTS[0], target=TARGETS[1])
    again = llm_attr.explain(lm, [TEXTS[0]] * 3, target=TARGETS[1])
    check_alike(again, [once] * 3)
    assert all(again[0].provenance[name] == once.provenance[name] for name in (*COUNTERS, "variants"))
    others = llm_attr.explain(lm, [TEXTS[0]] * 3, target=TARGETS[:3])
    check_alike(others, [llm_attr.explain(lm, TEXTS[0], target=target) for target in TARGETS[:3]])
    assert others[0].provenance["variants"] == 3 * once.provenance["variants"]


def test_a_list_of_one() -> None:
    lm = model_of("llama")
    (found,), alone = llm_attr.explain(lm, TEXTS[:1], target=[7]), llm_attr.explain(lm, TEXTS[0], target=[7])
    assert found == alone
    assert LLMAttribution(FeatureAblation(lm.model), lm.tokenizer).attribute_each([]) == []


@pytest.mark.parametrize("family", ["llama", "gemma3", "mamba"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_trials": 3},
        {"perturbations_per_eval": 1},
        {"perturbations_per_eval": 3, "num_trials": 2},
        {"use_cached_outputs": False},
        {"feature_mask": torch.tensor([[0, 1, 0]])},
    ],
)
def test_options(family: str, options: dict[str, Any]) -> None:
    lm = model_of(family)
    inputs = [
        TextTemplateInput("{} is {} {}.", ["Dave", "old", "now"], ProductBaselines([["He"], ["a"], ["it"]])),
        TextTokenInput("He is", lm.tokenizer),
        Prompt("Dave came. He left. Why?", absence="delete" if family == "mamba" else "mask"),
    ]
    wrapper = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer, "prob")
    shown: list[tuple[Any, ...]] = []
    together = wrapper.attribute_each(inputs, [9, 7, 8], _inspect_forward=lambda *told: shown.append(told), **options)
    seen, shown = shown, []
    alone = [
        wrapper.attribute(one, [9, 7, 8], _inspect_forward=lambda *t: shown.append(t), **options) for one in inputs
    ]
    check_alike(together, alone)
    assert [told[:2] for told in seen] == [told[:2] for told in shown]
    if most := options.get("perturbations_per_eval"):
        assert together[0].provenance["passes"] >= together[0].provenance["variants"] / most


def test_prompts_that_are_too_many_for_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, prompts = model_of("llama"), [*TEXTS, *TEXTS[::-1]]
    alone = [llm_attr.explain(lm, one, target=[7, 9]) for one in prompts]
    reports: list[Progress] = []
    for most, runs in ((1, {1}), (150, {1, 2, 3, 4}), (1 << 18, {8})):
        monkeypatch.setattr(joint, "JOINT_TOKENS", most)
        with watching(reports.append):
            together = llm_attr.explain(lm, prompts, target=[7, 9])
        check_alike(together, alone)
        assert {result.provenance["prompts"] for result in together} <= runs
        assert reports[-1].done == reports[-1].total == sum(len(result.input_tokens) + 1 for result in alone)


@pytest.mark.parametrize("first", [2, 639])
def test_gaps_of_one_prompt_beside_others(first: int) -> None:
    """OPT counts positions by its mask unless it is told them; the comparison is of a query that has gaps."""
    lm = tiny("opt")
    rows = [(0, 9, 8), (1, 9, 8), (3, 9, 8)]
    queries = [Query(Variant((50, *row[1:]), (0, row[0] + 1, row[0] + 2), 6), (7, 9)) for row in rows]
    queries += [Query(Variant.plain([first, *range(30, 36)]), (7, 9))]
    with Evaluator("test", 4) as evaluator:
        scorer = Scorer(lm)
        found, whole = (one.score(queries, evaluator) for one in (scorer, Scorer(lm, cached=False)))
    assert all((one - other).abs().max() < TOLERANCE for one, other in zip(found, whole, strict=True))
    assert scorer.strategy is not None
    assert (scorer.strategy.kind, scorer.strategy.gaps) == ("prefix tree", True)
    assert strategy_for(lm, gaps=True).verified_length == max(
        query.length for query in queries if query.variant.has_gaps
    )


def test_the_comparison_is_of_a_query_that_leans_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one has a pack to itself."""
    monkeypatch.setattr(passes, "positions_that_fit", lambda _: 30)
    lm = tiny("llama")
    rows = (range(20), [*range(10), *range(50, 60)], range(600, 620))
    with Evaluator("test", 3) as evaluator:
        Scorer(lm).score([Query(Variant.plain(row), (5, 6)) for row in rows], evaluator)
    assert strategy_for(lm).verified == {"sequence", "branches", "context"}
    assert strategy_for(lm).verified_length == 21


def test_errors_name_their_prompt() -> None:
    lm, calls = model_of("gpt2"), []
    handle = lm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    long = "a " * CONTEXT
    grows = TextTemplateInput("{} {}", ["a", "b"], [long, ""])
    for prompts, target, error, message in (
        ([TEXTS[0], long], None, ContextTooLong, "^prompt 1: the prompt of"),
        ([*TEXTS, grows], [7], ContextTooLong, "^prompt 4: the prompt of"),
        ([None, "a"], [7], InvalidType, "^prompt 0: "),
        (TEXTS, [*TARGETS[:3], 7], InvalidType, "^prompt 3: target"),
        ([None, TEXTS[0]], [None, ""], InvalidType, "^prompt 0: "),
    ):
        with pytest.raises(error, match=message):
            llm_attr.explain(lm, prompts, target=target)
    with pytest.raises(InvalidType, match=r"^prompt 1: inp must be"):
        LLMAttribution(FeatureAblation(lm.model), lm.tokenizer).attribute_each([Prompt("a"), "b"])  # type: ignore
    with pytest.raises(InvalidShape, match=r"^prompt 1: feature_mask"):
        llm_attr.explain(lm, TEXTS, target=[7], feature_mask=torch.tensor([[0, 1]]))
    handle.remove()
    assert calls == []


def test_an_empty_variant_names_its_prompt() -> None:
    lm = tiny("llama", "unigram")
    with pytest.raises(EmptyPrompt, match=r"^prompt 1: without its units"):
        llm_attr.explain(lm, [TextTemplateInput("a {}", ["b"]), "Dave."], target=[7])


def test_nan_names_its_prompt() -> None:
    lm = tiny("llama", "byte")
    odd = lm.encode("ß", special_tokens=False)[0]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[odd] = torch.nan
    with pytest.raises(NonFiniteScore, match=r"^prompt 2: "):
        llm_attr.explain(lm, ["Dave.", "He.", "ß"], target=[7, 9], use_cached_outputs=False)


def test_cancelling_between_generations() -> None:
    lm, stop, calls = model_of("llama"), threading.Event(), []
    generate = lm.model.generate

    def generated(**keywords: Any) -> Any:
        calls.append(1)
        stop.set()
        return generate(**keywords)

    lm.model.generate = generated
    with watching(cancel=stop), pytest.raises(Cancelled, match=r"the generation of the answer was stopped"):
        llm_attr.explain(lm, TEXTS)
    del lm.model.generate
    assert len(calls) == 1


def test_results_are_kept_and_tell_what_they_shared(tmp_path: Path) -> None:
    found = llm_attr.explain(model_of("llama"), TEXTS, target=TARGETS)
    for number, result in enumerate(found):
        result.save(tmp_path / str(number))
        assert LLMAttributionResult.load(tmp_path / str(number)) == result
    cost = dict(found[0].view().notes)["cost"]
    assert cost.endswith(f"token positions, for {len(TEXTS)} prompts together")
    alone = llm_attr.explain(model_of("llama"), TEXTS[0], target=TARGETS[0])
    assert dict(alone.view().notes)["cost"].endswith("token positions")


@pytest.mark.real
@pytest.mark.slow
def test_real_chats(smollm: LanguageModel) -> None:
    notes = "Aksel repairs violins. The ferry leaves at noon. The mill burnt in 1921."
    questions = ("What does Aksel repair?", "When does the ferry leave?", "What burnt?")
    chats = [[{"role": "user", "content": f"{notes} {question}"}] for question in questions]
    for target in (None, ["Violins.", "The ferry leaves at noon.", "The mill."]):
        together = llm_attr.explain(smollm, chats, target=target)
        each = [None] * 3 if target is None else target
        alone = [llm_attr.explain(smollm, chat, target=one) for chat, one in zip(chats, each, strict=True)]
        check_alike(together, alone)
        told = together[0].provenance
        assert told["positions"] < 0.8 * total(alone, "positions")
        assert told["passes"] < total(alone, "passes")
