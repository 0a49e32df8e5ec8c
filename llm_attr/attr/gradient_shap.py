"""Expected gradients (gradient SHAP) of inputs, layers and neurons."""

from __future__ import annotations

from typing import Any

from torch import nn

from llm_attr.attr.base import GradientAttribution, LayerAttribution, NeuronAttribution, renamed
from llm_attr.core.path.expectation import Expectation, Inspect, RandomLines
from llm_attr.core.path.noise import Draws
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.core.tensors import can_move
from llm_attr.typing import BaselineDistribution, ForwardFunction, NeuronSelector, Target, TensorOrTensors


@registered
class GradientShap(GradientAttribution):
    """Averages gradient times difference at random points between random baselines and noisy inputs.

    `attribution_i = E[(x'_i - b_i) * df/dx_i at b + a (x' - b)]`, where `x'` is the input with noise, b a baseline
    drawn from the distribution and a uniform on [0, 1]

    Args:
        forward_func: See `Attribution`.
        multiply_by_inputs: False leaves the factor `x'_i - b_i` out.

    Source: S. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017; G. Erion et
    al., Improving performance of deep learning models with axiomatic attribution priors and expected gradients,
    Nature Machine Intelligence 2021, equation 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import GradientShap
        >>> x, baselines = torch.tensor([[1.0, 2.0]]), torch.zeros(10, 2)
        >>> GradientShap(lambda x: 3 * x.sum(1)).attribute(x, baselines, seed=0)
        tensor([[3., 6.]])
    """

    def __init__(self, forward_func: ForwardFunction, multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
        self._multiply_by_inputs = multiply_by_inputs

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
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        *,
        seed: int | None = None,
        inspect: Inspect | None = None,
    ) -> Any:
        """The expected gradient of each entry of the inputs; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`.
            baselines: The states to draw from, `(states, *features)`, a tuple of these, one for each input, or a
                function that gives them; if it takes an argument, it gets the inputs.
            n_samples: Random lines of each example.
            stdevs: Standard deviation of the normal noise on the inputs, or one for each of them.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: Also gives how far the attributions of each line are from the change of the output
                along it.
            seed: Makes the draws repeatable and leaves the global streams alone, from which they come else: noise from
                torch's, then baselines and points from numpy's.
            inspect: Is shown the attributions of the lines, `(batch, lines, *features)` for each input, a chunk at a
                time: what an error is computed from.

        Returns:
            As the inputs, in units of the output; then the delta `(batch * n_samples,)`, the lines of an example in a
            row, if asked for.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        lines = RandomLines.drawn(inputs, baselines, n_samples, stdevs, Draws.of(seed))
        expectation = Expectation(self._walk(problem, n_samples), lines, lines.differences, inspect)
        return _answer(self, expectation, return_convergence_delta)


@registered
class LayerGradientShap(LayerAttribution, GradientAttribution):
    """Averages a layer's gradient times the change of its activations, between random baselines and noisy inputs.

    `attribution_i = E[(u_i(x') - u_i(b)) * df/du_i at b + a (x' - b)]`, where u is what the layer gives, `x'` the input
    with noise, b a baseline drawn from the distribution and a uniform on [0, 1]. Token ids cannot move; with them the
    layer does, and the gradient is taken at `u(b) + a (u(x) - u(b))`.

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.
        multiply_by_inputs: False leaves the factor `u_i(x') - u_i(b)` out.

    Source: as for `GradientShap`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerGradientShap
        >>> embedding = torch.nn.Embedding.from_pretrained(torch.tensor([[0.0, 0.0], [1.0, 2.0]]))
        >>> method = LayerGradientShap(lambda ids: embedding(ids).sum((1, 2)), embedding)
        >>> method.attribute(torch.tensor([[1, 0]]), torch.zeros(1, 2, dtype=torch.long), seed=0)
        tensor([[[1., 2.],
                 [0., 0.]]])
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: nn.Module | Site,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

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
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        *,
        seed: int | None = None,
    ) -> Any:
        """The expected gradient of each neuron of the layer; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: See `Attribution`; token ids too, without noise.
            baselines: See `GradientShap.attribute`: states of the inputs.
            n_samples: See `GradientShap.attribute`.
            stdevs: See `GradientShap.attribute`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: See `GradientShap.attribute`.
            attribute_to_layer_input: See `GradientAttribution`.
            seed: See `GradientShap.attribute`.

        Returns:
            See `LayerAttribution`, in units of the output; then the delta `(batch * n_samples,)`, if asked for.
        """
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        lines = RandomLines.drawn(inputs, baselines, n_samples, stdevs, Draws.of(seed))
        sites = self._sites(attribute_to_layer_input)
        if not all(can_move(x) for x in problem.inputs):
            lines = lines.at_layer(self._walk(problem, n_samples), sites)
            walk = self._walk(problem.cut_at(sites), n_samples)
            return _answer(self, Expectation(walk, lines, lines.differences), return_convergence_delta)
        walk = self._walk(problem.observed_at(sites), n_samples)
        return _answer(self, Expectation(walk, lines, lines.changes(problem, sites)), return_convergence_delta)


@registered
class NeuronGradientShap(NeuronAttribution, GradientAttribution):
    """Averages a neuron's gradient times difference at random points between random baselines and noisy inputs.

    `attribution_i = E[(x'_i - b_i) * dn/dx_i at b + a (x' - b)]`, with the neuron n; the rest as in `GradientShap`

    Args:
        forward_func: See `Attribution`.
        layer: See `InternalAttribution`.
        device_ids: See `InternalAttribution`.
        multiply_by_inputs: False leaves the factor `x'_i - b_i` out.

    Source: as for `GradientShap`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronGradientShap
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> method = NeuronGradientShap(model, model[0])
        >>> method.attribute(torch.ones(1, 2), neuron_selector=2, baselines=torch.zeros(4, 2), seed=0).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: nn.Module | Site,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self._multiply_by_inputs = multiply_by_inputs

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
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        *,
        seed: int | None = None,
    ) -> Any:
        """The neuron's expected gradient by each entry of the inputs; see `NeuronAttribution`.

        Args:
            inputs: See `Attribution`.
            neuron_selector: See `NeuronAttribution`.
            baselines: See `GradientShap.attribute`.
            n_samples: See `GradientShap.attribute`.
            stdevs: See `GradientShap.attribute`.
            additional_forward_args: See `Attribution`.
            attribute_to_neuron_input: See `GradientAttribution`.
            seed: See `GradientShap.attribute`.

        Returns:
            As the inputs, in units of the neuron.
        """
        (site,) = self._sites(attribute_to_neuron_input)
        problem = Problem.of(self.forward_func, inputs, None, None, additional_forward_args)
        lines = RandomLines.drawn(inputs, baselines, n_samples, stdevs, Draws.of(seed))
        walk = self._walk(problem.of_neuron(site, neuron_selector), n_samples)
        return _answer(self, Expectation(walk, lines, lines.differences), False)


def _answer(method: GradientAttribution, expectation: Expectation, delta: bool) -> Any:
    """The attributions in the caller's form, and behind them the delta, if asked for."""
    if not (delta or method.multiplies_by_inputs):
        return method._in_form(expectation.of_gradient())
    found, sums = expectation.of_product(method.multiplies_by_inputs)
    return (method._in_form(found), expectation.delta(sums)) if delta else method._in_form(found)
