"""The precision of an explanation: products in a short type, sums in fp32.

Under `computing` torch's autocast takes the products of matrices in bf16 or fp16. What is added up stays in fp32: the
residual stream, since the embeddings enter it in fp32, and the logits, since the output head is computed in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import local
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from llm_attr.core.shared_context import reference_counted, uncompiled
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.llm.model.language_model import LanguageModel, has_unusual_weights

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HALVES = (torch.bfloat16, torch.float16)

AS_WEIGHTS = "weights"
"""The precision that is the weights' own: no autocast, and sums in their type too."""

Precision: TypeAlias = str | torch.dtype
"""`fp32`, `bf16` or `fp16`, also spelled as torch does; or `weights`."""

HEAD_BYTES = 1 << 24
"""Bytes of the output head's weights that are converted to fp32 at once."""

LARGEST = 1.0
"""What the largest entry of the gradient at the logits is scaled to in fp16, whose smallest number is 6e-8."""

_wide: ContextVar[bool] = ContextVar("llm_attr_sums_in_fp32", default=False)

_chosen: ContextVar[bool] = ContextVar("llm_attr_chosen_precision", default=False)


def dtype_of(precision: Precision) -> torch.dtype:
    """The type that a precision names.

    Raises:
        UnknownName: it names none of fp32, bf16 and fp16.
    """
    named = PRECISIONS | {str(dtype).removeprefix("torch."): dtype for dtype in PRECISIONS.values()}
    if isinstance(precision, torch.dtype) and precision in PRECISIONS.values():
        return precision
    if not isinstance(precision, str) or precision not in named:
        raise UnknownName("precision", precision, [*PRECISIONS, AS_WEIGHTS])
    return named[precision]


def check_precision(precision: Precision | None) -> None:
    """Checks that a precision exists.

    Raises:
        UnknownName: it is none of fp32, bf16, fp16, weights and None.
    """
    if precision is not None and precision != AS_WEIGHTS:
        dtype_of(precision)


def name_of(dtype: torch.dtype) -> str:
    """The short name of a type."""
    return next((name for name, known in PRECISIONS.items() if known == dtype), str(dtype).removeprefix("torch."))


def computed_in(language_model: LanguageModel) -> torch.dtype:
    """The type in which the model takes its products now: that of autocast, else that of its weights."""
    kind = language_model.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return half or language_model.dtype


def keeps_sums() -> bool:
    """Whether the residual stream and the logits are in fp32, whatever the type of the products."""
    return _wide.get()


def described(language_model: LanguageModel) -> str:
    """The precision of the model's forward pass in words, such as `bf16, sums in fp32`."""
    dtype = computed_in(language_model)
    return f"{name_of(dtype)}, sums in fp32" if dtype in HALVES and keeps_sums() else name_of(dtype)


def default_for_gradients(language_model: LanguageModel) -> torch.dtype | None:
    """The precision of gradient methods where none is asked for: sums in fp32 if the weights are in less.

    None for weights in fp32, under autocast of the caller's, inside `computing` with a precision, and on a device
    without autocast.
    """
    dtype, kinds = language_model.dtype, _kinds(language_model)
    free = not _chosen.get() and not any(torch.is_autocast_enabled(kind) for kind in kinds)
    return dtype if dtype in HALVES and free and all(map(torch.amp.is_autocast_available, kinds)) else None


@contextmanager
def computing(language_model: LanguageModel, precision: Precision | None) -> Iterator[None]:
    """The model's forward passes inside, in this thread, are computed in a precision; its weights stay as they are.

    Args:
        language_model: The model.
        precision: `fp32`, `bf16` or `fp16`; `weights`: as the weights are; None: as they are, or as autocast outside
            says.

    Raises:
        UnknownName: there is no such precision.
        InvalidValue: fp32 is asked of weights in less, or a device of the model has no autocast.
    """
    if precision is None:
        yield
        return
    kinds = _kinds(language_model)
    half = None if precision == AS_WEIGHTS else _half(language_model, dtype_of(precision), kinds)
    with ExitStack() as stack:
        for kind in kinds:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, half, enabled=half is not None))
        stack.enter_context(_set(_chosen, True))
        stack.enter_context(_set(_wide, half is not None))
        if half is not None:
            stack.enter_context(uncompiled())
            stack.enter_context(_hooked(language_model.model, language_model.embedding))
        yield


