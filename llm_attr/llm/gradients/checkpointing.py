"""Gradient checkpointing for one explanation: the activations of a block are computed again when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial, wraps
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from llm_attr.core.shared_context import reference_counted
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import free_for, kept_bytes

MEMORY_SHARE = 2
"""Activations may take this part of the free memory before they are computed again instead."""


_wanted: ContextVar[bool] = ContextVar("llm_attr_recomputing", default=False)


@contextmanager
def recomputing(language_model: LanguageModel) -> Iterator[None]:
    """The blocks of the model keep only their inputs for the backward pass, in this thread; put back at the end."""
    token = _wanted.set(True)
    try:
        with _with_a_choice(language_model.model):
            yield
    finally:
        _wanted.reset(token)


@reference_counted
@contextmanager
def _with_a_choice(model: Any) -> Iterator[None]:
    """The blocks ask each thread whether it wants them computed again."""
    from transformers.modeling_layers import GradientCheckpointingLayer  # its import sets an environment variable

    blocks = [block for block in model.modules() if isinstance(block, GradientCheckpointingLayer)]
    before = [(block, vars(block).get("forward")) for block in blocks]
    try:
        for block in blocks:
            block.forward = _asking(block.forward)
        yield
    finally:
        for block, forward in before:
            vars(block).pop("forward", None)
            if forward is not None:
                block.forward = forward


def _asking(forward: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(forward)
    def asked(*args: Any, **kwargs: Any) -> Any:
        if _wanted.get() and torch.is_grad_enabled():
            return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False)
        return forward(*args, **kwargs)

    return asked


def is_short_of_memory(language_model: LanguageModel, positions: int) -> bool:
    """Whether what a backward pass over so many positions keeps would take too much of the free memory."""
    return kept_bytes(language_model, positions) > free_for(language_model) // MEMORY_SHARE
