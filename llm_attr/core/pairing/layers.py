"""Per-example gradients of layers by factors: what a layer received, and the gradient of what it returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm_attr.core.pairing.blocks import Block, Dense, Lookup, Outer


@dataclass(frozen=True)
class Visit:
    """One call of a layer: its input, and the gradient of the summed loss with respect to its output."""

    received: Tensor
    gradient: Tensor


Rule: TypeAlias = Callable[[nn.Module, Mapping[str, str], Sequence[Visit], int], "Block | None"]
"""`(layer, its parameters' own and full names, its calls, examples)`; None: calls do not divide into examples."""


def rule_for(layer: nn.Module) -> Rule | None:
    """The rule of a layer; None if its parameters are no plain weights, or its class has none."""
    if type(layer).__name__ == "Conv1D" and hasattr(layer, "nf"):
        return _flipped_linear
    for kind, rule in _RULES.items():
        if isinstance(layer, kind) and type(layer).forward is kind.forward:
            plain = all(isinstance(value, nn.Parameter) for value in layer._parameters.values() if value is not None)
            return rule if plain and isinstance(layer._parameters.get("weight"), nn.Parameter) else None
    return None


def _linear(layer: nn.Module, names: Mapping[str, str], visits: Sequence[Visit], count: int) -> Block | None:
    parts = [(_by_example(v.received, count, 1), _by_example(v.gradient, count, 1)) for v in visits]
    return _outer(names, parts)


def _flipped_linear(layer: nn.Module, names: Mapping[str, str], visits: Sequence[Visit], count: int) -> Block | None:
    """GPT-2's linear layer, whose weight is `(inputs, outputs)`."""
    block = _linear(layer, names, visits, count)
    return Outer(block.names, block.a, block.g, flipped=True) if isinstance(block, Outer) else block


def _convolution(layer: nn.Module, names: Mapping[str, str], visits: Sequence[Visit], count: int) -> Block | None:
    if not isinstance(layer, nn.modules.conv._ConvNd):
        return None
    space = len(layer.kernel_size)
    if any(len(v.received) != count or v.received.dim() != space + 2 for v in visits):
        return None
    windows = [_windows(layer, v.received) for v in visits]
    grads = [v.gradient.flatten(2).transpose(1, 2) for v in visits]
    if layer.groups == 1:
        return _outer(names, list(zip(windows, grads, strict=True)))
    a = torch.cat(windows, 1).unflatten(2, (layer.groups, -1))
    g = torch.cat(grads, 1).unflatten(2, (layer.groups, -1))
    found = {"weight": torch.einsum("btgo,btgi->bgoi", g, a).flatten(1), "bias": g.sum(1).flatten(1)}
    return Dense([names[own] for own in names], [found[own] for own in names])


def _windows(layer: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
    """The window under each position of the kernel: `(examples, positions, channels * kernel)`."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    axes = list(zip(layer.kernel_size, layer.stride, layer.dilation, x.shape[2:], x.stride()[2:], strict=True))
    places = [(length - dilation * (width - 1) - 1) // step + 1 for width, step, dilation, length, _ in axes]
    within = [dilation * apart for _, _, dilation, _, apart in axes]
    between = [step * apart for _, step, _, _, apart in axes]
    sizes = (*x.shape[:2], *layer.kernel_size, *places)
    windows = x.as_strided(sizes, (*x.stride()[:2], *within, *between))
    return windows.reshape(len(x), -1, prod(places)).transpose(1, 2)


def _embedding(layer: nn.Module, names: Mapping[str, str], visits: Sequence[Visit], count: int) -> Block | None:
    if not isinstance(layer, nn.Embedding) or layer.scale_grad_by_freq:
        return None
    ids, grads = [], []
    for visit in visits:
        number, g = _by_example(visit.received, count, 0), _by_example(visit.gradient, count, 1)
        if number is None or g is None:
            return None
        if layer.padding_idx is not None:
            g = g * (number != layer.padding_idx)[..., None]
        ids.append(number)
        grads.append(g)
    return Lookup(names["weight"], torch.cat(ids, 1), torch.cat(grads, 1), layer.num_embeddings)


def _norm(layer: nn.Module, names: Mapping[str, str], visits: Sequence[Visit], count: int) -> Block | None:
    if not isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        return None
    weights, biases, axes = [], [], len(layer.normalized_shape)
    shape = list(layer.normalized_shape)
    for visit in visits:
        x = visit.received
        scaled = (
            F.layer_norm(x, shape, eps=layer.eps)
            if isinstance(layer, nn.LayerNorm)
            else F.rms_norm(x, shape, eps=layer.eps)
        )
        products, g = _by_example(scaled * visit.gradient, count, axes), _by_example(visit.gradient, count, axes)
        if products is None or g is None:
            return None
        weights.append(products.sum(1).flatten(1))
        biases.append(g.sum(1).flatten(1))
    found = {"weight": torch.stack(weights).sum(0), "bias": torch.stack(biases).sum(0)}
    return Dense([names[own] for own in names], [found[own] for own in names])


_RULES: dict[type[nn.Module], Rule] = {
    nn.Linear: _linear,
    nn.Conv1d: _convolution,
    nn.Conv2d: _convolution,
    nn.Conv3d: _convolution,
    nn.Embedding: _embedding,
    nn.LayerNorm: _norm,
    nn.RMSNorm: _norm,
}


def _outer(names: Mapping[str, str], parts: Sequence[tuple[Tensor | None, Tensor | None]]) -> Block | None:
    a = [each for each, _ in parts if each is not None]
    g = [each for _, each in parts if each is not None]
    if len(a) < len(parts) or len(g) < len(parts):
        return None
    inputs, grads = (a[0], g[0]) if len(parts) == 1 else (torch.cat(a, 1), torch.cat(g, 1))
    if "weight" not in names:
        return Dense([names["bias"]], [grads.sum(1)])
    return Outer([names[own] for own in ("weight", "bias") if own in names], inputs, grads)


def _by_example(x: Tensor, count: int, axes: int) -> Tensor | None:
    """`(*any, *features) -> (examples, positions, *features)`, `axes` axes of features; None if that is impossible."""
    rows = x.shape[: x.dim() - axes].numel()
    return None if rows % count else x.reshape(count, rows // count, *x.shape[x.dim() - axes :])
