"""Expected gradients (gradient SHAP) of inputs, layers and neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llm_attr.attr.base import (
    InternalPathAttribution,
    LayerAttribution,
    NeuronAttribution,
    PathAttribution,
    renamed,
)
from llm_attr.attr.forms import keeps_form
from llm_attr.core.path.expectation import Expectation, Inspect, RandomLines
from llm_attr.core.path.noise import Draws
from llm_attr.core.path.walk import Attributed, Points
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.tensors import can_move
from llm_attr.typing import BaselineDistribution, Form, NeuronSelector, Target, TensorOrTensors


class ExpectedGradientAttribution(PathAttribution):
    """A method that averages gradients over random lines.

    Args:
        multiply_by_inputs: False leaves out the factor noisy input minus baseline.
    """

    starts_at_baseline = True
    is_random = True

    def attribute_problem(
        self,
        problem: Problem,
        baselines: BaselineDistribution,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        return_convergence_delta: bool = False,
        *,
        seed: int | None = None,
        inspect: Inspect | None = None,
    ) -> Attributed:
        """See `GradientAttribution`; the arguments are those of `GradientShap.attribute`."""
        lines = RandomLines.drawn(problem.inputs, baselines, n_samples, stdevs, Draws.of(seed))
        return self._expected(problem, lines, lines.differences, return_convergence_delta, inspect)

    def _expected(
        self, problem: Problem, lines: RandomLines, differences: Points, delta: bool, inspect: Inspect | None = None
    ) -> Attributed:
        """The mean over the lines."""
        expectation = Expectation(self._walk(problem, lines.samples), lines, differences, inspect)
        if not (delta or self.multiplies_by_inputs):
            return expectation.of_gradient()
        mean, sums = expectation.of_product(self.multiplies_by_inputs)
        return replace(mean, more=(expectation.delta(sums),)) if delta else mean


@registered
class GradientShap(ExpectedGradientAttribution):
    """Averages gradient times difference at random points between random baselines and noisy inputs.

    `attribution_i = E[(x'_i - b_i) * df/dx_i at b + a (x' - b)]`, where `x'` is the input with noise, b a baseline
    drawn from the distribution and a uniform on [0, 1]

    Args:
        multiply_by_inputs: False leaves out the factor `x'_i - b_i`.

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

    @keeps_form
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
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The expected gradient of each entry of the inputs.

        Shared arguments: see `GradientAttribution`.

        Args:
            baselines: The distribution to draw baselines from: a tensor `(states, *features)`, a tuple with one per
                input, or a function that returns either; a function that takes an argument gets the inputs.
            n_samples: The number of random lines per example.
            stdevs: The standard deviation of the normal noise on the inputs, or a tuple with one per input.
            return_convergence_delta: Whether to also return the delta of each line: the sum of its attributions minus
                the change of the output along it.
            seed: Makes the draws repeatable, without touching the global generators. None: noise is drawn from torch's
                global generator, baselines and points from NumPy's.
            inspect: A function called with the attributions of the lines, `(batch, lines, *features)` for each input,
                one chunk at a time; standard errors can be computed from them.

        Returns:
            Same form as the inputs, in units of the output; followed by the delta `(batch * n_samples,)` if requested,
            with the lines of an example next to each other.
        """
        problem = self._of_outputs(inputs, None, target, targets, additional_forward_args)
        lines = RandomLines.drawn(inputs, baselines, n_samples, stdevs, Draws.of(seed))
        return self._in_form(self._expected(problem, lines, lines.differences, return_convergence_delta, inspect))


@registered
class LayerGradientShap(LayerAttribution, InternalPathAttribution, ExpectedGradientAttribution):
    """Averages a layer's gradient times the change of its activations, between random baselines and noisy inputs.

    `attribution_i = E[(u_i(x') - u_i(b)) * df/du_i at b + a (x' - b)]`, with the activations u of the layer, the input
    `x'` with noise, a baseline b drawn from the distribution and a uniform on [0, 1]. Token ids cannot be interpolated;
    for them the gradient is taken at the activations `u(b) + a (u(x) - u(b))`.

    Args:
        multiply_by_inputs: False leaves out the factor `u_i(x') - u_i(b)`.

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
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The expected gradient of each neuron of the layer; without noise, the inputs may be token ids.

        Shared arguments: see `GradientAttribution` and `GradientShap.attribute`.

        Returns:
            See `LayerAttribution`, in units of the output; followed by the delta `(batch * n_samples,)` if requested.
        """
        problem = self._of_outputs(inputs, None, target, targets, additional_forward_args)
        lines = RandomLines.drawn(inputs, baselines, n_samples, stdevs, Draws.of(seed))
        sites = self._sites(attribute_to_layer_input)
        if not all(can_move(x) for x in problem.inputs):
            lines = lines.at_layer(self._walk(problem, n_samples), sites)
            cut = problem.cut_at(sites)
            return self._in_form(self._expected(cut, lines, lines.differences, return_convergence_delta))
        observed, changes = problem.observed_at(sites), lines.changes(problem, sites)
        return self._in_form(self._expected(observed, lines, changes, return_convergence_delta))


@registered
class NeuronGradientShap(NeuronAttribution, InternalPathAttribution, ExpectedGradientAttribution):
    """Averages a neuron's gradient times difference at random points between random baselines and noisy inputs.

    `attribution_i = E[(x'_i - b_i) * dn/dx_i at b + a (x' - b)]`, with the neuron n; see `GradientShap`

    Args:
        multiply_by_inputs: False leaves out the factor `x'_i - b_i`.

    Source: as for `GradientShap`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import NeuronGradientShap
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
        >>> method = NeuronGradientShap(model, model[0])
        >>> method.attribute(torch.ones(1, 2), neuron_selector=2, baselines=torch.zeros(4, 2), seed=0).shape
        torch.Size([1, 2])
    """

    @renamed(neuron_index="neuron_selector")
    def attribute(
        self,
        inputs: Form,
        neuron_selector: NeuronSelector,
        baselines: BaselineDistribution,
        n_samples: int = 5,
        stdevs: float | tuple[float, ...] = 0.0,
        additional_forward_args: Any = None,
        attribute_to_neuron_input: bool = False,
        *,
        seed: int | None = None,
    ) -> Form:
        """The expected gradient of the neuron with respect to each entry of the inputs.

        Shared arguments: see `NeuronAttribution`, `GradientAttribution` and `GradientShap.attribute`.

        Returns:
            Same form as the inputs, in units of the neuron.
        """
        problem = self._problem(inputs, neuron_selector, None, additional_forward_args, attribute_to_neuron_input)
        lines = RandomLines.drawn(inputs, baselines, n_samples, stdevs, Draws.of(seed))
        answer: Form = self._in_form(self._expected(problem, lines, lines.differences, False))
        return answer
