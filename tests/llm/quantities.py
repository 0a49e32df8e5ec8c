"""Quantities of an answer by their slow definition, for models that several tests share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from llm_attr import LanguageModel, Prompt
from tests.reference.scalar import next_logits, quantity
from tests.zoo import tiny

TEXT = "Dave sails. Mira bakes bread. It rained. Who sails?"
TARGET = " He likes fishing."
FOIL = " He likes a blue lake."
FAMILIES = ["llama", "gpt2", "gemma2", "mistral", "opt", "mamba"]
_models: dict[str, LanguageModel] = {}


def model_of(family: str) -> LanguageModel:
    if family not in _models:
        _models[family] = tiny(family)
    return _models[family]


def ids_of(lm: LanguageModel, text: str) -> list[int]:
    return lm.tokenizer.encode(text, add_special_tokens=False)


def left(lm: LanguageModel, coalition: Sequence[bool]) -> list[int]:
    """The tokens of the prompt with these units."""
    return list(Prompt(TEXT).bind(lm).variant(list(coalition)).tokens) or [lm.tokenizer.bos_token_id]


@cache
def logits_of(model: Any, prompt: tuple[int, ...], answer: tuple[int, ...]) -> Tensor:
    """Those of `next_logits`, computed once for all quantities."""
    return next_logits(model, prompt, answer)


def slow(lm: LanguageModel, name: Any, coalitions: Tensor, answer: Sequence[int]) -> Tensor:
    """`(coalitions, 1 + answer tokens)` of any quantity."""
    reference = logits_of(lm.model, tuple(left(lm, [True] * 4)), tuple(answer)).softmax(-1)
    rows = []
    for coalition in coalitions.tolist():
        logits = logits_of(lm.model, tuple(left(lm, coalition)), tuple(answer))
        if callable(name):
            rows.append(name(logits.float(), torch.tensor(list(answer))).double())
        else:
            rows.append(quantity("log_prob" if name == "prob" else name, logits, answer, reference))
    values = torch.stack(rows)
    values = torch.cat([values.sum(1, keepdim=True), values], 1)
    return (values.exp() if name == "prob" else values).float()


def leave_one_out(features: int) -> Tensor:
    return torch.cat([torch.ones(1, features), 1 - torch.eye(features)]).bool()
