"""One operation on tensors that depend on the input, and how its gradient is replaced."""

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
"""From the gradient of a call's result to the gradients of its moved tensors."""


@dataclass(frozen=True, slots=True)
class Form:
    """How the flat arguments of a call belong together.

    Attributes:
        names: Of those that came by keyword, the last ones.
        tree: Where some are inside of others.
    """

    names: tuple[str, ...] = ()
    tree: TreeSpec | None = None

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Form]:
        """The flat arguments, and their form."""
        flat = (*args, *kwargs.values())
        if not any(isinstance(value, _NESTS) for value in flat):
            return flat, Form(tuple(kwargs))
        leaves, tree = tree_flatten((args, kwargs))
        return tuple(leaves), Form(tree=tree)

    def arguments(self, leaves: Sequence[PyTree]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Those by position and those by keyword."""
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
        family: Its name without spelling: `relu` for `F.relu`, `torch.relu`, `Tensor.relu_` and `nn.ReLU`.
        leaves: All its arguments, flat.
        form: How they belong together.
        moved: Which of them depend on the input.
        reference: What is kept of this call in the run of the baseline, mostly these; None: zero.
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
        """The same, with what is kept of the run of the baseline."""
        return replace(self, reference=reference)

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
        return self.form.arguments(self.leaves)[1]

    @property
    def positional(self) -> tuple[Any, ...]:
        """The arguments that came by position."""
        return self.form.arguments(self.leaves)[0]

    def option(self, name: str, position: int, default: Any = None) -> Any:
        """An argument that may come by keyword or position."""
        args, kwargs = self.form.arguments(self.leaves)
        if name in kwargs:
            return kwargs[name]
        return args[position] if position < len(args) else default

    def place(self, name: str, position: int) -> int:
        """Which of the leaves an argument is that may come by keyword or position; nothing is inside of another."""
        names = self.form.names
        return len(self.leaves) - len(names) + names.index(name) if name in names else position

    def native(self) -> Any:
        """The operation as it is, with its own gradient."""
        args, kwargs = self.form.arguments(self.leaves)
        return self.func(*args, **kwargs)

    def run(self, *tensors: Tensor) -> Any:
        """The operation on other moved tensors, which are left as they are."""
        return self.with_leaves(dict(zip(self.moved, tensors, strict=True)))

    def with_leaves(self, other: Mapping[int, Any]) -> Any:
        """The operation with other arguments in these places, not in place."""
        leaves = [other.get(i, leaf) for i, leaf in enumerate(self.leaves)]
        args, kwargs = self.form.arguments(leaves)
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


def casting(device: torch.device, as_now: bool = True) -> torch.autocast:
    """The autocast of this place, for a way back, which runs outside of it; or none, for formulas in full."""
    kind = device.type
    return torch.autocast(kind, torch.get_autocast_dtype(kind), enabled=as_now and torch.is_autocast_enabled(kind))


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
