"""Integrated gradients of inputs, layers and neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from llm_attr.attr.base import (
    InternalPathAttribution,
    LayerAttribution,
    NeuronAttribution,
    PathAttribution,
    renamed,
)
from llm_attr.attr.baselines import named_baselines
from llm_attr.attr.forms import keeps_form
from llm_attr.caller import warn_caller
from llm_attr.core.path.integral import Integral, PathInfo
from llm_attr.core.path.walk import Attributed, Change, Quadrature, difference, per_example, quadrature
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.errors import InvalidValue
from llm_attr.typing import Baselines, NeuronSelector, Target, TensorOrTensors, Tensors


class IntegralAttribution(PathAttribution):
    """A method that integrates the gradient along the straight line from baseline to input.

    Args:
        multiply_by_inputs: False leaves out the factor input minus baseline.
    """

    starts_at_baseline = True

    def attribute_problem(
        self,
        problem: Problem,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        until: float | None = None,
        return_info: bool = False,
        ends: Problem | None = None,
    ) -> Attributed:
        """See `GradientAttribution`.

        Args:
            problem: What is explained.
            n_steps: See `IntegratedGradients.attribute`, also for the arguments that follow.
            method: The quadrature.
            internal_batch_size: The maximum number of rows per call of the model.
            return_convergence_delta: Whether to also return the delta.
            until: The largest relative delta.
            return_info: Whether to also return the `PathInfo`.
            ends: The problem from whose baselines to whose inputs the output changes by what the delta refers to; None:
                the problem itself.
        """
        integral = Integral(n_steps, method, until)
        walk = self._walk(problem, n_steps, internal_batch_size)
        moved = difference(problem)
        if self.multiplies_by_inputs:
            _warn_if_no_path(moved, problem.batch)
        mean, info = integral.mean(walk)
        product = mean.times(moved)
        more: list[Any] = []
        if return_convergence_delta or return_info:
            total = per_example(product.tensors, problem.batch, product.axis)
            more += [Change.of(ends or problem).delta(total)] if return_convergence_delta else []
            more += [info or PathInfo(n_steps, Change.of(problem).gap(total))] if return_info else []
        return replace(product if self.multiplies_by_inputs else mean, more=tuple(more))

    def line_quadrature(
        self, n_steps: int = 50, method: str = "gausslegendre", until: float | None = None, **options: Any
    ) -> Quadrature | None:
        """The points of the quadrature, if their number is fixed."""
        return quadrature(method, n_steps) if self.multiplies_by_inputs and until is None else None


@registered
class IntegratedGradients(IntegralAttribution):
    """Integrates the gradient along the straight line from baseline to input.

    `attribution_i = (x_i - b_i) * integral over a in [0, 1] of df/dx_i at b + a (x - b)`

    Args:
        multiply_by_inputs: False leaves out the factor `x_i - b_i`.

    Source: M. Sundararajan, A. Taly and Q. Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equation 1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import IntegratedGradients
        >>> IntegratedGradients(lambda x: (x**2).sum(1)).attribute(torch.tensor([[1.0, 2.0]])).round(decimals=4)
        tensor([[1., 4.]])
    """

    @keeps_form
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
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The integrated gradient of each entry of the inputs.

        Shared arguments: see `GradientAttribution`.

        Args:
            return_convergence_delta: Whether to also return the delta of each example, see `compute_convergence_delta`.
                It is that of attributions with the factor `x_i - b_i`, also for `multiply_by_inputs=False`.
            until: Increase the number of steps, starting at `n_steps`, until the delta of every example is at most this
                fraction of the change of its output. The rule is then the trapezoid rule with Romberg extrapolation,
                which reuses all gradients.
            return_info: Whether to also return a `PathInfo`: the number of steps and the relative gap.

        Returns:
            Same form as the inputs, in units of the output; followed by the delta `(batch,)` and the `PathInfo` if
            requested.
        """
        problem = self._of_outputs(inputs, baselines, target, targets, additional_forward_args)
        asked = (n_steps, method, internal_batch_size, return_convergence_delta)
        return self._in_form(self.attribute_problem(problem, *asked, until=until, return_info=return_info))


