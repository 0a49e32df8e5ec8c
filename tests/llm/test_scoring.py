"""The scorer against a plain loop, and what it costs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llm_attr import LanguageModel, Progress, watching
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import Cancelled, ContextTooLong, NonFiniteScore, OutOfMemory
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring import passes
from llm_attr.llm.scoring.prefix_tree import PrefixTree, Query
from llm_attr.llm.scoring.scorer import Scorer
from llm_attr.llm.scoring.strategy import strategy_for
from tests.llm.variants import ANSWER, PREFIX, VARIANTS
from tests.reference.scoring import answer_log_probs, distinct_prefixes
from tests.zoo import CONTEXT, FAMILIES, TREE_FAMILIES, VOCABULARY, quiet, tiny_model, tokenizer_of

TOLERANCE = 1e-4
SETUPS = [(family, kernel) for family in FAMILIES for kernel in ("sdpa", "eager")]
ONE_KERNEL = {("bloom", "sdpa"), ("mamba", "sdpa"), ("gemma2", "sdpa")}  # no such kernel
SETUPS = [setup for setup in SETUPS if setup not in ONE_KERNEL]
WHOLE = set(FAMILIES) - set(TREE_FAMILIES)


def language_model(family: str, kernel: str | None = None) -> LanguageModel:
    return LanguageModel(tiny_model(family, kernel), tokenizer_of("byte_bos"), f"tiny {family}")


_shared: dict[tuple[str, str | None], LanguageModel] = {}


def shared(family: str, kernel: str | None = None) -> LanguageModel:
    """A model that several tests score with, so that what is known of it is reused as for a user."""
    if (family, kernel) not in _shared:
        _shared[family, kernel] = language_model(family, kernel)
    return _shared[family, kernel]


def score(scorer: Scorer, variants: list[Variant], answer: tuple[int, ...] = ANSWER) -> Tensor:
    with Evaluator("test", len(variants)) as evaluator:
        return torch.stack(scorer.score([Query(variant, answer) for variant in variants], evaluator))


def expected(lm: LanguageModel, variants: list[Variant], answer: tuple[int, ...] = ANSWER) -> Tensor:
    return torch.stack([answer_log_probs(lm.model, variant.tokens, answer) for variant in variants])


def nodes(variants: list[Variant], answer: tuple[int, ...] = ANSWER) -> int:
    return distinct_prefixes([(*variant.tokens, *answer[:-1]) for variant in variants])


@dataclass
class Seen:
    """What a model was given, counted at its own door."""

    positions: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __call__(self, module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        ids = keywords["input_ids"]
        self.positions.append(ids.numel())
        self.rows.append(ids.shape[0] * len(keywords["logits_to_keep"]))


@contextmanager
def counted(lm: LanguageModel) -> Iterator[Seen]:
    seen = Seen()
    handle = lm.model.register_forward_pre_hook(seen, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize(("family", "kernel"), SETUPS)
@pytest.mark.parametrize("positions", [3, 16, 512])
def test_exact(family: str, kernel: str, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "positions_that_fit", lambda _: positions)
    lm = shared(family, kernel)
    scorer = Scorer(lm)
    found = score(scorer, VARIANTS)
    assert found.dtype == torch.float32
    assert (found - expected(lm, VARIANTS)).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    assert scorer.strategy.kind == ("whole sequences" if family in WHOLE else "prefix tree")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_are_large_enough_for_errors_to_show(family: str) -> None:
    found = expected(shared(family), VARIANTS)
    assert (found[0] - found[1]).abs().max() > 100 * TOLERANCE
    assert (found[3] - found[4]).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_of_one_token(family: str) -> None:
    lm = shared(family)
    assert (score(Scorer(lm), VARIANTS, (7,)) - expected(lm, VARIANTS, (7,))).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_one_variant(family: str) -> None:
    lm = shared(family)
    assert (score(Scorer(lm), VARIANTS[:1]) - expected(lm, VARIANTS[:1])).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "mistral", "bloom", "mamba"])
def test_without_cache(family: str) -> None:
    lm = shared(family)
    score(Scorer(lm, cached=False), VARIANTS)  # what is checked once is checked here
    scorer = Scorer(lm, cached=False)
    with counted(lm) as seen:
        found = score(scorer, VARIANTS)
    assert (found - expected(lm, VARIANTS)).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    assert (scorer.strategy.kind, scorer.strategy.reason) == ("whole sequences", "asked for")
    assert sum(seen.positions) == scorer.cost.positions >= sum(len(v.tokens) + len(ANSWER) - 1 for v in VARIANTS)


def grown(row: list[int], others: list[tuple[int, ...]], cut: int) -> tuple[int, ...]:
    """A variant that starts like an earlier one."""
    return (*others[cut % len(others)][: cut % 9], *row) if others else tuple(row)


@st.composite
def families_of_variants(draw: st.DrawFn) -> list[Variant]:
    rows: list[tuple[int, ...]] = []
    for _ in range(draw(st.integers(1, 7))):
        fresh = draw(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=8))
        rows.append(grown(fresh, rows, draw(st.integers(0, 80))))
    return [Variant.plain(row) for row in rows]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "mistral", "opt", "bloom"])
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    variants=families_of_variants(),
    answer=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4).map(tuple),
    positions=st.sampled_from([1, 2, 5, 64]),
)
def test_exact_for_any_variants(family: str, variants: list[Variant], answer: tuple[int, ...], positions: int) -> None:
    lm = shared(family)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "positions_that_fit", lambda _: positions)
        scorer = Scorer(lm)
        found = score(scorer, variants, answer)
    assert (found - expected(lm, variants, answer)).abs().max() < TOLERANCE
    if family not in WHOLE:
        assert scorer.cost.positions <= nodes(variants, answer)
    assert scorer.cost.head_rows <= len(set(variants)) * len(answer) or family in WHOLE


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2", "gemma3", "mistral"])
@pytest.mark.parametrize("cached", [True, False])
def test_gaps_in_the_positions_are_a_mask_of_zeros(family: str, cached: bool) -> None:
    lm, length = shared(family), 12
    variants = [
        Variant(tuple(20 + p for p in kept), tuple(kept)) for kept in ([*range(12)], [0, 1, 5, 6, 11], [3, 9, 11])
    ]
    found = score(Scorer(lm, cached=cached), variants)
    for variant, scores in zip(variants, found, strict=True):
        ids = torch.tensor([[20 + p if p in variant.positions else 0 for p in range(length)] + list(ANSWER)])
        mask = torch.ones_like(ids)
        mask[0, [p for p in range(length) if p not in variant.positions]] = 0
        with torch.no_grad():
            logits = lm.model(input_ids=ids, attention_mask=mask, position_ids=torch.arange(ids.shape[1])[None]).logits
        rows = logits[0, length - 1 : -1].log_softmax(-1)[torch.arange(len(ANSWER)), torch.tensor(ANSWER)]
        assert (scores - rows).abs().max() < TOLERANCE


@pytest.mark.parametrize("family", TREE_FAMILIES)
@pytest.mark.parametrize("positions", [7, 512])
def test_every_node_once(family: str, positions: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "positions_that_fit", lambda _: positions)
    lm = language_model(family)
    score(Scorer(lm), VARIANTS)  # what is checked once is checked here
    scorer = Scorer(lm)
    with counted(lm) as seen:
        score(scorer, [*VARIANTS, *VARIANTS[::-1]])
        passes_before = len(seen.positions)
        score(scorer, VARIANTS[2:5])
    assert len(seen.positions) == passes_before == scorer.cost.passes
    assert sum(seen.positions) == scorer.cost.positions == nodes(VARIANTS)
    assert sum(seen.rows) == scorer.cost.head_rows <= len(VARIANTS) * len(ANSWER)
    assert scorer.cost.check_positions == 0
    assert scorer.variants == len(VARIANTS)


def test_head_rows_are_variants_times_answer_tokens() -> None:
    lm = shared("llama")
    scorer = Scorer(lm)
    apart = [variant for variant in VARIANTS if variant.tokens[6:] != (5, 17)]
    with counted(lm) as seen:
        score(scorer, apart)
    assert sum(seen.rows[: scorer.cost.passes]) == scorer.cost.head_rows == len(apart) * len(ANSWER)


@pytest.mark.parametrize("family", sorted(WHOLE))
def test_whole_sequences_are_scored_once_each(family: str) -> None:
    lm, scorer = shared(family), Scorer(shared(family))
    score(Scorer(lm), VARIANTS)  # what is checked once is checked here
    with counted(lm) as seen:
        score(scorer, [*VARIANTS, *VARIANTS])
        score(scorer, VARIANTS)
    assert sum(seen.positions) == scorer.cost.positions
    lengths = [len(variant.tokens) + len(ANSWER) - 1 for variant in VARIANTS]
    assert sum(lengths) <= scorer.cost.positions <= sum(lengths) + len(VARIANTS) * (len(ANSWER) // 4)


def test_a_new_model_is_checked_once() -> None:
    lm = language_model("llama")
    first, second = Scorer(lm), Scorer(lm)
    score(first, VARIANTS)
    assert first.cost.check_positions > 0
    score(second, VARIANTS)
    score(second, VARIANTS[:1])
    assert second.cost.check_positions == 0
    longer = [Variant.plain(range(60, 120)), Variant.plain(range(60, 121))]
    score(second, longer)
    assert second.cost.check_positions == len(longer[-1].tokens) + len(ANSWER) - 1


def no_order(self: PrefixTree, queries: Any, keys: Any, *_: Any) -> Tensor:
    return torch.from_numpy(keys[None] <= queries[:, None])


def no_window(self: PrefixTree, queries: Any, keys: Any, *_: Any) -> Tensor:
    return torch.from_numpy((keys[None] <= queries[:, None]) & (queries[:, None] < self.end[keys][None]))


def the_future_too(self: PrefixTree, queries: Any, keys: Any, *_: Any) -> Tensor:
    return torch.ones(len(queries), len(keys), dtype=torch.bool)


@pytest.mark.parametrize(
    ("family", "wrong"),
    [("llama", no_order), ("gemma3", no_window), ("mistral", no_window), ("gpt2", the_future_too)],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_wrong_mask_is_caught(family: str, wrong: Any, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrefixTree, "visible", wrong)
    lm = language_model(family)
    scorer = Scorer(lm)
    groups = [VARIANTS] if together else [[variant] for variant in VARIANTS]
    found = torch.cat([score(scorer, group) for group in groups])
    assert (found - expected(lm, VARIANTS)).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    if together or wrong is not no_order:
        assert scorer.strategy.kind == "whole sequences"
        assert "differ by" in scorer.strategy.reason
    monkeypatch.undo()
    later = Scorer(lm)
    score(later, VARIANTS[:2])
    assert later.strategy == scorer.strategy or (not together and wrong is no_order)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, IndexError, KeyError])
def test_a_forward_that_refuses_the_tree(error: type[Exception]) -> None:
    lm = language_model("llama")

    def refuse(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        if keywords.get("past_key_values") is not None:
            raise error("no cache of yours\nand a long trace\n" * 9)

    handle = lm.model.register_forward_pre_hook(refuse, with_kwargs=True)
    scorer = Scorer(lm)
    reports: list[Progress] = []
    with watching(reports.append), pytest.warns(UserWarning, match="refused a prefix tree: .* take longer"):
        found = score(scorer, VARIANTS)
    handle.remove()
    score(Scorer(lm), VARIANTS)  # is said once
    assert (found - expected(lm, VARIANTS)).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    assert "refused a prefix tree" in scorer.strategy.reason
    assert "\n" not in scorer.strategy.reason
    assert len(scorer.strategy.reason) < 250
    assert reports[-1].done == reports[-1].total == len(VARIANTS)


@pytest.mark.parametrize("error", [TypeError, ValueError, RuntimeError, IndexError, KeyError])
def test_an_error_that_is_not_the_models_is_raised(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise error("indices on another device")

    lm = language_model("llama")
    for part in ("visible", "ancestors"):
        with monkeypatch.context() as patch:
            patch.setattr(PrefixTree, part, fail)
            with pytest.raises(error, match="indices on another device"):
                score(Scorer(lm), VARIANTS)
    assert strategy_for(lm).kind == "prefix tree"


def test_an_error_of_every_pass_is_raised_and_not_remembered() -> None:
    """As of a model that lies on a device of its own."""
    lm = language_model("llama")

    def fail(module: Any, arguments: Any) -> None:
        raise RuntimeError("Expected all tensors to be on the same device")

    handle = lm.model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="the same device"):
        score(Scorer(lm), VARIANTS)
    handle.remove()
    scorer = Scorer(lm)
    assert (score(scorer, VARIANTS) - expected(lm, VARIANTS)).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    assert scorer.strategy.kind == "prefix tree"


def test_other_errors_of_a_known_model_are_not_hidden() -> None:
    lm = language_model("llama")
    score(Scorer(lm), VARIANTS)

    def fail(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        if keywords.get("past_key_values") is not None:
            raise RuntimeError("device lost")

    handle = lm.model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="device lost"):
        score(Scorer(lm), VARIANTS)
    handle.remove()


def out_of_memory_beyond(limit: int) -> Any:
    def fail(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        if keywords["input_ids"].numel() > limit:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"
            )

    return fail


@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom"])
def test_a_pass_that_does_not_fit_is_halved(family: str) -> None:
    lm = language_model(family)
    limit = 12 if family != "bloom" else 60
    variants = VARIANTS if family != "bloom" else [Variant.plain((30 + i, *PREFIX)) for i in range(8)]
    score(Scorer(lm), variants)
    handle = lm.model.register_forward_pre_hook(out_of_memory_beyond(limit), with_kwargs=True)
    scorer = Scorer(lm)
    with pytest.warns(RuntimeWarning, match="did not fit into memory") as warned:
        found = score(scorer, variants)
    handle.remove()
    assert len(warned) == 1
    assert (found - expected(lm, variants)).abs().max() < TOLERANCE
    if family != "bloom":
        assert scorer.cost.positions == nodes(variants)
        assert scorer.strategy is not None
        assert scorer.strategy.reason.endswith("not compared with a whole sequence: no memory for it")


def test_a_failure_in_the_middle_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "positions_that_fit", lambda _: 8)
    lm, calls = language_model("llama"), []
    score(Scorer(lm), VARIANTS)

    def fail_third(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError

    handle = lm.model.register_forward_pre_hook(fail_third)
    scorer = Scorer(lm)
    with pytest.warns(RuntimeWarning, match="8 at a time"):
        found = score(scorer, VARIANTS)
    handle.remove()
    assert (found - expected(lm, VARIANTS)).abs().max() < TOLERANCE
    assert scorer.cost.positions == nodes(VARIANTS)


def test_when_not_even_one_position_fits() -> None:
    lm = shared("llama")
    handle = lm.model.register_forward_pre_hook(out_of_memory_beyond(0), with_kwargs=True)
    with pytest.raises(OutOfMemory, match="not even one"), pytest.warns(RuntimeWarning, match="did not fit"):
        score(Scorer(lm), VARIANTS)
    handle.remove()


@pytest.mark.parametrize("family", ["llama", "bloom"])
@pytest.mark.parametrize("cached", [True, False])
def test_nan(family: str, cached: bool) -> None:
    lm = language_model(family)
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NonFiniteScore, match=f"tiny {family}.*of {len(VARIANTS)} variants"):
        score(Scorer(lm, cached=cached), VARIANTS)


def test_a_model_that_was_broken_is_checked_when_it_is_whole_again() -> None:
    lm = language_model("llama")
    weight = lm.model.get_output_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.fill_(torch.nan)
    with pytest.raises(NonFiniteScore):
        score(Scorer(lm), VARIANTS)
    with torch.no_grad():
        weight.copy_(kept)
    scorer = Scorer(lm)
    score(scorer, VARIANTS)
    assert scorer.cost.check_positions > 0


def test_too_long() -> None:
    lm = shared("gpt2")
    fits = Variant.plain([3] * (CONTEXT - len(ANSWER) + 1))
    assert torch.isfinite(score(Scorer(lm), [fits])).all()
    with pytest.raises(ContextTooLong, match=f"need {CONTEXT + 1} positions; tiny gpt2 has {CONTEXT}"):
        score(Scorer(lm), [Variant.plain([*fits.tokens, 3])])


@pytest.mark.parametrize("family", ["llama", "bloom"])
def test_cancelling_stops_before_the_next_pass(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "positions_that_fit", lambda _: 8)
    lm, stop, reports = shared(family), threading.Event(), []

    def observe(progress: Progress) -> None:
        reports.append(progress.done)
        if progress.done >= 2:
            stop.set()

    with counted(lm) as seen, watching(observe, stop), pytest.raises(Cancelled, match="of 8 evaluations"):
        score(Scorer(lm), VARIANTS)
    assert 0 < len(seen.positions) < len(VARIANTS) + 2
    assert reports[-1] < len(VARIANTS)


@pytest.mark.filterwarnings("ignore:.*pack_vnni2")  # torch, under ATEN_CPU_CAPABILITY=default where there is AMX
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_precisions(dtype: torch.dtype) -> None:
    lm = language_model("llama")
    lm.model.to(dtype)
    found = score(Scorer(lm), VARIANTS)
    assert found.dtype == torch.float32
    tolerance = 0.2 if dtype == torch.bfloat16 else 1e-5
    assert (found - expected(lm, VARIANTS)).abs().max() < tolerance


def flash(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any) -> Any:
    """As flash attention: causal, and without a mask of its own."""
    assert mask is None or mask.dim() == 2
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, **options)


def test_a_kernel_that_takes_no_mask_of_a_tree_is_stood_in_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_attention_2", flash)
    lm = language_model("llama")
    lm.model.config._attn_implementation = "flash_attention_2"
    found = score(Scorer(lm), VARIANTS[:3])
    assert lm.model.config._attn_implementation == "flash_attention_2"
    assert strategy_for(lm).kind == "prefix tree"
    assert strategy_for(lm).reason == "attention by explicit positions, by sdpa in place of flash_attention_2"
    assert strategy_for(lm).verified
    lm.model.config._attn_implementation = "sdpa"
    assert (found - expected(lm, VARIANTS[:3])).abs().max() < TOLERANCE
    lm.model.config._attn_implementation = "paged|sdpa"
    assert strategy_for(lm).reason == "its attention kernel 'paged|sdpa' takes no mask of its own"


def test_why_whole_sequences_are_needed() -> None:
    reasons = {family: strategy_for(shared(family)).reason for family in sorted(WHOLE)}
    assert reasons == {
        "bloom": "its forward takes no position_ids",
        "falcon": "its positions are attention biases (ALiBi)",
        "mamba": "its state is recurrent",
    }


def test_the_position_of_a_node_is_not_its_number() -> None:
    """Two far variants in one pack: the mask goes by the tree and positions, not by places in the pack."""
    lm = shared("mistral")
    far = [Variant.plain([number, *PREFIX, number]) for number in range(50, 60)]
    assert (score(Scorer(lm), far) - expected(lm, far)).abs().max() < TOLERANCE


@pytest.mark.real
def test_exact_on_a_real_model(smollm: LanguageModel) -> None:
    text = "The old mill was built in 1854. Aksel repairs violins. The lake is blue. What does Aksel do?"
    ids = smollm.encode(text, special_tokens=True)
    answer = tuple(smollm.encode(" He repairs violins. 🎻", special_tokens=False))
    cuts = [[*ids[:a], *ids[a + 5 :]] for a in range(0, len(ids) - 5, 4)]
    variants = [Variant.plain(row) for row in (ids, *cuts)]
    scorer = Scorer(smollm)
    assert (score(scorer, variants, answer) - expected(smollm, variants, answer)).abs().max() < TOLERANCE
    assert scorer.strategy is not None
    assert scorer.strategy.kind == "prefix tree"
    assert scorer.cost.positions == nodes(variants, answer)
    assert np.isfinite(scorer.cost.head_rows)


def test_quiet_puts_the_level_back() -> None:
    import logging

    before = logging.getLogger("transformers").level
    with quiet():
        pass
    assert logging.getLogger("transformers").level == before
