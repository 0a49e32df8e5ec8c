"""One operation on tensors that depend on the input, and how its gradient is replaced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import FunctionType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from llm_attr.errors import NoRule
from llm_attr.typing import Tensors

Back: TypeAlias = Callable[[Tensor], tuple[Tensor | None, ...]]
"""From the gradient of a call's result to the gradients of its moved tensors."""


@dataclass(frozen=True)
class Call:
    """An operation on tensors that depend on the input.

    Attributes:
        func: The operation.
        family: Its name without spelling: `relu` for `F.relu`, `torch.relu`, `Tensor.relu_` and `nn.ReLU`.
        leaves: All its arguments, flat.
        form: How they belong together.
        moved: Which of them depend on the input.
        reference: These in the run of the baseline; None: zero.
        inplace: Whether the result replaces the first argument.
    """

    func: Callable[..., Any]
    family: str
    leaves: tuple[Any, ...]
    form: TreeSpec
    moved: tuple[int, ...]
    reference: Tensors | None = None
    inplace: bool = False

    @classmethod
    def of(cls, func: Callable[..., Any], family: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """The call of `func(*args, **kwargs)`."""
        leaves, form = tree_flatten((args, kwargs))
        moved = tuple(i for i, leaf in enumerate(leaves) if depends(leaf))
        return cls(func, family, tuple(leaves), form, moved, None, _is_inplace(func, args, kwargs))

    @property
    def tensors(self) -> Tensors:
        """The moved tensors."""
        return tuple(self.leaves[i] for i in self.moved)

    @property
    def now(self) -> Tensors:
        """The moved tensors without their history."""
        return tuple(tensor.detach() for tensor in self.tensors)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that came by keyword."""
        return tree_unflatten(self.leaves, self.form)[1]

    @property
    def positional(self) -> tuple[Any, ...]:
        """The arguments that came by position."""
        return tree_unflatten(self.leaves, self.form)[0]

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """An argument that may come by keyword or position."""
        if name in self.arguments:
            return self.arguments[name]
        return self.positional[position] if position < len(self.positional) else default

    def native(self) -> Any:
        """The operation as it is, with its own gradient."""
        args, kwargs = tree_unflatten(self.leaves, self.form)
        return self.func(*args, **kwargs)

    def run(self, *tensors: Tensor) -> Any:
        """The operation on other moved tensors, which are left as they are."""
        return self.with_leaves(dict(zip(self.moved, tensors, strict=True)))

    def with_leaves(self, other: Mapping[int, Any]) -> Any:
        """The operation with other arguments in these places, not in place."""
        leaves = [other.get(i, leaf) for i, leaf in enumerate(self.leaves)]
        args, kwargs = tree_unflatten(leaves, self.form)
        if self.inplace:
            args = (args[0].clone(), *args[1:])
        return self.func(*args, **kwargs)

    def finish(self, result: Tensor) -> Any:
        """The result, in its place."""
        return self.leaves[0].copy_(result) if self.inplace else result

    def answer(self, back: Back, value: Tensor | None = None) -> Any:
        """The native value with this way back."""
        value = self.run(*self.now) if value is None else value
        return self.finish(ruled(value, back, *self.tensors))

    def refuse(self, why: str) -> NoRule:
        """An error that names the operation."""
        return NoRule(f"{self.func.__name__}: {why}")


Rule: TypeAlias = Callable[[Call], Any]
"""From a call to its result, with another way back."""


class _Ruled(torch.autograd.Function):
    """A value and its way back."""

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
    """The value as a result of the inputs with this way back."""
    result: Tensor = _Ruled.apply(lambda: value, back, *inputs)
    return result


def scaled(tensor: Tensor, share: float) -> Tensor:
    """The tensor with this share of its gradient."""
    return tensor.detach() if share == 0 else ruled(tensor.detach(), lambda gradient: (gradient * share,), tensor)


def depends(value: Any) -> bool:
    """Whether this is a tensor that depends on the input: nothing else needs gradients while rules are applied."""
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
    """The family of an operation: its name without the spelling."""
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
    """Where the argument `inplace` is, of functions that say so."""
    names = func.__code__.co_varnames[: func.__code__.co_argcount]
    return names.index("inplace") if "inplace" in names else None
