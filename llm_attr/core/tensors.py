"""Tuples of tensors: from the caller's form and back, tiled, checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Baselines, TensorOrTensors, Tensors


def as_tensors(inputs: TensorOrTensors) -> Tensors:
    """The inputs as a tuple of tensors that agree on their batch size.

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
    if len(set(sizes)) > 1:
        raise InvalidShape(f"inputs must have the same batch size; got {sizes}")
    return tensors


def as_baselines(baselines: Baselines, inputs: Tensors) -> Tensors:
    """One baseline tensor for each input, on its device and of its type, that broadcasts to its shape.

    Where the input's type cannot hold it (one half, for whole numbers), the baseline keeps its own.

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
        return _as_type_of(tensor, torch.full((1,) * tensor.dim(), value, dtype=kind, device=tensor.device))
    if not isinstance(value, Tensor):
        raise InvalidType(f"baseline {index} must be a tensor or a number; got {type(value).__name__}")
    rows = 1 if value.dim() < tensor.dim() else len(value)
    features = value.shape if value.dim() < tensor.dim() else value.shape[1:]
    if rows not in (1, len(tensor)) or features != tensor.shape[1:]:
        raise InvalidShape(
            f"baseline {index} must have the shape of its input {tuple(tensor.shape)}, or one row of it; "
            f"got {tuple(value.shape)}"
        )
    return _as_type_of(tensor, value.to(tensor.device)).expand(rows, *tensor.shape[1:])


def _as_type_of(tensor: Tensor, value: Tensor) -> Tensor:
    cast = value.to(tensor.dtype)
    exact = tensor.is_floating_point() or tensor.is_complex() or torch.equal(cast.to(value.dtype), value)
    return cast if exact else value


def in_form_of(inputs: TensorOrTensors, tensors: Tensors) -> TensorOrTensors:
    """Tensor in, tensor out; tuple in, tuple out."""
    return tensors if isinstance(inputs, tuple) else tensors[0]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with the function applied to the tensors in it, inside of tuples and lists too."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        items = [map_tensors(function, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def tile(value: Any, copies: int, batch: int) -> Any:
    """Every tensor in `value` with one row for each example repeated: `(batch, ...) -> (copies * batch, ...)`.

    Tensors with another first axis (a weight, a mask for all) are shared by the copies and stay as they are.
    """
    if copies == 1:
        return value

    def repeat(tensor: Tensor) -> Tensor:
        if tensor.dim() == 0 or len(tensor) != batch:
            return tensor
        return tensor.repeat(copies, *(1,) * (tensor.dim() - 1))

    return map_tensors(repeat, value)
