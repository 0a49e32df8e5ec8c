"""Paths: the gradient of a score at many points between baseline and input, and its mean along the path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from llm_attr.core.batching import BATCH_ERRORS, copies_that_fit, problem_fingerprint, uses_batch_statistics
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.parallel.team import current_team
from llm_attr.core.problem import Gradients, ManyOutputs, Problem, check_movable
from llm_attr.core.tensors import Slot, at_least_fp32, in_slots, leaves
from llm_attr.errors import InvalidShape, InvalidValue, NonFiniteGradient, OutOfMemory, UnknownName
from llm_attr.typing import TensorOrTensors, Tensors

Points: TypeAlias = Callable[[int, int], Tensors]
"""`points(start, stop)`: the points start to stop of a path, as stacked batches."""


Piece = TypeVar("Piece")

SMALL_CHANGE = 1e-3
"""The smallest change of the output, as a fraction of the output, that a gap is relative to."""


@dataclass(frozen=True)
class Quadrature:
    """The points and weights of a numerical integral over [0, 1].

    Attributes:
        alphas: The points, `(steps,)`, increasing.
        weights: `(steps,)`.
    """

    alphas: Tensor
    weights: Tensor


@lru_cache(maxsize=32)
def _legendre(steps: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(steps)


def _gausslegendre(steps: int) -> Quadrature:
    roots, weights = _legendre(steps)
    return Quadrature(torch.from_numpy((roots + 1) / 2), torch.from_numpy(weights / 2))


def _riemann(shift: float) -> Callable[[int], Quadrature]:
    def rule(steps: int) -> Quadrature:
        alphas = (torch.arange(steps, dtype=torch.float64, device="cpu") + shift) / steps
        return Quadrature(alphas, torch.full((steps,), 1 / steps, dtype=torch.float64, device="cpu"))

    return rule


def _trapezoid(steps: int) -> Quadrature:
    weights = torch.full((steps,), 1 / steps, dtype=torch.float64, device="cpu")
    weights[[0, -1]] /= 2
    return Quadrature(torch.linspace(0, 1, steps, dtype=torch.float64, device="cpu"), weights)


QUADRATURES: dict[str, Callable[[int], Quadrature]] = {
    "gausslegendre": _gausslegendre,
    "riemann_right": _riemann(1.0),
    "riemann_left": _riemann(0.0),
    "riemann_middle": _riemann(0.5),
    "riemann_trapezoid": _trapezoid,
}


def quadrature(method: str, steps: int) -> Quadrature:
    """The rule with this name and number of steps.

    Raises:
        UnknownName: there is no such rule.
        InvalidValue: steps is not an integer of at least 1 (2 for the trapezoid rule).
    """
    if method not in QUADRATURES:
        raise UnknownName("method", method, QUADRATURES)
    least = 2 if method == "riemann_trapezoid" else 1
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < least:
        raise InvalidValue(f"n_steps must be a whole number of at least {least} for {method}; got {steps!r}")
    return QUADRATURES[method](steps)


def difference(problem: Problem) -> Tensors:
    """`input - baseline` in at least fp32, of the inputs' shapes."""
    ends = zip(problem.inputs, problem.baselines, strict=True)
    return tuple((at_least_fp32(x) - at_least_fp32(baseline, like=x)).detach() for x, baseline in ends)


def line(problem: Problem, alphas: Tensor) -> Tensors:
    """The points `baseline + alpha (input - baseline)`, `(alphas * batch, *features)` for each input.

    Raises:
        InvalidType: the inputs are integers, which cannot be interpolated.
    """
    check_movable(problem.inputs)
    with torch.no_grad():
        return tuple(
            between(baseline, x, alphas.view(-1, *(1,) * x.dim())).flatten(0, 1)
            for x, baseline in zip(problem.inputs, problem.baselines, strict=True)
        )


def between(low: Tensor, high: Tensor, share: Tensor) -> Tensor:
    """`low + share (high - low)`, computed in at least fp32."""
    ends = at_least_fp32(low, like=high), at_least_fp32(high)
    return torch.lerp(*ends, at_least_fp32(share, like=high).to(high.device)).to(high.dtype)


