"""DeepLIFT: the share of each entry in the change of the output from baseline to input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.attr.base import GradientAttribution
from llm_attr.attr.forms import keeps_form
from llm_attr.core.path.noise import as_distributions
from llm_attr.core.path.walk import Attributed
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.rules.deep_lift import Combine, ReferencePairs, multipliers_only, times_change
from llm_attr.core.rules.tables import EPS, deep_lift_rules
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import BaselineDistribution, Baselines, ForwardFunction, Target, TensorOrTensors, Tensors

CustomAttribution: TypeAlias = Callable[..., TensorOrTensors]
"""Maps `(multipliers)`, `(multipliers, inputs)` or `(multipliers, inputs, baselines)` to attributions, all tuples."""


class RescaleAttribution(GradientAttribution):
    """A method that propagates differences from a reference by the rescale rule.

    Args:
        model: As `forward_func` of `Attribution`.
        multiply_by_inputs: False returns the multipliers.
    """

    starts_at_baseline = True
    by_rules = True

    eps = EPS
    """The change below which the slope is that of the tangent."""

    def __init__(self, model: ForwardFunction, multiply_by_inputs: bool = True) -> None:
        super().__init__(model)
        self.model, self.multiplies_by_inputs = model, multiply_by_inputs

    def attribute_problem(
        self,
        problem: Problem,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Attributed:
        """See `GradientAttribution`; the arguments are those of `DeepLift.attribute`."""
        return self._shares(problem, None, return_convergence_delta, custom_attribution_func)

    def _shares(
        self, problem: Problem, states: Tensors | None, return_delta: bool, custom: CustomAttribution | None
    ) -> Attributed:
        """The attributions, followed by the delta if requested.

        Args:
            problem: What is explained, with its baselines.
            states: `(states, batch or 1, *features)` for each input, to average over; None: the problem's baselines.
            return_delta: Whether to return the delta.
            custom: See `DeepLift.attribute`.
        """
        baselines = tuple(baseline.unsqueeze(0) for baseline in problem.baselines) if states is None else states
        combine = times_change if self.multiplies_by_inputs else multipliers_only
        rules = deep_lift_rules(self.eps).of(self.model)
        walk = self._walk(problem, len(baselines[0]))
        pairs = ReferencePairs(walk, rules, baselines, combine if custom is None else _combine(custom))
        if not return_delta:
            return pairs.mean()
        mean, delta = pairs.mean_and_delta()
        return replace(mean, more=(delta,))


@registered
class DeepLift(RescaleAttribution):
    """Divides the change of the output from baseline to input among the entries that changed.

    `attribution_i = (x_i - b_i) m_i`, with the multiplier m of a chain rule in which an elementwise function has the
    slope `(f(x) - f(b)) / (x - b)` (the rescale rule), a product the mean of its other factor at x and b, and softmax,
    norms, attention and max pooling have bounded slopes of the same kind. The attributions sum to the change of the
    output. Modules may be called several times, and operations may be called as functions. An operation without a rule
    is refused by name; a custom autograd Function that is linear must say so: `TheFunction.linear_in_input = True`.

    Args:
        multiply_by_inputs: False returns the multipliers.
        eps: Below a change of this size, relative to `1 + |x|`, the slope is that of the tangent.

    Source: A. Shrikumar, P. Greenside and A. Kundaje, Learning Important Features Through Propagating Activation
    Differences, ICML 2017, sections 3.2 and 3.5.1; M. Ancona et al., Towards Better Understanding of Gradient-based
    Attribution Methods for Deep Neural Networks, ICLR 2018, proposition 2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import DeepLift
        >>> x, baseline = torch.tensor([[4.0, 2.0]]), torch.tensor([[0.0, 6.0]])
        >>> DeepLift(lambda x: (x[:, 0] - x[:, 1]).relu()).attribute(x, baseline)
        tensor([[1., 1.]])
    """

    def __init__(self, model: ForwardFunction, multiply_by_inputs: bool = True, eps: float = EPS) -> None:
        super().__init__(model, multiply_by_inputs)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < 1:
            raise InvalidValue(f"eps must be a number in [0, 1), the smallest change with a slope; got {eps!r}")
        self.eps = eps

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The share of each entry of the inputs.

        Shared arguments: see `GradientAttribution`.

        Args:
            return_convergence_delta: Whether to also return the delta of each example: that of the attributions
                `(x - b) m`, see `compute_convergence_delta`.
            custom_attribution_func: A function that computes attributions from the multipliers, from multipliers and
                inputs, or from multipliers, inputs and baselines; all are tuples with one tensor per input.

        Returns:
            Same form as the inputs, in units of the output; followed by the delta `(batch,)` if requested.

        Raises:
            NoRule: the model has an operation without a rule, or runs different operations for the baseline.
        """
        problem = self._of_outputs(inputs, baselines, target, targets, additional_forward_args)
        return self._in_form(self.attribute_problem(problem, return_convergence_delta, custom_attribution_func))


