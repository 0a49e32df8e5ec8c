"""One operation on tensors that depend on the input, and the replacement of its gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import PyTree, TreeSpec, tree_flatten, tree_unflatten

from llm_attr.errors import NoRule
from llm_attr.typing import Tensors

Back: TypeAlias = Callable[[Tensor], tuple[Tensor | None, ...]]
"""Maps the gradient of a call's result to the gradients of its moved tensors."""


@dataclass(frozen=True, slots=True)
class Form:
    """The structure of the flattened arguments of a call.

    Attributes:
        names: The names of the keyword arguments, which come last.
        tree: The structure if arguments are nested.
    """

    names: tuple[str, ...] = ()
    tree: TreeSpec | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Form]:
        """The flattened arguments, and their form."""
        flat = (*args, *kwargs.values())
        if not any(isinstance(value, _NESTS) for value in flat):
            return flat, Form(tuple(kwargs))
        leaves, tree = tree_flatten((args, kwargs))
        return tuple(leaves), Form(tree=tree)

    def arguments(self, leaves: Sequence[PyTree]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and the keyword arguments."""
        if self.tree is not None:
            args, kwargs = tree_unflatten(leaves, self.tree)
            return args, kwargs
        if not self.names:
            return tuple(leaves), {}
        first = len(leaves) - len(self.names)
        return tuple(leaves[:first]), dict(zip(self.names, leaves[first:], strict=True))


_NESTS = (list, tuple, dict)


@dataclass(frozen=True, slots=True)
class Call:
    """An operation on tensors that depend on the input.

    Attributes:
        func: The operation.
        family: The common name of its variants: `relu` for `F.relu`, `torch.relu`, `Tensor.relu_` and `nn.ReLU`.
        leaves: All its arguments, flattened.
        form: Their structure.
        moved: The indices of those that depend on the input.
        reference: What the reference run kept of this call, usually its moved tensors; None: the reference is zero.
        inplace: Whether the result replaces the first argument.
    """

    func: Callable[..., Any]
    family: str
    leaves: tuple[Any, ...]
    form: Form
    moved: tuple[int, ...]
    reference: Tensors | None = None
    inplace: bool = False

    @classmethod
    def of(cls, func: Callable[..., Any], family: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The call of `func(*args, **kwargs)`."""
        leaves, form = Form.of(args, kwargs)
        moved = tuple(i for i, leaf in enumerate(leaves) if depends(leaf))
        return cls(func, family, leaves, form, moved, None, _is_inplace(func, args, kwargs))

    def against(self, reference: Tensors) -> Call:
        """The same call, with what the reference run kept of it."""
        return replace(self, reference=reference)

    @property
    def tensors(self) -> Tensors:
        """The moved tensors."""
        return tuple(self.leaves[i] for i in self.moved)

    @property
    def now(self) -> Tensors:
        """The moved tensors, detached."""
        return tuple(tensor.detach() for tensor in self.tensors)

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments."""
        return self.form.arguments(self.leaves)[1]

    @property
    def positional(self) -> tuple[Any, ...]:
        """The positional arguments."""
        return self.form.arguments(self.leaves)[0]

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """An argument given by keyword or position."""
        args, kwargs = self.form.arguments(self.leaves)
        if name in kwargs:
            return kwargs[name]
        return args[position] if position < len(args) else default

    def place(self, name: str, position: int) -> int:
        """The index among the leaves of an argument given by keyword or position; arguments must not be nested."""
        names = self.form.names
        return len(self.leaves) - len(names) + names.index(name) if name in names else position

    def native(self) -> Any:
        """The result with the native gradient."""
        args, kwargs = self.form.arguments(self.leaves)
        return self.func(*args, **kwargs)

    def run(self, *tensors: Tensor) -> Any:
        """The operation on other moved tensors, without changing them."""
        return self.with_leaves(dict(zip(self.moved, tensors, strict=True)))

    def with_leaves(self, other: Mapping[int, Any]) -> Any:
        """The operation with some arguments replaced, not in place."""
        leaves = [other.get(i, leaf) for i, leaf in enumerate(self.leaves)]
        args, kwargs = self.form.arguments(leaves)
        if self.inplace:
            args = (args[0].clone(), *args[1:])
        return self.func(*args, **kwargs)

    def finish(self, result: Tensor) -> Any:
        """The result, written to the first argument if the operation is in place."""
        return self.leaves[0].copy_(result) if self.inplace else result

    def answer(self, back: Back, value: Tensor | None = None) -> Any:
        """The native value with this backward function."""
        value = self.run(*self.now) if value is None else value
        return self.finish(ruled(value, back, *self.tensors))

    def refuse(self, why: str) -> NoRule:
        """An error naming the operation."""
        return NoRule(f"{self.func.__name__}: {why}")


Rule: TypeAlias = Callable[[Call], Any]
"""Maps a call to its result, with another backward function."""


class _Ruled(torch.autograd.Function):
    """A value and its backward function."""

    @staticmethod
    def forward(ctx: Any, value: Callable[[], Tensor], back: Back, *inputs: Tensor) -> Tensor:
        ctx.back = back
        return value()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        with torch._C.DisableTorchFunction():
            return (None, None, *ctx.back(gradient))


def ruled(value: Tensor, back: Back, *inputs: Tensor) -> Tensor:
    """The value as a function of the inputs, with this backward function."""
    result: Tensor = _Ruled.apply(lambda: value, back, *inputs)
    return result


def casting(device: torch.device, as_now: bool = True) -> torch.autocast:
    """The current autocast, for backward functions, which run outside it; disabled with `as_now=False`."""
    kind = device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=as_now and torch.is_autocast_enabled(kind))


def scaled(tensor: Tensor, share: float) -> Tensor:
    """The tensor with its gradient multiplied by `share`."""
    return tensor.detach() if share == 0 else ruled(tensor.detach(), lambda gradient: (gradient * share,), tensor)


def depends(value: Any) -> bool:
    """Whether this is a tensor that depends on the input: nothing else requires gradients while rules are applied."""
    return isinstance(value, Tensor) and value.requires_grad


_FAMILIES = {
    **dict.fromkeys(("rmul", "imul", "multiply"), "mul"),
    **dict.fromkeys(("truediv", "itruediv", "true_divide", "divide"), "div"),
    **dict.fromkeys(("rtruediv", "rdiv"), "rdiv"),
    **dict.fromkeys(("ipow", "rpow", "float_power"), "pow"),
    **dict.fromkeys(("mm", "bmm", "rmatmul", "imatmul", "baddbmm", "addbmm", "mv", "addmv", "dot", "inner"), "matmul"),
    **dict.fromkeys(("special_softmax",), "softmax"),
    **dict.fromkeys(("special_log_softmax",), "log_softmax"),
    **dict.fromkeys(("special_expit",), "sigmoid"),
    **dict.fromkeys(("special_logsumexp",), "logsumexp"),
    **dict.fromkeys(("clip", "clamp_min", "clamp_max"), "clamp"),
    **dict.fromkeys(("absolute",), "abs"),
    **dict.fromkeys(("negative",), "neg"),
    **dict.fromkeys(("addmm",), "linear"),
    **{f"conv{kind}{d}d": "linear" for kind in ("", "_transpose") for d in "123"},
    **dict.fromkeys(("convolution", "conv_tbc"), "linear"),
}


@cache
def family_of(name: str) -> str:
    """The family of an operation: the common name of its variants."""
    name = name.split(".")[0].strip("_")
    return _FAMILIES.get(name, name)


def _is_inplace(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    name = func.__name__
    if name.endswith("_") and not name.endswith("__"):
        return True
    if name in ("__imul__", "__itruediv__", "__ipow__", "__imatmul__"):
        return True
    place = _inplace_place(func) if type(func) is FunctionType else None
    return bool(kwargs.get("inplace", args[place] if place is not None and place < len(args) else False))


@cache
def _inplace_place(func: Any) -> int | None:
    """The position of the argument `inplace`, if the function has one."""
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    return names.index("inplace") if "inplace" in names else None
