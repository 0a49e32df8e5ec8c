"""The gradient at the inputs or at a layer, and its product with inputs or activations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu

from llm_attr.attr.base import GradientAttribution, LayerAttribution, Layers, NeuronAttribution, renamed
from llm_attr.caller import warn_caller
from llm_attr.core.path.walk import Attributed, Quadrature
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.tensors import map_tensors
from llm_attr.typing import Form, ForwardFunction, NeuronSelector, Target, TensorOrTensors, Tensors

AT_INPUT = Quadrature(*(torch.ones(1, dtype=torch.float64, device="cpu") for _ in range(2)))
"""The quadrature of a gradient at the input alone."""


@registered
class Saliency(GradientAttribution):
    """Measures how fast the output changes with each entry of the inputs.

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
        inputs: Form,
        target: Target = None,
        abs: bool = True,
        additional_forward_args: Any = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Form:
        """The gradient with respect to each entry of the inputs, or its absolute value.

        Shared arguments: see `GradientAttribution`.

        Args:
            abs: False keeps the sign.

        Returns:
            Same form as the inputs, in units of output per input.
        """
        problem = self._of_outputs(inputs, None, target, targets, additional_forward_args)
        return self._in_form(self.attribute_problem(problem, abs))

    def attribute_problem(self, problem: Problem, abs: bool = True) -> Attributed:
        """See `GradientAttribution`."""
        gradients = Attributed.of_gradients(self._walk(problem, 1).at_inputs())
        return gradients.sizes() if abs else gradients


