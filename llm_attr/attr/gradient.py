"""The gradient at the inputs or at a layer, and its product with what it is taken by."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu

from llm_attr.attr.base import GradientAttribution, LayerAttribution, Layers, NeuronAttribution, renamed
from llm_attr.caller import warn_caller
from llm_attr.core.path.walk import Attributed
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import ForwardFunction, NeuronSelector, Target, TensorOrTensors, Tensors


@registered
class Saliency(GradientAttribution):
    """Says how fast the output changes with each entry of the inputs.

    `attribution_i = |df/dx_i|`

    Source: K. Simonyan, A. Vedaldi and A. Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014, section 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Saliency
        >>> Saliency(lambda x: x[:, 0] - 3 * x[:, 1]).attribute(torch.ones(1, 2))
        tensor([[1., 3.]])
    """

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        abs: bool = True,
        additional_forward_args: Any = None,
    ) -> Any:
        """The gradient by each entry of the inputs, or its absolute value; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            abs: False keeps the sign.
            additional_forward_args: See `Attribution`.

        Returns:
            As the inputs, in units of output per input.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        found = self._walk(problem, 1).at_inputs()
        gradients = tuple(gradient.abs() for gradient in found.gradients) if abs else found.gradients
        return self._in_form(Attributed.of(gradients, found.slots))


