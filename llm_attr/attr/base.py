"""The abstract classes that every attribution method descends from."""

from __future__ import annotations

import re
import warnings
from abc import ABC
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import wraps
from typing import Any, ParamSpec, TypeAlias, TypeVar

from torch import Tensor, nn

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.path.walk import Attributed, Change, Walk, per_example
from llm_attr.core.problem import Problem
from llm_attr.core.site import Site
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Baselines, ForwardFunction, Target, TensorOrTensors

Layers: TypeAlias = nn.Module | Site | Sequence[nn.Module | Site]
"""A layer, or several."""

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def renamed(**names: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorator: keywords of Captum's earlier releases, `old="new"`, work with a DeprecationWarning."""

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
    """An explanation of a forward function.

    Args:
        forward_func: A model or any callable that takes the inputs, then the additional arguments, and gives a tensor
            `(batch, ...)` or one number for the whole batch.

    Shared arguments of `attribute`:

    * `inputs`: tensor or tuple of tensors `(batch, *features)`. The result has the same form and shapes.
    * `baselines`: the absent state; None (zero), a number, a tensor that broadcasts to the input, or a tuple
      of these, one for each input.
    * `target`: the explained entry of the output; an int, a tuple for outputs of more axes, a 1-D tensor or list with
      one entry for each example; None where each example has one output.
    * `additional_forward_args`: passed on after the inputs and never attributed; tensors with a row for each example
      follow their example.
    * `show_progress`: a progress bar on standard error.
    """

    attribute: Callable[..., Any]
    """Explains; what it takes and gives is the method's own."""

    def __init__(self, forward_func: ForwardFunction) -> None:
        if not callable(forward_func):
            raise InvalidType(f"forward_func must be a model or a callable; got {type(forward_func).__name__}")
        self.forward_func = forward_func

    def attribute_future(self, *args: Any, **kwargs: Any) -> Any:
        """The promise of `attribute`'s result, for a forward function that gives a `torch.futures.Future`.

        Raises:
            NotImplementedError: the method takes no such function, as most.
        """
        raise NotImplementedError(
            f"{self.get_name()} takes no forward function that gives a torch.futures.Future; use attribute with one "
            "that gives a tensor"
        )

    @property
    def multiplies_by_inputs(self) -> bool:
        """Whether attributions are in units of the output (True) or of output per input (False)."""
        return False

    def has_convergence_delta(self) -> bool:
        """Whether `attribute` can tell how far its sum is from the change of the output."""
        return False

    @classmethod
    def get_name(cls) -> str:
        """The class name in words."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", cls.__name__)


class GradientAttribution(Attribution):
    """A method that differentiates the output.

    Shared arguments of `attribute`, besides those of `Attribution`:

    * `n_steps`: points of the path from baseline to input.
    * `method`: the quadrature: `gausslegendre`, `riemann_right`, `riemann_left`, `riemann_middle` or
      `riemann_trapezoid`.
    * `internal_batch_size`: the most rows of one call of the model; None: as many as fit, so that memory does not grow
      with the number of points.
    * `return_convergence_delta`: also gives the delta of each example, see `compute_convergence_delta`.
    * `attribute_to_layer_input`, `attribute_to_neuron_input`: whether the layer's input is meant, not its output.
    * `grad_kwargs`: further arguments of `torch.autograd.grad`; with `materialize_grads=True` a layer that the output
      does not depend on gets zeros.

    All of them raise `NoGradient` where the output does not depend on what it is differentiated by,
    `NonFiniteGradient` where a gradient is NaN or infinite, and `InvalidType` for inputs of whole numbers (token ids).
    """

    def compute_convergence_delta(
        self,
        attributions: TensorOrTensors,
        start_point: Baselines,
        end_point: TensorOrTensors,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """How far the attributions are from summing to the change of the output.

        `delta = sum(attributions) - (f(end_point) - f(start_point))`

        Args:
            attributions: Tensor or tuple of tensors `(batch, ...)`.
            start_point: The baselines: tensors that broadcast to the inputs, or numbers.
            end_point: The inputs.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.

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

    def _walk(self, problem: Problem, points: int, internal_batch_size: int | None = None) -> Walk:
        """What evaluates the gradients of so many points."""
        evaluator = Evaluator(f"{self.get_name()} attribution", points, device=problem.inputs[0].device)
        return Walk(problem, evaluator, internal_batch_size)

    def _in_form(self, found: Attributed) -> Any:
        """What was found in the caller's form."""
        forms = found.forms()
        return forms if isinstance(getattr(self, "layer", None), list | tuple) else forms[0]


class InternalAttribution(Attribution):
    """A method that looks at a layer inside a model.

    Args:
        forward_func: See `Attribution`.
        layer: A module of the model, or a `Site` of it where the module runs several times; some methods take a list.
            None: it is assigned to `layer` before anything is explained.
        device_ids: The devices of a DataParallel model, in its order; needed only where forward_func calls such a model
            and is not the model itself.
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
                f"{self.get_name()} was made without a layer; assign a module of the model to its `layer`"
            )
        layers = [self.layer] if isinstance(self.layer, nn.Module | Site) else list(self.layer)
        devices = tuple(self.device_ids or getattr(self.forward_func, "device_ids", None) or ())
        return [replace(Site.of(layer, to_input), devices=devices) for layer in layers]


class LayerAttribution(InternalAttribution):
    """A method that attributes the output to the neurons of a layer.

    Results have the shape of the layer's output (or input); a tuple where the layer gives a tuple, and a list with one
    for each layer where layers were given as a list.
    """

    @staticmethod
    def interpolate(
        layer_attribution: Tensor, interpolate_dims: int | tuple[int, ...], interpolate_mode: str = "nearest"
    ) -> Tensor:
        """Brings an attribution of `(batch, channels, *places)` to other sizes of its places, as those of the input.

        Args:
            layer_attribution: Of 3 to 5 axes.
            interpolate_dims: The new sizes, or one for all.
            interpolate_mode: A mode of `torch.nn.functional.interpolate`.
        """
        return nn.functional.interpolate(layer_attribution, interpolate_dims, mode=interpolate_mode)


class NeuronAttribution(InternalAttribution):
    """A method that attributes a neuron of a layer to the inputs.

    Shared arguments of `attribute`, besides those of `Attribution`:

    * `neuron_selector`: the neuron: an index, or one for each axis after the batch; a slice among them stands for the
      sum over it; or a function of the layer's tensor (or tuple) that gives `(batch,)`. `neuron_index=` is its old
      name.
    """
