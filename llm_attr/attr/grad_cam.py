"""Grad-CAM: which places of a convolutional layer spoke for the output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from llm_attr.attr.base import GradientAttribution, LayerAttribution
from llm_attr.core.path.walk import Attributed
from llm_attr.core.problem import Gradients, Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.errors import InvalidShape
from llm_attr.typing import ForwardFunction, Target, TensorOrTensors


@registered
class LayerGradCam(LayerAttribution, GradientAttribution):
    """Adds up the channels of a layer, each weighted by its mean gradient over all places.

    `attribution_p = sum over channels c of u_cp * (mean over places q of df/du_cq)`

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`; `(batch, channels, *places)`, mostly the last convolution.
        device_ids: See `InternalAttribution`.

    Source: R. R. Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerGradCam
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> places = LayerGradCam(model, model[0]).attribute(torch.ones(1, 2, 5), target=1)
        >>> LayerGradCam.interpolate(places, 5).shape
        torch.Size([1, 1, 5])
    """

    def __init__(
        self, forward_func: ForwardFunction, layer: nn.Module | Site, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func, layer, device_ids)

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The weight of each place of the layer; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            attribute_to_layer_input: See `GradientAttribution`.
            relu_attributions: Whether what speaks against the output becomes zero, as in the paper.
            attr_dim_summation: False keeps the channels apart.
            grad_kwargs: See `GradientAttribution`.

        Returns:
            `(batch, 1, *places)`, or `(batch, channels, *places)` with the channels apart; a tuple where the layer
            gives a tuple. To be brought to the size of the inputs with `LayerAttribution.interpolate`.

        Raises:
            InvalidShape: the layer has no channels.
        """
        whole = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        problem = replace(whole.observed_at(self._sites(attribute_to_layer_input)), grad_kwargs=grad_kwargs)
        return self._in_form(places(self._walk(problem, 1).at_inputs(), relu_attributions, attr_dim_summation))


def places(found: Gradients, relu: bool, summed: bool) -> Attributed:
    """The weight of each place of a layer.

    Args:
        found: Its activations and gradients.
        relu: Whether what speaks against the output becomes zero.
        summed: Whether the channels are added up.

    Raises:
        InvalidShape: the layer has no channels.
    """
    gradients = Attributed.of(found.gradients, found.slots)
    weights = tuple(_mean_over_places(gradient) for gradient in gradients.tensors)
    maps = replace(gradients, tensors=weights).times(found.at).tensors
    maps = tuple(each.sum(1, keepdim=True) for each in maps) if summed else maps
    maps = tuple(each.relu() for each in maps) if relu else maps
    return replace(gradients, tensors=maps)


def _mean_over_places(gradient: Tensor) -> Tensor:
    """`(batch, channels, *places) -> (batch, channels, 1, ...)`."""
    if gradient.dim() < 2:
        raise InvalidShape(f"Grad-CAM needs a layer of (batch, channels, *places); got {tuple(gradient.shape)}")
    places = tuple(range(2, gradient.dim()))
    return gradient.mean(places, keepdim=True) if places else gradient