@registered
class InputXGradient(GradientAttribution):
    """Multiplies each entry of the inputs by the gradient there: the first term of a Taylor series around zero.

    `attribution_i = x_i df/dx_i`

    Where the output does not change when a vector of the inputs is scaled, as with a norm directly on an embedding,
    the attributions of that vector sum to zero whatever the model does; a UserWarning says so.

    Source: A. Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating Activation
    Differences, 2016; P.-J. Kindermans et al., Investigating the Influence of Noise and Distractors on the
    Interpretation of Neural Networks, 2016.

    Example:
        >>> import torch
        >>> from llm_attr.attr import InputXGradient
        >>> InputXGradient(lambda x: (x**2).sum(1)).attribute(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 8.]])
    """

    @property
    def multiplies_by_inputs(self) -> bool:
        """Yes."""
        return True

    def attribute(self, inputs: TensorOrTensors, target: Target = None, additional_forward_args: Any = None) -> Any:
        """The product of each entry of the inputs and the gradient by it; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.

        Returns:
            As the inputs, in units of the output.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        found = self._walk(problem, 1).at_inputs()
        result = Attributed.of(found.gradients, found.slots).times(found.at)
        _warn_where_scale_does_not_matter(result)
        return self._in_form(result)


@registered
class LayerGradientXActivation(LayerAttribution, GradientAttribution):
    """Multiplies each activation of a layer by the gradient there.

    `attribution_i = u_i df/du_i`, with the activations u of the layer for the inputs. With several layers the gradients
    of all of them come from one pass.

    Where the output does not change when a vector of activations is scaled, as with a norm directly on an embedding,
    the attributions of that vector sum to zero whatever the model does; a UserWarning says so.

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`; or a list of layers.
        device_ids: See `InternalAttribution`.
        multiply_by_inputs: False leaves the factor `u_i` out.
        memory_efficient: Keeps what the backward pass needs, and the result, in the memory of the CPU: slower, for
            models whose activations do not fit on their device.

    Source: P.-J. Kindermans et al., Investigating the Influence of Noise and Distractors on the Interpretation of
    Neural Networks, 2016, at a layer instead of the inputs.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerGradientXActivation
        >>> square = torch.nn.Sequential(torch.nn.Identity())
        >>> LayerGradientXActivation(lambda x: (square(x) ** 2).sum(1), square).attribute(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 8.]])
    """

    takes_layers = True

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: Layers | None,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
        memory_efficient: bool = False,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs, self._memory_efficient = multiply_by_inputs, memory_efficient

    @property
    def multiplies_by_inputs(self) -> bool:
        """As the constructor was told."""
        return self._multiply_by_inputs

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """The product of each activation and the gradient by it; see `GradientAttribution`.

        Args:
            inputs: See `Attribution`; token ids too.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            attribute_to_layer_input: See `GradientAttribution`.
            grad_kwargs: See `GradientAttribution`.

        Returns:
            See `LayerAttribution`; in units of the output, or of output per activation without the factor.
        """
        whole = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        problem = replace(whole.observed_at(self._sites(attribute_to_layer_input)), grad_kwargs=grad_kwargs)
        with save_on_cpu() if self._memory_efficient else nullcontext():
            found = self._walk(problem, 1).at_inputs()
        gradients, at = found.gradients, found.at
        if self._memory_efficient:
            gradients, at = tuple(x.cpu() for x in gradients), tuple(x.cpu() for x in at)
        mine = Attributed.of(gradients, found.slots)
        result = replace(mine, tensors=self.multiply_gradient_acts(mine.tensors, at))
        if self.multiplies_by_inputs:
            _warn_where_scale_does_not_matter(result)
        return self._in_form(result)

    def multiply_gradient_acts(self, gradients: Tensors, evals: Tensors) -> Tensors:
        """Each gradient times its activations, or as it is with `multiply_by_inputs=False`.

        Args:
            gradients: One `(batch, *features)` for each tensor of the layers.
            evals: Their activations, of the same shapes.
        """
        if not self.multiplies_by_inputs:
            return gradients
        return tuple(gradient * value for gradient, value in zip(gradients, evals, strict=True))


@registered
class NeuronGradient(NeuronAttribution, GradientAttribution):
    """Says how a neuron changes with each entry of the inputs.

    `attribution_i = dn/dx_i`, with the neuron n

    Source: K. Simonyan, A. Vedaldi and A. Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014, section 3,
    with a neuron in the place of a class score.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronGradient
        >>> layer = torch.nn.Linear(2, 3, bias=False)
        >>> layer.weight.data = torch.arange(6.0).view(3, 2)
        >>> NeuronGradient(layer, layer).attribute(torch.ones(1, 2), neuron_selector=2)
        tensor([[4., 5.]])
    """

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Any:
        """The gradient of the neuron by each entry of the inputs; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            additional_forward_args: See `Attribution`.
            attribute_to_neuron_input: See `GradientAttribution`.

        Returns:
            As the inputs, in units of the neuron per input.
        """
        whole = Problem.of(self.forward_func, inputs, None, None, additional_forward_args)
        (site,) = self._sites(attribute_to_neuron_input)
        found = self._walk(whole.of_neuron(site, neuron_selector), 1).at_inputs()
        return self._in_form(Attributed.of(found.gradients, found.slots))


_SCALE = 1e-3
"""Sums over the vectors below this share of what random signs would give count as zero."""


def _warn_where_scale_does_not_matter(products: Attributed) -> None:
    """Warns if one of the tensors `(batch, ..., vector)` has products that sum to zero over each vector."""
    for i, (tensor, dtype) in enumerate(zip(products.tensors, products.dtypes, strict=True)):
        if tensor.dim() < 3 or tensor.shape[-1] < 2:
            continue
        tolerance = max(_SCALE, 4 * torch.finfo(dtype).eps) / tensor.shape[-1] ** 0.5
        if _cancel(tensor[:1], tolerance) and _cancel(tensor, tolerance) and tensor.any():
            warn_caller(
                f"gradient x input sums to zero over each vector of tensor {i} {tuple(tensor.shape)}: the output does "
                "not change when such a vector is scaled, as with a norm directly on it, hence gradient x input says "
                "nothing about a token or position as a whole; use integrated gradients, or a later layer",
                UserWarning,
            )
            return


def _cancel(vectors: Tensor, tolerance: float) -> bool:
    """Whether each sum over the last axis is tiny against the absolute values in it, or all of them are zero."""
    return bool((vectors.sum(-1).abs() <= tolerance * vectors.abs().sum(-1)).all())
