"""Tuples of tensors: checks, tiling, and conversion from the caller's form and back."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from operator import setitem
from typing import Any

import torch
from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Baselines, TensorOrTensors, Tensors


def as_tensors(inputs: TensorOrTensors, alike: bool = True) -> Tensors:
    """The inputs as a tuple of tensors.

    Args:
        inputs: In the caller's form.
        alike: Whether they must have the same batch size.

    Raises:
        InvalidType: the inputs are not a tensor or a tuple of tensors.
        InvalidShape: the batch sizes differ, or a tensor has no axes.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        given = type(inputs).__name__ if not isinstance(inputs, tuple) else [type(x).__name__ for x in inputs]
        raise InvalidType(f"inputs must be a tensor or a tuple of tensors; got {given}")
    if any(tensor.dim() == 0 for tensor in tensors):
        raise InvalidShape("inputs must have a batch axis (batch, *features); got a tensor without axes")
    sizes = [len(tensor) for tensor in tensors]
    if alike and len(set(sizes)) > 1:
        raise InvalidShape(f"inputs must have the same batch size; got {sizes}")
    return tensors


def as_baselines(baselines: Baselines, inputs: Tensors) -> Tensors:
    """One baseline tensor per input, with its device and dtype, that broadcasts to its shape.

    Where the input's dtype cannot represent the value (0.5 for integers), a tensor keeps its own dtype and a number
    gets torch's default one.

    Raises:
        InvalidShape: the number or the shape of the baselines does not match the inputs.
        InvalidType: a baseline is neither a tensor nor a number.
    """
    given: tuple[Any, ...] = baselines if isinstance(baselines, tuple) else (baselines,)
    if baselines is None:
        return tuple(tensor.new_zeros((1,) * tensor.dim()) for tensor in inputs)
    if len(given) != len(inputs):
        raise InvalidShape(f"baselines must be one for each of the {len(inputs)} inputs; got {len(given)}")
    return tuple(_baseline(value, tensor, i) for i, (value, tensor) in enumerate(zip(given, inputs, strict=True)))


def _baseline(value: Any, tensor: Tensor, index: int) -> Tensor:
    if isinstance(value, bool | int | float):
        kind = torch.float64 if isinstance(value, float) else torch.int64
        cast = _as_type_of(tensor, torch.tensor(value, dtype=kind, device="cpu"))
        cast = cast.to(torch.get_default_dtype()) if cast.is_floating_point() and not can_move(tensor) else cast
        return cast.to(tensor.device).expand((1,) * tensor.dim())
    if not isinstance(value, Tensor):
        raise InvalidType(f"baseline {index} must be a tensor or a number; got {type(value).__name__}")
    if not broadcasts(value.shape, tensor.shape):
        raise InvalidShape(
            f"baseline {index} must broadcast to its input of shape {tuple(tensor.shape)}; got {tuple(value.shape)}"
        )
    rows = 1 if value.dim() < tensor.dim() else len(value)
    return _as_type_of(tensor, value.detach().to(tensor.device)).expand(rows, *tensor.shape[1:])


def _as_type_of(tensor: Tensor, value: Tensor) -> Tensor:
    cast = value.to(tensor.dtype)
    exact = tensor.is_floating_point() or tensor.is_complex() or torch.equal(cast.to(value.dtype), value)
    return cast if exact else value


def broadcast(baselines: Any, inputs: Tensors) -> tuple[Any, ...]:
    """One baseline per input, tensors expanded to its shape.

    Args:
        baselines: A tensor or number for all inputs, or a tuple or list with one per input.
        inputs: The inputs.

    Raises:
        InvalidShape: the number of baselines differs from the inputs', or one does not broadcast to its input.
    """
    given = baselines if isinstance(baselines, tuple | list) else (baselines,) * len(inputs)
    if len(given) != len(inputs):
        raise InvalidShape(f"baselines must be one for each of the {len(inputs)} tensors; got {len(given)}")
    for value, x in zip(given, inputs, strict=True):
        if isinstance(value, Tensor) and not broadcasts(value.shape, x.shape):
            raise InvalidShape(f"a baseline must broadcast to {tuple(x.shape)}; got {tuple(value.shape)}")
    pairs = zip(given, inputs, strict=True)
    return tuple(value.expand_as(x) if isinstance(value, Tensor) else value for value, x in pairs)


def broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether a shape broadcasts to another one without enlarging it."""
    sizes = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, wanted) for size, wanted in sizes)


def in_form_of(inputs: TensorOrTensors, tensors: Tensors) -> TensorOrTensors:
    """Tensor in, tensor out; tuple in, tuple out."""
    return tensors if isinstance(inputs, tuple) else tensors[0]


def exact_device(device: torch.device) -> torch.device:
    """The device itself if it supports float64, else the CPU (Apple's MPS does not)."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.device("cpu")
    return device


def exact(tensor: Tensor) -> Tensor:
    """The tensor in float64, on its own device if that supports it."""
    return tensor.to(exact_device(tensor.device)).double()


def can_move(tensor: Tensor) -> bool:
    """Whether a tensor can be interpolated and differentiated with respect to."""
    return tensor.is_floating_point() or tensor.is_complex()


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with the function applied to its tensors, also in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        items = [map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, MutableMapping):
        return _with_items(value, {name: map_tensors(function, item) for name, item in value.items()})
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: map_tensors(function, getattr(value, field.name)) for field in fields(value)}
        return _with_items(value, parts, object.__setattr__)
    return value


def _with_items(value: Any, items: dict[str, Any], put: Callable[[Any, str, Any], Any] = setitem) -> Any:
    """A copy of a mapping or dataclass with these items replaced."""
    changed = copy(value)
    for name, item in items.items():
        put(changed, name, item)
    return changed


def leaves(value: Any) -> list[Tensor]:
    """The tensors in `value`, in order."""
    tensors: list[Tensor] = []
    map_tensors(lambda tensor: tensors.append(tensor) or tensor, value)  # type: ignore[func-returns-value]
    return tensors


def with_leaves(value: Any, tensors: Sequence[Tensor]) -> Any:
    """`value` with its tensors replaced by these, in order."""
    new = iter(tensors)
    return map_tensors(lambda tensor: next(new), value)


@dataclass(frozen=True)
class Slot:
    """Some consecutive tensors of a longer tuple.

    Attributes:
        count: The number of tensors.
        single: Whether the caller sees a bare tensor rather than a tuple.
    """

    count: int
    single: bool


def split_by(tensors: Tensors, slots: Sequence[Slot]) -> list[Tensors]:
    """The tensors of each slot."""
    rest = iter(tensors)
    return [tuple(islice(rest, slot.count)) for slot in slots]


def in_slots(tensors: Tensors, slots: Sequence[Slot]) -> list[TensorOrTensors]:
    """The tensors of each slot, in its form."""
    parts = zip(split_by(tensors, slots), slots, strict=True)
    return [part[0] if slot.single else part for part, slot in parts]


def tile(value: Any, copies: int, batch: int, by_example: bool = False) -> Any:
    """Repeats the rows of each tensor in `value` with a row per example: `(batch, ...) -> (copies * batch, ...)`.

    Tensors with another first axis (a weight, a shared mask) are left as they are.

    Args:
        value: Anything with tensors in it.
        copies: The number of copies of each row.
        batch: The number of examples.
        by_example: Whether the copies of one example are adjacent; else the batch is repeated as a block.
    """
    if copies == 1:
        return value

    def repeat(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0 or len(tensor) != batch:
            return tensor
        if by_example:
            return tensor.repeat_interleave(copies, 0)
        return tensor.repeat(copies, *(1,) * (tensor.dim() - 1))

    return map_tensors(repeat, value)


def at_least_fp32(tensor: Tensor, like: Tensor | None = None) -> Tensor:
    """The tensor in its own dtype, or in that of `like`, promoted to at least fp32."""
    if like is None and tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.promote_types((tensor if like is None else like).dtype, torch.float32))