@dataclass(frozen=True)
class Attributed:
    """Attributions in at least fp32, before they are returned in the caller's form.

    Attributes:
        tensors: `(batch, *features)` each, in at least fp32; of several outputs `(outputs, batch, *features)`.
        slots: Which of them belong together, and in what form.
        dtypes: The dtypes in which they are returned.
        axis: The axis of the examples.
        more: What is returned after the attributions: the convergence delta and the like, as requested.
    """

    tensors: Tensors
    slots: tuple[Slot, ...]
    dtypes: tuple[torch.dtype, ...]
    axis: int = 0
    more: tuple[Any, ...] = ()

    @classmethod
    def of(cls, tensors: Sequence[Tensor], slots: tuple[Slot, ...], axis: int = 0) -> Attributed:
        """From tensors that are returned in their own dtypes, such as the gradients at one point."""
        wide = tuple(at_least_fp32(tensor) for tensor in tensors)
        return cls(wide, slots, tuple(tensor.dtype for tensor in tensors), axis)

    @classmethod
    def of_gradients(cls, point: Gradients) -> Attributed:
        """The gradients at one point."""
        return cls.of(point.gradients, point.slots, point.axis)

    def times(self, factors: Sequence[Tensor]) -> Attributed:
        """Each tensor multiplied by its factor."""
        return replace(self, tensors=tuple(x * factor for x, factor in zip(self.tensors, factors, strict=True)))

    def sizes(self) -> Attributed:
        """The absolute value of each entry."""
        return replace(self, tensors=tuple(tensor.abs() for tensor in self.tensors))

    def forms(self) -> list[TensorOrTensors]:
        """The tensors of each slot in the caller's dtype and form.

        Raises:
            NonFiniteGradient: a tensor contains NaN or infinity.
        """
        for i, tensor in enumerate(self.tensors):
            if tensor.sum().isfinite():
                continue
            rows = sorted({place[self.axis] for place in (~tensor.isfinite()).nonzero().tolist()})
            if rows:
                raise NonFiniteGradient(
                    f"the gradient by tensor {i} is NaN or infinite for the examples {rows[:10]}; check that inputs "
                    "and weights are finite, and that the model does not divide by zero or take the square root of zero"
                )
        cast = tuple(tensor.to(dtype) for tensor, dtype in zip(self.tensors, self.dtypes, strict=True))
        return in_slots(cast, self.slots)