@registered
class DeepLiftShap(RescaleAttribution):
    """Averages `DeepLift` over a distribution of baselines, which approximates Shapley values.

    `attribution_i = E[(x_i - b_i) m_i]` over all the baselines b

    Source: S. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, section 4.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import DeepLiftShap
        >>> x, baselines = torch.tensor([[4.0, 2.0]]), torch.tensor([[0.0, 6.0], [0.0, 0.0]])
        >>> DeepLiftShap(lambda x: (x[:, 0] - x[:, 1]).relu()).attribute(x, baselines)
        tensor([[ 2.5000, -0.5000]])
    """

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: BaselineDistribution,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The mean share of each entry of the inputs.

        Shared arguments: see `GradientAttribution` and `DeepLift.attribute`.

        Args:
            baselines: The distribution of baselines: a tensor `(states, *features)`, a tuple with one per input, all
                with the same number of states, or a function that returns either; a function that takes an argument
                gets the inputs.
            return_convergence_delta: Whether to also return the delta of each example for each baseline.
            custom_attribution_func: See `DeepLift.attribute`; called with one row for each pair of example and
                baseline.

        Returns:
            Same form as the inputs, in units of the output; followed by the delta `(batch * states,)` if requested,
            with the baselines of an example next to each other.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        problem = self._of_outputs(inputs, None, target, targets, additional_forward_args)
        states = distribution(inputs, baselines)
        return self._in_form(self._shares(problem, states, return_convergence_delta, custom_attribution_func))


def distribution(inputs: TensorOrTensors, baselines: BaselineDistribution) -> Tensors:
    """`(states, 1, *features)` for each input.

    Raises:
        InvalidShape: the number of states differs between inputs.
    """
    states = as_distributions(baselines, inputs)
    counts = [len(each) for each in states]
    if len(set(counts)) > 1:
        raise InvalidShape(f"baselines must have as many states for every input; got {counts}")
    return tuple(each.unsqueeze(1) for each in states)


def _combine(custom: CustomAttribution) -> Combine:
    """A user's function of one, two or three tuples as a function of three."""
    if not callable(custom):
        raise InvalidType(f"custom_attribution_func must be a function; got {type(custom).__name__}")
    count = _count(custom)

    def combine(multipliers: Tensors, inputs: Tensors, baselines: Tensors) -> Tensors:
        with torch.no_grad():
            given = custom(*(multipliers, inputs, baselines)[:count])
        attributions = given if isinstance(given, tuple) else (given,)
        shapes = [tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in attributions]
        if shapes != (needed := [tuple(value.shape) for value in multipliers]):
            raise InvalidShape(f"custom_attribution_func must return tensors of shapes {needed}; got {shapes}")
        return attributions

    return combine


def _count(custom: CustomAttribution) -> int:
    """How many of multipliers, inputs and baselines the function takes."""
    for count in (3, 2, 1):
        try:
            signature(custom).bind(*(None,) * count)
        except (TypeError, ValueError):
            continue
        return count
    raise InvalidType(
        "custom_attribution_func must take (multipliers), (multipliers, inputs) or (multipliers, inputs, baselines)"
    )