@contextmanager
def _set(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def _half(language_model: LanguageModel, dtype: torch.dtype, kinds: list[str]) -> torch.dtype | None:
    """The type for autocast; None: autocast is off.

    Raises:
        InvalidValue: the model cannot compute in this type.
    """
    weights, name = language_model.dtype, name_of(dtype)
    if dtype == torch.float32 and weights in HALVES:
        raise InvalidValue(
            f"precision='fp32' of {language_model.name}, whose weights are in {name_of(weights)}, would need all of "
            f"them once more in fp32; load the model with dtype='float32', or ask for precision={name_of(weights)!r}"
        )
    without = [kind for kind in kinds if not torch.amp.is_autocast_available(kind)]
    if dtype in HALVES and without:
        raise InvalidValue(
            f"precision={name!r} needs torch's autocast, which {', '.join(without)} has not; load the model with "
            f"dtype={str(dtype).removeprefix('torch.')!r} instead"
        )
    return dtype if dtype in HALVES else None


def _kinds(language_model: LanguageModel) -> list[str]:
    """The kinds of devices that the model computes on."""
    kinds = {language_model.device.type, *(weight.device.type for weight in language_model.model.parameters())}
    return sorted(kinds - {"meta"})


@reference_counted
@contextmanager
def _hooked(model: Any, embedding: nn.Module) -> Iterator[None]:
    """Embeddings, layer norms and logits are in fp32 in each thread that asks for it."""
    with ExitStack() as stack:
        stack.callback(embedding.register_forward_hook(_widened).remove)
        for layer in _widened_layers(model):
            within = _Within()
            stack.callback(layer.register_forward_pre_hook(within.enter).remove)
            stack.callback(layer.register_forward_hook(within.leave, always_call=True).remove)
        yield


def _widened_layers(model: Any) -> Iterator[nn.Module]:
    """The layer that gives the logits, and the layer norms, which on a CPU do not take weights in less than fp32."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if isinstance(head, nn.Linear) and not has_unusual_weights(head):
        yield head
    yield from (layer for layer in model.modules() if isinstance(layer, nn.LayerNorm))


def _widened(module: nn.Module, args: Any, output: Any) -> Any:
    wide = _wide.get() and isinstance(output, Tensor) and output.dtype in HALVES
    return output.float() if wide else None


class _Within(local):
    """A mode around the forward pass of a layer, in each thread that wants sums in fp32."""

    def __init__(self) -> None:
        self._entered: list[_WideOperation | None] = []

    def enter(self, *_: Any) -> None:
        mode = _WideOperation() if _wide.get() else None
        if mode is not None:
            mode.__enter__()
        self._entered.append(mode)

    def leave(self, *_: Any) -> None:
        mode = self._entered.pop() if self._entered else None
        if mode is not None:
            mode.__exit__(None, None, None)


class _WideOperation(TorchFunctionMode):
    """A linear layer or a layer norm in fp32, whatever the type of its weights."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and not kwargs:
            return _wide_product(*args)
        if func is F.layer_norm:
            given = dict(zip(("input", "normalized_shape", "weight", "bias", "eps"), args, strict=False)) | kwargs
            tensors = {name: value.float() for name, value in given.items() if isinstance(value, Tensor)}
            return func(**(given | tensors))
        return func(*args, **kwargs)


def _wide_product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias` in fp32: a part of the weights at a time, if they are in less.

    With a graph, weights in less are left to autocast: the graph would keep all of them in fp32.
    """
    if weight.dtype in HALVES and torch.is_grad_enabled() and x.requires_grad:
        return F.linear(x, weight, bias)
    with torch.autocast(x.device.type, enabled=False):
        if weight.dtype not in HALVES:
            return F.linear(x.to(weight.dtype), weight, bias)
        size = max(1, HEAD_BYTES // (4 * weight.shape[1]))
        parts = [F.linear(x.float(), part.float()) for part in weight.split(size)]
        return torch.cat(parts, -1) + (0 if bias is None else bias.float())


class GradientScale:
    """Loss scaling for gradients in fp16, row by row: nothing that counts is rounded to zero.

    Gradients are multiplied by a power of two where they enter the model and divided by it where they leave. Use one
    for each forward pass.
    """

    def __init__(self) -> None:
        self._factor: Tensor | None = None

    def entering(self, logits: Tensor) -> Tensor:
        """The fp32 logits `(rows, ...)`, whose gradient is scaled on its way back."""
        if logits.requires_grad:
            logits.register_hook(self._scaled)
        return logits

    def leaving(self, moved: Tensor) -> Tensor:
        """A fp32 tensor `(rows, ...)` that goes into the model, whose gradient is put right."""
        if not moved.requires_grad:
            return moved
        own = moved.view_as(moved)
        own.register_hook(self._restored)
        return own

    def _scaled(self, gradient: Tensor) -> Tensor:
        largest = gradient.abs().amax(tuple(range(1, gradient.dim())))
        power = torch.floor(torch.log2(LARGEST / largest.clamp_min(torch.finfo(torch.float32).tiny)))
        self._factor = torch.where(largest > 0, torch.exp2(power.clamp(-100, 100)), 1.0)
        return gradient * _beside(self._factor, gradient)

    def _restored(self, gradient: Tensor) -> Tensor:
        return gradient if self._factor is None else gradient / _beside(self._factor.to(gradient.device), gradient)


def _beside(numbers: Tensor, tensor: Tensor) -> Tensor:
    """A number for each row, with the axes of a tensor."""
    for _ in range(tensor.dim() - 1):
        numbers = numbers.unsqueeze(-1)
    return numbers