@dataclass(frozen=True)
class Walk:
    """Evaluates the gradients of a problem at the points of a path, in calls that fit into memory.

    Attributes:
        problem: What is differentiated.
        evaluator: Runs the calls.
        rows: The maximum number of rows per call; None: as many points as fit.
    """

    problem: Problem
    evaluator: Evaluator
    rows: int | None = None

    def gradients(self, points: Points, count: int) -> Iterator[tuple[int, Gradients]]:
        """The number of points in each call, and their gradients, in order."""

        def evaluate(batches: Tensors, copies: int) -> Gradients:
            gradients = self.problem.gradients(batches, copies)
            self.evaluator.advance(copies)
            return gradients

        return self.each_call(points, count, evaluate)

    def scores(self, points: Points, count: int) -> Tensor:
        """The scores at the points of a path, in at least fp32: `(count * batch,)`, or `(outputs, count * batch)`.

        Raises:
            InvalidTarget: the score is not one number per example.
        """
        return torch.cat([scores for _, scores in self.each_call(points, count, self.problem.number_each)], -1)

    def each_call(
        self, points: Points, count: int, evaluate: Callable[[Tensors, int], Piece]
    ) -> Iterator[tuple[int, Piece]]:
        """The number of points in each call of `evaluate(points, copies)`, and its result, in order."""
        done, per_call = 0, min(count, self._per_call())
        try:
            for copies, piece in self._run(points, count, per_call, evaluate):
                done += copies
                yield copies, piece
        except BATCH_ERRORS as error:
            per_batch = self.rows is None or isinstance(error, InvalidShape)
            if per_call == 1 or not per_batch or isinstance(error, OutOfMemory):
                raise
            yield from self._run(lambda start, stop: points(done + start, done + stop), count - done, 1, evaluate)

    def at_inputs(self) -> Gradients:
        """The gradients at the inputs themselves, in one call."""
        [(_, gradients)] = self.gradients(lambda start, stop: self.problem.inputs, 1)
        return gradients

    def along_line(self, alphas: Tensor) -> Iterator[tuple[int, Gradients]]:
        """The gradients on the straight line from baseline to input."""
        return self.gradients(lambda start, stop: line(self.problem, alphas[start:stop]), len(alphas))

    def mean(self, rule: Quadrature) -> Attributed:
        """The integral of the gradient along the straight line."""
        return weighted_sum(self.along_line(rule.alphas), rule.weights)

    def _run(
        self, points: Points, count: int, per_call: int, evaluate: Callable[[Tensors, int], Piece]
    ) -> Iterator[tuple[int, Piece]]:
        def evaluated(start: int, stop: int) -> tuple[int, Piece]:
            return stop - start, evaluate(points(start, stop), stop - start)

        about = (
            ""
            if current_team() is None
            else problem_fingerprint(self.problem.forward, self.problem.inputs, self.problem.baselines)
        )
        return self.evaluator.share_out(count, per_call, evaluated, about)

    def _per_call(self) -> int:
        if self.rows is None:
            if uses_batch_statistics(self.problem.forward):
                return 1
            extras = tuple(leaves(self.problem.extras))
            forward = self.problem.forward
            known = forward.most() if isinstance(forward, ManyOutputs) else None
            fit = copies_that_fit(self.problem.inputs, self.problem.outputs or 1) if known is None else known
            return min(fit, copies_that_fit(extras)) if extras else fit
        if isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1:
            raise InvalidValue(f"internal_batch_size must be a whole number of at least 1, or None; got {self.rows!r}")
        return max(1, self.rows // max(1, self.problem.batch))


def weighted_sum(calls: Iterator[tuple[int, Gradients]], weights: Tensor) -> Attributed:
    """`sum_k weights_k gradient_k` over the points of a path, `(batch, *features)` each, or with an axis of outputs."""
    totals: list[Tensor] = []
    start = 0
    for copies, part in calls:
        sums = [_weighted(gradient, weights[start : start + copies], part.axis) for gradient in part.gradients]
        totals = [total.add_(new) for total, new in zip(totals, sums, strict=True)] if totals else sums
        start += copies
    return Attributed(tuple(totals), part.slots, tuple(tensor.dtype for tensor in part.at), part.axis)


def by_point(tensor: Tensor, copies: int, axis: int = 0) -> Tensor:
    """`(copies * batch, ...) -> (copies, batch, ...)`, at this axis."""
    return tensor.unflatten(axis, (copies, tensor.shape[axis] // copies))


def by_example(values: Tensor, copies: int) -> Tensor:
    """`(..., copies * batch) -> (..., batch * copies)`: from stacked batches to all copies of each example in turn."""
    return by_point(values, copies, -1).transpose(-1, -2).flatten(-2)


def per_example(tensors: Sequence[Tensor], batch: int, axis: int = 0) -> Tensor:
    """The sum over everything of an example, in at least fp32: `(batch,)`, or `(outputs, batch)` with axis 1.

    Raises:
        InvalidShape: a tensor does not have one row per example.
    """
    if any(tensor.dim() <= axis or tensor.shape[axis] != batch for tensor in tensors):
        shapes = [tuple(tensor.shape[axis:]) for tensor in tensors]
        raise InvalidShape(f"a delta needs attributions with a row for each of the {batch} examples; got {shapes}")
    wide = (at_least_fp32(tensor).unsqueeze(-1) for tensor in tensors)
    sums = [tensor.flatten(axis + 1).sum(-1) for tensor in wide]
    return torch.stack([each.to(sums[0].device) for each in sums]).sum(0)


def _weighted(gradient: Tensor, weights: Tensor, axis: int) -> Tensor:
    factors = at_least_fp32(weights, like=gradient).to(gradient.device).view(-1, *(1,) * (gradient.dim() - axis))
    return (factors * by_point(gradient, len(weights), axis)).sum(axis)


@dataclass(frozen=True)
class Change:
    """The scores at the two ends of a path, `(batch,)` each, or `(outputs, batch)`."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, problem: Problem) -> Change:
        """Evaluates the score at the baselines and at the inputs.

        Raises:
            InvalidTarget: the score is not one number per example.
        """
        low = tuple(baseline.expand_as(x) for x, baseline in zip(problem.inputs, problem.baselines, strict=True))
        return cls(problem.number_each(low), problem.number_each(problem.inputs))

    def delta(self, total: Tensor) -> Tensor:
        """The difference between `total`, the sum of attributions, and the change; same shape as the scores."""
        return total.to(self.high.device) - (self.high - self.low)

    def gap(self, total: Tensor) -> Tensor:
        """The absolute delta relative to the change; same shape as the scores."""
        delta = self.delta(total).abs()
        largest = torch.maximum(self.low.abs(), self.high.abs())
        change = self.high - self.low
        scale = torch.maximum(change.abs(), SMALL_CHANGE * largest).clamp(min=torch.finfo(change.dtype).tiny)
        return delta / scale
