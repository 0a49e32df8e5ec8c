"""Gradient checkpointing for one explanation: the activations of a block are computed again when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from llm_attr.core.memory import free_bytes
from llm_attr.llm.model import LanguageModel

MEMORY_SHARE = 2
"""Activations may take this part of the free memory before they are computed again instead."""


@contextmanager
def recomputing(language_model: LanguageModel) -> Iterator[None]:
    """The blocks of the model keep only their inputs for the backward pass; everything is put back at the end.

    transformers does this for a block in train mode; what is inside of the block stays in evaluation mode.
    """
    blocks = [block for block in language_model.model.modules() if isinstance(block, GradientCheckpointingLayer)]
    before = [(block, block.training, dict(vars(block))) for block in blocks]
    try:
        for block in blocks:
            block.training = True
            block.gradient_checkpointing = True
            block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        yield
    finally:
        for block, training, attributes in before:
            block.training = training
            _put_back(block, attributes, ("gradient_checkpointing", "_gradient_checkpointing_func"))


def is_short_of_memory(language_model: LanguageModel, positions: int) -> bool:
    """Whether what a backward pass over so many positions keeps would take too much of the free memory."""
    return kept_bytes(language_model, positions) > free_bytes(language_model.device) // MEMORY_SHARE


def kept_bytes(language_model: LanguageModel, positions: int, recompute: bool = False) -> int:
    """What a backward pass over so many positions needs of the forward pass, about.

    Args:
        language_model: The model.
        positions: Of all rows.
        recompute: Whether the blocks keep only their inputs.
    """
    config, width = language_model.text_config, language_model.model.dtype.itemsize
    inner = getattr(config, "intermediate_size", 0) or 4 * config.hidden_size
    block = (12 * config.hidden_size + 4 * inner) * width
    inputs = config.num_hidden_layers * config.hidden_size * width
    return int(positions * (block + inputs if recompute else block * config.num_hidden_layers))


def _put_back(block: Any, attributes: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in attributes:
            setattr(block, name, attributes[name])
        else:
            vars(block).pop(name, None)
