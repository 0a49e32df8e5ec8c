"""Gradients of a real model's answers in a chat of six messages."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr import LLMAttributionResult, Prompt, explain
from llm_attr.llm.model.language_model import LanguageModel
from tests.zoo import tiny

pytestmark = pytest.mark.real

CHAT = [
    {"role": "system", "content": "You always answer in French."},
    {"role": "user", "content": "Hello, I have a few questions."},
    {"role": "assistant", "content": "Of course, ask me."},
    {"role": "user", "content": "Which animal barks? Which one sings?"},
    {"role": "assistant", "content": "A dog barks. A bird sings."},
    {"role": "user", "content": "What is the color of the sky?"},
]
FRENCH, ENGLISH = "Le ciel est bleu.", "The sky is blue."
WHOLE: dict[str, Any] = {"token_rows": False}


def by_message(lm: LanguageModel, result: LLMAttributionResult) -> Tensor:
    """`(messages,)`: what the units of each message have together."""
    message_of = Prompt(CHAT, unit="message").bind(lm).placed(lm).unit_of_token
    sums = torch.zeros(len(CHAT))
    pairs = zip(result.inp.placed(lm).unit_of_token, message_of, strict=True)
    for unit, message in {pair for pair in pairs if pair[0] >= 0}:
        sums[message] += result.seq_attr[unit]
    return sums


@pytest.mark.parametrize(("method", "options"), [("input_x_gradient", {}), ("integrated_gradients", {"n_steps": 2})])
def test_messages_sentences_and_tokens_agree_in_their_sums(
    smollm: LanguageModel, method: str, options: dict[str, Any]
) -> None:
    views = [
        explain(smollm, Prompt(CHAT, unit=unit), method=method, target=FRENCH, **WHOLE, **options)
        for unit in ("message", "sentence", "token")
    ]
    assert [len(view.input_tokens) for view in views[:2]] == [6, 8]
    assert len(views[2].input_tokens) > 30
    largest = views[0].seq_attr.abs().max()
    for view in views[1:]:
        assert (by_message(smollm, view) - views[0].seq_attr).abs().max() <= 1e-3 * largest


def test_the_rule_of_the_system_message_is_the_cause_of_french(smollm: LanguageModel) -> None:
    """Leaving it out names it by far; gradient x input of the French answer names it, closely followed by a greeting.

    With English as foil gradient x input puts the greeting first: a derivative at the prompt is no absence.
    """
    prompt = Prompt(CHAT, unit="message")
    ablated = explain(smollm, prompt, target=FRENCH, foil=ENGLISH)
    assert int(ablated.seq_attr.argmax()) == 0
    assert ablated.seq_attr[0] > 3 * ablated.seq_attr[1:].max()
    gradient = explain(smollm, prompt, method="input_x_gradient", target=FRENCH, **WHOLE)
    assert int(gradient.seq_attr.argmax()) == 0


@pytest.mark.parametrize(("method", "warns"), [("integrated_gradients", True), ("saliency", False)])
def test_a_ranking_that_half_precision_does_not_keep_is_warned_of(method: str, warns: bool) -> None:
    lm = tiny("llama", "byte_bos")
    lm.model.to(torch.bfloat16)
    options = {"n_steps": 2} if warns else {}
    said = r"Integrated Gradients in bfloat16 ranks tokens otherwise.* is 0\.72"
    with pytest.warns(UserWarning, match=said) if warns else nullcontext():
        found = explain(lm, "Dave sails. Who?", method=method, target=" Dave", **options)
    assert found.provenance["dtype"] == "bfloat16"
