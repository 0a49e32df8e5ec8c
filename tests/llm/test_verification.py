"""What is rounding, and what is wrong: prefix trees in half precision and TF32, and batches whose rows meet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr import LanguageModel, Prompt, explain
from llm_attr.core.evaluator import Evaluator
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.scoring.passes import WholePass
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.scorer import Scorer
from llm_attr.llm.scoring.strategy import strategy_for
from llm_attr.llm.scoring.verification import NOISE_PASSES, Verification
from tests.llm.variants import ANSWER, VARIANTS
from tests.reference.scoring import leave_one_out
from tests.zoo import TREE_FAMILIES, need_attention_in, tiny_model, tokenizer_of

QUERIES = [Query(variant, ANSWER) for variant in VARIANTS]


def scored(lm: LanguageModel, **options: Any) -> Scorer:
    scorer = Scorer(lm, **options)
    with Evaluator("test", len(QUERIES)) as evaluator:
        scorer.score(QUERIES, evaluator)
    return scorer


def model(family: str, dtype: torch.dtype, size: float = 1.0, seed: int = 0) -> LanguageModel:
    """Weights of half the size round as those of trained models do; larger ones make more of it."""
    made = tiny_model(family, seed=seed)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.dim() > 1:
                weight.mul_(size)
    return LanguageModel(made.to(dtype), tokenizer_of("byte_bos"), family)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", TREE_FAMILIES)
@pytest.mark.parametrize("size", [0.5, 1.0, 1.5])
def test_an_honest_tree_is_not_condemned(family: str, dtype: torch.dtype, size: float) -> None:
    need_attention_in(dtype)
    for seed in range(2):
        way = scored(model(family, dtype, size, seed)).strategy
        assert way is not None
        assert way.kind == "prefix tree", way.reason


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_four_tenths_of_a_nat_are_caught(family: str, dtype: torch.dtype) -> None:
    lm = model(family, dtype, 0.5)
    verification = Verification(lm)
    with lm.inference():
        right = WholePass(lm, Cost()).batch(QUERIES[:1])[0].log_probs
        assert verification.of_tree(QUERIES[0], right, dtype) is None
        plain = verification.cost.positions
        for wrong in (0.4, torch.tensor([0.4, 0, -0.4, 0, 0.4])):
            found = verification.of_tree(QUERIES[0], right + wrong, dtype)
            assert found == pytest.approx(0.4, abs=0.05)
    assert plain == QUERIES[0].length, "nothing is measured where there is no doubt"
    assert verification.cost.positions == plain * (3 + 2 * NOISE_PASSES)


@contextmanager
def rounded_by_shape(lm: LanguageModel) -> Iterator[None]:
    """As TF32 on a GPU: products lose digits, and which ones depends on how many rows there are."""

    def after(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
        drawn = torch.Generator().manual_seed(output.shape[:-1].numel())
        signs = torch.randint(0, 2, output.shape[-2:], generator=drawn) * 2 - 1
        return output * (1 + 2.0**-11 * signs)

    handles = [m.register_forward_hook(after) for m in lm.model.modules() if isinstance(m, nn.Linear)]
    yield
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", ["llama", "gemma3", "opt"])
@pytest.mark.parametrize(("precision", "kind"), [("high", "prefix tree"), ("highest", "whole sequences")])
def test_products_in_less_than_fp32(family: str, precision: str, kind: str) -> None:
    lm, before = model(family, torch.float32), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        with rounded_by_shape(lm):
            scorer = scored(lm)
    finally:
        torch.set_float32_matmul_precision(before)
    assert scorer.strategy is not None
    assert scorer.strategy.kind == kind
    assert scorer.cost.check_positions > max(query.length for query in QUERIES)


TEXT = "The old mill in Tarnby was built."
TARGET = " He said"


def int8(family: str) -> Any:
    """The scale of the activations is that of the whole batch."""
    return torch.ao.quantization.quantize_dynamic(tiny_model(family), {nn.Linear}, dtype=torch.qint8)


def centred() -> Any:
    """A layer takes the mean of its batch away."""
    made = tiny_model("bloom")
    made.transformer.h[1].mlp.register_forward_hook(
        lambda module, args, output: output - 0.3 * output.mean(0, keepdim=True)
    )
    return made


def crowded() -> Any:
    """Of what a batch brings, a layer has room for so much: as experts of limited capacity."""
    made = tiny_model("bloom")

    def limit(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output / output.abs().amax().clamp_min(1)

    made.transformer.h[1].mlp.register_forward_hook(limit)
    return made


MEETING: dict[str, Callable[[], Any]] = {
    "int8": lambda: int8("llama"),
    "int8, without a tree": lambda: int8("bloom"),
    "centred": centred,
    "crowded": crowded,
}


@pytest.mark.filterwarnings("ignore:.*quantize:DeprecationWarning", "ignore:.*quantization:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*reduce_range:UserWarning")
@pytest.mark.parametrize("kind", MEETING)
@pytest.mark.parametrize("per_eval", [None, 2, 1])
def test_rows_that_meet_go_alone(kind: str, per_eval: int | None) -> None:
    made, tokenizer = MEETING[kind](), tokenizer_of("byte_bos")
    ids, answer = tokenizer.encode(TEXT), tokenizer.encode(TARGET, add_special_tokens=False)

    def plain(prompt: list[int]) -> Tensor:
        row = torch.tensor([[*prompt, *answer[:-1]]])
        with torch.no_grad():
            logits = made(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0]
        return logits[-len(answer) :].float().log_softmax(-1)[torch.arange(len(answer)), torch.tensor(answer)]

    front = len(ids) - len(tokenizer.encode(TEXT, add_special_tokens=False))
    without = [plain([*ids[:at], *ids[at + 1 :]]) for at in range(front, len(ids))]
    options = {} if per_eval is None else {"perturbations_per_eval": per_eval}
    for _ in range(2):
        result = explain(made, Prompt(TEXT, unit="token"), tokenizer=tokenizer, target=answer, **options)
        torch.testing.assert_close(
            result.token_attr, leave_one_out(plain(ids), without)[1:], rtol=1e-4, atol=1e-4, check_dtype=False
        )
        if per_eval != 1 or kind.startswith("int8"):
            assert "one at a time, since a batch changed one by" in result.provenance["scoring"]


@pytest.mark.parametrize("family", ["bloom", "mamba"])
def test_whole_sequences_are_compared_once(family: str) -> None:
    lm = model(family, torch.float32)
    first, second = scored(lm), scored(lm)
    longest = max(query.length for query in QUERIES)
    assert 0 < first.cost.check_positions <= 2 * longest
    assert second.cost.check_positions == 0
    assert first.strategy == second.strategy == strategy_for(lm)
    planned = Scorer(model(family, torch.float32)).price(QUERIES)
    assert planned.check_positions >= first.cost.check_positions
    assert (planned.passes, planned.positions) == (first.cost.passes, first.cost.positions)
