"""DeepLIFT at the layers of a model and of its neurons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from llm_attr.attr.base import GradientAttribution, LayerAttribution, NeuronAttribution, renamed
from llm_attr.attr.deep_lift import CustomAttribution, contrasted, distribution
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.typing import (
    BaselineDistribution,
    Baselines,
    ForwardFunction,
    NeuronSelector,
    Target,
    TensorOrTensors,
)


@registered
class LayerDeepLift(LayerAttribution, GradientAttribution):
    """Divides the change of the output from baseline to input among the neurons of a layer.

    `attribution_j = (u_j(x) - u_j(b)) m_j`, with the activations u of the layer and the multipliers of `DeepLift`

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`.
        multiply_by_inputs: False gives the multipliers.

    Source: as for `DeepLift`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerDeepLift
        >>> layer = torch.nn.Identity()
        >>> method = LayerDeepLift(lambda x: layer(2 * x).relu().sum(1), layer)
        >>> method.attribute(torch.tensor([[4.0, -2.0]]), torch.tensor([[1.0, 2.0]]))
        tensor([[ 6., -4.]])
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer)
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
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The share of each neuron of the layer; see `LayerAttribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`; token ids too.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: See `GradientAttribution`.
            attribute_to_layer_input: See `GradientAttribution`.
            custom_attribution_func: See `DeepLift.attribute`; of the layer's activations.
            grad_kwargs: See `GradientAttribution`.

        Returns:
            See `LayerAttribution`, in units of the output; then the delta `(batch,)`, if asked for.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        whole = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        problem = replace(whole.observed_at(self._sites(attribute_to_layer_input)), grad_kwargs=grad_kwargs)
        return contrasted(self, problem, None, return_convergence_delta, custom_attribution_func)


@registered
class LayerDeepLiftShap(LayerAttribution, GradientAttribution):
    """Averages `LayerDeepLift` over a distribution of baselines.

    `attribution_j = E[(u_j(x) - u_j(b)) m_j]` over all the baselines b

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`.
        multiply_by_inputs: False gives the multipliers.

    Source: as for `DeepLiftShap`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerDeepLiftShap
        >>> layer = torch.nn.Identity()
        >>> method = LayerDeepLiftShap(lambda x: layer(2 * x).relu().sum(1), layer)
        >>> method.attribute(torch.tensor([[4.0, -2.0]]), torch.tensor([[1.0, 2.0], [1.0, 0.0]]))
        tensor([[ 6., -2.]])
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer)
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
        attribute_to_layer_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Any:
        """The mean share of each neuron of the layer; see `LayerAttribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`; token ids too.
            baselines: See `DeepLiftShap.attribute`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: See `DeepLiftShap.attribute`.
            attribute_to_layer_input: See `GradientAttribution`.
            custom_attribution_func: See `DeepLift.attribute`; of the layer's activations.

        Returns:
            See `LayerAttribution`, in units of the output; then the delta `(batch * states,)`, if asked for.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        whole = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        problem, states = whole.observed_at(self._sites(attribute_to_layer_input)), distribution(inputs, baselines)
        return contrasted(self, problem, states, return_convergence_delta, custom_attribution_func)


@registered
class NeuronDeepLift(NeuronAttribution, GradientAttribution):
    """Divides the change of a neuron from baseline to input among the entries that changed.

    As `DeepLift`, of a neuron instead of the output.

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`.
        multiply_by_inputs: False gives the multipliers.

    Source: as for `DeepLift`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronDeepLift
        >>> layer = torch.nn.ReLU()
        >>> NeuronDeepLift(layer, layer).attribute(torch.tensor([[4.0, -2.0]]), 0, torch.tensor([[-4.0, 2.0]]))
        tensor([[4., 0.]])
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer)
        self.model, self._multiply_by_inputs = model, multiply_by_inputs

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
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Any:
        """The share of each entry of the inputs in the neuron's change; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            baselines: See `Attribution`.
            additional_forward_args: See `Attribution`.
            attribute_to_neuron_input: See `GradientAttribution`.
            custom_attribution_func: See `DeepLift.attribute`.

        Returns:
            As the inputs, in units of the neuron.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        whole = Problem.of(self.forward_func, inputs, baselines, None, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        return contrasted(self, whole.of_neuron(site, neuron_selector), None, False, custom_attribution_func)


@registered
class NeuronDeepLiftShap(NeuronAttribution, GradientAttribution):
    """Averages `NeuronDeepLift` over a distribution of baselines.

    As `DeepLiftShap`, of a neuron instead of the output.

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`.
        multiply_by_inputs: False gives the multipliers.

    Source: as for `DeepLiftShap`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronDeepLiftShap
        >>> layer = torch.nn.ReLU()
        >>> states = torch.tensor([[-4.0, 2.0], [2.0, 0.0]])
        >>> NeuronDeepLiftShap(layer, layer).attribute(torch.tensor([[4.0, 1.0]]), 0, states)
        tensor([[3., 0.]])
    """

    def __init__(self, model: ForwardFunction, layer: nn.Module | Site, multiply_by_inputs: bool = True) -> None:
        super().__init__(model, layer)
        self.model, self._multiply_by_inputs = model, multiply_by_inputs

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the constructor was told."""
        return self._multiply_by_inputs

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        baselines: BaselineDistribution,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        custom_attribution_func: CustomAttribution | None = None,
    ) -> Any:
        """The mean share of each entry of the inputs in the neuron's change; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            baselines: See `DeepLiftShap.attribute`.
            additional_forward_args: See `Attribution`.
            attribute_to_neuron_input: See `GradientAttribution`.
            custom_attribution_func: See `DeepLift.attribute`.

        Returns:
            As the inputs, in units of the neuron.

        Raises:
            NoRule: see `DeepLift.attribute`.
        """
        whole = Problem.of(self.forward_func, inputs, None, None, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        problem, states = whole.of_neuron(site, neuron_selector), distribution(inputs, baselines)
        return contrasted(self, problem, states, False, custom_attribution_func)
