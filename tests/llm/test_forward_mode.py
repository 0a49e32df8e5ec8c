"""Which errors say that a model has no forward mode or takes no batch, what is remembered of them, and for what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from llm_attr import Prompt, explain
from llm_attr.attr import InputXGradient
from llm_attr.core.jacobian import lacks_a_rule
from llm_attr.llm.gradients import jacobian as strategies
from llm_attr.llm.gradients.jacobian import has_forward_mode, takes_batches
from llm_attr.llm.model.language_model import LanguageModel
from tests.contract.models import assert_same, state
from tests.llm.generations import TARGET, TEXT, assert_close, explained
from tests.zoo import tiny

ALWAYS, NEVER = 0.0, 1e9
"""What a row of forward mode is made to cost."""


@pytest.fixture
def lm() -> LanguageModel:
    return tiny("llama")


@pytest.fixture
def at_cost(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    def found(lm: LanguageModel, cost: float, **options: Any) -> Any:
        monkeypatch.setattr(strategies, "ROW_COST", cost)
        return explained(lm, InputXGradient(lm.model), Prompt(TEXT, unit="sentence"), **options)

    return found


class Plain(torch.autograd.Function):
    """A product with two that has no more than a backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0] * 2


class Apart(torch.autograd.Function):
    """As `Plain`, with rules for several at a time, but none for a direction."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0] * 2


class Directed(Apart):
    """With one for a direction, but not for several at a time."""

    generate_vmap_rule = False

    @staticmethod
    def jvp(ctx: Any, *along: Tensor) -> Tensor:
        return along[0] * 2


class Read(Plain):
    """Its backward pass looks at a number."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0] * (2 if upstream[0].isfinite().all() else 0)


class Written(Plain):
    """Its backward pass writes into a tensor."""

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return torch.zeros(upstream[0].shape).copy_(upstream[0] * 2)


@torch.library.custom_op("llm_attr_tests::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


twice.register_autograd(lambda ctx, upstream: upstream * 2)

WITHOUT_DIRECTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "function": Plain.apply,
    "function without jvp": Apart.apply,
    "function without vmap": Directed.apply,
    "no formula": lambda x: x + 0 * torch.cdist(x, x).sum(),
    "operation of another library": twice,
    "memory of its own": lambda x: x + 0 * x.detach().numpy().sum(),
    "drawing": lambda x: x + 0 * torch.rand_like(x),
    "direction as a number": lambda x: Directed.apply(x) if x.sum() else x,
}
WITHOUT_BATCHES: dict[str, Callable[[Tensor], Tensor]] = {"number": Read.apply, "written": Written.apply}
WITH_BOTH: dict[str, Callable[[Tensor], Tensor]] = {
    "computed again": lambda x: checkpoint(functional.gelu, x, use_reentrant=False),
    "a number of the point": lambda x: x * x.sum().sign().item(),
    "a choice by the point": lambda x: x * 2 if x.sum() > 0 else x,
    "requires_grad_": lambda x: x.requires_grad_(),
}


def put_in(lm: LanguageModel, operation: Callable[[Tensor], Tensor]) -> Any:
    """The operation behind the second layer's MLP; the handle takes it out."""
    return lm.model.model.layers[1].mlp.register_forward_hook(lambda module, given, out: operation(out.clone()))


@pytest.mark.parametrize("name", WITHOUT_DIRECTIONS)
def test_without_forward_mode_numbers_are_those_of_backward_passes(
    lm: LanguageModel, name: str, at_cost: Callable[..., Any]
) -> None:
    with put_in(lm, WITHOUT_DIRECTIONS[name]):
        backward = at_cost(lm, NEVER)
        assert has_forward_mode(lm) is None
        forward = at_cost(lm, ALWAYS)
    assert has_forward_mode(lm) is False
    assert forward.provenance["backward"] > 0
    assert_close(forward.token_attr, backward.token_attr)


@pytest.mark.parametrize("name", WITHOUT_BATCHES)
def test_without_batches_numbers_are_those_of_one_pass_each(
    lm: LanguageModel, name: str, at_cost: Callable[..., Any]
) -> None:
    with put_in(lm, lambda x: x * 2):
        expected = at_cost(lm, NEVER)
    assert takes_batches(lm)
    with put_in(lm, WITHOUT_BATCHES[name]):
        assert_close(at_cost(lm, NEVER).token_attr, expected.token_attr)
    assert not takes_batches(lm)


@pytest.mark.parametrize("name", WITH_BOTH)
def test_with_both_nothing_falls_back(lm: LanguageModel, name: str, at_cost: Callable[..., Any]) -> None:
    with put_in(lm, WITH_BOTH[name]):
        backward, forward = at_cost(lm, NEVER), at_cost(lm, ALWAYS)
    assert has_forward_mode(lm)
    assert takes_batches(lm)
    assert (forward.provenance["backward"], forward.provenance["forward_mode"]) == (0, 3)
    assert_close(forward.token_attr, backward.token_attr)


