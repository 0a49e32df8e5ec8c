"""An explanation leaves model, tokenizer and random streams as it found them."""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

import llm_attr
from llm_attr import LanguageModel
from llm_attr.llm.prompt.prompt import Prompt
from tests.reference.scoring import answer_log_probs
from tests.zoo import tiny, tiny_model, tokenizer_of

TEXT = "Dave lives in Palm Coast. He is a lawyer. What does he like?"
CALLS: dict[str, dict[str, Any]] = {
    "given": {"target": " He likes fishing."},
    "generated": {},
    "sampled": {"gen_args": {"do_sample": True, "max_new_tokens": 5, "seed": 1}},
    "tokens": {"target": " He", "unit": "token"},
    "uncached": {"target": " He", "use_cached_outputs": False},
}


def state_of(lm: LanguageModel) -> dict[str, Any]:
    """Everything that a caller could see changed."""
    model, tokenizer = lm.model, lm.tokenizer
    return {
        "weights": {name: value.clone() for name, value in model.state_dict().items()},
        "places": {name: value.data_ptr() for name, value in model.state_dict().items()},
        "gradients": {name: (value.requires_grad, value.grad) for name, value in model.named_parameters()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: [dict(getattr(module, kind)) for kind in vars(module) if kind.endswith("hooks")]
            for name, module in model.named_modules()
        },
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "class": type(model),
        "config": model.config.to_dict(),
        "kernel": model.config._attn_implementation,
        "generation": model.generation_config.to_dict(),
        "tokenizer": tokenizer.backend_tokenizer.to_str(),
        "special": dict(tokenizer.special_tokens_map),
        "template": tokenizer.chat_template,
        "sides": (tokenizer.padding_side, tokenizer.truncation_side, tokenizer.model_max_length),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1],
        "python": random.getstate(),
        "grad mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return bool((first == second).all())
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    return bool(first == second)


@contextmanager
def undisturbed(lm: LanguageModel) -> Iterator[None]:
    before = copy.deepcopy({key: value for key, value in state_of(lm).items() if key != "hooks"})
    hooks = state_of(lm)["hooks"]
    yield
    after = state_of(lm)
    assert same(hooks, after.pop("hooks"))
    assert [key for key in after if not same(before[key], after[key])] == []


def with_dropout(family: str = "gpt2") -> LanguageModel:
    """In train mode, but for one module."""
    lm = LanguageModel(tiny_model(family), tokenizer_of("byte_bos"), family)
    lm.model.train()
    next(iter(lm.model.transformer.h)).eval()
    next(iter(lm.model.parameters())).requires_grad_(False)
    return lm


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("family", ["llama", "gemma3", "bloom", "mamba"])
def test_after_a_call(family: str, call: str) -> None:
    lm = tiny(family)
    with undisturbed(lm):
        llm_attr.explain(lm, TEXT, **CALLS[call])


@pytest.mark.parametrize("call", CALLS)
def test_in_train_mode(call: str) -> None:
    lm = with_dropout()
    assert lm.model.config.attn_pdrop > 0
    with undisturbed(lm):
        first = llm_attr.explain(lm, TEXT, **CALLS[call])
    torch.rand(3)
    second = llm_attr.explain(lm, TEXT, **CALLS[call])
    assert first.output_ids == second.output_ids
    assert torch.equal(first.token_attr, second.token_attr)
    lm.model.eval()
    whole = answer_log_probs(lm.model, lm.tokenizer.encode(TEXT), first.output_ids)
    assert torch.allclose(first.output_probs, whole.exp(), atol=1e-5)


class Raise:
    """Raises at the nth call of the model."""

    def __init__(self, error: BaseException, at: int) -> None:
        self.error, self.left = error, at

    def __call__(self, *_: Any) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ArithmeticError("in the middle"), MemoryError()])
@pytest.mark.parametrize("call", ["given", "generated", "uncached"])
@pytest.mark.parametrize("make", [lambda: tiny("llama"), with_dropout])
def test_when_the_model_raises(make: Any, call: str, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_attr.llm.scoring.passes.positions_that_fit", lambda _: 1)
    lm = make()
    llm_attr.explain(lm, TEXT, **CALLS["given"])
    handle = lm.model.register_forward_pre_hook(Raise(error, 3))
    expected = llm_attr.errors.OutOfMemory if isinstance(error, MemoryError) and call == "given" else type(error)
    kinds = (expected, llm_attr.errors.OutOfMemory)
    with undisturbed(lm), pytest.raises(kinds):
        llm_attr.explain(lm, TEXT, **CALLS[call])
    handle.remove()


def test_when_the_caller_cancels() -> None:
    lm, stop = with_dropout(), threading.Event()
    stop.set()
    with undisturbed(lm), pytest.raises(llm_attr.errors.Cancelled), llm_attr.watching(cancel=stop):
        llm_attr.explain(lm, TEXT, target=" He")


def test_binding_and_showing_change_nothing() -> None:
    lm = tiny("llama")
    result = llm_attr.explain(lm, TEXT, target=" He")
    with undisturbed(lm):
        Prompt(TEXT, unit="token").bind(lm)
        result.to_html()
        result.to_json()
        lm.encode("a", special_tokens=True)


def test_gradients_can_be_taken_afterwards() -> None:
    lm = tiny("llama")
    llm_attr.explain(lm, TEXT, target=" He")
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    lm.model(input_ids=ids, labels=ids).loss.backward()
    assert all(weight.grad is not None for weight in lm.model.parameters())


def test_arguments_are_left_as_they_are() -> None:
    gen_args = {"max_new_tokens": 500, "do_sample": True, "seed": 2}
    before = dict(gen_args)
    llm_attr.explain(tiny("llama"), TEXT, gen_args=gen_args)
    assert gen_args == before


def test_two_threads_with_one_model_in_train_mode() -> None:
    """The first is done while the second is in the middle: the second still sees the model in evaluation mode."""
    lm = with_dropout()
    training = [module.training for module in lm.model.modules()]
    expected = llm_attr.explain(lm, TEXT, **CALLS["given"]).token_attr
    entered, running, done = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        with lm.inference():
            entered.set()
            running.wait(10)
        done.set()

    def in_the_middle(*_: Any) -> None:
        running.set()
        done.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    entered.wait(10)
    handle = lm.model.register_forward_pre_hook(in_the_middle)
    found = llm_attr.explain(lm, TEXT, **CALLS["given"])
    handle.remove()
    thread.join()
    assert torch.allclose(found.token_attr, expected, atol=1e-5)
    assert [module.training for module in lm.model.modules()] == training
