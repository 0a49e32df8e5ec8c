"""Tuples of tensors: from the caller's form and back, tiled, checked."""

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
        alike: Whether they must agree on their batch size.

    Raises:
        InvalidType: something else than a tensor or a tuple of tensors was given.
        InvalidShape: the first axes differ, or a tensor has no axis at all.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        given = type(inputs).__name__ if not isinstance(inputs, tuple) else [type(x).__name__ for x in inputs]
        raise InvalidType(f"inputs must be a tensor or a tuple of tensors; got {given}")
    if any(tensor.dim() == 0 for tensor in tensors):
        raise InvalidShape("inputs must have a batch axis (batch, *features); got a tensor of no axes")
    sizes = [len(tensor) for tensor in tensors]
    if alike and len(set(sizes)) > 1:
        raise InvalidShape(f"inputs must have the same batch size; got {sizes}")
    return tensors


def as_baselines(baselines: Baselines, inputs: Tensors) -> Tensors:
    """One baseline tensor for each input, on its device and of its type, that broadcasts to its shape.

    Where the input's type cannot hold it (one half, for whole numbers), a tensor keeps its own type and a number gets
    torch's default one.

    Raises:
        InvalidShape: the number of baselines, or the shape of one, does not fit the inputs.
        InvalidType: a baseline is neither a tensor nor a number.
    """
    given: tuple[Any, ...] = baselines if isinstance(baselines, tuple) else (baselines,)
    if baselines is None:
        given = (0,) * len(inputs)
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
    if not _broadcasts(value.shape, tensor.shape):
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
    """One baseline for each input, tensors expanded to its shape.

    Args:
        baselines: A tensor or number for all inputs, or a tuple or list with one for each.
        inputs: What they are the absent state of.

    Raises:
        InvalidShape: they are not as many, or one does not broadcast to its input.
    """
    given = baselines if isinstance(baselines, tuple | list) else (baselines,) * len(inputs)
    if len(given) != len(inputs):
        raise InvalidShape(f"baselines must be one for each of the {len(inputs)} tensors; got {len(given)}")
    for value, x in zip(given, inputs, strict=True):
        if isinstance(value, Tensor) and not _broadcasts(value.shape, x.shape):
            raise InvalidShape(f"a baseline must broadcast to {tuple(x.shape)}; got {tuple(value.shape)}")
    pairs = zip(given, inputs, strict=True)
    return tuple(value.expand_as(x) if isinstance(value, Tensor) else value for value, x in pairs)


def _broadcasts(shape: torch.Size, to: torch.Size) -> bool:
    """Whether a tensor of this shape can be expanded to that one."""
    sizes = zip(reversed(shape), reversed(to), strict=False)
    return len(shape) <= len(to) and all(size in (1, whole) for size, whole in sizes)


def in_form_of(inputs: TensorOrTensors, tensors: Tensors) -> TensorOrTensors:
    """Tensor in, tensor out; tuple in, tuple out."""
    return tensors if isinstance(inputs, tuple) else tensors[0]


def exact_device(device: torch.device) -> torch.device:
    """Where tensors of a device can be float64: there, or on the CPU where the device has no such type, as Apple's."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (TypeError, RuntimeError):
        return torch.device("cpu")
    return device


def exact(tensor: Tensor) -> Tensor:
    """In float64, on its device if that has it."""
    return tensor.to(exact_device(tensor.device)).double()


def can_move(tensor: Tensor) -> bool:
    """Whether a tensor can be interpolated and differentiated by."""
    return tensor.is_floating_point() or tensor.is_complex()


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with the function applied to the tensors in it, inside of tuples, lists, mappings and dataclasses too."""
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
    """A copy of a mapping or dataclass with other items."""
    changed = copy(value)
    for name, item in items.items():
        put(changed, name, item)
    return changed


def leaves(value: Any) -> list[Tensor]:
    """The tensors in `value`, in order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, value)  # type: ignore[func-returns-value]
    return found


def with_leaves(value: Any, tensors: Sequence[Tensor]) -> Any:
    """`value` with these tensors in the place of its own, in order."""
    new = iter(tensors)
    return map_tensors(lambda tensor: next(new), value)


@dataclass(frozen=True)
class Slot:
    """The place of some of the tensors of a longer tuple.

    Attributes:
        count: How many they are.
        single: Whether they are one bare tensor for the caller, no tuple.
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
    """Every tensor in `value` with one row for each example repeated: `(batch, ...) -> (copies * batch, ...)`.

    Tensors with another first axis (a weight, a mask for all) are shared by the copies and stay as they are.

    Args:
        value: Anything with tensors in it.
        copies: How many there will be of each row.
        batch: The number of examples.
        by_example: All copies of the first example come first, not the first copy of all examples.
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
