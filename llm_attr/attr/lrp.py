"""Layer-wise relevance propagation to inputs and layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from llm_attr.attr.base import GradientAttribution, LayerAttribution, Layers
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
    """A method that passes the output back as relevance."""

    def compute_convergence_delta(  # type: ignore[override]
        self, attributions: TensorOrTensors, output: Tensor
    ) -> Tensor:
        """The relevance that was absorbed: `delta = output - sum(attributions)`, as in Captum with other arguments.

        Args:
            attributions: Tensor or tuple of tensors `(batch, ...)`.
            output: `(batch,)` the explained outputs.

        Returns:
            `(batch,)`, in units of the output.

        Raises:
            InvalidShape: there is not one output for each example.
        """
        tensors = as_tensors(attributions)
        if output.numel() != len(tensors[0]):
            raise InvalidShape(
                f"output must be one number for each of the {len(tensors[0])} examples; got {tuple(output.shape)}"
            )
        return output.detach().flatten() - per_example(tensors, len(tensors[0]))


@registered
class LRP(RelevanceAttribution):
    """Passes the output back as relevance, layer by layer, to the inputs.

    `R_x = sum over y of (x w / y) R_y` at linear operations, or as the rule of their module says; `R_x = R_y` at a
    function of one entry, less what its value at zero absorbs; half to each factor of a product; divisors of norms and
    attention patterns are constants. Convolution, pooling, batch normalisation (its affine form), norms, attention and
    whole transformers have rules, in whatever way the model calls them. Relevance is conserved but for what biases and
    values at zero absorb, which is the delta.

    Rules are set as in Captum, `module.rule = GammaRule()`, for the linear operations inside of a module; the nearest
    module with a rule counts, and where nothing is linear a rule changes nothing, with a warning. They do not see into
    a custom autograd Function; one that is linear says so, `TheFunction.linear_in_input = True`, and passes on its
    gradient.

    Args:
        model: See `Attribution`.
        rules: Rules of modules, besides those that modules have as the attribute `rule`.

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

    def __init__(self, model: ForwardFunction, *, rules: Mapping[nn.Module, PropagationRule] | None = None) -> None:
        super().__init__(model)
        self.model, self.rules = model, _checked(rules)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Relevance is a share of the output."""
        return True

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        verbose: bool = False,
    ) -> Any:
        """The relevance of each entry of the inputs; see `Attribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: Also gives the absorbed relevance of each example, see
                `compute_convergence_delta`.
            verbose: Prints which rule each module with parameters has.

        Returns:
            As the inputs, in units of the output; then the delta `(batch,)`, if asked for.

        Raises:
            NoRule: the model does something that the rules cannot follow.
        """
        rules = RULES.of(self.model, self.rules)
        problem = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        relevance, found = _propagated(self, rules, problem, verbose)
        if not return_convergence_delta:
            return self._in_form(relevance)
        return self._in_form(relevance), _absorbed(found, relevance.tensors, problem.batch)


@registered
class LayerLRP(LayerAttribution, RelevanceAttribution):
    """Passes the output back as relevance to the neurons of a layer.

    As `LRP`, stopped at the layer.

    Args:
        model: See `Attribution`.
        layer: See `InternalAttribution`; or a list of layers.
        rules: See `LRP`.

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
        self.model, self.rules = model, _checked(rules)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Relevance is a share of the output."""
        return True

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

    def attribute(
        self,
        inputs: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
        return_convergence_delta: bool = False,
        attribute_to_layer_input: bool = False,
        verbose: bool = False,
    ) -> Any:
        """The relevance of each neuron of the layer; see `LayerAttribution`.

        Args:
            inputs: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            return_convergence_delta: Also gives the absorbed relevance of each example, see `LRP`.
            attribute_to_layer_input: See `GradientAttribution`.
            verbose: See `LRP.attribute`.

        Returns:
            See `LayerAttribution`, in units of the output; then the delta `(batch,)`, if asked for, in a list for a
            list of layers.

        Raises:
            NoRule: the model does something that the rules cannot follow.
        """
        rules = RULES.of(self.model, self.rules)
        whole = Problem.of(self.forward_func, inputs, None, target, additional_forward_args)
        problem = whole.observed_at(self._sites(attribute_to_layer_input))
        relevance, found = _propagated(self, rules, problem, verbose)
        if not return_convergence_delta:
            return self._in_form(relevance)
        parts = split_by(relevance.tensors, relevance.slots)
        deltas = [_absorbed(found, part, problem.batch) for part in parts]
        return self._in_form(relevance), deltas if isinstance(self.layer, list | tuple) else deltas[0]


def _propagated(
    method: GradientAttribution, rules: Rules, problem: Problem, verbose: bool
) -> tuple[Attributed, Gradients]:
    """The relevance, and what it was made of."""
    if verbose:
        _describe(rules)
    found = method._walk(rules.on(problem), 1).at_inputs()
    multipliers = Attributed.of(found.gradients, found.slots)
    return multipliers.times([nonzero(value) for value in found.at]), found


def _absorbed(found: Gradients, relevance: tuple[Tensor, ...], batch: int) -> Tensor:
    """`output - sum(relevance)`, `(batch,)`.

    Raises:
        InvalidTarget: the output is not one number for each example.
    """
    total = per_example(relevance, batch)
    if found.scores.numel() != batch:
        raise InvalidTarget(
            f"a delta needs one output for each of the {batch} examples; got {tuple(found.scores.shape)}"
        )
    return found.scores.to(total.dtype).flatten() - total


def _describe(rules: Rules) -> None:
    """Prints the rule of each module with parameters of its own."""
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
    """The rules of modules.

    Raises:
        InvalidType: one is not a rule, or not of a module.
    """
    for module, rule in (rules or {}).items():
        if not isinstance(module, nn.Module) or not isinstance(rule, PropagationRule):
            raise InvalidType(
                "rules must be a mapping from modules to rules such as EpsilonRule(); got "
                f"{type(module).__name__}: {type(rule).__name__}"
            )
    return dict(rules or {})
