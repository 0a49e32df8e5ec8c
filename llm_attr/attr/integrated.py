"""Integrated gradients of inputs, layers and neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from llm_attr.attr.base import GradientAttribution, LayerAttribution, Layers, NeuronAttribution, renamed
from llm_attr.attr.baselines import named_baselines
from llm_attr.caller import warn_caller
from llm_attr.core.path.integral import Integral, PathInfo
from llm_attr.core.path.walk import Change, Walk, difference, per_example
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.errors import InvalidValue
from llm_attr.typing import Baselines, ForwardFunction, NeuronSelector, Target, TensorOrTensors, Tensors


@registered
class IntegratedGradients(GradientAttribution):
    """Integrates the gradient along the straight line from baseline to input.

    `attribution_i = (x_i - b_i) * integral over a in [0, 1] of df/dx_i at b + a (x - b)`

    Args:
        forward_func: See `Attribution`.
        multiply_by_inputs: False leaves the factor `x_i - b_i` out.

    Source: M. Sundararajan, A. Taly and Q. Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equation 1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import IntegratedGradients
        >>> IntegratedGradients(lambda x: (x**2).sum(1)).attribute(torch.tensor([[1.0, 2.0]])).round(decimals=4)
        tensor([[1., 4.]])
    """

    def __init__(self, forward_func: ForwardFunction, multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
        self._multiply_by_inputs = multiply_by_inputs

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
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        until: float | None = None,
        return_info: bool = False,
    ) -> Any:
        """The integrated gradient of each entry of the inputs; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: See `GradientAttribution`.
            method: See `GradientAttribution`.
            internal_batch_size: See `GradientAttribution`.
            return_convergence_delta: See `GradientAttribution`; of attributions multiplied by the difference, whatever
                `multiply_by_inputs` says.
            until: Lets the steps grow, from `n_steps`, until the convergence delta of every example is at most this
                share of the change of its output. All gradients are used again; the rule is the trapezoid one with
                Romberg's extrapolation.
            return_info: Also gives a `PathInfo`: steps and relative gap.

        Returns:
            As the inputs, in units of the output; then the delta `(batch,)` and the `PathInfo`, if asked for.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        integral = Integral(n_steps, method, until)
        walk = self._walk(problem, n_steps, internal_batch_size)
        return _answer(self, walk, integral, return_convergence_delta, return_info)


@registered
class LayerIntegratedGradients(LayerAttribution, GradientAttribution):
    """Integrates the gradient along the straight line between a layer's activations at baseline and at input.

    `attribution_i = (u_i - v_i) * integral over a in [0, 1] of df/du_i at v + a (u - v)`, where u and v are what the
    layer gives for the inputs and for the baselines. With several layers all of them move together.

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`; or a list of layers.
        device_ids: See `InternalAttribution`.
        multiply_by_inputs: False leaves the factor `u_i - v_i` out.

    Source: M. Sundararajan, A. Taly and Q. Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equation 1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerIntegratedGradients
        >>> embedding = torch.nn.Embedding.from_pretrained(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
        >>> ids = torch.tensor([[1, 0]])
        >>> LayerIntegratedGradients(lambda i: embedding(i).sum((1, 2)), embedding).attribute(ids).round(decimals=4)
        tensor([[[1., 2.],
                 [0., 0.]]])
    """

    takes_layers = True

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: Layers | None,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

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
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        layer_baselines: Any = None,
        until: float | None = None,
        return_info: bool = False,
    ) -> Any:
        """The integrated gradient of each neuron of the layer; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`; token ids too.
            baselines: See `Attribution`; the layer's activations for them are its baseline.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: See `GradientAttribution`.
            method: See `GradientAttribution`.
            internal_batch_size: See `GradientAttribution`.
            return_convergence_delta: See `GradientAttribution`. The change on ways beside the layer is in it, unless
                `layer_baselines` are given; the `PathInfo` is of the layer's own path.
            attribute_to_layer_input: See `GradientAttribution`.
            grad_kwargs: See `GradientAttribution`.
            layer_baselines: The baseline at the layer itself, instead of `baselines`: a tensor that broadcasts to the
                activations, a number, or, for an embedding layer, a name of `embedding_baseline`: `zero`, `mean` (of
                the vocabulary) or `pad`. For several layers one for all, or a tuple or list with one for each.
            until: See `IntegratedGradients.attribute`.
            return_info: See `IntegratedGradients.attribute`.

        Returns:
            See `LayerAttribution`, in units of the output; then the delta `(batch,)` and the `PathInfo`, if asked for.

        Raises:
            InvalidValue: there are both `baselines` and `layer_baselines`.
        """
        if baselines is not None and layer_baselines is not None:
            raise InvalidValue("layer_baselines take the place of baselines; give one of the two")
        whole = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        sites = self._sites(attribute_to_layer_input)
        cut = whole.cut_at(sites, named_baselines(sites, layer_baselines))
        walk = self._walk(replace(cut, grad_kwargs=grad_kwargs), n_steps, internal_batch_size)
        ends = whole if layer_baselines is None else cut
        return _answer(self, walk, Integral(n_steps, method, until), return_convergence_delta, return_info, ends)


