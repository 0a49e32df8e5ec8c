"""Expected gradients: gradient times difference, at random points of random lines from a baseline to a noisy input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from llm_attr.core.path.noise import Draws, as_distributions, as_stdevs, drawn, noisy
from llm_attr.core.path.walk import (
    Attributed,
    Change,
    Points,
    Walk,
    between,
    by_example,
    by_point,
    per_example,
    weighted_sum,
)
from llm_attr.core.problem import Gradients, Problem
from llm_attr.core.site import Site
from llm_attr.core.tensors import as_tensors, at_least_fp32
from llm_attr.errors import positive
from llm_attr.typing import BaselineDistribution, TensorOrTensors, Tensors

Inspect: TypeAlias = Callable[[Tensors], None]
"""Called with the attributions of some samples, `(batch, samples, *features)` for each tensor, one chunk at a time.

Of several targets `(targets, batch, samples, *features)`.
"""


@dataclass(frozen=True)
class RandomLines:
    """Several lines from a baseline to a noisy input for each example, and a point on each line.

    Attributes:
        low: The baselines, `(batch, samples, *features)` for each input.
        high: The noisy inputs, of the same shapes.
        alphas: The position of the point on its line, from 0 (baseline) to 1, `(batch, samples)`.
    """

    low: Tensors
    high: Tensors
    alphas: Tensor

    @classmethod
    def drawn(
        cls,
        inputs: TensorOrTensors,
        baselines: BaselineDistribution,
        samples: int,
        stdevs: float | tuple[float, ...],
        draws: Draws,
    ) -> RandomLines:
        """Draws noise for each input, then a baseline for each input, then the points."""
        tensors = as_tensors(inputs)
        batch, samples = len(tensors[0]), positive("n_samples", samples)
        deviations, states = as_stdevs(stdevs, tensors), as_distributions(baselines, inputs)
        high = noisy(tensors, samples, deviations, draws)
        low = drawn(states, batch, samples, draws)
        return cls(low, high, draws.uniform(batch * samples).view(batch, samples))

    @property
    def samples(self) -> int:
        """The number of lines per example."""
        return self.alphas.shape[1]

    def lows(self, start: int, stop: int) -> Tensors:
        """The baselines of the samples start to stop, as stacked batches."""
        return tuple(_stacked(low, start, stop) for low in self.low)

    def highs(self, start: int, stop: int) -> Tensors:
        """The noisy inputs of the samples start to stop, as stacked batches."""
        return tuple(_stacked(high, start, stop) for high in self.high)

    def points(self, start: int, stop: int) -> Tensors:
        """The points of the samples start to stop, as stacked batches."""
        alphas = _stacked(self.alphas, start, stop)
        ends = zip(self.lows(start, stop), self.highs(start, stop), strict=True)
        return tuple(between(low, high, alphas.view(-1, *(1,) * (low.dim() - 1))) for low, high in ends)

    def differences(self, start: int, stop: int) -> Tensors:
        """Noisy input minus baseline for the samples start to stop, as stacked batches."""
        return _differences(self.lows(start, stop), self.highs(start, stop))

    def changes(self, problem: Problem, sites: Sequence[Site]) -> Points:
        """The change of the activations at the sites from baselines to noisy inputs, as stacked batches."""

        def between_ends(start: int, stop: int) -> Tensors:
            low, _ = problem.read(sites, self.lows(start, stop), True, stop - start)
            high, _ = problem.read(sites, self.highs(start, stop), True, stop - start)
            return _differences(low, high)

        return between_ends

    def at_layer(self, walk: Walk, sites: Sequence[Site]) -> RandomLines:
        """The lines between the activations at the sites for the baselines and for the noisy inputs."""

        def activations(points: Points) -> Tensors:
            calls = walk.each_call(points, self.samples, lambda x, copies: walk.problem.read(sites, x, True, copies)[0])
            parts = [[by_point(tensor, copies) for tensor in tensors] for copies, tensors in calls]
            return tuple(torch.cat(pieces).transpose(0, 1) for pieces in zip(*parts, strict=True))

        return replace(self, low=activations(self.lows), high=activations(self.highs))


@dataclass(frozen=True)
class Expectation:
    """The mean of gradient times difference over random lines.

    Attributes:
        walk: Evaluates the gradients.
        lines: Where the gradients are evaluated.
        differences: The factors of the gradients, stacked like the points.
        inspect: Called with the products of each call, `(batch, samples, *features)` for each tensor.
    """

    walk: Walk
    lines: RandomLines
    differences: Points
    inspect: Inspect | None = None

    def of_gradient(self) -> Attributed:
        """The mean gradient."""
        return self._mean(self.walk.gradients(self.lines.points, self.lines.samples))

    def of_product(self, multiply: bool = True) -> tuple[Attributed, Tensor]:
        """The mean of gradient times difference, and `(samples * batch,)` its sum for each line.

        Args:
            multiply: False returns the mean gradient, with the same sums.
        """
        sums: list[Tensor] = []
        return self._mean(self._products(sums, multiply)), torch.cat(sums, -1)

    def delta(self, sums: Tensor) -> Tensor:
        """The sum of each line minus the change of the output, `(batch * samples,)`: all lines of an example in turn.

        Raises:
            InvalidTarget: the score is not one number per example.
        """
        samples = self.lines.samples
        change = Change(*(self.walk.scores(ends, samples) for ends in (self.lines.lows, self.lines.highs)))
        return by_example(change.delta(sums), samples)

    def _mean(self, calls: Iterator[tuple[int, Gradients]]) -> Attributed:
        count = self.lines.samples
        return weighted_sum(calls, torch.full((count,), 1 / count, dtype=torch.float64, device="cpu"))

    def _products(self, sums: list[Tensor], multiply: bool) -> Iterator[tuple[int, Gradients]]:
        start = 0
        for copies, part in self.walk.gradients(self.lines.points, self.lines.samples):
            differences = self.differences(start, start + copies)
            products = tuple(
                at_least_fp32(gradient) * difference
                for gradient, difference in zip(part.gradients, differences, strict=True)
            )
            axis = part.axis
            sums.append(per_example(products, copies * self.walk.problem.batch, axis))
            if self.inspect is not None:
                self.inspect(tuple(by_point(x, copies, axis).transpose(axis, axis + 1) for x in products))
            yield copies, replace(part, gradients=products) if multiply else part
            start += copies


def _differences(lows: Tensors, highs: Tensors) -> Tensors:
    return tuple(at_least_fp32(high) - low for low, high in zip(lows, highs, strict=True))


def _stacked(tensor: Tensor, start: int, stop: int) -> Tensor:
    """`(batch, samples, ...)` -> the samples start to stop, `((stop - start) * batch, ...)`."""
    return tensor[:, start:stop].transpose(0, 1).flatten(0, 1)
