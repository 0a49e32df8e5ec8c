"""DeepLIFT for layers and neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from llm_attr.attr.base import InternalAttribution, LayerAttribution, NeuronAttribution, renamed
from llm_attr.attr.deep_lift import CustomAttribution, RescaleAttribution, distribution
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.typing import (
    BaselineDistribution,
    Baselines,
    Form,
    ForwardFunction,
    NeuronSelector,
    Target,
    TensorOrTensors,
)


class InternalRescaleAttribution(InternalAttribution, RescaleAttribution):
    """A method that propagates differences from a reference to a layer, or from a neuron.

    Args:
        multiply_by_inputs: False returns the multipliers.
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer)
        self.multiplies_by_inputs = multiply_by_inputs


@registered
class LayerDeepLift(LayerAttribution, InternalRescaleAttribution):
    """Divides the change of the output from baseline to input among the neurons of a layer.

    `attribution_j = (u_j(x) - u_j(b)) m_j`, with the activations u of the layer and the multipliers of `DeepLift`

    Source: as for `DeepLift`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerDeepLift
        >>> layer = torch.nn.Identity()
        >>> method = LayerDeepLift(lambda x: layer(2 * x).relu().sum(1), layer)
        >>> method.attribute(torch.tensor([[4.0, -2.0]]), torch.tensor([[1.0, 2.0]]))
        tensor([[ 6., -4.]])
    """

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The share of each neuron of the layer; the inputs may be token ids.

        Shared arguments: see `GradientAttribution`.

        Args:
            custom_attribution_func: See `DeepLift.attribute`, with the layer's activations instead of the inputs.

        Returns:
            See `LayerAttribution`, in units of the output; followed by the delta `(batch,)` if requested.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        args = (inputs, baselines, target, targets, additional_forward_args, attribute_to_layer_input, grad_kwargs)
        problem = self._problem(*args)
        return self._in_form(self.attribute_problem(problem, return_convergence_delta, custom_attribution_func))


@registered
class LayerDeepLiftShap(LayerAttribution, InternalRescaleAttribution):
    """Averages `LayerDeepLift` over a distribution of baselines.

    `attribution_j = E[(u_j(x) - u_j(b)) m_j]` over all the baselines b

    Source: as for `DeepLiftShap`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerDeepLiftShap
        >>> layer = torch.nn.Identity()
        >>> method = LayerDeepLiftShap(lambda x: layer(2 * x).relu().sum(1), layer)
        >>> method.attribute(torch.tensor([[4.0, -2.0]]), torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
        tensor([[ 6., -2.]])
    """

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: BaselineDistribution,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The mean share of each neuron of the layer; the inputs may be token ids.

        Shared arguments: see `GradientAttribution` and `DeepLiftShap.attribute`.

        Args:
            custom_attribution_func: See `DeepLift.attribute`, with the layer's activations instead of the inputs and
                one row for each pair of example and baseline.

        Returns:
            See `LayerAttribution`, in units of the output; followed by the delta `(batch * states,)` if requested.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        problem = self._problem(inputs, None, target, targets, additional_forward_args, attribute_to_layer_input)
        states = distribution(inputs, baselines)
        return self._in_form(self._shares(problem, states, return_convergence_delta, custom_attribution_func))


@registered
class NeuronDeepLift(NeuronAttribution, InternalRescaleAttribution):
    """Divides the change of a neuron from baseline to input among the entries that changed.

    As `DeepLift`, for a neuron instead of the output.

    Source: as for `DeepLift`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronDeepLift
        >>> layer = torch.nn.ReLU()
        >>> NeuronDeepLift(layer, layer).attribute(torch.tensor([[4.0, -2.0]]), 0, torch.tensor([[-4.0, 2.0]]))
        tensor([[4., 0.]])
    """

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: Form,
        neuron_selector: NeuronSelector,
        baselines: Baselines = None,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Form:
        """The share of each entry of the inputs in the neuron's change.

        Shared arguments: see `NeuronAttribution`, `GradientAttribution` and `DeepLift.attribute`.

        Returns:
            Same form as the inputs, in units of the neuron.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        problem = self._problem(inputs, neuron_selector, baselines, additional_forward_args, attribute_to_neuron_input)
        return self._in_form(self.attribute_problem(problem, False, custom_attribution_func))


@registered
class NeuronDeepLiftShap(NeuronAttribution, InternalRescaleAttribution):
    """Averages `NeuronDeepLift` over a distribution of baselines.

    As `DeepLiftShap`, for a neuron instead of the output.

    Source: as for `DeepLiftShap`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronDeepLiftShap
        >>> layer = torch.nn.ReLU()
        >>> states = torch.tensor([[-4.0, 2.0], [2.0, 0.0]])
        >>> NeuronDeepLiftShap(layer, layer).attribute(torch.tensor([[4.0, 1.0]]), 0, states)
        tensor([[3., 0.]])
    """

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: Form,
        neuron_selector: NeuronSelector,
        baselines: BaselineDistribution,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Form:
        """The mean share of each entry of the inputs in the neuron's change.

        Shared arguments: see `NeuronAttribution`, `GradientAttribution` and `DeepLiftShap.attribute`.

        Returns:
            Same form as the inputs, in units of the neuron.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        problem = self._problem(inputs, neuron_selector, None, additional_forward_args, attribute_to_neuron_input)
        return self._in_form(self._shares(problem, distribution(inputs, baselines), False, custom_attribution_func))
