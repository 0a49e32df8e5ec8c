"""Backward passes that recompute layers (gradient checkpointing) with the hooks of the original forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from llm_attr.errors import NoGradient

_holding: ContextVar[ExitStack | None] = ContextVar("llm_attr_holding", default=None)
_passes: dict[int, ExitStack] = {}
"""The hooks that belong to each running backward pass: autograd may run several in one shared thread."""


@contextmanager
def keep_hooks_for_backward() -> Iterator[None]:
    """Keeps the hooks of all sites inside until the end, for layers that are recomputed in the backward pass."""
    with ExitStack() as stack:
        token = _holding.set(stack)
        try:
            yield
        finally:
            _holding.reset(token)


@contextmanager
def inference_tensors_named() -> Iterator[None]:
    """Explains autograd's error about a model that was created or loaded under `torch.inference_mode()`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("Inference tensors cannot be saved for backward"):
            raise
        raise NoGradient(
            "the model has tensors that were created under torch.inference_mode() and cannot be differentiated; load "
            "it outside inference_mode (torch.no_grad() is fine), or use a method without gradients, such as "
            "FeatureAblation"
        ) from error


def holding_hooks() -> ExitStack | None:
    """The stack that keeps the hooks of this thread's forward passes; None if they are removed after each pass."""
    return _holding.get()


def held_for_this_pass() -> ExitStack | None:
    """The stack that keeps the hooks of the backward pass that this thread runs; None outside of ours."""
    return _passes.get(_number())


def derivatives(outputs: Tensor, inputs: Sequence[Tensor], *args: Any, **options: Any) -> tuple[Tensor | None, ...]:
    """`torch.autograd.grad`, in which recomputed layers run with the hooks held here and no others."""
    holding, begun = holding_hooks() or held_for_this_pass(), list[int]()
    if holding is None:
        return torch.autograd.grad(outputs, inputs, *args, **options)

    def begin(_: Tensor) -> None:
        begun.append(_number())
        _passes[begun[-1]] = holding

    handle = outputs.register_hook(begin)
    try:
        return torch.autograd.grad(outputs, inputs, *args, **options)
    finally:
        handle.remove()
        for number in begun:
            _passes.pop(number, None)


def _number() -> int:
    """Autograd's number of the current backward pass; -1 outside of any."""
    return torch._C._current_graph_task_id()
