"""The derivatives of several outputs over one graph: a backward pass for each, or all in one; or forward mode."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from llm_attr.core.backward import derivatives
from llm_attr.core.shared_context import reference_counted
from llm_attr.typing import Tensors

Rows: TypeAlias = tuple[Tensor | None, ...]
"""`(outputs, *shape)` for each tensor that the outputs are differentiated by; None where none depends on it."""

MEMORY_SHARE = 16
"""Gradients that pass through a layer together may take this fraction of the free memory."""

NO_RULE = re.compile(
    r"forward( mode)? AD\b|forward gradient|\bjvp\b|functorch|FuncTorch|\bvmap\b|[Bb]atching rule|"
    "ZeroTensors are immutable|Cannot access (data pointer|storage) of"
)
"""What torch's messages contain where an operation has no forward-mode derivative or cannot be batched."""


def lacks_a_rule(error: BaseException) -> bool:
    """Whether an exception says that an operation has no forward-mode derivative or cannot be batched."""
    return isinstance(error, RuntimeError | UserWarning) and NO_RULE.search(str(error)) is not None


def _ignore(outputs: int) -> None:
    pass


@dataclass(eq=False)
class Jacobian:
    """One backward pass for each output.

    Attributes:
        count: Called with the number of outputs that were differentiated.
    """

    count: Callable[[int], None] = _ignore

    def for_pass(self, rows: int, outputs: int) -> Jacobian:
        """The strategy for a forward pass of this many rows and outputs."""
        return self

    def kernels(self) -> AbstractContextManager[Any]:
        """What the forward pass runs under."""
        return nullcontext()

    def of(self, scores: Tensor, by: Sequence[Tensor], options: Mapping[str, Any]) -> Rows:
        """The derivatives of each column of `scores` `(rows, outputs)`, summed over the rows.

        Args:
            scores: With their graph.
            by: What they are differentiated by.
            options: Arguments of `torch.autograd.grad`.
        """
        *others, last = scores.unbind(1)
        retained = {**options, "retain_graph": True}
        found = [*(self.of_one(column, by, retained) for column in others), self.of_one(last, by, options)]
        return tuple(_stacked(rows, tensor) for rows, tensor in zip(zip(*found, strict=True), by, strict=True))

    def of_one(self, scores: Tensor, by: Sequence[Tensor], options: Mapping[str, Any]) -> Rows:
        """The derivatives of the only output, without the axis of outputs."""
        options = {"grad_outputs": torch.ones_like(scores), **options}
        found = derivatives(scores, by, **options) if scores.requires_grad else (None,) * len(by)
        self.count(1)
        return found


ONE_BY_ONE = Jacobian()
"""The strategy of a problem that says nothing else."""


