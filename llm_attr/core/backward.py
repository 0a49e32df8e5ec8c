"""Backward passes in which layers run again (gradient checkpointing), with the hooks of their own forward pass."""

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
"""Whose hooks are meant in a backward pass that runs now: autograd may run it in a thread that all others share."""


@contextmanager
def held() -> Iterator[None]:
    """Leaves the hooks of all sites inside in place until the end, for layers that run again in the backward pass."""
    with ExitStack() as stack:
        token = _holding.set(stack)
        try:
            yield
        finally:
            _holding.reset(token)


@contextmanager
def inference_tensors_named() -> Iterator[None]:
    """Says what keeps autograd from a model that was made, or loaded, under `torch.inference_mode()`."""
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("Inference tensors cannot be saved for backward"):
            raise
        raise NoGradient(
            "the model has weights or other tensors that were made under torch.inference_mode(), which give no "
            "gradients; load it outside of that (torch.no_grad() is fine), or take a method without gradients, such as "
            "FeatureAblation"
        ) from error


def holding_hooks() -> ExitStack | None:
    """What keeps the hooks of this thread's forward passes; None where they go with the pass."""
    return _holding.get()


def held_for_this_pass() -> ExitStack | None:
    """What keeps the hooks of the backward pass inside of which this thread is; None outside of ours."""
    return _passes.get(_number())


def derivatives(outputs: Tensor, inputs: Sequence[Tensor], *args: Any, **options: Any) -> tuple[Tensor | None, ...]:
    """As `torch.autograd.grad`; layers that run again in it meet the hooks that are held here, and no others."""
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
    """The number that autograd gives to each backward pass; -1 outside of any."""
    return torch._C._current_graph_task_id()
