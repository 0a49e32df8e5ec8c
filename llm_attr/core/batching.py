"""How many copies of a batch may go through a model in one call."""

from __future__ import annotations

from functools import partial
from inspect import getclosurevars, isfunction

from torch import Tensor, nn

from llm_attr.core.memory import free_bytes
from llm_attr.typing import ForwardFunction, Tensors

BATCH_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, MemoryError)
"""What a model that can answer only one batch at a time, or has no memory for two, raises when it is given two."""

CPU_CALL_BYTES = 1 << 20
"""Inputs of one call on a CPU: beyond the caches a larger batch is no faster."""

VECTOR_BYTES = 1 << 11
"""What a token id is taken to become in a model."""

ACTIVATIONS_PER_INPUT = 64
"""Memory that a call is taken to need for each byte of its inputs, before back-off knows better."""


def copies_that_fit(tensors: Tensors) -> int:
    """How many copies of these tensors, one batch and its answer, one call may have."""
    bytes_each = sum(tensor.numel() * _entry_bytes(tensor) for tensor in tensors)
    device = tensors[0].device
    room = CPU_CALL_BYTES if device.type == "cpu" else free_bytes(device) // (2 * ACTIVATIONS_PER_INPUT)
    return max(1, room // max(1, bytes_each))


def uses_batch_statistics(forward: ForwardFunction) -> bool:
    """Whether batch normalisation makes each answer depend on the other examples of its batch."""
    parts = (part for module in modules_of(forward) for part in module.modules())
    norms = (part for part in parts if isinstance(part, nn.modules.batchnorm._BatchNorm))
    return any(norm.training or norm.running_mean is None for norm in norms)


def modules_of(forward: ForwardFunction) -> list[nn.Module]:
    """The modules that a callable is, is bound to, or refers to by name."""
    if isinstance(forward, partial):
        held: list[object] = [forward.func, *forward.args, *forward.keywords.values()]
        return [module for value in held if callable(value) for module in modules_of(value)]
    if isfunction(forward):
        found = getclosurevars(forward)
        held = [*found.nonlocals.values(), *found.globals.values()]
    else:
        held = [forward, getattr(forward, "__self__", None)]
    return [value for value in held if isinstance(value, nn.Module)]


def _entry_bytes(tensor: Tensor) -> int:
    """What an entry takes in the model: whole numbers are mostly ids, which become vectors."""
    return tensor.element_size() if tensor.is_floating_point() or tensor.is_complex() else VECTOR_BYTES
