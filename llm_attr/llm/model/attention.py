"""The attention kernel of a model, and what else its forward pass depends on."""

from __future__ import annotations

import torch

from llm_attr.llm.model.language_model import LanguageModel

Setting = tuple[str, torch.dtype, bool, bool]
"""Attention kernel, type of the weights, whether the caller has autocast on, whether positions have gaps."""


def setting(language_model: LanguageModel, gaps: bool = False) -> Setting:
    """What the model's forward pass depends on beside its weights."""
    autocast = torch.is_autocast_enabled(language_model.device.type)
    return kernel(language_model), language_model.dtype, autocast, gaps


def kernel(language_model: LanguageModel) -> str:
    """The name of the attention kernel that the model uses now."""
    return getattr(language_model.text_config, "_attn_implementation", None) or "eager"