@registered
class InputXGradient(GradientAttribution):
    """Multiplies each entry of the inputs by its gradient: the first term of a Taylor series around zero.

    `attribution_i = x_i df/dx_i`

    If the output does not change when a vector of the inputs is scaled, as with a norm directly on an embedding,
    the attributions of that vector always sum to zero; a UserWarning says so.

    Source: A. Shrikumar et al., Not Just a Black Box: Learning Important Features Through Propagating Activation
    Differences, 2016; P.-J. Kindermans et al., Investigating the Influence of Noise and Distractors on the
    Interpretation of Neural Networks, 2016.

    Example:
        >>> import torch
        >>> from llm_attr.attr import InputXGradient
        >>> InputXGradient(lambda x: (x**2).sum(1)).attribute(torch.tensor([[1.0, 2.0]]))
        tensor([[2., 8.]])
    """

    multiplies_by_inputs = True

    def attribute(
        self,
        inputs: Form,
        target: Target = None,
        additional_forward_args: Any = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Form:
        """Each entry of the inputs times its gradient.

        Shared arguments: see `GradientAttribution`.

        Returns:
            Same form as the inputs, in units of the output.
        """
        return self._in_form(
            self.attribute_problem(self._of_outputs(inputs, None, target, targets, additional_forward_args))
        )

    def attribute_problem(self, problem: Problem) -> Attributed:
        """See `GradientAttribution`."""
        point = self._walk(problem, 1).at_inputs()
        result = Attributed.of_gradients(point).times(point.at)
        _warn_if_scale_invariant(result)
        return result

    def line_quadrature(self, **options: Any) -> Quadrature:
        """At the input."""
        return AT_INPUT


@registered
class LayerGradientXActivation(LayerAttribution, GradientAttribution):
    """Multiplies each activation of a layer by its gradient.

    `attribution_i = u_i df/du_i`, with the activations u of the layer. The gradients of several layers come from one
    backward pass.

    If the output does not change when a vector of activations is scaled, as with a norm directly on an embedding,
    the attributions of that vector always sum to zero; a UserWarning says so.

    Args:
        layer: A layer or a list of layers.
        multiply_by_inputs: False leaves out the factor `u_i`.
        memory_efficient: Keeps the activations saved for the backward pass, and the result, in CPU memory: slower, for
            models whose activations do not fit on their device.

    Source: P.-J. Kindermans et al., Investigating the Influence of Noise and Distractors on the Interpretation of
    Neural Networks, 2016, applied to a layer.

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
        self.multiplies_by_inputs, self._memory_efficient = multiply_by_inputs, memory_efficient

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        attribute_to_layer_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """Each activation times its gradient; the inputs may be token ids.

        Shared arguments: see `GradientAttribution`.

        Returns:
            See `LayerAttribution`; in units of the output, or of output per activation without the factor.
        """
        args = (inputs, None, target, targets, additional_forward_args, attribute_to_layer_input, grad_kwargs)
        return self._in_form(self.attribute_problem(self._problem(*args)))

    def attribute_problem(self, problem: Problem, abs: bool = False) -> Attributed:
        """See `GradientAttribution`.

        Args:
            problem: What is explained.
            abs: Whether to return the absolute values of gradients without the factor.
        """
        with save_on_cpu() if self._memory_efficient else nullcontext():
            point = self._walk(problem, 1).at_inputs()
        if self._memory_efficient:
            point = map_tensors(Tensor.cpu, point)
        gradients = Attributed.of_gradients(point)
        result = replace(gradients, tensors=self.multiply_gradient_acts(gradients.tensors, point.at))
        if self.multiplies_by_inputs:
            _warn_if_scale_invariant(result)
        return result.sizes() if abs and not self.multiplies_by_inputs else result

    def line_quadrature(self, **options: Any) -> Quadrature | None:
        """At the layer's own activations."""
        return AT_INPUT if self.multiplies_by_inputs else None

    def multiply_gradient_acts(self, gradients: Tensors, evals: Tensors) -> Tensors:
        """The gradients times the activations, or the gradients themselves with `multiply_by_inputs=False`.

        Args:
            gradients: `(batch, *features)` for each tensor of the layers.
            evals: The activations, of the same shapes.
        """
        if not self.multiplies_by_inputs:
            return gradients
        return tuple(gradient * value for gradient, value in zip(gradients, evals, strict=True))


@registered
class NeuronGradient(NeuronAttribution, GradientAttribution):
    """Measures how fast a neuron changes with each entry of the inputs.

    `attribution_i = dn/dx_i`, with the neuron n

    Source: K. Simonyan, A. Vedaldi and A. Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014, section 3,
    with a neuron instead of a class score.

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
        inputs: Form,
        neuron_selector: NeuronSelector,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
    ) -> Form:
        """The gradient of the neuron with respect to each entry of the inputs.

        Shared arguments: see `NeuronAttribution` and `GradientAttribution`.

        Returns:
            Same form as the inputs, in units of the neuron per input.
        """
        problem = self._problem(inputs, neuron_selector, None, additional_forward_args, attribute_to_neuron_input)
        return self._in_form(Attributed.of_gradients(self._walk(problem, 1).at_inputs()))


_ZERO_SUM = 1e-3
"""A sum over a vector counts as zero below this fraction of the sum expected for random signs."""


def _warn_if_scale_invariant(products: Attributed) -> None:
    """Warns if the products in one of the tensors `(batch, ..., vector)` sum to zero over every vector."""
    for i, (tensor, dtype) in enumerate(zip(products.tensors, products.dtypes, strict=True)):
        if tensor.dim() - products.axis < 3 or tensor.shape[-1] < 2:
            continue
        tolerance = max(_ZERO_SUM, 4 * torch.finfo(dtype).eps) / tensor.shape[-1] ** 0.5
        if _cancel(tensor[:1], tolerance) and _cancel(tensor, tolerance) and tensor.any():
            warn_caller(
                f"gradient x input sums to zero over each vector of tensor {i} {tuple(tensor.shape)}: the output does "
                "not change when such a vector is scaled, as with a norm directly on it, so gradient x input cannot "
                "rank tokens or positions; use integrated gradients, or a later layer",
                UserWarning,
            )
            return


def _cancel(vectors: Tensor, tolerance: float) -> bool:
    """Whether each sum over the last axis is tiny compared with the sum of absolute values."""
    return bool((vectors.sum(-1).abs() <= tolerance * vectors.abs().sum(-1)).all())
