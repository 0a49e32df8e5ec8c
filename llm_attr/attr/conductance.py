"""How much of the output passes through the neurons of a layer on the way from baseline to input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.attr.base import GradientAttribution, LayerAttribution, NeuronAttribution, renamed
from llm_attr.core.path.integral import Integral
from llm_attr.core.path.walk import Attributed, Change, Walk, by_point, difference, per_example, quadrature
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.typing import Baselines, ForwardFunction, NeuronSelector, Target, TensorOrTensors


@registered
class LayerConductance(LayerAttribution, GradientAttribution):
    """Adds up what each neuron of a layer passes on while the inputs move from baseline to input.

    `attribution_j = integral over a in [0, 1] of df/du_j du_j/da`, with the activations u of the layer at the inputs
    `b + a (x - b)`; computed as `sum over k of df/du_j(k) * (u_j(k + 1) - u_j(k))` over `n_steps + 1` points. The sum
    over the neurons of a layer through which everything passes is the change of the output.

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.

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

    def __init__(
        self, forward_func: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func, layer, device_ids)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Conductance is a share of the change of the output."""
        return True

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

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
    ) -> Any:
        """The conductance of each neuron of the layer; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: The steps between `n_steps + 1` points.
            method: Where the points lie: those of a quadrature, see `GradientAttribution`.
            internal_batch_size: See `GradientAttribution`.
            return_convergence_delta: See `GradientAttribution`.
            attribute_to_layer_input: See `GradientAttribution`.
            grad_kwargs: See `GradientAttribution`.

        Returns:
            See `LayerAttribution`, in units of the output; then the delta `(batch,)`, if asked for.
        """
        integral = Integral(n_steps, method)
        whole = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        problem = replace(whole.observed_at(self._sites(attribute_to_layer_input)), grad_kwargs=grad_kwargs)
        walk = self._walk(problem, n_steps + 1, internal_batch_size)
        found = _passed_on(walk, quadrature(integral.method, n_steps + 1).alphas)
        if not return_convergence_delta:
            return self._in_form(found)
        return self._in_form(found), Change.of(problem).delta(per_example(found.tensors, problem.batch))


@registered
class InternalInfluence(LayerAttribution, GradientAttribution):
    """Takes the mean of a layer's gradient while the inputs move from baseline to input.

    `attribution_j = integral over a in [0, 1] of df/du_j at the inputs b + a (x - b)`, with the activations u of the
    layer

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.

    Source: K. Leino et al., Influence-Directed Explanations for Deep Convolutional Networks, ITC 2018, definition 1,
    for inputs spread evenly from baseline to input.

    Example:
        >>> import torch
        >>> from llm_attr.attr import InternalInfluence
        >>> layer = torch.nn.Identity()
        >>> influence = InternalInfluence(lambda x: (layer(x) ** 2).sum(1), layer)
        >>> influence.attribute(torch.tensor([[4.0, 3.0]])).round(decimals=4)
        tensor([[4., 3.]])
    """

    def __init__(
        self, forward_func: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func, layer, device_ids)

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
    ) -> Any:
        """The mean gradient of each neuron of the layer; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: See `GradientAttribution`.
            method: See `GradientAttribution`.
            internal_batch_size: See `GradientAttribution`.
            attribute_to_layer_input: See `GradientAttribution`.
            grad_kwargs: See `GradientAttribution`.

        Returns:
            See `LayerAttribution`, in units of output per activation.
        """
        integral = Integral(n_steps, method)
        whole = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        problem = replace(whole.observed_at(self._sites(attribute_to_layer_input)), grad_kwargs=grad_kwargs)
        mean, _ = integral.mean(self._walk(problem, n_steps, internal_batch_size))
        return self._in_form(mean)


@registered
class NeuronConductance(NeuronAttribution, GradientAttribution):
    """Splits the conductance of a neuron among the inputs that drive it.

    `attribution_i = (x_i - b_i) * integral over a in [0, 1] of df/dn dn/dx_i at b + a (x - b)`, with the neuron n; for
    a selector that adds several neurons up, the sum of their conductances

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.
        multiply_by_inputs: False leaves the factor `x_i - b_i` out.

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

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: nn.Module | Site,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the constructor was told."""
        return self._multiply_by_inputs

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "riemann_trapezoid",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The part of the neuron's conductance that comes from each entry of the inputs; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`; a function may pick neurons and add them up, nothing else.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: See `GradientAttribution`.
            method: See `GradientAttribution`.
            internal_batch_size: See `GradientAttribution`.
            attribute_to_neuron_input: See `GradientAttribution`.
            grad_kwargs: Further arguments of `torch.autograd.grad` for the output's gradient by the neuron.

        Returns:
            As the inputs, in units of the output, or of output per input without the factor.

        Raises:
            InvalidTarget: the selector does not fit the layer, or computes something with the neurons.
        """
        whole = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        problem = replace(whole, grad_kwargs=grad_kwargs).through(site, neuron_selector)
        mean, _ = Integral(n_steps, method).mean(self._walk(problem, n_steps, internal_batch_size))
        return self._in_form(mean.times(difference(problem)) if self.multiplies_by_inputs else mean)


def _passed_on(walk: Walk, alphas: Tensor) -> Attributed:
    """`sum over k of g_k (u_(k+1) - u_k)` over successive points, with the gradients g and activations u of a layer."""
    totals: list[Tensor] = []
    last: list[tuple[Tensor, Tensor]] = []
    for copies, part in walk.along_line(alphas):
        values = [by_point(tensor, copies) for tensor in Attributed.of(part.at, part.slots).tensors]
        gradients = [by_point(tensor, copies) for tensor in Attributed.of(part.gradients, part.slots).tensors]
        pairs = list(zip(values, gradients, strict=True))
        if last:
            joined = zip(last, pairs, strict=True)
            pairs = [(torch.cat((u0, u)), torch.cat((g0, g))) for (u0, g0), (u, g) in joined]
        sums = [(g[:-1] * u.diff(dim=0)).sum(0) for u, g in pairs]
        totals = [total.add_(new) for total, new in zip(totals, sums, strict=True)] if totals else sums
        last = [(u[-1:].clone(), g[-1:].clone()) for u, g in pairs]
    return Attributed(tuple(totals), part.slots, tuple(gradient.dtype for gradient in part.gradients))
