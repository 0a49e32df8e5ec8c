"""Guided backpropagation and deconvolution: gradients whose negative parts are held back at every ReLU."""

from __future__ import annotations

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
from llm_attr.attr.grad_cam import places
from llm_attr.caller import warn_caller
from llm_attr.core.path.walk import Attributed
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.rules.engine import Rules
from llm_attr.core.rules.tables import DECONVOLUTION, GUIDED
from llm_attr.core.site import Site
from llm_attr.typing import ForwardFunction, NeuronSelector, Target, TensorOrTensors


@registered
class GuidedBackprop(GradientAttribution):
    """Takes the gradient with only its positive parts passing a ReLU, where its input is positive.

    `g_in = max(g_out, 0) * [x > 0]` at every ReLU (of a ReLU6, where it rises), also one that is used several times or
    called as a function; the gradient everywhere else. A model without any ReLU is warned of.

    Args:
        model: See `Attribution`.

    Source: J. T. Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015, section
    3.4.

    Example:
        >>> import torch
        >>> from llm_attr.attr import GuidedBackprop
        >>> GuidedBackprop(lambda x: (x.relu() * torch.tensor([2.0, -3.0])).sum(1)).attribute(torch.ones(1, 2))
        tensor([[2., 0.]])
    """

    def __init__(self, model: ForwardFunction) -> None:
        super().__init__(model)
        self.model = model

    def attribute(self, inputs: TensorOrTensors, target: Target = None, additional_forward_args: Any = None) -> Any:
        """The guided gradient by each entry of the inputs; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.

        Returns:
            As the inputs, in units of output per input.

        Raises:
            NoRule: the model has a ReLU where no rule reaches it.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        return _gradient(self, GUIDED.of(self.model), problem)


@registered
class Deconvolution(GradientAttribution):
    """Takes the gradient with only its positive parts passing a ReLU, whatever the ReLU's input.

    `g_in = max(g_out, 0)` at every ReLU and ReLU6, also one that is used several times or called as a function; the
    gradient everywhere else. A model without any ReLU is warned of.

    Args:
        model: See `Attribution`.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 2.1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Deconvolution
        >>> Deconvolution(lambda x: (x.relu() * torch.tensor([2.0, -3.0])).sum(1)).attribute(-torch.ones(1, 2))
        tensor([[2., 0.]])
    """

    def __init__(self, model: ForwardFunction) -> None:
        super().__init__(model)
        self.model = model

    def attribute(self, inputs: TensorOrTensors, target: Target = None, additional_forward_args: Any = None) -> Any:
        """The deconvolved gradient by each entry of the inputs; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.

        Returns:
            As the inputs, in units of output per input.

        Raises:
            NoRule: the model has a ReLU where no rule reaches it.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        return _gradient(self, DECONVOLUTION.of(self.model), problem)


