"""The attention kernel of a model, and the setting of its forward pass."""

from __future__ import annotations

import torch

from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.precision import computed_in, keeps_sums

Setting = tuple[str, torch.dtype, torch.dtype, bool, bool]
"""Attention kernel, dtype of the weights and of products, whether sums stay in fp32, whether positions have gaps."""


def setting(language_model: LanguageModel, gaps: bool = False) -> Setting:
    """What the model's forward pass depends on besides its weights."""
    return kernel(language_model), language_model.dtype, computed_in(language_model), keeps_sums(), gaps


def kernel(language_model: LanguageModel) -> str:
    """The name of the model's current attention kernel."""
    return getattr(language_model.text_config, "_attn_implementation", None) or "eager"
