"""Grad-CAM: which positions of a convolutional layer contributed to the output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from llm_attr.attr.base import GradientAttribution, LayerAttribution
from llm_attr.core.path.walk import Attributed
from llm_attr.core.problem import Gradients
from llm_attr.core.registry import registered
from llm_attr.errors import InvalidShape
from llm_attr.typing import Target, TensorOrTensors


@registered
class LayerGradCam(LayerAttribution, GradientAttribution):
    """Sums the channels of a layer, each weighted by its mean gradient over all positions.

    `attribution_p = sum over channels c of u_cp * (mean over positions q of df/du_cq)`

    Args:
        layer: A layer with activations `(batch, channels, *spatial)`, usually the last convolution.

    Source: R. R. Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerGradCam
        >>> model = torch.nn.Sequential(torch.nn.Conv1d(2, 4, 3), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> places = LayerGradCam(model, model[0]).attribute(torch.ones(1, 2, 5), target=1)
        >>> LayerGradCam.interpolate(places, 5).shape
        torch.Size([1, 1, 5])
    """

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        relu_attributions: bool = False,
        attr_dim_summation: bool = True,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The weight of each position of the layer.

        Shared arguments: see `GradientAttribution`.

        Args:
            relu_attributions: Whether to set negative attributions to zero, as in the paper.
            attr_dim_summation: Whether to sum over the channels.

        Returns:
            `(batch, 1, *spatial)`, or `(batch, channels, *spatial)` without summation; a tuple if the layer returns a
            tuple. `LayerAttribution.interpolate` resizes it to the inputs.

        Raises:
            InvalidShape: the layer has no channels.
        """
        args = (inputs, None, target, targets, additional_forward_args, attribute_to_layer_input, grad_kwargs)
        point = self._walk(self._problem(*args), 1).at_inputs()
        return self._in_form(grad_cam(point, relu_attributions, attr_dim_summation))


def grad_cam(point: Gradients, relu: bool, summed: bool) -> Attributed:
    """The Grad-CAM map of a layer.

    Args:
        point: The activations and gradients of the layer.
        relu: Whether to set negative values to zero.
        summed: Whether to sum over the channels.

    Raises:
        InvalidShape: the layer has no channels.
    """
    gradients = Attributed.of_gradients(point)
    weights = tuple(_spatial_mean(gradient, point.axis) for gradient in gradients.tensors)
    maps = replace(gradients, tensors=weights).times(point.at).tensors
    maps = tuple(each.sum(1 + point.axis, keepdim=True) for each in maps) if summed else maps
    maps = tuple(each.relu() for each in maps) if relu else maps
    return replace(gradients, tensors=maps)


def _spatial_mean(gradient: Tensor, axis: int) -> Tensor:
    """`(batch, channels, *spatial) -> (batch, channels, 1, ...)`, with the batch at this axis."""
    if gradient.dim() < 2 + axis:
        raise InvalidShape(f"Grad-CAM needs a layer of (batch, channels, *spatial); got {tuple(gradient.shape)}")
    axes = tuple(range(2 + axis, gradient.dim()))
    return gradient.mean(axes, keepdim=True) if axes else gradient
