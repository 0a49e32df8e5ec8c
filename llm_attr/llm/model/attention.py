"""The attention kernel of a model, and the setting of its forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from llm_attr.core.shared_context import reference_counted
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.precision import computed_in, keeps_sums

Setting = tuple[str, torch.dtype, torch.dtype, bool, bool]
"""Attention kernel, dtype of the weights and of products, whether sums stay in fp32, whether positions have gaps."""


def setting(language_model: LanguageModel, gaps: bool = False) -> Setting:
    """What the model's forward pass depends on besides its weights."""
    return kernel(language_model), language_model.dtype, computed_in(language_model), keeps_sums(), gaps


MASKED = {"sdpa", "eager"}
"""The kernels that take a mask of any form."""


def masked_kernel(language_model: LanguageModel) -> str:
    """The kernel for passes with a mask of any form: the model's own if it takes one, else sdpa, else eager."""
    own = kernel(language_model)
    if own in MASKED:
        return own
    return "sdpa" if getattr(language_model.model, "_supports_sdpa", False) else "eager"


@contextmanager
def with_masks(language_model: LanguageModel) -> Iterator[None]:
    """The model attends by `masked_kernel` inside, in all threads; its own kernel is put back at the end."""
    if masked_kernel(language_model) == kernel(language_model):
        yield
        return
    with _switched(language_model.text_config, masked_kernel(language_model)):
        yield


@reference_counted
@contextmanager
def _switched(config: Any, name: str) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = name
    try:
        yield
    finally:
        config._attn_implementation = before


def kernel(language_model: LanguageModel) -> str:
    """The name of the model's current attention kernel."""
    return getattr(language_model.text_config, "_attn_implementation", None) or "eager"
