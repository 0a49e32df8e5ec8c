"""The rows of an answer's tokens: together, one by one, or by forward mode; in several threads, at several layers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
import torch

from llm_attr import Prompt, explain, plan
from llm_attr.attr import DeepLift, InputXGradient, IntegratedGradients, Saliency
from llm_attr.core import jacobian
from llm_attr.core.jacobian import BatchedJacobian, Jacobian
from llm_attr.errors import InvalidType, NoGradient, UnsupportedMethod
from llm_attr.llm.gradient import LLMGradientAttribution
from llm_attr.llm.gradients import jacobian as strategies
from llm_attr.llm.gradients.jacobian import has_forward_mode, takes_batches
from llm_attr.llm.model.language_model import LanguageModel
from tests.contract.models import assert_same, state
from tests.llm.generations import (
    EXACT,
    TARGET,
    TEXT,
    assert_close,
    expected_integrated,
    explained,
)
from tests.zoo import tiny, tiny_model, tokenizer_of

KERNELS = ("flash", "mem_efficient", "math", "cudnn")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama", "byte_bos")


@pytest.mark.parametrize("size", [1, 2, 100])
def test_groups_of_tokens_change_nothing(lm: LanguageModel, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "group_size", lambda *_: size)
    result = explained(lm, IntegratedGradients(lm.model), n_steps=3)
    assert_close(result.token_attr, expected_integrated(lm, result, 3))


@pytest.mark.parametrize("family", [*EXACT, "bloom", "mamba"])
@pytest.mark.parametrize("method", [IntegratedGradients, Saliency, DeepLift])
def test_rows_go_back_together_or_one_by_one(family: str, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny(family, "byte_bos", EXACT.get(family))
    options: dict[str, Any] = {"n_steps": 3} if method is IntegratedGradients else {}
    if (family, method) == ("mamba", DeepLift):
        pytest.skip("DeepLift has no rule for Mamba's scan")
    passes: list[bool] = []
    plain = jacobian.derivatives

    def noted(*given: Any, is_grads_batched: bool = False, **more: Any) -> Any:
        passes.append(is_grads_batched)
        return plain(*given, is_grads_batched=is_grads_batched, **more)

    monkeypatch.setattr(jacobian, "derivatives", noted)
    together = explained(lm, method(lm.model), **options)
    known = takes_batches(lm) and method is not DeepLift
    whole = method is Saliency
    assert known == (passes == [True] * (len(passes) - whole) + [False] * whole)
    monkeypatch.setattr(BatchedJacobian, "for_pass", lambda self, rows, outputs: Jacobian(self.count))
    single = explained(lm, method(lm.model), **options)
    assert_close(together.token_attr, single.token_attr)
    assert together.provenance["backward"] == single.provenance["backward"] == len(single.output_ids) + whole


def test_rows_that_do_not_fit_go_back_in_parts(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explained(lm, IntegratedGradients(lm.model), n_steps=3)
    monkeypatch.setattr(strategies, "free_for", lambda language_model: 1 << 21)
    monkeypatch.setattr(BatchedJacobian, "for_pass", lambda self, rows, outputs: self)
    sizes: list[int] = []
    plain = jacobian.derivatives

    def noted(scores: Any, by: Any, directions: Any, **more: Any) -> Any:
        sizes.append(len(directions))
        return plain(scores, by, directions, **more)

    monkeypatch.setattr(jacobian, "derivatives", noted)
    assert_close(explained(lm, IntegratedGradients(lm.model), n_steps=3).token_attr, whole.token_attr)
    assert 1 <= max(sizes) < len(whole.output_ids)
    assert sum(sizes) % len(whole.output_ids) == 0


@pytest.mark.parametrize("method", [IntegratedGradients, InputXGradient])
def test_forward_mode_gives_the_same(lm: LanguageModel, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"n_steps": 3} if method is IntegratedGradients else {}
    units = Prompt(TEXT, unit="sentence")
    monkeypatch.setattr(strategies, "ROW_COST", 1e9)
    backward = explained(lm, method(lm.model), units, **options)
    monkeypatch.setattr(strategies, "ROW_COST", 0.0)
    forward = explained(lm, method(lm.model), units, **options)
    assert_close(forward.token_attr, backward.token_attr)
    assert_close(forward.seq_attr, backward.seq_attr)
    points = options.get("n_steps", 1)
    rows = 3 + (method is IntegratedGradients)  # what belongs to no sentence is in the sum that its gap is of
    assert forward.provenance["forward_mode"] == rows * points
    assert forward.provenance["backward"] == 0
    assert backward.provenance["backward"] >= len(backward.output_ids)
    assert backward.provenance["forward_mode"] == 0


def test_few_units_and_a_long_answer_take_forward_mode_by_themselves(lm: LanguageModel) -> None:
    long = LLMGradientAttribution(InputXGradient(lm.model), lm.tokenizer)
    result = long.attribute(
        Prompt(TEXT, unit="sentence"), target=" Dave sails boats and Mira bakes bread all day long."
    )
    assert len(result.output_ids) > 3 * 2.3
    assert result.provenance["forward_mode"] == 3
    whole = long.attribute(Prompt(TEXT, unit="sentence"), target=result.output_text, token_rows=False).provenance
    assert (whole["passes"], whole["backward"], whole["forward_mode"]) == (1, 1, 0)


def switches() -> tuple[Any, ...]:
    """What torch and Python keep for all threads."""
    kernels = [getattr(torch.backends.cuda, f"{name}_sdp_enabled")() for name in KERNELS]
    return (*kernels, list(warnings.filters))


def in_threads(work: Callable[[], None], count: int = 4) -> list[BaseException]:
    """What went wrong where several threads did the same at a time."""
    start = Barrier(count)

    def run() -> None:
        start.wait()
        for _ in range(5):
            work()

    with ThreadPoolExecutor(count) as pool:
        errors = [running.exception() for running in [pool.submit(run) for _ in range(count)]]
    return [error for error in errors if error is not None]


@pytest.mark.parametrize("cost", [0.0, 1e9])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_threads_get_the_same_and_leave_the_process_as_it_was(
    cost: float, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "ROW_COST", cost)
    lm = tiny("llama", "byte_bos")
    lm.model.train()
    method, units = IntegratedGradients(lm.model), Prompt(TEXT, unit="word")
    alone = explained(lm, method, units, n_steps=3)
    before = switches(), state(lm.model)

    def work() -> None:
        found = explained(lm, method, units, n_steps=3, gradient_checkpointing=checkpointing)
        assert_close(found.token_attr, alone.token_attr)
        assert (found.provenance["forward_mode"] > 0) == (cost == 0)

    assert in_threads(work) == []
    assert switches() == before[0]
    assert_same(state(lm.model), before[1])
    assert has_forward_mode(lm) is (True if cost == 0 else None)
    assert takes_batches(lm)


def test_a_thread_that_computes_activations_again_does_not_disturb_one_that_caches_them() -> None:
    lm = tiny("llama", "byte_bos")
    ablated = explain(lm, TEXT, target=TARGET, unit="word")

    def work() -> None:
        explained(lm, InputXGradient(lm.model), gradient_checkpointing=True, token_rows=False)
        assert_close(explain(lm, TEXT, target=TARGET, unit="word").seq_attr, ablated.seq_attr)

    assert in_threads(work) == []


@pytest.mark.parametrize("cost", [0.0, 1e9])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, ZeroDivisionError])
def test_a_stop_in_the_middle_leaves_everything_as_it_was(
    cost: float, stop: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(strategies, "ROW_COST", cost)
    lm, calls = tiny("llama", "byte_bos"), []

    def stopping(*_: Any) -> None:
        calls.append(None)
        if len(calls) == 2:
            raise stop

    handle = lm.model.model.layers[1].register_forward_hook(stopping)
    before, streams = (switches(), state(lm.model)), torch.get_rng_state()
    with pytest.raises(stop):
        explained(lm, IntegratedGradients(lm.model), Prompt(TEXT, unit="word"), n_steps=3)
    assert switches() == before[0]
    assert_same(state(lm.model), before[1])
    assert torch.equal(torch.get_rng_state(), streams)
    handle.remove()


def test_inference_mode_of_the_caller(lm: LanguageModel) -> None:
    plain = explained(lm, IntegratedGradients(lm.model), n_steps=3)
    with torch.inference_mode():
        found = explained(lm, IntegratedGradients(lm.model), n_steps=3)
    assert_close(found.token_attr, plain.token_attr)


LAYERS = ["model.layers.0", "model.layers.1.mlp", "model.layers.2.self_attn"]


@pytest.mark.parametrize("token_rows", [False, True])
@pytest.mark.parametrize("name", ["layer_gradient_x_activation", "layer_lrp"])
def test_several_layers_of_a_one_point_method_are_what_each_is_alone(
    lm: LanguageModel, name: str, token_rows: bool
) -> None:
    options: dict[str, Any] = {"method": name, "target": TARGET, "unit": "word", "token_rows": token_rows}
    together = explain(lm, TEXT, layer=LAYERS, **options)
    for layer, found in zip(LAYERS, together, strict=True):
        alone = explain(lm, TEXT, layer=layer, **options)
        assert_close(found.seq_attr, alone.seq_attr)
        if token_rows:
            assert_close(found.token_attr, alone.token_attr)
    counts = plan(lm, TEXT, layer=LAYERS, measure=False, **options)
    assert counts.passes >= together[0].provenance["passes"]
    assert counts.backward >= together[0].provenance["backward"]


@pytest.mark.parametrize("layer", ["transformer.h.1", "transformer.h.1.self_attention"])
def test_what_a_layer_gives_beside_its_vectors_does_not_count(layer: str) -> None:
    lm = tiny("bloom", "byte_bos")
    options: dict[str, Any] = {"method": "layer_integrated_gradients", "layer": layer, "n_steps": 3, "target": TARGET}
    found = explain(lm, TEXT, token_rows=True, **options)
    assert_close(found.token_attr.sum(0), explain(lm, TEXT, token_rows=False, **options).seq_attr)
    assert found.seq_attr.abs().sum() > 0


@pytest.mark.parametrize("scalar", [lambda logits, ids: logits.detach()[:, 0], lambda logits, ids: 1.0])
@pytest.mark.parametrize("beside", [False, True])
def test_a_quantity_without_a_gradient_is_named(lm: LanguageModel, scalar: Any, beside: bool) -> None:
    scalar.__name__ = "mine"
    with pytest.raises(NoGradient, match="the scalar mine does not depend on what is moved"):
        explain(
            lm, TEXT, target=TARGET, method="saliency", scalar=["log_prob", scalar] if beside else scalar, unit="word"
        )


class Rounded(torch.nn.Module):
    """A linear layer of whole numbers, as quantised layers for inference alone are."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", (linear.weight.detach() * 64).to(torch.int8))
        self.differentiable = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.differentiable):
            return torch.nn.functional.linear(x, self.weight.to(x.dtype) / 64)


