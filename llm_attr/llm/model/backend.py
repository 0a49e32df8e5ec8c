"""The forward pass of a language model: the logits of chosen positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from llm_attr.errors import NotALanguageModel
from llm_attr.llm.model.language_model import LanguageModel


def forward_logits(
    language_model: LanguageModel, rows: Sequence[int], everywhere: bool = False, **inputs: Any
) -> Tensor:
    """`(batch, rows, vocabulary)`: the model's logits at these positions, computed only there if the model supports it.

    With `everywhere` they are selected from the logits at all positions. The positions are passed to the model as a
    list: hooks of a sharded model would move a tensor to the device of the inputs, but the output head is on another.
    """
    if language_model.is_plain:
        return _plain_logits(language_model, **inputs)[:, list(rows)]
    if "logits_to_keep" in language_model.forward_keywords and not everywhere:
        return language_model.model(**inputs, logits_to_keep=list(rows), return_dict=True).logits
    logits = language_model.model(**inputs, return_dict=True).logits
    length = inputs["input_ids"].shape[1]
    return logits[:, [row - length for row in rows]]  # from the end: an adapter may have prepended tokens


def _plain_logits(language_model: LanguageModel, input_ids: Tensor, **inputs: Any) -> Tensor:
    """`(batch, positions, vocabulary)` from a model that is not a transformers model.

    Raises:
        NotALanguageModel: the model does not return such logits.
    """
    output = language_model.model(
        input_ids, **{name: value for name, value in inputs.items() if name in language_model.forward_keywords}
    )
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != input_ids.shape:
        given = f"logits of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(output).__name__
        raise NotALanguageModel(
            f"forward of {language_model.name} must return an object with logits (batch, tokens, vocabulary) for ids "
            f"{tuple(input_ids.shape)}; got {given}"
        )
    return logits
