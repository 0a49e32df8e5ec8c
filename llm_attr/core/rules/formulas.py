"""Backward formulas for softmax, norms and attention in closed form; the values are those of the native kernels.

With a reference r (DeepLift), `sum(m (x - r))` over the multipliers m is the change of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.rules.call import Call, Rule, casting, scaled
from llm_attr.core.tensors import at_least_fp32
from llm_attr.typing import Tensors


def logarithmic_mean(y: Tensor, r: Tensor, log_y: Tensor, log_r: Tensor) -> Tensor:
    """`(y - r) / (log y - log r)`, between y and r; zero if one of them is zero."""
    apart = (log_y - log_r).abs()
    share = torch.where(apart == 0, 1.0, -torch.expm1(-apart) / apart)
    return (torch.maximum(y, r) * share).nan_to_num(0.0)


def probabilities_mean(scores: Tensor, then: Tensor, dim: int) -> Tensor:
    """The logarithmic mean of the softmax of scores at input and reference."""
    logs = [torch.log_softmax(at_least_fp32(each), dim) for each in (scores, then)]
    return logarithmic_mean(logs[0].exp(), logs[1].exp(), *logs)


def through_softmax(gradient: Tensor, mean: Tensor, dim: int) -> Tensor:
    """`l (g - sum(g l) / sum(l))`: the gradient of softmax with the mean probabilities l."""
    total = mean.sum(dim, True)
    return mean * (gradient - ((gradient * mean).sum(dim, True) / total).nan_to_num(0.0))


def softmax(call: Call) -> Any:
    """Softmax with a reference."""
    (x,), (then,) = call.now, call.reference or ()
    dim = _dim(call)
    mean = probabilities_mean(x, then, dim)
    return call.answer(lambda gradient: (through_softmax(at_least_fp32(gradient), mean, dim).to(x.dtype),))


def log_softmax(call: Call) -> Any:
    """Log-softmax, `s - logsumexp(s)`, with a reference."""
    (x,), (then,) = call.now, call.reference or ()
    dim = _dim(call)
    mean = probabilities_mean(x, then, dim)
    share = mean / mean.sum(dim, True)
    return call.answer(lambda gradient: ((gradient - share * at_least_fp32(gradient).sum(dim, True)).to(x.dtype),))


def logsumexp(call: Call) -> Any:
    """Log-sum-exp with a reference."""
    (x,), (then,) = call.now, call.reference or ()
    dims, keep = call.option("dim", 1), call.option("keepdim", 2, False)
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    logs = [at_least_fp32(each) - torch.logsumexp(at_least_fp32(each), dims, True) for each in (x, then)]
    mean = logarithmic_mean(logs[0].exp(), logs[1].exp(), *logs)
    share = mean / mean.sum(dims, True)

    def back(gradient: Tensor) -> Tensors:
        for dim in () if keep else sorted(each % x.dim() for each in dims):
            gradient = gradient.unsqueeze(dim)
        return ((gradient * share).to(x.dtype),)

    return call.answer(back)


def softmax_of_captum(call: Call) -> Any:
    """Captum's convention, for comparison only: the rescaled gradient minus its mean over the entire batch."""
    (x,), (then,) = call.now, call.reference or ()
    dy, dx = call.run(x) - call.run(then), x - then
    near = dx.abs() < 1e-10

    def back(gradient: Tensor) -> Tensors:
        rescaled = torch.where(near, gradient, gradient * dy / dx)
        return (rescaled - rescaled.sum() / rescaled.numel(),)

    return call.answer(back)


def _dim(call: Call) -> int:
    dim = call.option("dim", 1)
    tensor = call.tensors[0]
    return (0 if tensor.dim() in (0, 1, 3) else 1) if dim is None else int(dim)


@dataclass(frozen=True)
class Norm:
    """A norm over some axes: `(x - mean) n w + b`, `n = (variance + eps) ** -1/2`.

    Attributes:
        dims: The axes.
        centred: Whether the mean is subtracted.
        eps: A constant added to the variance.
    """

    dims: tuple[int, ...]
    centred: bool
    eps: float

    def parts(self, x: Tensor) -> Tensors:
        """The centred input, and the factor that normalises it."""
        u = at_least_fp32(x)
        u = u - u.mean(self.dims, True) if self.centred else u
        return u, torch.rsqrt(u.square().mean(self.dims, True) + self.eps)

    def back(self, x: Tensor, then: Tensor | None) -> Callable[[Tensor], Tensor]:
        """Maps the gradient of `u n` to that of x; without a reference n is a constant."""
        u, n = self.parts(x)
        if then is None:
            return lambda gradient: self._off_mean(gradient * n)
        u0, n0 = self.parts(then)
        share, middle, sides = 2 * n * n0 / (n + n0), (u * n + u0 * n0) / (n + n0), u + u0
        slope = -((n * n0) ** 2) / (n + n0)

        def against(gradient: Tensor) -> Tensor:
            of_variance = (gradient * middle).sum(self.dims, True) * slope
            return self._off_mean(gradient * share + of_variance * sides / _count(x, self.dims))

        return against

    def _off_mean(self, gradient: Tensor) -> Tensor:
        return gradient - gradient.mean(self.dims, True) if self.centred else gradient


def _count(x: Tensor, dims: tuple[int, ...]) -> int:
    return torch.Size([x.shape[dim] for dim in dims]).numel()


