"""Rules of layer-wise relevance propagation for the linear operations of a module: `module.rule = GammaRule()`.

A linear operation `y = w x + b` receives the relevance `R_y` of its result and passes on `R_x`. Relevance is
represented as `R = value * multiplier`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.rules.call import Call, ruled
from llm_attr.core.tensors import at_least_fp32
from llm_attr.typing import Tensors


class PropagationRule(ABC):
    """How relevance propagates through linear operations; set as `module.rule`, or passed to `LRP(model, rules=)`.

    A rule applies to every linear layer, convolution, average pooling, batch normalisation and product with a constant
    called inside the module; the innermost module with a rule wins. Operations that are not linear have fixed rules.
    """

    @abstractmethod
    def __call__(self, call: Call) -> Any:
        """The result of the operation, with the rule as its backward function."""


@dataclass(frozen=True)
class EpsilonRule(PropagationRule):
    """`R_x = sum over y of x w / (y + epsilon sign(y)) R_y`.

    Attributes:
        epsilon: Absorbs relevance if the result is small.

    Source: S. Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation, PLOS ONE 2015, equation 58.
    """

    epsilon: float = 1e-9

    def __call__(self, call: Call) -> Any:
        """Applies the rule."""
        result = call.native()
        value = at_least_fp32(result.detach())
        share = value / _away_from_zero(value, self.epsilon)
        return ruled(result.detach(), lambda gradient: ((gradient * share).to(result.dtype),), result)


@dataclass(frozen=True)
class GammaRule(PropagationRule):
    """`R_x = sum over y of x w' / z R_y`, `w' = w + gamma max(w, 0)`, `z = w' x + b`.

    Attributes:
        gamma: How much positive weights are favoured.
        set_bias_to_zero: Whether to leave out the bias in z.

    Source: G. Montavon et al., Layer-Wise Relevance Propagation: An Overview, 2019, section 10.2.1.
    """

    gamma: float = 0.25
    set_bias_to_zero: bool = False

    def __call__(self, call: Call) -> Any:
        """Applies the rule."""
        return _with_weights(call, lambda w: w + self.gamma * w.clamp(min=0), self.set_bias_to_zero)


@dataclass(frozen=True)
class Alpha1_Beta0_Rule(PropagationRule):  # noqa: N801
    """`R_x = sum over y of x max(w, 0) / z R_y`, `z = max(w, 0) x + b`: for non-negative inputs.

    Attributes:
        set_bias_to_zero: Whether to leave out the bias in z.

    Source: G. Montavon et al., Explaining NonLinear Classification Decisions with Deep Taylor Decomposition, Pattern
    Recognition 2017, section 5.1 (the z+ rule); Bach et al. 2015, equation 60 with alpha 1 and beta 0.
    """

    set_bias_to_zero: bool = False

    def __call__(self, call: Call) -> Any:
        """Applies the rule."""
        return _with_weights(call, lambda w: w.clamp(min=0), self.set_bias_to_zero)


@dataclass(frozen=True)
class ZPlusRule(PropagationRule):
    """`R_x = sum over y of max(x w, 0) / z R_y`, `z = sum over x of max(x w, 0)`: for inputs of both signs.

    Source: as for `Alpha1_Beta0_Rule`, applied to each contribution.
    """

    def __call__(self, call: Call) -> Any:
        """Applies the rule."""
        if call.family == "batch_norm":
            return call.native()
        (x,), (value,) = call.now, (call.run(*call.now),)
        with torch.enable_grad():
            high, low = (part.detach().requires_grad_() for part in (x.clamp(min=0), x.clamp(max=0)))
            z = _run(call, high, lambda w: w.clamp(min=0), True) + _run(call, low, lambda w: w.clamp(max=0), True)
        share = _share(value, z)

        def back(gradient: Tensor) -> Tensors:
            of_high, of_low = torch.autograd.grad(z, (high, low), _times(gradient, share), retain_graph=True)
            return (torch.where(x > 0, of_high, of_low),)

        return call.answer(back, value)


@dataclass(frozen=True)
class FlatRule(PropagationRule):
    """`R_x = sum over y of R_y / n` with n inputs of y: all inputs count equally; for the first layer.

    Source: S. Lapuschkin et al., Unmasking Clever Hans Predictors and Assessing What Machines Really Learn, Nature
    Communications 2019, supplementary note 2.
    """

    def __call__(self, call: Call) -> Any:
        """Applies the rule."""
        return _without_input(call, torch.ones_like)


@dataclass(frozen=True)
class WSquareRule(PropagationRule):
    """`R_x = sum over y of w² / z R_y`, `z = sum over x of w²`: for a first layer with unbounded inputs.

    Source: Montavon et al. 2017 (see `Alpha1_Beta0_Rule`), section 5.1.
    """

    def __call__(self, call: Call) -> Any:
        """Applies the rule."""
        return _without_input(call, torch.square)


@dataclass(frozen=True)
class IdentityRule(PropagationRule):
    """`R_x = R_y`, for operations whose result has the shape of their input.

    Attributes:
        epsilon: Ignored; accepted for compatibility with Captum.

    Source: S. Bach et al. 2015 (see `EpsilonRule`), section "Propagating relevance through non-linear layers".
    """

    epsilon: float = 1e-9

    def __call__(self, call: Call) -> Any:
        """Applies the rule.

        Raises:
            NoRule: the shapes differ.
        """
        (x,), (value,) = call.now, (call.run(*call.now),)
        if x.shape != value.shape:
            raise call.refuse(
                f"IdentityRule needs a result of the same shape as the input; got {tuple(value.shape)} "
                f"for {tuple(x.shape)}"
            )
        share = at_least_fp32(value) / nonzero(x)
        return call.answer(lambda gradient: (_times(gradient, share),), value)


def nonzero(x: Tensor) -> Tensor:
    """`x` in at least fp32 with zeros replaced by a tiny number, so that their relevance has a multiplier."""
    full = at_least_fp32(x)
    return torch.where(full == 0, torch.finfo(full.dtype).tiny ** 0.5, full)


def _with_weights(call: Call, change: Callable[[Tensor], Tensor], without_bias: bool) -> Any:
    """`x w' / (w' x + b)`, with modified weights w'."""
    (x,), (value,) = call.now, (call.run(*call.now),)
    with torch.enable_grad():
        at = x.clone().requires_grad_()
        z = _run(call, at, change, without_bias)
    share = _share(value, z)
    return call.answer(lambda gradient: torch.autograd.grad(z, at, _times(gradient, share), retain_graph=True), value)


