"""NoiseTunnel: any attribution method, averaged over noisy copies of the inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.base import Attribution
from llm_attr.attr.repeated_options import repeated_options
from llm_attr.core.evaluator import Evaluator, share_of
from llm_attr.core.path.expectation import Inspect
from llm_attr.core.path.noise import Draws, Moments, as_distributions, as_stdevs, drawn, noisy
from llm_attr.core.path.walk import Attributed
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.target import tile_target
from llm_attr.core.tensors import as_tensors, in_form_of, leaves, tile, with_leaves
from llm_attr.errors import InvalidType, UnknownName, UnsupportedMethod, positive
from llm_attr.typing import TensorOrTensors, Tensors

_TYPES: dict[str, Callable[[Moments], Tensor]] = {
    "smoothgrad": lambda moments: moments.mean,
    "smoothgrad_sq": lambda moments: moments.variance + moments.mean.square(),
    "vargrad": lambda moments: moments.variance,
}

SUPPORTED_NOISE_TUNNEL_TYPES: list[str] = list(_TYPES)
"""How the attributions of the noisy copies are combined: mean, mean square or variance."""


@registered
class NoiseTunnel(Attribution):
    """Attributes noisy copies of the inputs with any method and returns the mean, mean square or variance.

    `smoothgrad_i = E[a_i(x + e)]`, `smoothgrad_sq_i = E[a_i(x + e)^2]`, `vargrad_i = Var[a_i(x + e)]` with the
    attributions a and normal noise e of mean 0

    Args:
        attribution_method: The method applied to the noisy copies: any gradient or perturbation method for inputs,
            layers or neurons.

    Source: D. Smilkov et al., SmoothGrad: removing noise by adding noise, 2017; S. Hooker et al., A Benchmark for
    Interpretability Methods in Deep Neural Networks, NeurIPS 2019 (squared); J. Adebayo et al., Local Explanation
    Methods for Deep Neural Networks Lack Sensitivity to Parameter Values, 2018 (variance).

    Example:
        >>> import torch
        >>> from llm_attr.attr import IntegratedGradients, NoiseTunnel
        >>> tunnel = NoiseTunnel(IntegratedGradients(lambda x: x.sum(1)))
        >>> tunnel.attribute(torch.tensor([[1.0, 2.0]]), nt_samples=1000, stdevs=0.1, seed=0).round(decimals=1)
        tensor([[1., 2.]])
    """

    is_random = True

    def __init__(self, attribution_method: Attribution) -> None:
        if not isinstance(attribution_method, Attribution):
            raise InvalidType(
                "attribution_method must be an attribution method, like IntegratedGradients(model); got "
                f"{type(attribution_method).__name__}"
            )
        super().__init__(attribution_method.forward_func)
        self.attribution_method = attribution_method
        self.multiplies_by_inputs = attribution_method.multiplies_by_inputs

    def has_convergence_delta(self) -> bool:
        """Whether the wrapped method has one."""
        return self.attribution_method.has_convergence_delta()

    def attribute(
        self,
        inputs: TensorOrTensors,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        draw_baseline_from_distrib: bool = False,
        *,
        seed: int | None = None,
        inspect: Inspect | None = None,
        **kwargs: Any,
    ) -> Any:
        """The combined attributions of the noisy copies.

        Shared arguments: see `Attribution`.

        Args:
            nt_type: `smoothgrad`, `smoothgrad_sq` or `vargrad` (the mean squared distance from the mean).
            nt_samples: The number of noisy copies per example. The former name `n_samples` is deprecated; it is passed
                on if the wrapped method has such an argument.
            nt_samples_batch_size: The maximum number of copies of an example that are drawn and attributed at once;
                None: all.
            stdevs: The standard deviation of the noise on the inputs, or a tuple with one per input.
            draw_baseline_from_distrib: Whether to draw baselines from the rows of `baselines`, `(states, *features)`,
                instead of using them as the baselines of the examples.
            seed: Makes the draws repeatable, including those of the wrapped method, without touching the global
                generators. None: for each chunk noise is drawn from torch's global generator, then baselines from
                NumPy's.
            inspect: A function called with the attributions of the copies, `(batch, copies, ...)` for each tensor, one
                chunk at a time; standard errors can be computed from them.
            **kwargs: Arguments of the wrapped method. Targets, baselines, masks and additional arguments with one row
                per example are repeated along with their example.

        Returns:
            As the wrapped method, with squared units for `smoothgrad_sq` and `vargrad`; with
            `return_convergence_delta=True` followed by the delta `(batch * nt_samples,)`, with the copies of an example
            next to each other.

        Raises:
            UnsupportedMethod: the wrapped method does not return one row per example.
        """
        if "n_samples" in kwargs and "n_samples" not in self._arguments():
            warnings.warn("n_samples= is now nt_samples=", DeprecationWarning, stacklevel=2)
            nt_samples = kwargs.pop("n_samples")
        axis = 0 if kwargs.get("targets") is None else 1
        attribute = self.attribution_method.attribute
        tunnel = _Tunnel.of(self, attribute, axis, inputs, stdevs, draw_baseline_from_distrib, kwargs, Draws.of(seed))
        return tunnel.combined(nt_type, nt_samples, nt_samples_batch_size, inspect)

    def attribute_problem(
        self,
        problem: Problem,
        nt_type: str = "smoothgrad",
        nt_samples: int = 5,
        nt_samples_batch_size: int | None = None,
        stdevs: float | tuple[float, ...] = 1.0,
        *,
        seed: int | None = None,
        inspect: Inspect | None = None,
        **kwargs: Any,
    ) -> Attributed:
        """See `GradientAttribution`, around a method that explains problems; the arguments are those of `attribute`."""
        method: Any = self.attribution_method

        def attribute(points: TensorOrTensors, **options: Any) -> Any:
            attributed = method.attribute_problem(_noisy(problem, as_tensors(points)), **options)
            return (attributed.tensors, *attributed.more) if attributed.more else attributed.tensors

        axis = 0 if problem.outputs is None else 1
        tunnel = _Tunnel.of(self, attribute, axis, problem.inputs, stdevs, False, kwargs, Draws.of(seed))
        found = tunnel.combined(nt_type, nt_samples, nt_samples_batch_size, inspect)
        tensors, *more = found if kwargs.get("return_convergence_delta") else (found,)
        dtypes = tuple(x.dtype for x in problem.inputs)
        return Attributed(tensors, problem.slots, dtypes, axis, tuple(more))

    def _arguments(self) -> set[str]:
        return set(signature(self.attribution_method.attribute).parameters)


@dataclass(frozen=True)
class _Copies:
    """Noisy copies drawn together.

    Attributes:
        points: `(batch, copies, *features)` for each input.
        baselines: Drawn baselines of the same shapes; None if baselines are not drawn.
        seed: The seed for the wrapped method; None if it takes none.
    """

    points: Tensors
    baselines: Tensors | None
    seed: int | None


@dataclass(frozen=True)
class _Tunnel:
    """One call of `NoiseTunnel.attribute`.

    Attributes:
        method: The wrapped method.
        attribute: Calls it with noisy copies, `(batch * copies, *features)` for each input, and options.
        axis: The axis of the examples in its attributions.
        name: What progress and errors call it.
        inputs: What noise is put on, in the caller's form.
        stdevs: The standard deviation of the noise on each input.
        states: The baselines to draw from, `(states, *features)` for each input; None if they are not drawn.
        options: Arguments of `attribute`.
        draws: Where the noise comes from.
        takes_seed: Whether the method takes a seed.
    """

    method: Attribution
    attribute: Callable[..., Any]
    axis: int
    name: str
    inputs: TensorOrTensors
    stdevs: tuple[float, ...]
    states: Tensors | None
    options: dict[str, Any]
    draws: Draws
    takes_seed: bool

    @classmethod
    def of(
        cls,
        tunnel: NoiseTunnel,
        attribute: Callable[..., Any],
        axis: int,
        inputs: TensorOrTensors,
        stdevs: float | tuple[float, ...],
        draw_baselines: bool,
        options: dict[str, Any],
        draws: Draws,
    ) -> _Tunnel:
        if options.get("return_info"):
            raise UnsupportedMethod(
                "NoiseTunnel combines attributions and convergence deltas only; call the method itself with return_info"
            )
        if options.get("return_convergence_delta") and getattr(tunnel.attribution_method, "by_position", False):
            raise UnsupportedMethod(
                f"NoiseTunnel combines one convergence delta per example, and {tunnel.attribution_method.get_name()} "
                "has one per position; leave return_convergence_delta out"
            )
        deviations = as_stdevs(stdevs, as_tensors(inputs))
        states = None
        if draw_baselines:
            states = as_distributions(options.get("baselines"), inputs)
            options = {name: value for name, value in options.items() if name != "baselines"}
        method, name = tunnel.attribution_method, f"{tunnel.get_name()} attribution"
        takes_seed = "seed" in tunnel._arguments()
        return cls(method, attribute, axis, name, inputs, deviations, states, options, draws, takes_seed)

    @property
    def tensors(self) -> Tensors:
        return as_tensors(self.inputs)

    @property
    def batch(self) -> int:
        return len(self.tensors[0])

    def combined(self, nt_type: str, nt_samples: int, batch_size: int | None, inspect: Inspect | None) -> Any:
        """The combined attributions, followed by the deltas of all copies if requested."""
        if nt_type not in _TYPES:
            raise UnknownName("nt_type", nt_type, _TYPES)
        samples, combine = positive("nt_samples", nt_samples), _TYPES[nt_type]
        at_once = samples if batch_size is None else positive("nt_samples_batch_size", batch_size)
        with_delta = bool(self.options.get("return_convergence_delta"))
        moments: list[Moments] = []
        deltas: list[Tensor] = []
        for copies, answer in self._answers(samples, at_once):
            attributions = answer[0] if with_delta else answer
            rows = self._rows(attributions, copies)
            if inspect is not None:
                inspect(tuple(rows))
            new = [Moments.of(row, self.axis + 1) for row in rows]
            moments = [old.joined(more) for old, more in zip(moments, new, strict=True)] if moments else new
            deltas += [answer[1].unflatten(-1, (self.batch, copies, -1))] if with_delta else []
        combined = [combine(one).to(_result_type(row)) for one, row in zip(moments, rows, strict=True)]
        result = with_leaves(attributions, combined)
        return (result, torch.cat(deltas, -2).flatten(-3)) if with_delta else result

    def _answers(self, samples: int, at_once: int) -> Iterator[tuple[int, Any]]:
        """The number of copies in each call of the method, and its result."""
        evaluator = Evaluator(self.name, samples, device=self.tensors[0].device)
        for first in range(0, samples, at_once):
            size = min(at_once, samples - first)
            copies = self._drawn(size)

            def attributed(start: int, stop: int, first: int = first, copies: _Copies = copies) -> tuple[int, Any]:
                with share_of(self.name, first + start, first + stop, samples):
                    return stop - start, self._attribute(copies, start, stop)

            yield from (evaluator.run if self.takes_seed else evaluator.share_out)(size, size, attributed)

    def _drawn(self, copies: int) -> _Copies:
        points = noisy(self.tensors, copies, self.stdevs, self.draws)
        baselines = None if self.states is None else drawn(self.states, self.batch, copies, self.draws)
        return _Copies(points, baselines, self.draws.seed() if self.takes_seed else None)

    def _attribute(self, copies: _Copies, start: int, stop: int) -> Any:
        """The method's result for the copies start to stop, with those of an example next to each other."""

        def form(tensors: Tensors) -> TensorOrTensors:
            return in_form_of(self.inputs, tuple(x[:, start:stop].flatten(0, 1) for x in tensors))

        options = repeated_options(self.options, self.tensors, stop - start)
        if copies.baselines is not None:
            options["baselines"] = form(copies.baselines)
        if copies.seed is not None:
            options["seed"] = copies.seed + start
        return self.attribute(form(copies.points), **options)

    def _rows(self, attributions: Any, copies: int) -> list[Tensor]:
        """`(batch, copies, ...)` for each tensor of the method's result."""
        tensors = leaves(attributions)
        axis, rows = self.axis, self.batch * copies
        if not tensors or any(x.dim() <= axis or x.shape[axis] != rows for x in tensors):
            given = [tuple(x.shape) for x in tensors] or type(attributions).__name__
            raise UnsupportedMethod(
                f"NoiseTunnel needs attributions with a row for each of the {self.batch * copies} noisy copies; "
                f"{self.method.get_name()} returned {given}"
            )
        return [x.unflatten(axis, (self.batch, copies)) for x in tensors]


def _noisy(problem: Problem, points: Tensors) -> Problem:
    """The problem at noisy copies of its inputs, with those of an example next to each other."""
    copies = len(points[0]) // problem.batch

    def repeated(value: Any) -> Any:
        return tile(value, copies, problem.batch, by_example=True)

    target, extras = tile_target(problem.target, copies, by_example=True), repeated(problem.extras)
    baselines = tuple(low if len(low) == 1 else repeated(low) for low in problem.baselines)
    return replace(problem, inputs=points, baselines=baselines, batch=len(points[0]), extras=extras, target=target)


def _result_type(tensor: Tensor) -> torch.dtype:
    return tensor.dtype if tensor.is_floating_point() else torch.promote_types(tensor.dtype, torch.float32)
