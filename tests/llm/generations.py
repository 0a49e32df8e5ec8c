"""A generation whose gradients several tests explain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_attr import LLMAttributionResult
from llm_attr.attr import (
    TextTokenInput,
)
from llm_attr.llm.gradient import LLMGradientAttribution
from llm_attr.llm.model.language_model import LanguageModel
from tests.reference import generation_gradient as slow

TEXT = "Dave sails boats. Mira bakes bread. Who sails?"
TARGET = " Dave sails."
EXACT = {"llama": None, "qwen3": None, "gpt2": None, "mistral": None, "gemma3": "eager"}


def explained(lm: LanguageModel, method: Any, inp: Any = None, **options: Any) -> LLMAttributionResult:
    inp = TextTokenInput(TEXT, lm.tokenizer) if inp is None else inp
    return LLMGradientAttribution(method, lm.tokenizer).attribute(inp, target=TARGET, **options)


def expected_integrated(lm: LanguageModel, result: LLMAttributionResult, steps: int, absent: int = 0) -> Tensor:
    ids = result.inp.inp_tensor[0].tolist()
    low = [absent] * len(ids)
    rows = [slow.integrated(lm.model, ids, low, result.output_ids, t, steps) for t in range(len(result.output_ids))]
    return torch.stack(rows)


def assert_close(result: Tensor, expected: Tensor) -> None:
    assert (result - expected).abs().max() <= 1e-4 * expected.abs().max()
