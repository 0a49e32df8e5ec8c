"""The abstract bases of all attribution methods."""

from __future__ import annotations

import re
import warnings
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeAlias, TypeVar

from torch import Tensor, nn

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.path.walk import Attributed, Change, Quadrature, Walk, per_example
from llm_attr.core.problem import Problem
from llm_attr.core.site import Site
from llm_attr.core.target import one_or_several
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Baselines, ForwardFunction, NeuronSelector, Target, TensorOrTensors

Layers: TypeAlias = nn.Module | Site | Sequence[nn.Module | Site]
"""A layer, or several."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def renamed(**names: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorator: accepts keywords of earlier Captum releases, `old="new"`, with a DeprecationWarning."""

    def decorate(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @wraps(call)
        def with_new_names(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
            for old in kwargs.keys() & names.keys():
                warnings.warn(f"{old}= is now {names[old]}=", DeprecationWarning, stacklevel=2)
                kwargs[names[old]] = kwargs.pop(old)
            return call(*args, **kwargs)

        return with_new_names

    return decorate


class Attribution(ABC):
    """Explains what in its inputs made a model answer as it did.

    Args:
        forward_func: A model, or any callable that maps the inputs and the additional arguments to a tensor
            `(batch, ...)` or to one number for the whole batch.

    Shared arguments of `attribute`:

    * `inputs`: a tensor or tuple of tensors `(batch, *features)`.
    * `baselines`: the reference that stands for absence: None (zero), a number, a tensor that broadcasts to the input,
      or a tuple with one of these per input.
    * `target`: the output entry to explain: an int; a tuple for outputs with more axes; a list or 1-D tensor with one
      entry per example; None if each example has a single output.
    * `additional_forward_args`: passed on after the inputs and never attributed. Tensors with one row per example are
      repeated along with their example.
    * `show_progress`: whether to show a progress bar on standard error.
    """

    attribute: Callable[..., Any]
    """Computes the attributions; each method has its own arguments."""

    multiplies_by_inputs: bool = False
    """Whether attributions are in units of the output (True) or of output per input (False)."""

    def __init__(self, forward_func: ForwardFunction) -> None:
        if not callable(forward_func):
            raise InvalidType(f"forward_func must be a model or a callable; got {type(forward_func).__name__}")
        self.forward_func = forward_func

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """As `attribute`, for a forward function that returns a `torch.futures.Future`.

        Raises:
            NotImplementedError: the method does not support such functions; most do not.
        """
        raise NotImplementedError(
            f"{self.get_name()} takes no forward function that returns a torch.futures.Future; call attribute with one "
            "that returns a tensor"
        )

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` takes `return_convergence_delta`."""
        return "return_convergence_delta" in signature(self.attribute).parameters

    @classmethod
    def get_name(cls) -> str:
        """The class name in words."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", cls.__name__)


class GradientAttribution(Attribution):
    """A method based on gradients of the output.

    Shared arguments of `attribute`, besides those of `Attribution`:

    * `n_steps`: the number of points on the path from baseline to input.
    * `method`: the quadrature: `gausslegendre`, `riemann_right`, `riemann_left`, `riemann_middle` or
      `riemann_trapezoid`.
    * `internal_batch_size`: the maximum number of rows per call of the model. None: as many as fit into memory, so that
      memory does not grow with the number of points.
    * `return_convergence_delta`: whether to also return the delta of each example, see `compute_convergence_delta`.
    * `attribute_to_layer_input`, `attribute_to_neuron_input`: whether to use the input of the layer instead of its
      output.
    * `targets`: a list of targets to explain from the same forward passes, instead of `target`. Attributions and deltas
      get a leading axis with one item per target. (A list given as `target` has one target per example.)
    * `grad_kwargs`: further arguments of `torch.autograd.grad`; with `materialize_grads=True` a layer that the output
      does not depend on gets zeros.

    A method that explains any problem, whatever is scored, has `attribute_problem`: `attribute` poses the problem of
    explaining the model's output, and returns the attributions in the caller's form. `LLMGradientAttribution` poses
    that of explaining an answer. The class attributes below say what such callers must know of a method.

    Every method raises `NoGradient` if the output does not depend on what it is differentiated with respect to,
    `NonFiniteGradient` if a gradient is NaN or infinite, and `InvalidType` for integer inputs (token ids).
    """

    attribute_problem: Callable[..., Attributed]
    """The attributions of what a `Problem` moves; the other arguments are the method's own, as of `attribute`."""

    starts_at_baseline: bool = False
    """Whether attributions depend on a baseline; otherwise on the inputs alone."""

    is_random: bool = False
    """Whether attributions are means over random samples, from baselines that are drawn from a distribution."""

    by_rules: bool = False
    """Whether the derivatives of operations are replaced by rules."""

    by_position: bool = False
    """Whether each position of a sequence has its own path, and its own convergence delta."""

    def line_quadrature(self, **options: Any) -> Quadrature | None:
        """Where on the straight line from baseline to input the method with these options takes its gradients.

        None if attributions are anything but the weighted mean of these gradients times input minus baseline (which is
        zero for methods without one).
        """
        return None

    def compute_convergence_delta(
        self,
        attributions: TensorOrTensors,
        start_point: Baselines,
        end_point: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """The difference between the sum of the attributions and the change of the output.

        `delta = sum(attributions) - (f(end_point) - f(start_point))`

        Shared arguments: see `Attribution`.

        Args:
            attributions: Tensor or tuple of tensors `(batch, ...)`.
            start_point: The baselines: tensors that broadcast to the inputs, or numbers.
            end_point: The inputs.

        Returns:
            `(batch,)`, in units of the output.
        """
        problem = Problem.of(self.forward_func, end_point, start_point, target, additional_forward_args)
        tensors = as_tensors(attributions)
        if len(tensors[0]) != problem.batch:
            raise InvalidShape(
                f"attributions must have a row for each of the {problem.batch} examples; got {len(tensors[0])} rows"
            )
        return Change.of(problem).delta(per_example(tensors, problem.batch))

    def _of_outputs(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines,
        target: Target,
        targets: Sequence[Target] | None,
        additional_forward_args: Any,
    ) -> Problem:
        """The problem of explaining one output of the model, or several."""
        explained = one_or_several(target, targets)
        return Problem.of(self.forward_func, inputs, baselines, explained, additional_forward_args)

    def _walk(self, problem: Problem, points: int, internal_batch_size: int | None = None) -> Walk:
        """Evaluates the gradients of a problem at this many points."""
        evaluator = Evaluator(f"{self.get_name()} attribution", points, device=problem.inputs[0].device)
        return Walk(problem, evaluator, internal_batch_size)

    def _in_form(self, attributed: Attributed) -> Any:
        """The attributions in the caller's form, followed by what else was requested."""
        forms = attributed.forms()
        form = forms if isinstance(getattr(self, "layer", None), list | tuple) else forms[0]
        return (form, *attributed.more) if attributed.more else form


class PathAttribution(GradientAttribution):
    """A method that averages gradients over points between baseline and input.

    Args:
        multiply_by_inputs: False leaves out the factor input minus baseline.
    """

    def __init__(self, forward_func: ForwardFunction, multiply_by_inputs: bool = True) -> None:
        super().__init__(forward_func)
        self.multiplies_by_inputs = multiply_by_inputs


class InternalAttribution(Attribution):
    """A method that looks at a layer inside a model.

    Args:
        layer: A module of the model, or a `Site` if the module runs several times; some methods take a list. None: set
            the attribute `layer` before calling `attribute`.
        device_ids: The devices of a DataParallel model, in its order; needed only if forward_func calls such a model
            instead of being one.
    """

    takes_layers = False
    """Whether this method takes several layers at once."""

    def __init__(
        self, forward_func: ForwardFunction, layer: Layers | None, device_ids: list[int] | None = None
    ) -> None:
        super().__init__(forward_func)
        if isinstance(layer, list | tuple) and not (layer and self.takes_layers):
            raise InvalidType(f"{self.get_name()} takes one layer; got {len(layer)} in a {type(layer).__name__}")
        if layer is not None and not isinstance(layer, list | tuple | nn.Module | Site):
            raise InvalidType(f"layer must be a module of the model, or a Site; got {type(layer).__name__}")
        self.layer, self.device_ids = layer, device_ids
        if layer is not None:
            self._sites()

    def _sites(self, to_input: bool = False) -> list[Site]:
        if self.layer is None:
            raise InvalidType(
                f"{self.get_name()} was made without a layer; set its attribute `layer` to a module of the model"
            )
        layers = [self.layer] if isinstance(self.layer, nn.Module | Site) else list(self.layer)
        devices = tuple(self.device_ids or getattr(self.forward_func, "device_ids", None) or ())
        return [replace(Site.of(layer, to_input), devices=devices) for layer in layers]


class InternalPathAttribution(InternalAttribution, PathAttribution):
    """A path method for a layer or neuron.

    Args:
        multiply_by_inputs: False leaves out the factor that is the change of the input, or of the layer's activations.
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: Layers | None,
        device_ids: list[int] | None = None,
        multiply_by_inputs: bool = True,
    ) -> None:
        super().__init__(forward_func, layer, device_ids)
        self.multiplies_by_inputs = multiply_by_inputs


class LayerAttribution(InternalAttribution):
    """A method that attributes the output to the neurons of a layer.

    Attributions have the shape of the layer's output (or input). They are a tuple if the layer returns a tuple, and a
    list with one item per layer if layers were given as a list.
    """

    def _problem(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines,
        target: Target,
        targets: Sequence[Target] | None,
        additional_forward_args: Any,
        to_input: bool = False,
        grad_kwargs: Mapping[str, Any] | None = None,
    ) -> Problem:
        """The problem whose gradients are read at the layer while the inputs move."""
        explained = one_or_several(target, targets)
        problem = Problem.of(self.forward_func, inputs, baselines, explained, additional_forward_args)
        return replace(problem.observed_at(self._sites(to_input)), grad_kwargs=grad_kwargs)

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Resizes an attribution `(batch, channels, *spatial)`, for example to the size of the input.

        Args:
            layer_attribution: A tensor with 3 to 5 axes.
            interpolate_dims: The new spatial size; an int applies to every axis.
            interpolate_mode: A mode of `torch.nn.functional.interpolate`.
        """
        return nn.functional.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


class NeuronAttribution(InternalAttribution):
    """A method that attributes a neuron of a layer to the inputs.

    Shared arguments of `attribute`, besides those of `Attribution`:

    * `neuron_selector`: the neuron: an index, or one index per axis after the batch, where a slice stands for the sum
      over it; or a function that maps the layer's tensor (or tuple) to `(batch,)`. The former name `neuron_index=` is
      deprecated.
    """

    def _problem(
        self,
        inputs: TensorOrTensors,
        neuron_selector: NeuronSelector,
        baselines: Baselines,
        additional_forward_args: Any,
        to_input: bool = False,
    ) -> Problem:
        """The problem of explaining the neuron instead of the output."""
        problem = Problem.of(self.forward_func, inputs, baselines, None, additional_forward_args)
        return problem.of_neuron(self._sites(to_input)[0], neuron_selector)