@registered
class NeuronIntegratedGradients(NeuronAttribution, GradientAttribution):
    """Integrates the gradient of a neuron along the straight line from baseline to input.

    `attribution_i = (x_i - b_i) * integral over a in [0, 1] of dn/dx_i at b + a (x - b)`, with the neuron n

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.
        multiply_by_inputs: False leaves the factor `x_i - b_i` out.

    Source: M. Sundararajan, A. Taly and Q. Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equation 1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronIntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> NeuronIntegratedGradients(model, model[0]).attribute(torch.ones(1, 2), neuron_selector=2).shape
        torch.Size([1, 2])
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
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        attribute_to_neuron_input: bool = False,
        *,
        until: float | None = None,
        return_info: bool = False,
    ) -> Any:
        """The neuron's integrated gradient by each entry of the inputs; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            baselines: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: See `GradientAttribution`.
            method: See `GradientAttribution`.
            internal_batch_size: See `GradientAttribution`.
            attribute_to_neuron_input: See `GradientAttribution`.
            until: See `IntegratedGradients.attribute`.
            return_info: See `IntegratedGradients.attribute`.

        Returns:
            As the inputs, in units of the neuron; then the `PathInfo`, if asked for.
        """
        whole = Problem.of(self.forward_func, inputs, baselines, None, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        walk = self._walk(whole.of_neuron(site, neuron_selector), n_steps, internal_batch_size)
        return _answer(self, walk, Integral(n_steps, method, until), False, return_info)


def _answer(
    method: GradientAttribution, walk: Walk, integral: Integral, delta: bool, info: bool, ends: Problem | None = None
) -> Any:
    """The attributions in the caller's form, and behind them the delta and the `PathInfo`, if asked for.

    The delta is that of the change from the baselines to the inputs of `ends`, by default the walk's own problem.
    """
    problem = walk.problem
    moved = difference(problem)
    if method.multiplies_by_inputs:
        _warn_of_no_way(moved, problem.batch)
    mean, path_info = integral.mean(walk)
    found = mean.times(moved)
    answer = [method._in_form(found if method.multiplies_by_inputs else mean)]
    total = (
        per_example(found.tensors, problem.batch)
        if delta or info
        else torch.empty(0, dtype=torch.float32, device="cpu")
    )
    if delta:
        answer.append(Change.of(ends or problem).delta(total))
    if info:
        answer.append(path_info or PathInfo(integral.n_steps, Change.of(problem).gap(total)))
    return tuple(answer) if delta or info else answer[0]


def _warn_of_no_way(moved: Tensors, batch: int) -> None:
    """Warns of examples that are their own baseline."""
    if any(len(part) != batch for part in moved):
        return
    still = torch.stack([(part == 0).unsqueeze(-1).flatten(1).all(1).cpu() for part in moved]).all(0)
    rows = still.nonzero().flatten().tolist()
    if rows:
        more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
        warn_caller(
            f"input and baseline (or a layer's activations at both) are equal for the examples {rows[:10]}{more}, "
            "numbered from 0: there is no path between them, and all their attributions are zero; choose another "
            "baseline",
            UserWarning,
        )