@registered
class NeuronGuidedBackprop(NeuronAttribution, GradientAttribution):
    """Takes a neuron's gradient with only its positive parts passing a ReLU, where its input is positive.

    As `GuidedBackprop`, of a neuron instead of the output.

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.

    Source: as for `GuidedBackprop`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronGuidedBackprop
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
        >>> NeuronGuidedBackprop(lambda x: layer(x.relu()), layer).attribute(torch.ones(1, 2), 0)
        tensor([[1., 0.]])
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)
        self.model = model

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The guided gradient of the neuron by each entry of the inputs; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            additional_forward_args: See `Attribution`.
            attribute_to_neuron_input: See `GradientAttribution`.

        Returns:
            As the inputs, in units of the neuron per input.

        Raises:
            NoRule: the model has a ReLU where no rule reaches it.
        """
        whole = Problem.of(self.forward_func, inputs, None, None, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        return _gradient(self, GUIDED.of(self.model), whole.of_neuron(site, neuron_selector))


@registered
class NeuronDeconvolution(NeuronAttribution, GradientAttribution):
    """Takes a neuron's gradient with only its positive parts passing a ReLU, whatever the ReLU's input.

    As `Deconvolution`, of a neuron instead of the output.

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.

    Source: as for `Deconvolution`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronDeconvolution
        >>> layer = torch.nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
        >>> NeuronDeconvolution(lambda x: layer(x.relu()), layer).attribute(-torch.ones(1, 2), 1)
        tensor([[2., 3.]])
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)
        self.model = model

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The deconvolved gradient of the neuron by each entry of the inputs; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            additional_forward_args: See `Attribution`.
            attribute_to_neuron_input: See `GradientAttribution`.

        Returns:
            As the inputs, in units of the neuron per input.

        Raises:
            NoRule: the model has a ReLU where no rule reaches it.
        """
        whole = Problem.of(self.forward_func, inputs, None, None, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        return _gradient(self, DECONVOLUTION.of(self.model), whole.of_neuron(site, neuron_selector))


@registered
class GuidedGradCam(InternalAttribution, GradientAttribution):
    """Multiplies the guided gradient of the inputs by the places of a layer that spoke for the output.

    `attribution_i = GuidedBackprop_i * max(GradCam, 0)` at the place of i, with Grad-CAM brought to the size of the
    input

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`; mostly the last convolution.
        device_ids: See `InternalAttribution`.

    Source: R. R. Selvaraju et al., Grad-CAM, ICCV 2017, section 3.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import GuidedGradCam
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Flatten())
        >>> GuidedGradCam(model, model[0]).attribute(torch.ones(1, 3, 6, 6), target=1).shape
        torch.Size([1, 3, 6, 6])
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None) -> None:
        super().__init__(model, layer, device_ids)
        self.model = model

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        interpolate_mode: str = "nearest",
        attribute_to_layer_input: bool = False,
    ) -> Any:
        """The guided gradient of each entry of the inputs, weighted by its place; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            interpolate_mode: How Grad-CAM is brought to the size of an input: a mode of
                `torch.nn.functional.interpolate`.
            attribute_to_layer_input: See `GradientAttribution`.

        Returns:
            As the inputs. For an input with another number of axes than the layer, with a UserWarning, an empty tensor.

        Raises:
            NoRule: the model has a ReLU where no rule reaches it.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        walk = self._walk(problem.observed_at(self._sites(attribute_to_layer_input)), 2)
        weights = places(walk.at_inputs(), relu=True, summed=True).tensors[0]
        found = replace(walk, problem=GUIDED.of(self.model).on(problem)).at_inputs()
        parts = tuple(_weighted(gradient, weights, interpolate_mode) for gradient in found.gradients)
        return self._in_form(replace(Attributed.of(found.gradients, found.slots), tensors=parts))


def _gradient(method: GradientAttribution, rules: Rules, problem: Problem) -> Any:
    """The gradient that follows the rules, in the caller's form."""
    found = method._walk(rules.on(problem), 1).at_inputs()
    return method._in_form(Attributed.of(found.gradients, found.slots))


def _weighted(gradient: Tensor, weights: Tensor, mode: str) -> Tensor:
    """`(batch, channels, *places)` times `(batch, 1, *fewer places)`; of a layer without places, one for each row."""
    weights = weights.to(gradient.device)  # a layer may lie on another device than the inputs
    if weights.dim() == 2:
        return gradient * weights.view(-1, *(1,) * (gradient.dim() - 1))
    if weights.dim() != gradient.dim() or not 3 <= gradient.dim() <= 5:
        warn_caller(
            f"Grad-CAM of shape {tuple(weights.shape)} cannot be brought to the size of an input of shape "
            f"{tuple(gradient.shape)}, whose attribution is an empty tensor",
            UserWarning,
        )
        return torch.empty(0, dtype=gradient.dtype, device=gradient.device)
    return gradient * LayerAttribution.interpolate(weights, tuple(gradient.shape[2:]), mode)