def last_axes_norm(call: Call) -> Any:
    """Layer norm and RMS norm."""
    _one(call)
    centred = call.family == "layer_norm"
    dims = tuple(range(-len(call.option("normalized_shape", 1)), 0))
    weight, eps = call.option("weight", 2), call.option("eps", 4 if centred else 3)
    (x,) = call.now
    eps = eps if eps is not None else 1e-5 if centred else torch.finfo(x.dtype).eps
    back = Norm(dims, centred, eps).back(x, call.reference[0] if call.reference else None)
    factor = 1.0 if weight is None else at_least_fp32(weight)
    return call.answer(lambda gradient: (back(at_least_fp32(gradient) * factor).to(x.dtype),))


def group_norm(call: Call) -> Any:
    """Group norm, and instance norm without running statistics."""
    _one(call)
    (x,) = call.now
    if call.family == "instance_norm":
        groups, weight, eps = x.shape[1], call.option("weight", 3), call.option("eps", 7, 1e-5)
        if not call.option("use_input_stats", 5, True):
            return call.native()
    else:
        groups, weight, eps = call.option("num_groups", 1), call.option("weight", 2), call.option("eps", 4, 1e-5)
    norm = Norm((2,), True, eps)
    then = None if call.reference is None else call.reference[0].reshape(len(x), groups, -1)
    back = norm.back(x.reshape(len(x), groups, -1), then)
    factor = 1.0 if weight is None else at_least_fp32(weight).view(1, -1, *(1,) * (x.dim() - 2))

    def grouped(gradient: Tensor) -> Tensors:
        return (back((at_least_fp32(gradient) * factor).reshape(len(x), groups, -1)).view_as(x).to(x.dtype),)

    return call.answer(grouped)


def _one(call: Call) -> None:
    if len(call.moved) != 1:
        raise call.refuse("no rule covers weights that depend on the input")


_ATTENTION = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def attention_shares(query: float, key: float, value: float) -> Rule:
    """The fused kernel, with the gradients of its factors multiplied by these shares."""

    def rule(call: Call) -> Any:
        options = {**dict(zip(_ATTENTION, call.positional, strict=False)), **call.arguments}
        _check_attention(call, options)
        for name, share in (("query", query), ("key", key), ("value", value)):
            if share != 1 and options[name].requires_grad:
                options[name] = scaled(options[name], share)
        return call.func(**options)

    return rule


def attention(call: Call) -> Any:
    """Scaled dot-product attention with a reference: two products and a softmax."""
    names = dict(zip(_ATTENTION, range(len(_ATTENTION)), strict=True))
    options = {name: call.option(name, place) for name, place in names.items()}
    _check_attention(call, options)
    old = dict(zip(call.moved, call.reference or (), strict=True))
    places = [call.place(name, names[name]) for name in _ATTENTION[:3]]
    q, k, v = (at_least_fp32(call.leaves[place].detach()) for place in places)
    q0, k0, v0 = (at_least_fp32(old.get(place, call.leaves[place].detach())) for place in places)
    shares = q.shape[-3] // k.shape[-3] if options["enable_gqa"] else 1
    k, v, k0, v0 = (each.repeat_interleave(shares, -3) if shares > 1 else each for each in (k, v, k0, v0))
    scale = q.shape[-1] ** -0.5 if options["scale"] is None else options["scale"]
    with casting(q.device, as_now=False):
        scores, then = (_masked((a @ b.transpose(-2, -1)) * scale, options) for a, b in ((q, k), (q0, k0)))
    chosen = (torch.softmax(scores, -1).nan_to_num(0.0) + torch.softmax(then, -1).nan_to_num(0.0)) / 2
    mean = probabilities_mean(scores, then, -1)
    middles = [(a + b) / 2 for a, b in ((q, q0), (k, k0), (v, v0))]

    def back(gradient: Tensor) -> tuple[Tensor, ...]:
        g = at_least_fp32(gradient)
        of_scores = through_softmax(g @ middles[2].transpose(-2, -1), mean, -1) * scale
        gradients = (of_scores @ middles[1], of_scores.transpose(-2, -1) @ middles[0], chosen.transpose(-2, -1) @ g)
        by_place = dict(zip(places, gradients, strict=True))
        return tuple(_as(by_place[i], call.leaves[i], shares) for i in call.moved)

    return call.answer(back)


def _masked(scores: Tensor, options: dict[str, Any]) -> Tensor:
    mask = options["attn_mask"]
    if options["is_causal"]:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is None:
        return scores
    return scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask.detach()


def _as(gradient: Tensor, tensor: Tensor, shares: int) -> Tensor:
    """The gradient in the shape and dtype of a factor, summed over shared heads and broadcast axes."""
    if shares > 1 and gradient.shape[-3] != tensor.shape[-3]:
        gradient = gradient.unflatten(-3, (-1, shares)).sum(-3)
    return gradient.sum_to_size(tensor.shape).to(tensor.dtype)


def _check_attention(call: Call, options: dict[str, Any]) -> None:
    if options.get("dropout_p"):
        raise call.refuse("dropout is on; put the model into evaluation mode: model.eval()")
    mask = options.get("attn_mask")
    if isinstance(mask, Tensor) and mask.requires_grad:
        raise call.refuse("no rule covers a mask that depends on the input")