def test_quantised_layers_that_lose_gradients_are_refused_and_others_are_not() -> None:
    model = tiny_model("llama")
    mlp = model.model.layers[1].mlp
    mlp.up_proj = Rounded(mlp.up_proj)
    lm = LanguageModel(model, tokenizer_of("byte_bos"), "rounded")
    before = state(model)
    for method in ("integrated_gradients", "input_x_gradient"):
        with pytest.raises(
            NoGradient, match=r"1 of the quantised layers of rounded, .*layers.1.mlp.up_proj.*feature_a"
        ):
            explain(lm, TEXT, target=TARGET, method=method)
    assert_same(state(model), before)
    mlp.up_proj.differentiable = True
    assert explain(lm, TEXT, target=TARGET, method="input_x_gradient").seq_attr.abs().sum() > 0


def test_a_method_with_its_own_attribute_is_refused(lm: LanguageModel) -> None:
    class Doubled(IntegratedGradients):
        def attribute(self, *args: Any, **kwargs: Any) -> Any:
            return 2 * super().attribute(*args, **kwargs)

    with pytest.raises(UnsupportedMethod, match="does not support Doubled"):
        LLMGradientAttribution(Doubled(lm.model), lm.tokenizer)


def test_a_baseline_that_is_no_token(lm: LanguageModel) -> None:
    for token in (1.5, True):
        with pytest.raises(InvalidType, match="a string or an id; got"):
            explained(lm, IntegratedGradients(lm.model), baseline=token)


@pytest.mark.parametrize("name", ["deep_lift", "lrp", "guided_backprop"])
def test_methods_by_rules_do_not_compute_again(lm: LanguageModel, name: str) -> None:
    for ask in (explain, plan):
        with pytest.raises(UnsupportedMethod, match="operation by operation"):
            ask(lm, TEXT, target=TARGET, method=name, gradient_checkpointing=True)


def test_long_prompts_never_write_their_attention_weights(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jacobian, "math_attention", lambda: pytest.fail("the weights are written"))
    text = "Dave sails boats. " * 13
    for unit in ("word", "paragraph"):
        result = explained(lm, IntegratedGradients(lm.model), Prompt(text, unit=unit), n_steps=2)
        assert result.token_attr.shape[0] == len(result.output_ids) > 1
        assert result.provenance["forward_mode"] == 0