@registered
class LayerIntegratedGradients(LayerAttribution, InternalPathAttribution, IntegralAttribution):
    """Integrates the gradient along the straight line between a layer's activations at baseline and at input.

    `attribution_i = (u_i - v_i) * integral over a in [0, 1] of df/du_i at v + a (u - v)`, with the activations u of the
    layer for the inputs and v for the baselines. Several layers move together.

    Args:
        layer: A layer or a list of layers.
        multiply_by_inputs: False leaves out the factor `u_i - v_i`.

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
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The integrated gradient of each neuron of the layer; the inputs may be token ids.

        Shared arguments: see `GradientAttribution` and `IntegratedGradients.attribute`.

        Args:
            baselines: The inputs whose activations are the baseline of the layer, in any form of `Attribution`.
            return_convergence_delta: Whether to also return the delta of each example. It includes the change of the
                output through connections that bypass the layer, unless `layer_baselines` are given; the `PathInfo` is
                that of the layer's own path.
            layer_baselines: The baseline at the layer itself, instead of `baselines`: a tensor that broadcasts to the
                activations, a number, or, for an embedding layer, a kind of `embedding_baseline`: `zero`, `mean` (of
                the vocabulary) or `pad`. For several layers one for all, or a tuple or list with one per layer.

        Returns:
            See `LayerAttribution`, in units of the output; followed by the delta `(batch,)` and the `PathInfo` if
            requested.

        Raises:
            InvalidValue: both `baselines` and `layer_baselines` are given.
        """
        if baselines is not None and layer_baselines is not None:
            raise InvalidValue("baselines and layer_baselines exclude each other; pass one of the two")
        whole = self._of_outputs(inputs, baselines, target, targets, additional_forward_args)
        sites = self._sites(attribute_to_layer_input)
        cut = whole.cut_at(sites, named_baselines(sites, layer_baselines))
        ends = whole if layer_baselines is None else cut
        cut = replace(cut, grad_kwargs=grad_kwargs)
        asked = (n_steps, method, internal_batch_size, return_convergence_delta)
        return self._in_form(self.attribute_problem(cut, *asked, until=until, return_info=return_info, ends=ends))


@registered
class NeuronIntegratedGradients(NeuronAttribution, InternalPathAttribution, IntegralAttribution):
    """Integrates the gradient of a neuron along the straight line from baseline to input.

    `attribution_i = (x_i - b_i) * integral over a in [0, 1] of dn/dx_i at b + a (x - b)`, with the neuron n

    Args:
        multiply_by_inputs: False leaves out the factor `x_i - b_i`.

    Source: M. Sundararajan, A. Taly and Q. Yan, Axiomatic Attribution for Deep Networks, ICML 2017, equation 1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronIntegratedGradients
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> NeuronIntegratedGradients(model, model[0]).attribute(torch.ones(1, 2), neuron_selector=2).shape
        torch.Size([1, 2])
    """

    @keeps_form
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
        """The integrated gradient of the neuron with respect to each entry of the inputs.

        Shared arguments: see `NeuronAttribution`, `GradientAttribution` and `IntegratedGradients.attribute`.

        Returns:
            Same form as the inputs, in units of the neuron; followed by the `PathInfo` if requested.
        """
        problem = self._problem(inputs, neuron_selector, baselines, additional_forward_args, attribute_to_neuron_input)
        asked = (n_steps, method, internal_batch_size)
        return self._in_form(self.attribute_problem(problem, *asked, until=until, return_info=return_info))


def _warn_if_no_path(moved: Tensors, batch: int) -> None:
    """Warns of examples that equal their baseline."""
    if any(len(part) != batch for part in moved):
        return
    still = torch.stack([(part == 0).unsqueeze(-1).flatten(1).all(1).cpu() for part in moved]).all(0)
    rows = still.nonzero().flatten().tolist()
    if rows:
        more = f" and {len(rows) - 10} more" if len(rows) > 10 else ""
        warn_caller(
            f"input and baseline (or a layer's activations at both) are equal for the examples {rows[:10]}{more} "
            "(numbered from 0): there is no path between them, and all their attributions are zero; choose another "
            "baseline",
            UserWarning,
        )
