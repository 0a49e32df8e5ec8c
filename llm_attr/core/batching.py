"""How many copies of a batch may go through a model in one call."""

from __future__ import annotations

from functools import partial
from inspect import getclosurevars, isfunction, ismethod
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.core.memory import free_bytes
from llm_attr.core.parallel.sharing import fingerprint
from llm_attr.typing import ForwardFunction, Tensors

BATCH_ERRORS = (RuntimeError, ValueError, TypeError, LookupError, AssertionError, MemoryError)
"""Errors of a model that cannot take a doubled batch, or has too little memory for it."""

CPU_CALL_BYTES = 1 << 20
"""Bytes of inputs per call on a CPU; beyond its caches a larger batch is no faster."""

SAMPLES = 16
"""Entries of a weight that a fingerprint looks at."""

VECTOR_BYTES = 1 << 11
"""Assumed bytes of the vector that a token id becomes."""

ACTIVATIONS_PER_INPUT = 64
"""Assumed bytes of activations per byte of input, before back-off knows better."""


def copies_that_fit(tensors: Tensors, outputs: int = 1) -> int:
    """How many copies of these tensors fit into one call that is differentiated once per output."""
    bytes_each = outputs * sum(tensor.numel() * _entry_bytes(tensor) for tensor in tensors)
    device = tensors[0].device
    room = CPU_CALL_BYTES if device.type == "cpu" else free_bytes(device) // (2 * ACTIVATIONS_PER_INPUT)
    return max(1, room // max(1, bytes_each))


def uses_batch_statistics(forward: ForwardFunction) -> bool:
    """Whether each output depends on the rest of the batch: batch norm in training mode, or dynamic quantisation."""
    parts = [part for module in modules_of(forward) for part in module.modules()]
    norms = (part for part in parts if isinstance(part, nn.modules.batchnorm._BatchNorm))
    if any(norm.training or norm.running_mean is None for norm in norms):
        return True
    return any(".quantized.dynamic." in type(part).__module__ for part in parts)


def problem_fingerprint(forward: ForwardFunction, *tensors: Any) -> str:
    """A hash of some tensors, and of a few entries of each weight that a callable uses, where they lie here."""
    weights = [weight.detach() for module in modules_of(forward) for weight in module.parameters()]
    here = [weight.flatten() for weight in weights if not (weight.is_meta or hasattr(weight, "device_mesh"))]
    return fingerprint(tensors, [weight[:: 1 + len(weight) // SAMPLES] for weight in here])


def modules_of(forward: ForwardFunction) -> list[nn.Module]:
    """The modules that a callable is, is bound to, or refers to, directly or through functions that it calls."""
    modules: list[nn.Module] = []
    seen: set[int] = set()
    waiting: list[object] = [forward]
    while waiting:
        value = waiting.pop(0)
        if id(value) not in seen:
            seen.add(id(value))
            waiting += _held(value)
            modules += [value] if isinstance(value, nn.Module) else []
    return modules


def grew(output: Tensor, answer: Tensor, copies: int) -> bool:
    """Whether the output for stacked batches has the rows of that many answers."""
    return output.dim() > 0 and output.shape == (copies * len(answer), *answer.shape[1:])


def agree(output: Tensor, expected: Tensor, at_least: float = 0.0) -> bool:
    """Whether two outputs are equal up to rounding, relative to the largest value; tolerates at least `at_least`."""
    if torch.equal(output, expected):
        return True
    if not output.is_floating_point():
        return False
    tolerance = max(at_least, torch.finfo(output.dtype).eps ** 0.5)
    largest = expected.abs().max().item()
    if isfinite(largest):
        return (output - expected).abs().max().item() <= tolerance * largest
    finite = expected[expected.isfinite()].abs()
    scale = finite.max().item() if finite.numel() else 0.0
    return torch.allclose(output, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _held(value: object) -> list[object]:
    """What a callable is made of or refers to by name; functions of other modules are not searched."""
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isfunction(value):
        names = getclosurevars(value)
        near = [it for it in names.globals.values() if getattr(it, "__module__", None) == value.__module__]
        modules = [it for it in names.globals.values() if isinstance(it, nn.Module)]
        return [*names.nonlocals.values(), *near, *modules]
    return [value.__self__] if ismethod(value) else []


def _entry_bytes(tensor: Tensor) -> int:
    """Bytes of an entry inside the model: integers are mostly token ids, which become vectors."""
    return tensor.element_size() if tensor.is_floating_point() or tensor.is_complex() else VECTOR_BYTES
