"""Integrals of the gradient along a path: with a fixed rule, or with steps that are doubled until they suffice."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, isfinite, log2

import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.path.walk import (
    Attributed,
    Change,
    Quadrature,
    Walk,
    difference,
    per_example,
    quadrature,
    weighted_sum,
)
from llm_attr.errors import InvalidTarget, InvalidValue

MAX_STEPS = 4096
"""The number of points at which refinement stops."""

ORDERS = 4
"""The number of columns of Romberg's table."""


@dataclass(frozen=True)
class PathInfo:
    """How well a path was integrated.

    Attributes:
        n_steps: The number of points at which the gradient was evaluated.
        gap: `(batch,)`, or `(targets, batch)`: the convergence delta relative to the change of the output from baseline
            to input (or to a thousandth of the output if the change is smaller).
    """

    n_steps: int
    gap: Tensor


@dataclass(frozen=True)
class Integral:
    """How the gradient is integrated from baseline to input.

    Attributes:
        n_steps: The number of points; with `until` the minimum.
        method: The name of the quadrature.
        until: The relative completeness gap at which doubling the steps ends; None: the number of steps is fixed.
    """

    n_steps: int
    method: str = "gausslegendre"
    until: float | None = None

    def __post_init__(self) -> None:
        quadrature(self.method, self.n_steps)
        if self.until is None:
            return
        if isinstance(self.until, bool) or not isinstance(self.until, int | float) or not self.until > 0:
            raise InvalidValue(f"until must be a positive number, the largest relative gap; got {self.until!r}")
        if self.method not in ("gausslegendre", "riemann_trapezoid"):
            raise InvalidValue(f"until uses a refined riemann_trapezoid rule; got method={self.method!r}")

    def mean(self, walk: Walk) -> tuple[Attributed, PathInfo | None]:
        """The mean gradient, and with `until` how well it was integrated."""
        if self.until is None:
            return walk.mean(quadrature(self.method, self.n_steps)), None
        return refined(walk, self.n_steps, self.until)


def refined(walk: Walk, steps: int, until: float) -> tuple[Attributed, PathInfo]:
    """The mean gradient along the line, with at least `steps` points and more until every gap is small enough.

    Trapezoid sums over 1, 2, 4, ... intervals, each reusing all earlier gradients, with Romberg extrapolation. Of the
    orders of extrapolation the one with the smallest gap is returned.

    Source: M. Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017, section 5 (the gap);
    W. Romberg, Vereinfachte numerische Integration, 1955.
    """
    moved, planned = difference(walk.problem), 2 ** ceil(log2(max(1, steps - 1)))
    walk.evaluator.total = planned + 1
    first, change = _ends(walk)
    row, intervals = [first], 1
    while True:
        totals = [per_example(column.times(moved).tensors, walk.problem.batch, column.axis) for column in row]
        gaps = [change.gap(total) for total in totals]
        worst, best = min((max(gap.flatten().tolist(), default=0.0), i) for i, gap in enumerate(gaps))
        if intervals >= planned and (worst <= until or 2 * intervals >= MAX_STEPS or not isfinite(worst)):
            break
        walk.evaluator.total = max(planned, 2 * intervals) + 1
        row = _next_row(row, _midpoints(walk, intervals))
        intervals *= 2
    if worst > until:
        warn_caller(
            f"after {intervals + 1} steps the completeness gap is still {worst:.2g} of the change of the output, more "
            f"than until={until:g}; the output may be discontinuous, or the change very small",
            RuntimeWarning,
        )
    return row[best], PathInfo(intervals + 1, gaps[best])


def _ends(walk: Walk) -> tuple[Attributed, Change]:
    half = Quadrature(
        torch.tensor([0.0, 1.0], dtype=torch.float32, device="cpu"),
        torch.tensor([0.5, 0.5], dtype=torch.float32, device="cpu"),
    )
    calls = list(walk.along_line(half.alphas))
    parts = [part.scores if part.axis else part.scores.flatten() for _, part in calls]
    scores = torch.cat(parts, -1).cpu().double()
    if scores.shape[-1] != 2 * walk.problem.batch:
        raise InvalidTarget(
            f"until needs one output for each of the {walk.problem.batch} examples, whose change the attributions sum "
            f"up to; got {scores.shape[-1] // 2} for the batch"
        )
    low, high = scores.chunk(2, -1)
    return weighted_sum(iter(calls), half.weights), Change(low, high)


def _midpoints(walk: Walk, intervals: int) -> Attributed:
    alphas = (torch.arange(intervals, dtype=torch.float64, device="cpu") + 0.5) / intervals
    return walk.mean(Quadrature(alphas, torch.full_like(alphas, 1 / intervals)))


def _next_row(row: list[Attributed], midpoints: Attributed) -> list[Attributed]:
    """Romberg: halves the intervals of the trapezoid sum, then removes one more term of its error in each column."""
    new = [_combined(row[0], midpoints, 0.5)]
    for order, coarse in enumerate(row[: ORDERS - 1], start=1):
        new.append(_combined(coarse, new[-1], 1 + 1 / (4**order - 1)))
    return new


def _combined(one: Attributed, other: Attributed, share: float) -> Attributed:
    """`one + share (other - one)`."""
    return replace(one, tensors=tuple(a + share * (b - a) for a, b in zip(one.tensors, other.tensors, strict=True)))
