"""DeepLIFT: each entry's share of the difference that the input makes to a baseline."""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.attr.base import GradientAttribution
from llm_attr.core.path.noise import as_distributions
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.rules.deep_lift import Combine, Contrast, multipliers_only, times_change
from llm_attr.core.rules.tables import EPS, deep_lift_rules
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import BaselineDistribution, Baselines, ForwardFunction, Target, TensorOrTensors, Tensors

CustomAttribution: TypeAlias = Callable[..., TensorOrTensors]
"""From `(multipliers)`, `(multipliers, inputs)` or `(multipliers, inputs, baselines)`, tuples, to attributions."""


@registered
class DeepLift(GradientAttribution):
    """Divides the change of the output from baseline to input among the entries that changed.

    `attribution_i = (x_i - b_i) m_i`, with the multiplier m of the chain rule in which a function of one entry has the
    slope `(f(x) - f(b)) / (x - b)` (the rescale rule), a product the middle of its other factor, and softmax, norms,
    attention and max pooling have bounded slopes of the same kind. The attributions sum to the change of the output.
    Modules may be used several times, and operations called as functions; operations that no rule covers are refused
    by name. A custom autograd Function that is linear says so: `TheFunction.linear_in_input = True`.

    Args:
        model: See `Attribution`.
        multiply_by_inputs: False gives the multipliers.
        eps: Where a change is smaller, relative to `1 + |x|`, the slope is that of the tangent.

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
        super().__init__(model)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 <= eps < 1:
            raise InvalidValue(f"eps must be a number from 0 to 1, the least change; got {eps!r}")
        self.model, self.eps, self._multiply_by_inputs = model, eps, multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the constructor was told."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Any:
        """The share of each entry of the inputs; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: See `GradientAttribution`; of the attributions `(x - b) m`.
            custom_attribution_func: Makes attributions of multipliers, of multipliers and inputs, or of these and
                baselines, whichever it takes: tuples with a tensor for each input.

        Returns:
            As the inputs, in units of the output; then the delta `(batch,)`, if asked for.

        Raises:
            NoRule: the model has an operation without a rule, or runs other operations for the baseline.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        return contrasted(self, problem, None, return_convergence_delta, custom_attribution_func)


@registered
class DeepLiftShap(GradientAttribution):
    """Averages `DeepLift` over a distribution of baselines, which approximates Shapley values.

    `attribution_i = E[(x_i - b_i) m_i]` over all the baselines b

    Args:
        model: See `Attribution`.
        multiply_by_inputs: False gives the multipliers.

    Source: S. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, section 4.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import DeepLiftShap
        >>> x, baselines = torch.tensor([[4.0, 2.0]]), torch.tensor([[0.0, 6.0], [0.0, 0.0]])
        >>> DeepLiftShap(lambda x: (x[:, 0] - x[:, 1]).relu()).attribute(x, baselines)
        tensor([[ 2.5000, -0.5000]])
    """

    def __init__(self, model: ForwardFunction, multiply_by_inputs: bool = True) -> None:
        super().__init__(model)
        self.model, self._multiply_by_inputs = model, multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the constructor was told."""
        return self._multiply_by_inputs

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: BaselineDistribution,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Any:
        """The mean share of each entry of the inputs; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            baselines: `(states, *features)`, a tuple of these, one for each input and all with as many states, or a
                function that gives them; if it takes an argument, it gets the inputs.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: Also gives the delta of each example against each baseline.
            custom_attribution_func: See `DeepLift.attribute`; called with a row for each pair.

        Returns:
            As the inputs, in units of the output; then the delta `(batch * states,)`, the baselines of an example in a
            row, if asked for.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        states = distribution(inputs, baselines)
        return contrasted(self, problem, states, return_convergence_delta, custom_attribution_func)


def contrasted(
    method: Any,
    problem: Problem,
    states: Tensors | None,
    return_delta: bool,
    custom: CustomAttribution | None,
) -> Any:
    """What DeepLift says of a problem, in the caller's form, with the delta if asked for.

    Args:
        method: One of the DeepLift classes.
        problem: With its baselines.
        states: `(states, batch or 1, *features)` for each input, to be averaged over; None: the problem's baselines.
        return_delta: Whether the delta is given.
        custom: See `DeepLift.attribute`.
    """
    baselines = tuple(baseline.unsqueeze(0) for baseline in problem.baselines) if states is None else states
    combine = times_change if method.multiplies_by_inputs else multipliers_only
    rules = deep_lift_rules(getattr(method, "eps", EPS)).of(method.model)
    walk = method._walk(problem, len(baselines[0]))
    contrast = Contrast(walk, rules, baselines, combine if custom is None else _combine(custom))
    if not return_delta:
        return method._in_form(contrast.mean())
    found, delta = contrast.mean_and_delta()
    return method._in_form(found), delta


def distribution(inputs: TensorOrTensors, baselines: BaselineDistribution) -> Tensors:
    """`(states, 1, *features)` for each input.

    Raises:
        InvalidShape: the inputs have different numbers of states.
    """
    states = as_distributions(baselines, inputs)
    if len({len(each) for each in states}) > 1:
        raise InvalidShape(f"baselines must have as many states for every input; got {[len(each) for each in states]}")
    return tuple(each.unsqueeze(1) for each in states)


def _combine(custom: CustomAttribution) -> Combine:
    """A user's function as one of three tuples."""
    if not callable(custom):
        raise InvalidType(f"custom_attribution_func must be a function; got {type(custom).__name__}")
    count = _count(custom)

    def combine(multipliers: Tensors, inputs: Tensors, baselines: Tensors) -> Tensors:
        with torch.no_grad():
            given = custom(*(multipliers, inputs, baselines)[:count])
        found = given if isinstance(given, tuple) else (given,)
        shapes = [tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__ for value in found]
        if shapes != (needed := [tuple(value.shape) for value in multipliers]):
            raise InvalidShape(f"custom_attribution_func must give tensors of the shapes {needed}; got {shapes}")
        return found

    return combine


def _count(custom: CustomAttribution) -> int:
    """How many of the three it takes."""
    for count in (3, 2, 1):
        try:
            signature(custom).bind(*(None,) * count)
        except (TypeError, ValueError):
            continue
        return count
    raise InvalidType("custom_attribution_func must take (multipliers), (multipliers, inputs) or these and (baselines)")