def _without_input(call: Call, change: Callable[[Tensor], Tensor]) -> Any:
    """Shares that depend only on the weights; batch normalisation keeps its native gradient."""
    if call.family == "batch_norm":
        return call.native()
    (x,), (value,) = call.now, (call.run(*call.now),)
    with torch.enable_grad():
        at = torch.ones_like(x).requires_grad_()
        z = _run(call, at, change, True)
    share, by = _share(value, z), nonzero(x)

    def back(gradient: Tensor) -> Tensors:
        (relevance,) = torch.autograd.grad(z, at, _times(gradient, share), retain_graph=True)
        return ((at_least_fp32(relevance) / by).to(x.dtype),)

    return call.answer(back, value)


def _run(call: Call, x: Tensor, change: Callable[[Tensor], Tensor], without_bias: bool) -> Tensor:
    """The operation on x with modified weights."""
    weights, biases = _roles(call)
    other: dict[int, Any] = {call.moved[0]: x, **{i: change(call.leaves[i]) for i in weights}}
    if without_bias:
        other |= {i: torch.zeros_like(call.leaves[i]) for i in biases}
    result: Tensor = call.with_leaves(other)
    return result


def _roles(call: Call) -> tuple[list[int], list[int]]:
    """The indices of the weights, and those of the biases."""
    constants = [
        i
        for i, leaf in enumerate(call.leaves)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and i not in call.moved
    ]
    name = call.func.__name__.split(".")[0]
    if call.family == "batch_norm":
        first = 1 if call.func is torch.batch_norm else 3
        given = [call.option("weight", first), call.option("bias", first + 1)]
    elif name.startswith("add") or name == "baddbmm":
        given = [None, call.option("input", 0)]
    elif call.family == "linear":
        given = [None, call.option("bias", 2)]
    else:
        given = [None, None]
    biases = [i for i in constants if call.leaves[i] is given[1]]
    if call.family == "batch_norm":
        return [i for i in constants if call.leaves[i] is given[0]], biases
    return [i for i in constants if i not in biases], biases


def _share(value: Tensor, z: Tensor) -> Tensor:
    """`value / z`; zero where z is zero, which absorbs the relevance."""
    full = at_least_fp32(z.detach())
    return torch.where(full == 0, 0.0, at_least_fp32(value) / full)


def _times(gradient: Tensor, share: Tensor) -> Tensor:
    return (gradient * share).to(gradient.dtype)


def _away_from_zero(value: Tensor, epsilon: float) -> Tensor:
    """The value moved away from zero by epsilon."""
    return value + epsilon * torch.where(value >= 0, 1.0, -1.0)
