"""Feature ablation inside a model: of a layer's neurons, and of what the inputs give to one neuron."""

from __future__ import annotations

from typing import Any

from torch import nn

from llm_attr.attr.ablation import FeatureAblation
from llm_attr.attr.base import LayerAttribution, NeuronAttribution, renamed
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.game.features import Features
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.typing import Baselines, ForwardFunction, NeuronSelector, Target, TensorOrTensors


@registered
class LayerFeatureAblation(LayerAttribution, PerturbationAttribution):
    """Leaves each neuron of a layer out once and reports how much the output falls.

    `attribution_j = f(u) - f(u with neuron j at its baseline)`, with the activations u of the layer

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2,
    at a layer.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerFeatureAblation
        >>> layer = torch.nn.Identity()
        >>> ablation = LayerFeatureAblation(lambda x: (layer(x) * torch.tensor([1.0, -2.0])).sum(1), layer)
        >>> ablation.attribute(torch.tensor([[4.0, 3.0]]))
        tensor([[ 4., -6.]])
    """

    def __init__(
        self, forward_func: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func, layer, device_ids)

    @property
    def attributor(self) -> type[FeatureAblation]:
        """The method that is applied at the layer."""
        return FeatureAblation

    def attribute(
        self,
        inputs: TensorOrTensors,
        layer_baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        layer_mask: TensorOrTensors | None = None,
        attribute_to_layer_input: bool = False,
        perturbations_per_eval: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Any:
        """The loss of output for each neuron of the layer.

        Args:
            inputs: See `Attribution`.
            layer_baselines: The absent state of what passes the layer: None (zero), a number or tensor that broadcasts
                to all of its tensors, or a tuple with one for each.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            layer_mask: As `feature_mask` of `PerturbationAttribution`, for what passes the layer.
            attribute_to_layer_input: Whether the layer's input is meant, not its output.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.

        Returns:
            See `LayerAttribution`, in units of the output; for other outputs than one for each example as for
            `FeatureAblation`.

        Raises:
            InvalidShape: layer_baselines or layer_mask do not fit the layer.
            InvalidType: what passes the layer is no tensor of floating point.
            LayerNotReached: the forward pass does not come to the layer.
        """
        whole = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        absent = 0 if layer_baselines is None else layer_baselines
        problem = whole.cut_at(self._sites(attribute_to_layer_input), absent)
        features = Features.of(layer_mask, problem.inputs, "layer_mask")
        return self._playing(problem, features, LeaveOneOut(), perturbations_per_eval, show_progress).answer()


@registered
class NeuronFeatureAblation(NeuronAttribution, PerturbationAttribution):
    """Leaves each feature out once and reports how much a neuron falls.

    `attribution_i = n(x) - n(x with feature i at its baseline)`, with the neuron n

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2,
    of a neuron.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronFeatureAblation
        >>> layer = torch.nn.Identity()
        >>> NeuronFeatureAblation(lambda x: layer(x).sum(1), layer).attribute(torch.tensor([[4.0, 3.0]]), 1)
        tensor([[0., 3.]])
    """

    def __init__(
        self, forward_func: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func, layer, device_ids)

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        baselines: Baselines = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        attribute_to_neuron_input: bool = False,
        perturbations_per_eval: int | None = None,
        *,
        show_progress: bool = False,
    ) -> Any:
        """The loss of the neuron for each feature.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            baselines: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            attribute_to_neuron_input: Whether the neuron is one of the layer's input, not of its output.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.

        Returns:
            As the inputs, in units of the neuron; where the selector gives other than one number for each example, as
            for `FeatureAblation`.

        Raises:
            InvalidShape: baselines or feature_mask do not fit the inputs.
            InvalidTarget: the selector does not fit the layer.
            LayerNotReached: the forward pass does not come to the layer.
        """
        whole = Problem.of(self.forward_func, inputs, baselines, None, additional_forward_args)
        problem = whole.of_neuron(self._sites(attribute_to_neuron_input)[0], neuron_selector)
        features = Features.of(feature_mask, problem.inputs)
        return self._playing(problem, features, LeaveOneOut(), perturbations_per_eval, show_progress).answer()