def test_inputs_that_require_gradients_keep_forward_mode(lm: LanguageModel, at_cost: Callable[..., Any]) -> None:
    before = at_cost(lm, ALWAYS)
    lm.model.enable_input_require_grads()
    kept = state(lm.model)
    after = at_cost(lm, ALWAYS)
    assert has_forward_mode(lm)
    assert after.provenance["backward"] == 0
    assert_close(after.token_attr, before.token_attr)
    assert_close(at_cost(lm, NEVER).token_attr, before.token_attr)
    assert_same(state(lm.model), kept)


ERRORS = {
    "a user's": RuntimeError("the cable is not plugged in"),
    "a launch": RuntimeError("CUDA error: unspecified launch failure"),
    "an assertion": RuntimeError("CUDA error: device-side assert triggered"),
    "what is not written": NotImplementedError("prompts in verse"),
    "a warning": UserWarning("hooks are slow"),
    "another": KeyError("mode"),
}


@pytest.mark.parametrize("cost", [ALWAYS, NEVER])
@pytest.mark.parametrize("name", ERRORS)
def test_an_error_of_the_forward_pass_comes_out_and_is_forgotten(
    lm: LanguageModel, name: str, cost: float, at_cost: Callable[..., Any]
) -> None:
    expected, calls = at_cost(lm, cost), []
    fresh = tiny("llama")

    def failing(*_: Any) -> None:
        calls.append(None)
        if len(calls) > (cost == ALWAYS):  # its first pass reads what the answer is like
            raise ERRORS[name]

    with fresh.model.model.layers[1].register_forward_hook(failing), pytest.raises(type(ERRORS[name])) as caught:
        at_cost(fresh, cost)
    assert caught.value is ERRORS[name]
    assert has_forward_mode(fresh) is None
    assert takes_batches(fresh)
    again = at_cost(fresh, cost)
    assert_close(again.token_attr, expected.token_attr)
    assert again.provenance["forward_mode"] == expected.provenance["forward_mode"]


@pytest.mark.parametrize("name", ["a user's", "a launch", "what is not written"])
def test_an_error_of_the_backward_pass_comes_out_and_is_forgotten(
    lm: LanguageModel, name: str, at_cost: Callable[..., Any]
) -> None:
    def failing(upstream: Tensor) -> None:
        raise ERRORS[name]

    def watched(x: Tensor) -> Tensor:
        if x.requires_grad:
            x.register_hook(failing)
        return x

    with put_in(lm, watched), pytest.raises(type(ERRORS[name])) as caught:
        at_cost(lm, NEVER)
    assert str(caught.value) == str(ERRORS[name])
    assert takes_batches(lm)


def test_what_a_model_lacks_is_remembered_by_its_setting(lm: LanguageModel, at_cost: Callable[..., Any]) -> None:
    with put_in(lm, Written.apply):
        at_cost(lm, ALWAYS)
        with torch.autocast("cpu", torch.bfloat16):
            assert has_forward_mode(lm) is None
            assert takes_batches(lm)
        lm.model.set_attn_implementation("eager")
        assert has_forward_mode(lm) is None
        assert takes_batches(lm)
        lm.model.set_attn_implementation("sdpa")
        assert has_forward_mode(lm) is False
        assert not takes_batches(lm)
        lm.model.double()
        assert has_forward_mode(lm) is None
        assert takes_batches(lm)
    assert at_cost(lm, ALWAYS).provenance["forward_mode"] == 3
    lm.model.float()
    assert at_cost(lm, ALWAYS).provenance["forward_mode"] == 0


def test_a_function_that_takes_no_batch_says_nothing_of_the_model(lm: LanguageModel) -> None:
    def plain(logits: Tensor, ids: Tensor) -> Tensor:
        return logits.log_softmax(-1).gather(1, ids[:, None])[:, 0]

    def written(logits: Tensor, ids: Tensor) -> Tensor:
        return plain(Written.apply(logits), ids)

    def doubled(logits: Tensor, ids: Tensor) -> Tensor:
        return plain(logits * 2, ids)

    asked: dict[str, Any] = {"target": TARGET, "method": "saliency", "token_rows": True}
    found = explain(lm, TEXT, scalar=written, **asked)
    assert takes_batches(lm)
    assert_close(found.token_attr, explain(lm, TEXT, scalar=doubled, **asked).token_attr)


def test_words_of_other_errors() -> None:
    for error in (
        *ERRORS.values(),
        RuntimeError("no forward adapter"),
        MemoryError("vmap"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ):
        assert not lacks_a_rule(error)
