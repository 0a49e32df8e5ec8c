"""Layer-wise relevance propagation to inputs and layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from llm_attr.attr.base import GradientAttribution, LayerAttribution, Layers
from llm_attr.attr.forms import keeps_form
from llm_attr.attr.lrp_rules import PropagationRule, nonzero
from llm_attr.core.path.walk import Attributed, per_example
from llm_attr.core.problem import Gradients, Problem
from llm_attr.core.registry import registered
from llm_attr.core.rules.engine import Rules
from llm_attr.core.rules.tables import LRP as RULES
from llm_attr.core.tensors import as_tensors, split_by
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType
from llm_attr.typing import ForwardFunction, Target, TensorOrTensors


class RelevanceAttribution(GradientAttribution):
    """A method that propagates the output back as relevance.

    Args:
        model: As `forward_func` of `Attribution`.
        rules: Rules by module, in addition to those that modules have as the attribute `rule`.
    """

    multiplies_by_inputs = True
    by_rules = True

    def __init__(self, model: ForwardFunction, *, rules: Mapping[nn.Module, PropagationRule] | None = None) -> None:
        super().__init__(model)
        self.model, self.rules = model, _checked(rules)

    def compute_convergence_delta(  # type: ignore[override]
        self, attributions: TensorOrTensors, output: Tensor
    ) -> Tensor:
        """The absorbed relevance, `delta = output - sum(attributions)`; the arguments differ, as in Captum.

        Args:
            attributions: Tensor or tuple of tensors `(batch, ...)`.
            output: The explained outputs, `(batch,)`.

        Returns:
            `(batch,)`, in units of the output.

        Raises:
            InvalidShape: there is not one output per example.
        """
        tensors = as_tensors(attributions)
        if output.numel() != len(tensors[0]):
            raise InvalidShape(
                f"output must be one number for each of the {len(tensors[0])} examples; got {tuple(output.shape)}"
            )
        return output.detach().flatten() - per_example(tensors, len(tensors[0]))

    def attribute_problem(
        self, problem: Problem, return_convergence_delta: bool = False, verbose: bool = False
    ) -> Attributed:
        """See `GradientAttribution`; the arguments are those of `LRP.attribute`.

        The delta is that of each slot of the problem, in a list for a list of layers.
        """
        rules = RULES.of(self.model, self.rules)
        if verbose:
            _describe(rules)
        point = self._walk(rules.on(problem), 1).at_inputs()
        relevance = Attributed.of_gradients(point).times([nonzero(value) for value in point.at])
        if not return_convergence_delta:
            return relevance
        deltas = [_absorbed(point, part, problem.batch) for part in split_by(relevance.tensors, relevance.slots)]
        several = isinstance(getattr(self, "layer", None), list | tuple)
        return replace(relevance, more=(deltas if several else deltas[0],))


@registered
class LRP(RelevanceAttribution):
    """Propagates the output back as relevance, layer by layer, to the inputs.

    `R_x = sum over y of (x w / y) R_y` at linear operations, or the rule of their module; `R_x = R_y` at elementwise
    functions, minus what their value at zero absorbs; half to each factor of a product; divisors of norms and attention
    patterns are constants. Convolution, pooling, batch normalisation (as an affine map), norms, attention and entire
    transformers are covered, whether the model calls modules or functions. Relevance is conserved except for what
    biases and values at zero absorb, which is the delta.

    As in Captum, `module.rule = GammaRule()` sets the rule of all linear operations inside a module; the innermost
    module with a rule wins. A rule on a module without linear operations changes nothing and raises a warning. Rules
    cannot look into a custom autograd Function; one that is linear must say so, `TheFunction.linear_in_input = True`,
    and keeps its gradient.

    Source: S. Bach et al., On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation, PLOS ONE 2015; for attention A. Ali et al., XAI for Transformers: Better Explanations through
    Conservative Propagation, ICML 2022.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LRP
        >>> layer = torch.nn.Linear(2, 1)
        >>> layer.weight.data, layer.bias.data = torch.tensor([[3.0, -1.0]]), torch.tensor([0.5])
        >>> LRP(torch.nn.Sequential(layer, torch.nn.ReLU())).attribute(
        ...     torch.tensor([[1.0, 2.0]]), target=0, return_convergence_delta=True
        ... )
        (tensor([[ 3., -2.]]), tensor([0.5000]))
    """

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The relevance of each entry of the inputs.

        Shared arguments: see `GradientAttribution`.

        Args:
            return_convergence_delta: Whether to also return the absorbed relevance of each example, see
                `compute_convergence_delta`.
            verbose: Whether to print the rule of each module with parameters.

        Returns:
            Same form as the inputs, in units of the output; followed by the delta `(batch,)` if requested.

        Raises:
            NoRule: the model has an operation that no rule covers.
        """
        problem = self._of_outputs(inputs, None, target, targets, additional_forward_args)
        return self._in_form(self.attribute_problem(problem, return_convergence_delta, verbose))


