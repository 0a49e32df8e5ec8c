"""The rules of operations, and the tables of DeepLift, LRP, guided backpropagation and deconvolution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from llm_attr.core.rules.audit import LINEAR, PRODUCTS, ROUTING, Audit
from llm_attr.core.rules.call import Call, Rule, casting, scaled
from llm_attr.core.rules.engine import Entry, Rules, Table
from llm_attr.core.rules.formulas import (
    attention,
    attention_shares,
    group_norm,
    last_axes_norm,
    log_softmax,
    logsumexp,
    softmax,
    softmax_of_captum,
)
from llm_attr.core.tensors import at_least_fp32
from llm_attr.typing import Tensors

EPS = 1e-10
"""Smaller changes of an input count as zero."""


@dataclass(frozen=True)
class Secant:
    """An elementwise function: `m = (f(x) - f(r)) / (x - r)`, the slope between reference and input.

    Attributes:
        eps: Below this `|x - r|`, relative to `1 + |x|`, the slope is that of the tangent.
    """

    eps: float = EPS

    def __call__(self, call: Call) -> Any:
        """Keeps only the slope: the model may change inputs and outputs in place."""
        if len(call.moved) != 1:
            raise call.refuse(f"a function of {len(call.moved)} tensors that depend on the input has no rule")
        (x,) = call.now
        y, dtype = call.run(x), x.dtype
        then = call.reference[0] if call.reference else torch.zeros_like(x)
        dx = at_least_fp32(x) - at_least_fp32(then)
        slope = (at_least_fp32(y) - at_least_fp32(call.run(then))).div_(dx)
        if self._may_be_near(dx.abs_(), x, bool(call.reference)):
            near = dx <= self.eps * (1 + x.abs() if call.reference else 1)
            slope = torch.where(near, _tangent(call, (at_least_fp32(x) + at_least_fp32(then)) / 2, dtype), slope)
        return call.answer(lambda gradient: ((gradient * slope).to(dtype),), y)

    def _may_be_near(self, distance: Tensor, x: Tensor, relative: bool) -> bool:
        """Whether the smallest distance may be too small: on a CPU faster than comparing each entry."""
        if not distance.numel():
            return False
        if distance.device.type != "cpu":
            return True  # to look would be to wait for the device
        low, high = (end.item() for end in torch.aminmax(x)) if relative else (0, 0)
        return not distance.amin().item() > self.eps * (1 + max(-low, high))


def _tangent(call: Call, at: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.enable_grad():
        point = at.to(dtype).requires_grad_()
        (slope,) = torch.autograd.grad(call.run(point).sum(), point)
    return at_least_fp32(slope)


def product(call: Call) -> Any:
    """`a b`: the gradient of each factor is the mean of the other at input and reference (zero: half the gradient)."""
    if len(call.moved) > 2:
        raise call.refuse(f"a product of {len(call.moved)} factors has no rule; write it as pairs")
    if call.reference is None:
        halves = zip(call.moved, (scaled(tensor, 0.5) for tensor in call.tensors), strict=True)
        return call.finish(call.with_leaves(dict(halves)))
    now, then = call.now, call.reference
    if call.family == "mul" and (which := _normaliser(call.tensors)) is not None:
        return _normalised(call, which)
    middles = [(a + b) / 2 for a, b in zip(now, then, strict=True)]
    as_here = casting(now[0].device)

    def back(gradient: Tensor) -> Tensors:
        with torch.enable_grad(), as_here:
            at = [middle.clone().requires_grad_() for middle in middles]
            return torch.autograd.grad(call.run(*at), at, gradient)

    return call.answer(back)


def _normaliser(tensors: Tensors) -> int | None:
    """Which of two factors is `v ** -1/2`, possibly with its dtype or shape changed."""
    for which, tensor in enumerate(tensors):
        node: Any = tensor.grad_fn
        while node is not None and node.name().rstrip("0123456789") in _SAME:
            node = node.next_functions[0][0]
        if node is not None and node.metadata.get(_NORMALISER):
            return which
    return None


_NORMALISER = "llm_attr_normaliser"

_SAME = {f"{name}Backward" for name in ("ToCopy", "View", "Unsqueeze", "Expand", "ReshapeAlias", "Squeeze", "Clone")}


def _normalised(call: Call, which: int) -> Any:
    """`x n`: weighted means that stay bounded if the reference is zero."""
    n, x, n0, x0 = (
        call.now[which],
        call.now[1 - which],
        (call.reference or ())[which],
        (call.reference or ())[1 - which],
    )
    of_x, of_n = 2 * n * n0 / (n + n0), (x * n + x0 * n0) / (n + n0)

    def back(gradient: Tensor) -> Tensors:
        gradients = ((gradient * of_x).sum_to_size(x.shape), (gradient * of_n).sum_to_size(n.shape))
        return gradients if which == 1 else gradients[::-1]

    return call.answer(back)


def inverse_root(call: Call) -> Any:
    """`n = v ** -1/2`, marked as a normaliser for the product it enters."""
    (v,) = call.now
    n, n0 = at_least_fp32(call.run(v)), at_least_fp32(call.run(*(call.reference or ())))
    slope = -((n * n0) ** 2) / (n + n0)
    result = call.answer(lambda gradient: ((gradient * slope).to(v.dtype),))
    result.grad_fn.metadata[_NORMALISER] = True
    return result


def divide(call: Call) -> Any:
    """`n / d`; without a reference the divisor is a constant."""
    top, bottom = (1, 0) if call.family == "rdiv" else (0, 1)
    if bottom not in call.moved:
        return call.native()
    if call.option("rounding_mode", 2) is not None:
        raise call.refuse("a division that rounds has no rule")
    if call.reference is None:
        return call.finish(call.with_leaves({bottom: call.leaves[bottom].detach()}))
    old = dict(zip(call.moved, call.reference, strict=True))
    (n, n0), (d, d0) = ([_plain(call.leaves[i]), _plain(old.get(i, call.leaves[i]))] for i in (top, bottom))
    bounded = d * d0 > 0
    of_top = torch.where(bounded, 2 / (d + d0), (1 / d + 1 / d0) / 2)
    of_bottom = torch.where(bounded, -(n / d + n0 / d0) / (d + d0), -(n + n0) / (2 * d * d0))

    def back(gradient: Tensor) -> Tensors:
        gradients = {top: gradient * of_top, bottom: gradient * of_bottom}
        return tuple(gradients[i].sum_to_size(call.leaves[i].shape) for i in call.moved)

    return call.answer(back)


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def stop(call: Call) -> Any:
    """The result as a constant: a normaliser or an attention pattern."""
    return call.finish(call.run(*call.now))


def refuse(why: str) -> Rule:
    """A rule that refuses the operation, for this reason."""

    def rule(call: Call) -> Any:
        raise call.refuse(why)

    return rule


def dropout(call: Call) -> Any:
    """Identity in evaluation mode; refused in training mode."""
    training = call.option("training", 2, call.arguments.get("train", True))
    if training and call.option("p", 1, 0.5):
        raise call.refuse("dropout is on; put the model into evaluation mode: model.eval()")
    return call.native()


def batch_norm(call: Call) -> Any:
    """An affine map of each channel with the running statistics; refused in training mode."""
    if call.option("training", 5, False) or call.option("running_mean", 1) is None:
        raise call.refuse("it takes its statistics from the batch; put the model into evaluation mode: model.eval()")
    return call.native()


def max_pool(call: Call) -> Any:
    """A window's change goes to the position of the larger of its maxima in input and reference."""
    axes = int(call.family[-2])
    (x,), (then, at0) = call.now, call.reference or ()
    value, at = _pooled(call, x)
    wide_x, wide_then, y, at, at0 = (part.flatten(-axes) for part in (x, then, value, at, at0))
    y0 = wide_then.gather(-1, at0)
    chosen = torch.where(y >= y0, at, at0)
    dx = wide_x.gather(-1, chosen) - wide_then.gather(-1, chosen)
    share = torch.where(dx == 0, 0.0, (y - y0) / dx)

    def back(gradient: Tensor) -> Tensors:
        result = torch.zeros_like(wide_x)
        return (result.scatter_add(-1, chosen, gradient.reshape(share.shape) * share).view_as(x),)

    return call.answer(back, value)


