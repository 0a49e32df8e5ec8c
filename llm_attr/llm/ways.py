"""Which way of scoring is exact for a model, and what has been seen of it so far."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from llm_attr.llm.model import LanguageModel

Kind = Literal["prefix tree", "whole sequences"]

TREE_KEYWORDS = {"position_ids", "past_key_values", "attention_mask"}
TREE_LAYERS = {"full_attention", "sliding_attention"}
TREE_KERNELS = {"sdpa", "eager"}
LENGTH_DEPENDENT_ROPES = {"dynamic", "longrope"}

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
HALF_TOLERANCE = 0.5
"""Nats by which the log-probability of one token may differ between two orders of summation."""


@dataclass(frozen=True)
class Way:
    """How variants of prompts are scored by one model.

    Attributes:
        kind: `prefix tree` or `whole sequences`.
        reason: Why this kind.
        windows: For each kind of layer the width of its sliding window, or None; a model whose layers are all alike has
            the one kind `None`.
        gaps: Whether it is for prompts whose absent tokens leave gaps between the positions.
        proven: Shapes of trees (`sequence`, `branches`, `context`) that have been compared with whole sequences.
        proven_length: The longest path for which that was done.
    """

    kind: Kind
    reason: str
    windows: tuple[tuple[str | None, int | None], ...] = ((None, None),)
    gaps: bool = False
    proven: frozenset[str] = frozenset()
    proven_length: int = 0

    def is_proven_for(self, shape: frozenset[str], length: int) -> bool:
        """Whether trees of this shape and depth have been compared with whole sequences."""
        return shape <= self.proven and length <= self.proven_length

    def proved(self, shape: frozenset[str], length: int) -> Way:
        """The way after a tree of this shape agreed."""
        return replace(self, proven=self.proven | shape, proven_length=max(length, self.proven_length))


Setting = tuple[str, torch.dtype, bool, bool]
"""Attention kernel, type of the weights, whether the caller has autocast on, whether positions have gaps."""

_ways: WeakKeyDictionary[Any, dict[Setting, Way]] = WeakKeyDictionary()


def way_for(language_model: LanguageModel, gaps: bool = False) -> Way:
    """The way that is known to work for the model as it is configured now, or the one to try first."""
    known = _ways.get(language_model.model, {})
    return known.get(_setting(language_model, gaps)) or replace(_first_way(language_model), gaps=gaps)


def remember_way(language_model: LanguageModel, way: Way) -> Way:
    """Keeps the way for later explanations with the same model."""
    _ways.setdefault(language_model.model, {})[_setting(language_model, way.gaps)] = way
    return way


def agree(scores: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    """Whether two computations of the same log-probabilities differ by no more than rounding."""
    tolerance = TOLERANCE.get(dtype, HALF_TOLERANCE)
    return bool(((scores - expected).abs() <= tolerance).all())


def _setting(language_model: LanguageModel, gaps: bool) -> Setting:
    autocast = torch.is_autocast_enabled(language_model.device.type)
    return kernel(language_model), language_model.dtype, autocast, gaps


def kernel(language_model: LanguageModel) -> str:
    """The name of the attention kernel that the model uses now."""
    return getattr(language_model.text_config, "_attn_implementation", None) or "eager"


def _first_way(language_model: LanguageModel) -> Way:
    reason = _against_tree(language_model)
    if reason:
        return Way("whole sequences", reason)
    return Way("prefix tree", "attention by explicit positions", _windows(language_model.text_config))


def _against_tree(language_model: LanguageModel) -> str | None:
    config, attention = language_model.text_config, kernel(language_model)
    missing = sorted(TREE_KEYWORDS - language_model.forward_keywords)
    layers = sorted(set(getattr(config, "layer_types", None) or ()) - TREE_LAYERS)
    ropes = _rope_types(getattr(config, "rope_parameters", None) or {}) & LENGTH_DEPENDENT_ROPES
    reasons = {
        "it is no model of transformers": language_model.is_plain,
        "its state is recurrent": getattr(language_model.model, "_is_stateful", False),
        f"its forward takes no {', '.join(missing)}": missing,
        f"it has layers of kind {', '.join(layers)}": layers,
        "its positions are attention biases (ALiBi)": getattr(config, "alibi", False),
        f"its rotary frequencies depend on the length ({', '.join(ropes)})": ropes,
        f"its attention kernel {attention!r} takes no mask of its own": attention not in TREE_KERNELS,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _rope_types(parameters: dict[str, Any]) -> set[str]:
    nested = [value for value in parameters.values() if isinstance(value, dict)]
    return {str(each.get("rope_type")) for each in (parameters, *nested)}


def _windows(config: Any) -> tuple[tuple[str | None, int | None], ...]:
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if "sliding_attention" in kinds:
        return tuple((kind, window if kind == "sliding_attention" else None) for kind in kinds)
    return ((None, None if kinds else window),)
