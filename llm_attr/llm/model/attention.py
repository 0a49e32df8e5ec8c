"""The attention kernel of a model, and the setting of its forward pass."""

from __future__ import annotations

import torch

from llm_attr.llm.model.language_model import LanguageModel

Setting = tuple[str, torch.dtype, bool, bool]
"""Attention kernel, dtype of the weights, whether autocast is on, whether positions have gaps."""


def setting(language_model: LanguageModel, gaps: bool = False) -> Setting:
    """What the model's forward pass depends on besides its weights."""
    autocast = torch.is_autocast_enabled(language_model.device.type)
    return kernel(language_model), language_model.dtype, autocast, gaps


def kernel(language_model: LanguageModel) -> str:
    """The name of the model's current attention kernel."""
    return getattr(language_model.text_config, "_attn_implementation", None) or "eager"
