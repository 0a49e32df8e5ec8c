"""How much of the output change from baseline to input flows through the neurons of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.base import (
    GradientAttribution,
    InternalPathAttribution,
    LayerAttribution,
    NeuronAttribution,
    renamed,
)
from llm_attr.core.path.integral import Integral
from llm_attr.core.path.walk import Attributed, Change, Walk, by_point, difference, per_example, quadrature
from llm_attr.core.registry import registered
from llm_attr.core.tensors import at_least_fp32
from llm_attr.typing import Baselines, Form, NeuronSelector, Target, TensorOrTensors


@registered
class LayerConductance(LayerAttribution, GradientAttribution):
    """Integrates the flow through each neuron of a layer while the inputs move from baseline to input.

    `attribution_j = integral over a in [0, 1] of df/du_j du_j/da`, with the activations u of the layer at the inputs
    `b + a (x - b)`; computed as `sum over k of df/du_j(k) * (u_j(k + 1) - u_j(k))` over `n_steps + 1` points. If
    the output depends on the inputs only through the layer, the attributions sum to the change of the output.

    Source: K. Dhamdhere, M. Sundararajan and Q. Yan, How Important Is a Neuron?, ICLR 2019, section 3; as a sum over
    steps A. Shrikumar, J. Su and A. Kundaje, Computationally Efficient Measures of Internal Neuron Importance, 2018.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerConductance
        >>> layer = torch.nn.Identity()
        >>> conductance = LayerConductance(lambda x: (layer(x) * torch.tensor([1.0, -2.0])).sum(1), layer)
        >>> conductance.attribute(torch.tensor([[4.0, 3.0]]), method="riemann_trapezoid")
        tensor([[ 4., -6.]])
    """

    multiplies_by_inputs = True

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The conductance of each neuron of the layer.

        Shared arguments: see `GradientAttribution`.

        Args:
            n_steps: The number of steps between `n_steps + 1` points.
            method: The quadrature whose points are used, see `GradientAttribution`.

        Returns:
            See `LayerAttribution`, in units of the output; followed by the delta `(batch,)` if requested.
        """
        integral = Integral(n_steps, method)
        args = (inputs, baselines, target, targets, additional_forward_args, attribute_to_layer_input, grad_kwargs)
        problem = self._problem(*args)
        walk = self._walk(problem, n_steps + 1, internal_batch_size)
        flow = _flow(walk, quadrature(integral.method, n_steps + 1).alphas)
        if not return_convergence_delta:
            return self._in_form(flow)
        return self._in_form(flow), Change.of(problem).delta(per_example(flow.tensors, problem.batch, flow.axis))


@registered
class InternalInfluence(LayerAttribution, GradientAttribution):
    """Averages a layer's gradient while the inputs move from baseline to input.

    `attribution_j = integral over a in [0, 1] of df/du_j at the inputs b + a (x - b)`, with the activations u of the
    layer

    Source: K. Leino et al., Influence-Directed Explanations for Deep Convolutional Networks, ITC 2018, definition 1,
    for inputs distributed uniformly between baseline and input.

    Example:
        >>> import torch
        >>> from llm_attr.attr import InternalInfluence
        >>> layer = torch.nn.Identity()
        >>> influence = InternalInfluence(lambda x: (layer(x) ** 2).sum(1), layer)
        >>> influence.attribute(torch.tensor([[4.0, 3.0]])).round(decimals=4)
        tensor([[4., 3.]])
    """

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The mean gradient of each neuron of the layer.

        Shared arguments: see `GradientAttribution`.

        Returns:
            See `LayerAttribution`, in units of output per activation.
        """
        integral = Integral(n_steps, method)
        args = (inputs, baselines, target, targets, additional_forward_args, attribute_to_layer_input, grad_kwargs)
        mean, _ = integral.mean(self._walk(self._problem(*args), n_steps, internal_batch_size))
        return self._in_form(mean)


@registered
class NeuronConductance(NeuronAttribution, InternalPathAttribution):
    """Splits the conductance of a neuron among the inputs that drive it.

    `attribution_i = (x_i - b_i) * integral over a in [0, 1] of df/dn dn/dx_i at b + a (x - b)`, with the neuron n; for
    a selector that sums several neurons, the sum of their conductances

    Args:
        multiply_by_inputs: False leaves out the factor `x_i - b_i`.

    Source: K. Dhamdhere, M. Sundararajan and Q. Yan, How Important Is a Neuron?, ICLR 2019, section 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronConductance
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> conductance = NeuronConductance(lambda x: layer(x) @ torch.tensor([[5.0], [7.0]]), layer)
        >>> conductance.attribute(torch.ones(1, 2), 0, target=0, method="gausslegendre").round(decimals=4)
        tensor([[ 5., 10.]])
    """

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: Form,
        neuron_selector: NeuronSelector,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Form:
        """The share of each entry of the inputs in the neuron's conductance.

        Shared arguments: see `NeuronAttribution` and `GradientAttribution`.

        Args:
            neuron_selector: See `NeuronAttribution`; a function may only select neurons and sum them.
            grad_kwargs: Further arguments of `torch.autograd.grad` for the gradient of the output with respect to the
                neuron.

        Returns:
            Same form as the inputs, in units of the output, or of output per input without the factor.

        Raises:
            InvalidTarget: the selector does not fit the layer, or does more than select and sum neurons.
        """
        whole = self._of_outputs(inputs, baselines, target, targets, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        problem = replace(whole, grad_kwargs=grad_kwargs).through(site, neuron_selector)
        mean, _ = Integral(n_steps, method).mean(self._walk(problem, n_steps, internal_batch_size))
        return self._in_form(mean.times(difference(problem)) if self.multiplies_by_inputs else mean)


def _flow(walk: Walk, alphas: Tensor) -> Attributed:
    """`sum over k of g_k (u_(k+1) - u_k)`, with the gradients g and activations u of a layer at successive points."""
    totals: list[Tensor] = []
    last: list[tuple[Tensor, Tensor]] = []
    for copies, part in walk.along_line(alphas):
        axis = part.axis
        at = [at_least_fp32(u.unsqueeze(0) if axis else u) for u in part.at]
        gradients = [at_least_fp32(g) for g in part.gradients]
        values, gradients = ([by_point(x, copies, axis).movedim(axis, 0) for x in each] for each in (at, gradients))
        pairs = list(zip(values, gradients, strict=True))
        if last:
            joined = zip(last, pairs, strict=True)
            pairs = [(torch.cat((u0, u)), torch.cat((g0, g))) for (u0, g0), (u, g) in joined]
        sums = [(g[:-1] * u.diff(dim=0)).sum(0) for u, g in pairs]
        totals = [total.add_(new) for total, new in zip(totals, sums, strict=True)] if totals else sums
        last = [(u[-1:].clone(), g[-1:].clone()) for u, g in pairs]
    return Attributed(tuple(totals), part.slots, tuple(gradient.dtype for gradient in part.gradients), axis)
