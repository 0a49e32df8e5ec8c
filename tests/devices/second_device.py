"""A second device made of the CPU: it finds device faults on machines that have no other one.

A `SecondTensor` lies on the CPU and says that it is on `simulated:0`. As on a GPU, the tensors of an operation must be
on one device (numbers and indices may come from the CPU), draws come from a stream of the device's own, and a backward
pass runs in a thread of autograd. Importing this file gives torch the device for good: only processes of their own do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

NAME = "simulated"
CPU = torch.device("cpu")
aten = torch.ops.aten

BETWEEN_DEVICES = {aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class _Module:
    """What torch asks a device for: `torch.simulated`."""

    def __init__(self) -> None:
        self.stream = torch.Generator(CPU).manual_seed(0)
        self.has_float64 = True

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return True

    def _is_in_bad_fork(self) -> bool:
        return False

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return 1

    def synchronize(self, device: Any = None) -> None:
        pass

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def get_rng_state(self, device: Any = 0) -> Tensor:
        return self.stream.get_state()

    def set_rng_state(self, state: Tensor, device: Any = 0) -> None:
        self.stream.set_state(state)

    def manual_seed_all(self, seed: int) -> None:
        self.stream.manual_seed(seed)


MODULE = _Module()
backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=MODULE)
DEVICE = torch.device(NAME, 0)


@contextmanager
def without_float64() -> Iterator[None]:
    """The device refuses float64, as Apple's does."""
    MODULE.has_float64 = False
    try:
        yield
    finally:
        MODULE.has_float64 = True


class SecondTensor(Tensor):
    """A tensor on the second device, around the one that holds its numbers."""

    raw: Tensor

    @staticmethod
    def __new__(cls, raw: Tensor) -> SecondTensor:
        if raw.dtype == torch.float64 and not MODULE.has_float64:
            raise TypeError(f"the device {DEVICE} does not support float64")
        made = Tensor._make_wrapper_subclass(
            cls, raw.shape, strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, device=DEVICE
        )
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        return self.raw.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"{self.raw!r} on {DEVICE}"


def raw(value: Any) -> Any:
    """The tensor on the CPU behind one on the second device, and the CPU in the place of the device."""
    if isinstance(value, SecondTensor):
        return value.raw
    return CPU if isinstance(value, torch.device) and value.type == NAME else value


def run(operation: Any, args: Any, kwargs: Any) -> Any:
    """An operation, on the device of its tensors or on the one that it names."""
    tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    own = [tensor for tensor in tensors if isinstance(tensor, SecondTensor)]
    if own and operation not in BETWEEN_DEVICES:
        _refuse_two_devices(operation, args, tensors)
    named = kwargs.get("device")
    here = bool(own) if named is None else torch.device(named).type == NAME
    with _drawing(operation, kwargs) if here else _as_it_is():
        found = operation(*tree_map(raw, args), **tree_map(raw, kwargs))
    if operation._schema.name.endswith("_") and operation._schema.is_mutable:
        _reshape(args[0])
        return args[0]
    known = {id(tensor.raw): tensor for tensor in own}

    def put(value: Any) -> Any:
        if not here or not isinstance(value, Tensor) or isinstance(value, SecondTensor):
            return value
        return known[id(value)] if id(value) in known else SecondTensor(value)

    return tree_map(put, found)


def _reshape(tensor: Any) -> None:
    """Gives a tensor the shape that its numbers have after `squeeze_` and the like."""
    if isinstance(tensor, SecondTensor) and (tensor.shape, tensor.stride()) != (tensor.raw.shape, tensor.raw.stride()):
        with torch._C._DisableTorchDispatch():
            tensor.as_strided_(tensor.raw.shape, tensor.raw.stride(), tensor.raw.storage_offset())


def _refuse_two_devices(operation: Any, args: Any, tensors: list[Tensor]) -> None:
    if operation in INDEXING:
        indices = {id(index) for index in args[1] if index is not None and isinstance(args[0], SecondTensor)}
        tensors = [tensor for tensor in tensors if id(tensor) not in indices or isinstance(tensor, SecondTensor)]
    places = {tensor.device for tensor in tensors if tensor.dim() > 0 or isinstance(tensor, SecondTensor)}
    if len(places) > 1:
        raise RuntimeError(
            f"{operation}: Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(map(str, places)))}!"
        )


@contextmanager
def _drawing(operation: Any, kwargs: Any) -> Iterator[None]:
    """Draws from the stream of the device; that of the CPU stays as it was."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        yield
        return
    if kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found 'cpu'")
    with torch.random.fork_rng([]):
        torch.set_rng_state(MODULE.stream.get_state())
        yield
        MODULE.stream.set_state(torch.get_rng_state())


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    raw(target).copy_(raw(source))
    return target


def _empty(size: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return SecondTensor(torch.empty(size, dtype=dtype, device=CPU))


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, **_: Any) -> Tensor:
    return SecondTensor(torch.empty_strided(size, stride, dtype=dtype, device=CPU))


_LIBRARY, _FALLBACK = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
_LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
_LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
_LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
_FALLBACK.fallback(lambda operation, *args, **kwargs: run(operation, args, kwargs), "PrivateUse1")