def _stacked(rows: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    if all(row is None for row in rows):
        return None
    return torch.stack([torch.zeros_like(like) if row is None else row for row in rows])


@dataclass(eq=False, kw_only=True)
class BatchedJacobian(Jacobian):
    """All outputs in one backward pass (`is_grads_batched`), in parts that fit into memory.

    Falls back to one pass for each output where an operation cannot be batched.

    Attributes:
        free: The bytes of memory that are free.
        row_bytes: What passes through a layer for one output and row.
        kept_bytes: What the forward pass of one row keeps beyond what it would otherwise.
        refused: Called where an operation cannot be batched.
        works: False once that has come up.
    """

    free: Callable[[], int]
    row_bytes: int
    kept_bytes: int
    refused: Callable[[], None]
    works: bool = True

    def for_pass(self, rows: int, outputs: int) -> Jacobian:
        """The strategy for a forward pass of this many rows and outputs."""
        fits = self.kept_bytes * rows < self.free() // MEMORY_SHARE
        return self if self.works and outputs > 1 and fits else Jacobian(self.count)

    def kernels(self) -> AbstractContextManager[Any]:
        """The backward passes of fused attention cannot be batched."""
        return math_attention()

    def of(self, scores: Tensor, by: Sequence[Tensor], options: Mapping[str, Any]) -> Rows:
        """See `Jacobian.of`."""
        outputs = scores.shape[1]
        directions = torch.eye(outputs, dtype=scores.dtype, device=scores.device)[:, None].expand(-1, *scores.shape)
        size = outputs_that_fit(self.free(), self.row_bytes * len(scores))
        batched = {**options, "retain_graph": True, "is_grads_batched": True}
        try:
            with no_vmap_fallback():
                parts = [derivatives(scores, by, part, **batched) for part in directions.split(size)]
        except (RuntimeError, UserWarning) as error:
            if not lacks_a_rule(error):
                raise
            self.works = False
            self.refused()
            return super().of(scores, by, options)
        self.count(outputs)
        return tuple(None if pieces[0] is None else torch.cat(pieces) for pieces in zip(*parts, strict=True))


def outputs_that_fit(free: int, bytes_each: int) -> int:
    """How many derivatives of this size may pass through a layer together, with so many bytes free."""
    return max(1, free // (MEMORY_SHARE * bytes_each))


def directional(score: Callable[..., Tensor], point: Tensors, directions: Tensors) -> Tensor:
    """`(directions, rows, outputs)`: the derivatives of a score along some directions, by forward-mode AD.

    Args:
        score: From tensors like the point to `(rows, outputs)`.
        point: Where.
        directions: `(directions, *shape)` for each tensor of the point.

    Raises:
        RuntimeError: an operation has no forward-mode derivative or cannot be batched, see `lacks_a_rule`.
    """

    def along(*direction: Tensor) -> Any:
        return torch.func.jvp(score, point, direction)[1]

    with _one_at_a_time, torch.no_grad(), math_attention(), no_vmap_fallback(), _NoGraph():
        found: Tensor = torch.func.vmap(along)(*directions)
    return found


_one_at_a_time = RLock()
"""Torch has one count of nested derivatives for all threads."""


class _NoGraph(TorchFunctionMode):
    """Ignores `requires_grad_`, and refuses operations of other libraries.

    Those have backward passes only; torch would take their forward-mode derivative for zero.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.requires_grad_:
            return args[0]
        if isinstance(func, _OPERATIONS) and not str(func).startswith("aten."):
            raise NotImplementedError(f"{func} has no formula for forward AD")
        return func(*args, **(kwargs or {}))


_OPERATIONS = (type(torch.ops.aten.add), type(torch.ops.aten.add.Tensor))


def math_attention() -> AbstractContextManager[Any]:
    """Attention by the kernel that is made of plain operations, in this thread."""
    return _MathAttention()


class _MathAttention(TorchFunctionMode):
    """Attention by plain operations. Torch's own switch of kernels, `sdpa_kernel`, is one for all threads.

    That switch is used for as long as a call takes whose attention is out of sight.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            with _math_in_all_threads():
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    **options: Any,
) -> Tensor:
    """What `scaled_dot_product_attention` gives with the kernel of plain operations, under autocast too."""
    kind, mask = query.device.type, attn_mask
    autocast = torch.is_autocast_enabled(kind) and query.dtype != torch.float64
    dtype = torch.get_autocast_dtype(kind) if autocast else query.dtype
    if autocast:
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    elif mask is not None and autocast:
        mask = mask.to(dtype)
    with torch.autocast(kind, enabled=False) if autocast else nullcontext():
        found = torch._scaled_dot_product_attention_math(query, key, value, mask, dropout_p, is_causal, **options)
    return found[0]


@reference_counted
@contextmanager
def _math_in_all_threads() -> Iterator[None]:
    with sdpa_kernel(SDPBackend.MATH):
        yield


@reference_counted
@contextmanager
def no_vmap_fallback() -> Iterator[None]:
    """Raises a UserWarning for an operation that cannot be batched, over whose rows torch would loop."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        warnings.filterwarnings("error", "There is a performance drop", UserWarning)
        yield
