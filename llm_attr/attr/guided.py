"""Guided backpropagation and deconvolution: gradients whose negative parts are blocked at every ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.attr.base import (
    GradientAttribution,
    InternalAttribution,
    LayerAttribution,
    NeuronAttribution,
    renamed,
)
from llm_attr.attr.grad_cam import grad_cam
from llm_attr.caller import warn_caller
from llm_attr.core.path.walk import Attributed
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.rules.tables import DECONVOLUTION, GUIDED
from llm_attr.core.site import Site
from llm_attr.typing import Form, ForwardFunction, NeuronSelector, Target


class ReluRuleAttribution(GradientAttribution):
    """A gradient with a rule for every ReLU.

    Args:
        model: As `forward_func` of `Attribution`.
    """

    by_rules = True
    rules = GUIDED

    def __init__(self, model: ForwardFunction) -> None:
        super().__init__(model)
        self.model = model

    def attribute_problem(self, problem: Problem, abs: bool = False) -> Attributed:
        """See `GradientAttribution`.

        Args:
            problem: What is explained.
            abs: Whether to return absolute values.
        """
        gradients = Attributed.of_gradients(self._walk(self.rules.of(self.model).on(problem), 1).at_inputs())
        return gradients.sizes() if abs else gradients


class InternalReluRuleAttribution(InternalAttribution, ReluRuleAttribution):
    """A gradient with a rule for every ReLU, of a neuron or by way of a layer."""

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)


class RectifiedGradient(ReluRuleAttribution):
    """The gradient of the output with a rule for every ReLU.

    Source: as for `GuidedBackprop` and `Deconvolution`.
    """

    def attribute(
        self,
        inputs: Form,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Form:
        """The gradient with respect to each entry of the inputs, under the rule of the class.

        Shared arguments: see `GradientAttribution`.

        Returns:
            Same form as the inputs, in units of output per input.

        Raises:
            NoRule: the model has a ReLU that the rule cannot reach.
        """
        return self._in_form(
            self.attribute_problem(self._of_outputs(inputs, None, target, targets, additional_forward_args))
        )


class RectifiedNeuronGradient(NeuronAttribution, InternalReluRuleAttribution):
    """The gradient of a neuron with a rule for every ReLU.

    Source: as for `GuidedBackprop` and `Deconvolution`.
    """

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: Form,
        neuron_selector: NeuronSelector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Form:
        """The gradient of the neuron with respect to each entry of the inputs, under the rule of the class.

        Shared arguments: see `NeuronAttribution` and `GradientAttribution`.

        Returns:
            Same form as the inputs, in units of the neuron per input.

        Raises:
            NoRule: the model has a ReLU that the rule cannot reach.
        """
        args = (inputs, neuron_selector, None, additional_forward_args, attribute_to_neuron_input)
        return self._in_form(self.attribute_problem(self._problem(*args)))


@registered
class GuidedBackprop(RectifiedGradient):
    """The gradient in which only positive parts pass a ReLU, and only where its input is positive.

    `g_in = max(g_out, 0) * [x > 0]` at every ReLU (and ReLU6, where it rises), including those that are called several
    times or as functions; the plain gradient elsewhere. Warns if the model has no ReLU.

    Source: J. T. Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015, section
    3.4.

    Example:
        >>> import torch
        >>> from llm_attr.attr import GuidedBackprop
        >>> GuidedBackprop(lambda x: (x.relu() * torch.tensor([2.0, -3.0])).sum(1)).attribute(torch.ones(1, 2))
        tensor([[2., 0.]])
    """


@registered
class Deconvolution(RectifiedGradient):
    """The gradient in which only positive parts pass a ReLU, whatever its input.

    `g_in = max(g_out, 0)` at every ReLU and ReLU6, including those that are called several times or as functions; the
    plain gradient elsewhere. Warns if the model has no ReLU.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 2.1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Deconvolution
        >>> Deconvolution(lambda x: (x.relu() * torch.tensor([2.0, -3.0])).sum(1)).attribute(-torch.ones(1, 2))
        tensor([[2., 0.]])
    """

    rules = DECONVOLUTION


@registered
class NeuronGuidedBackprop(RectifiedNeuronGradient):
    """The gradient of a neuron in which only positive parts pass a ReLU, and only where its input is positive.

    As `GuidedBackprop`, for a neuron instead of the output.

    Source: as for `GuidedBackprop`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronGuidedBackprop
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
        >>> NeuronGuidedBackprop(lambda x: layer(x.relu()), layer).attribute(torch.ones(1, 2), 0)
        tensor([[1., 0.]])
    """


@registered
class NeuronDeconvolution(RectifiedNeuronGradient):
    """The gradient of a neuron in which only positive parts pass a ReLU, whatever its input.

    As `Deconvolution`, for a neuron instead of the output.

    Source: as for `Deconvolution`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronDeconvolution
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
        >>> NeuronDeconvolution(lambda x: layer(x.relu()), layer).attribute(-torch.ones(1, 2), 1)
        tensor([[2., 3.]])
    """

    rules = DECONVOLUTION


@registered
class GuidedGradCam(InternalReluRuleAttribution):
    """Multiplies the guided gradient of the inputs by the Grad-CAM map of a layer.

    `attribution_i = GuidedBackprop_i * max(GradCam, 0)`, with the Grad-CAM map resized to the input

    Args:
        layer: Usually the last convolution.

    Source: R. R. Selvaraju et al., Grad-CAM, ICCV 2017, section 3.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import GuidedGradCam
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
        >>> GuidedGradCam(model, model[0]).attribute(torch.ones(1, 3, 6, 6), target=1).shape
        torch.Size([1, 3, 6, 6])
    """

    def attribute(
        self,
        inputs: Form,
        target: Target = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Form:
        """The guided gradient of each entry of the inputs, weighted by the Grad-CAM map.

        Shared arguments: see `GradientAttribution`.

        Args:
            interpolate_mode: How the Grad-CAM map is resized to the input: a mode of `torch.nn.functional.interpolate`.

        Returns:
            Same form as the inputs. If an input and the layer differ in the number of axes, that input gets an empty
            tensor and a UserWarning.

        Raises:
            NoRule: the model has a ReLU that the rule cannot reach.
        """
        problem = self._of_outputs(inputs, None, target, targets, additional_forward_args)
        walk = self._walk(problem.observed_at(self._sites(attribute_to_layer_input)), 2)
        weights = grad_cam(walk.at_inputs(), relu=True, summed=True).tensors[0]
        point = replace(walk, problem=self.rules.of(self.model).on(problem)).at_inputs()
        parts = tuple(_weighted(gradient, weights, interpolate_mode, point.axis) for gradient in point.gradients)
        return self._in_form(replace(Attributed.of_gradients(point), tensors=parts))


def _weighted(gradient: Tensor, weights: Tensor, mode: str, axis: int = 0) -> Tensor:
    """`(batch, channels, *spatial)` times `(batch, 1, *smaller)`, or `(batch, 1)` if the layer has no spatial axes."""
    if axis:
        return torch.stack([_weighted(*pair, mode) for pair in zip(gradient, weights, strict=True)])
    weights = weights.to(gradient.device)  # the layer may be on another device than the inputs
    if weights.dim() == 2:
        return gradient * weights.view(-1, *(1,) * (gradient.dim() - 1))
    if weights.dim() != gradient.dim() or not 3 <= gradient.dim() <= 5:
        warn_caller(
            f"a Grad-CAM map of shape {tuple(weights.shape)} cannot be resized to an input of shape "
            f"{tuple(gradient.shape)}; the attribution of this input is an empty tensor",
            UserWarning,
        )
        return torch.empty(0, dtype=gradient.dtype, device=gradient.device)
    return gradient * LayerAttribution.interpolate(weights, tuple(gradient.shape[2:]), mode)