def _pool_of_baseline(call: Call) -> tuple[Tensor, Tensors]:
    """The maxima with their graph; kept are the input and the positions of its maxima."""
    value, at = _pooled(call, *call.tensors)
    return value, (call.now[0].clone(), at)


def _pooled(call: Call, x: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima, and their positions in the pooled axes."""
    if len(call.positional) > 6 or call.arguments.get("return_indices"):
        raise call.refuse("a pooling that also returns positions has no rule")
    options = {name: value for name, value in call.arguments.items() if name != "return_indices"}
    args = call.positional[1:2] if "adaptive" in call.family else call.positional[1:]
    pool = getattr(F, f"{call.family}_with_indices")
    value, at = pool(x, *args, **options)
    return value, at


def relu_gate(gate: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """A ReLU or ReLU6 whose gradient is `gate(gradient, rises)`, where `rises` marks positions with slope 1.

    `nn.ReLU6` is a hard tanh that starts at 0; any other hard tanh keeps its gradient.
    """

    def rule(call: Call) -> Any:
        (x,) = call.now
        bounds = {"relu6": (0.0, 6.0), "relu": (0.0, torch.inf)}.get(call.family)
        low, high = bounds or (call.option("min_val", 1, -1.0), call.option("max_val", 2, 1.0))
        if low != 0:
            return call.native()
        rises = (x > 0) & (x < high)
        return call.answer(lambda gradient: (gate(gradient, rises),))

    return rule


def _each(names: str, rule: Rule, moved: int = 1) -> dict[str, Entry]:
    return dict.fromkeys(names.split(), Entry(rule, moved))


ELEMENTWISE = """relu relu6 rrelu leaky_relu elu selu celu gelu silu mish tanh sigmoid softplus softsign logsigmoid
    log_sigmoid hardswish hardtanh hardsigmoid hardshrink softshrink tanhshrink threshold prelu clamp pow square exp
    exp2 expm1 log log2 log10 log1p sqrt erf erfc abs sin cos tan sinh cosh atan asinh logit sinc"""
POOLS = "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
MAX_POOLS = """max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d"""
PAIRS = "mul matmul linear einsum outer ger kron tensordot bilinear vdot addr"
HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PreluKernel", "Abs"})
"""Nodes of functions with `f(a x) = a f(x)` for all a > 0; their gradient is the slope from zero."""

BOTH: Table = {
    **_each(PAIRS, product, 2),
    **_each("div rdiv", divide),
    **_each("layer_norm rms_norm", last_axes_norm),
    **_each("group_norm instance_norm", group_norm),
    **_each("batch_norm", batch_norm),
    **_each("dropout alpha_dropout feature_alpha_dropout dropout1d dropout2d dropout3d feature_dropout", dropout),
    **_each("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell", refuse("recurrent kernels have no rule")),
    **_each("addcmul addcdiv prod cumprod lerp", refuse("a product of several factors has no rule; write it as pairs")),
}
"""The rules that DeepLift and LRP share."""


@cache
def deep_lift_rules(eps: float = EPS, softmax_rule: Rule = softmax) -> Rules:
    """The rescale rule of DeepLift, and similar multipliers for operations that are not elementwise.

    Args:
        eps: See `Secant`.
        softmax_rule: `softmax_of_captum` for comparisons.
    """
    secant = Secant(eps)
    table = {
        **BOTH,
        **_each(ELEMENTWISE, secant),
        **_each("reciprocal maximum minimum fmax fmin", secant),
        **_each("rsqrt", inverse_root),
        **_each("softmax", softmax_rule),
        **_each("log_softmax", log_softmax),
        **_each("logsumexp", logsumexp),
        **_each("scaled_dot_product_attention", attention),
        **dict.fromkeys(MAX_POOLS.split(), Entry(max_pool, kept=_pool_of_baseline)),
        **_each("norm linalg_norm vector_norm linalg_vector_norm var std max min amax amin topk sort median cummax "
                "cummin kthvalue", refuse("DeepLift has no rule for it")),
    }  # fmt: skip
    return Rules(table, Audit(LINEAR | PRODUCTS), uses_reference=True, elementwise=Entry(secant))


def lrp_rules() -> Rules:
    """LRP that conserves relevance: divisors and attention patterns are constants, products are split in halves."""
    secant = Secant()
    table = {
        **BOTH,
        **_each(ELEMENTWISE, secant),
        **_each("relu leaky_relu prelu abs", secant, 2),
        **_each("rsqrt reciprocal norm linalg_norm vector_norm linalg_vector_norm var std softmax", stop),
        **_each("scaled_dot_product_attention", attention_shares(0, 0, 1)),
    }
    linear = frozenset(("linear", "matmul", "einsum", "batch_norm", *POOLS.split()))
    native = LINEAR | PRODUCTS | ROUTING | HOMOGENEOUS | {"LogSoftmax", "Logsumexp"}
    return Rules(table, Audit(native), linear=linear, counted=frozenset(MAX_POOLS.split()), elementwise=Entry(secant))


def _relu_rules(gate: Callable[[Tensor, Tensor], Tensor]) -> Rules:
    hidden = frozenset({"Relu", "CheckpointFunction"})
    return Rules(_each("relu relu6 hardtanh", relu_gate(gate)), Audit(None, hidden), sought="ReLU")


DEEP_LIFT = deep_lift_rules()
DEEP_LIFT_OF_CAPTUM = deep_lift_rules(softmax_rule=softmax_of_captum)
"""With Captum's softmax, which is incomplete and mixes the examples of a batch; for comparison only."""
LRP = lrp_rules()
GUIDED = _relu_rules(lambda gradient, rises: gradient.clamp(min=0) * rises)
DECONVOLUTION = _relu_rules(lambda gradient, rises: gradient.clamp(min=0))