@registered
class LayerLRP(LayerAttribution, RelevanceAttribution):
    """Propagates the output back as relevance to the neurons of a layer.

    As `LRP`, stopping at the layer.

    Args:
        layer: A layer or a list of layers.

    Source: as for `LRP`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LayerLRP
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.ReLU())
        >>> model[0].weight.data = torch.tensor([[3.0, -1.0], [1.0, 1.0]])
        >>> LayerLRP(model, model[0]).attribute(torch.tensor([[1.0, 2.0]]), target=1)
        tensor([[0., 3.]])
    """

    takes_layers = True

    def __init__(
        self, model: ForwardFunction, layer: Layers, *, rules: Mapping[nn.Module, PropagationRule] | None = None
    ) -> None:
        super().__init__(model, layer)
        self.rules = _checked(rules)

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: bool = False,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The relevance of each neuron of the layer.

        Shared arguments: see `GradientAttribution` and `LRP.attribute`.

        Returns:
            See `LayerAttribution`, in units of the output; followed by the delta `(batch,)` if requested, in a list for
            a list of layers.

        Raises:
            NoRule: the model has an operation that no rule covers.
        """
        problem = self._problem(inputs, None, target, targets, additional_forward_args, attribute_to_layer_input)
        return self._in_form(self.attribute_problem(problem, return_convergence_delta, verbose))


def _absorbed(point: Gradients, relevance: tuple[Tensor, ...], batch: int) -> Tensor:
    """`output - sum(relevance)`, `(batch,)`.

    Raises:
        InvalidTarget: there is not one output per example.
    """
    total = per_example(relevance, batch, point.axis)
    if point.scores.numel() != total.numel():
        raise InvalidTarget(
            f"a delta needs one output for each of the {batch} examples; got {tuple(point.scores.shape)}"
        )
    return point.scores.to(total.dtype).reshape(total.shape) - total


def _describe(rules: Rules) -> None:
    """Prints the rule of each module that has parameters itself."""
    by_module = rules.by_module()

    def walk(module: nn.Module, outer: Any) -> None:
        rule = by_module.get(module, outer)
        if any(True for _ in module.parameters(recurse=False)):
            print(f"Applied {rule or 'the rule x w / y'} on layer {module}")
        for child in module.children():
            walk(child, rule)

    for root in rules.roots:
        walk(root, None)


def _checked(rules: Mapping[nn.Module, PropagationRule] | None) -> dict[nn.Module, PropagationRule]:
    """The rules as a dict.

    Raises:
        InvalidType: a key is not a module, or a value is not a rule.
    """
    for module, rule in (rules or {}).items():
        if not isinstance(module, nn.Module) or not isinstance(rule, PropagationRule):
            raise InvalidType(
                "rules must be a mapping from modules to rules such as EpsilonRule(); got "
                f"{type(module).__name__}: {type(rule).__name__}"
            )
    return dict(rules or {})
