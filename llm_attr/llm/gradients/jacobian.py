"""How a language model is differentiated for several tokens: in one backward pass, or in one for each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from llm_attr.core.jacobian import BatchedJacobian, Jacobian
from llm_attr.llm.model.attention import Setting, setting
from llm_attr.llm.model.language_model import LanguageModel

LARGE_ATTENTION = 1.5
"""The size of the attention weights relative to a layer's widest activation above which batching is slower."""

_unbatched: WeakKeyDictionary[Any, set[Setting]] = WeakKeyDictionary()
"""The settings in which a model has an operation whose backward pass cannot be batched."""


def takes_batches(language_model: LanguageModel) -> bool:
    """Whether every operation of a model that was met, as it is configured now, can be batched."""
    return setting(language_model) not in _unbatched.get(language_model.model, ())


def attention_share(language_model: LanguageModel, positions: int) -> float:
    """The size of a layer's attention weights relative to its widest activation."""
    heads, widest = _heads_and_widest(language_model)
    return heads * positions / widest


def row_bytes(language_model: LanguageModel, positions: int) -> int:
    """What passes through a layer for one derivative, about."""
    heads, widest = _heads_and_widest(language_model)
    return 4 * positions * (widest + heads * positions)


def jacobian_of(
    language_model: LanguageModel, positions: int, count: Callable[[int], None], batched: bool, plain: bool
) -> Jacobian:
    """How several numbers of an answer are differentiated.

    Args:
        language_model: Model and tokenizer.
        positions: How many positions a pass has.
        count: Called with the number of derivatives that were taken.
        batched: Whether they may share a backward pass, as by rules and with checkpointing they must not.
        plain: Whether every operation is the model's own, so that it is remembered if one cannot be batched.
    """
    small = attention_share(language_model, positions) <= LARGE_ATTENTION
    if not (batched and small and takes_batches(language_model)):
        return Jacobian(count)
    known = _unbatched.setdefault(language_model.model, set()) if plain else set[Setting]()
    heads, now = _heads_and_widest(language_model)[0], setting(language_model)
    return BatchedJacobian(
        count=count,
        device=language_model.device,
        row_bytes=row_bytes(language_model, positions),
        kept_bytes=8 * language_model.text_config.num_hidden_layers * heads * positions**2,
        refused=lambda: known.add(now),
    )


def _heads_and_widest(language_model: LanguageModel) -> tuple[int, int]:
    config = language_model.text_config
    widest = max(getattr(config, "intermediate_size", None) or 0, 4 * config.hidden_size)
    return getattr(config, "num_attention_heads", None) or 1, widest
