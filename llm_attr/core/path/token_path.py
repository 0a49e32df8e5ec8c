"""Paths made for sequences of vectors: one for each position, or one of straight pieces between words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llm_attr.core.path.walk import Attributed, Points, Quadrature, Walk, by_point, weighted_sum
from llm_attr.core.path.word_path import WordPaths
from llm_attr.core.problem import Gradients, Problem
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.typing import Tensors


def along(walk: Walk, points: Points, lengths: Points, count: int) -> Attributed:
    """`sum_k gradient(points_k) lengths_k`, `(batch, *features)` for each tensor."""

    def products() -> Iterator[tuple[int, Gradients]]:
        done = 0
        for copies, part in walk.gradients(points, count):
            steps = lengths(done, done + copies)
            done += copies
            products = (at_least_fp32(g) * step for g, step in zip(part.gradients, steps, strict=True))
            yield copies, replace(part, gradients=tuple(products))

    return weighted_sum(products(), torch.ones(count, dtype=torch.float64, device="cpu"))


@dataclass(frozen=True)
class PositionPaths:
    """The straight paths of all positions, one after the other.

    Attributes:
        problem: What is explained.
        places: The input and position that each path moves.
        rule: The quadrature on each path.
    """

    problem: Problem
    places: list[tuple[int, int]]
    rule: Quadrature

    @classmethod
    def of(cls, problem: Problem, rule: Quadrature) -> PositionPaths:
        """Those of the positions at which input and baseline differ.

        Raises:
            InvalidShape: an input has no axis of positions.
        """
        places = []
        for i, (x, low) in enumerate(zip(problem.inputs, problem.baselines, strict=True)):
            if x.dim() < 2:
                raise InvalidShape(f"input {i} must be a sequence (batch, positions, *features); got {tuple(x.shape)}")
            moving = (x != low).transpose(0, 1).flatten(1).any(1)
            places += [(i, position) for position in moving.nonzero().flatten().tolist()]
        return cls(problem, places or [(0, 0)], rule)

    @property
    def count(self) -> int:
        """The number of points."""
        return len(self.places) * len(self.rule.alphas)

    def points(self, start: int, stop: int) -> Tensors:
        """The inputs, with one position interpolated in each copy."""
        turns = [(*self._place(k), self.rule.alphas[k % len(self.rule.alphas)].item()) for k in range(start, stop)]
        return self._with(turns)

    def lengths(self, start: int, stop: int) -> Tensors:
        """The weight of each point times `x - b` at its position, zero elsewhere."""
        sizes = [(stop - start, *x.shape) for x in self.problem.inputs]
        pairs = zip(sizes, self.problem.inputs, strict=True)
        stacked = [
            torch.zeros(size, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device) for size, x in pairs
        ]
        for copy, k in enumerate(range(start, stop)):
            i, position = self._place(k)
            weight = self.rule.weights[k % len(self.rule.weights)].item()
            high, low = self._ends(i, position)
            stacked[i][copy, :, position] = weight * (high - low)
        return tuple(tensor.flatten(0, 1) for tensor in stacked)

    def deltas(self, walk: Walk, attributed: Attributed) -> Tensors:
        """`(batch, positions)` for each tensor: the sum of the attributions minus the change of the output."""
        high = self.problem.number_each(self.problem.inputs)
        absent = walk.scores(lambda a, b: self._with([(*place, 0.0) for place in self.places[a:b]]), len(self.places))
        sums = tuple(part.unsqueeze(-1).flatten(attributed.axis + 2).sum(-1) for part in attributed.tensors)
        lows = by_point(absent, len(self.places), -1).unbind(-2)
        for (i, position), low in zip(self.places, lows, strict=True):
            sums[i][..., position] -= (high - low).to(sums[i])
        return sums

    def _place(self, k: int) -> tuple[int, int]:
        return self.places[k // len(self.rule.alphas)]

    def _ends(self, i: int, position: int) -> tuple[Tensor, Tensor]:
        """Input and baseline of a position, `(batch, *features)`, in at least fp32."""
        x = self.problem.inputs[i].detach()
        low = self.problem.baselines[i].detach().expand_as(x)
        return at_least_fp32(x[:, position]), at_least_fp32(low[:, position])

    def _with(self, turns: list[tuple[int, int, float]]) -> Tensors:
        """A copy of the inputs for each turn, with input i at `b + share (x - b)` at a position."""
        stacked = [x.detach().repeat(len(turns), *(1,) * x.dim()).view(-1, *x.shape) for x in self.problem.inputs]
        for copy, (i, position, share) in enumerate(turns):
            high, low = self._ends(i, position)
            stacked[i][copy, :, position] = (low + share * (high - low)).to(stacked[i].dtype)
        return tuple(tensor.flatten(0, 1) for tensor in stacked)


@dataclass(frozen=True)
class PiecewisePath:
    """A path of straight segments.

    Attributes:
        corners: `(corners, batch, *features)` for each input, from baseline to input, in at least fp32.
        dtypes: The dtypes of the inputs.
        pieces: The number of equal pieces into which each segment is cut.
        shift: The position of a point within its piece, from 0 (start) to 1 (end).
    """

    corners: Tensors
    dtypes: tuple[torch.dtype, ...]
    pieces: int
    shift: float = 0.0

    @classmethod
    def of(cls, problem: Problem, tables: list[Tensor], words: WordPaths, factor: int) -> PiecewisePath:
        """The path from the baselines to the inputs of a problem.

        Args:
            problem: What is explained.
            tables: Vocabularies `(words, features)`, one for each number of features.
            words: How the words between baseline and input are chosen.
            factor: How many times each segment is halved.

        Raises:
            InvalidValue: the factor is negative or no integer.
            InvalidShape: no table fits an input, or several do.
        """
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 0:
            raise InvalidValue(f"factor must be a non-negative integer; got {factor!r}")
        pairs = zip(problem.inputs, problem.baselines, strict=True)
        with torch.no_grad():
            corners = tuple(_corners(x, low.expand_as(x), _of_width(tables, x.shape[-1]), words) for x, low in pairs)
        return cls(corners, tuple(x.dtype for x in problem.inputs), 2**factor)

    @property
    def count(self) -> int:
        """The number of points."""
        return self._last + (not self.shift)

    @property
    def _last(self) -> int:
        return (len(self.corners[0]) - 1) * self.pieces

    def points(self, start: int, stop: int) -> Tensors:
        """The points start to stop, as stacked batches."""
        points = self._at(torch.arange(start, stop, device="cpu") + self.shift)
        return tuple(point.to(dtype) for point, dtype in zip(points, self.dtypes, strict=True))

    def lengths(self, before: float, after: float) -> Points:
        """The length of path that each point represents: these fractions of the pieces before and after it."""

        def lengths(start: int, stop: int) -> Tensors:
            k = torch.arange(start, stop, device="cpu")
            around = zip(self._at(k - 1), self._at(k), self._at(k + 1), strict=True)
            return tuple(before * (here - last) + after * (following - here) for last, here, following in around)

        return lengths

    def _at(self, numbers: Tensor) -> Tensors:
        """The points with these numbers, clamped to the ends of the path."""
        places = numbers.clamp(0, self._last).double() / self.pieces
        corner = places.floor().long()
        share = places - corner

        def at(path: Tensor) -> Tensor:
            low, high = path[corner], path[(corner + 1).clamp(max=len(path) - 1)]
            return low.lerp(high, share.to(path).view(-1, *(1,) * (path.dim() - 1))).flatten(0, 1)

        return tuple(at(path) for path in self.corners)


def _of_width(tables: list[Tensor], width: int) -> Tensor:
    """The vocabulary with vectors of this length."""
    fitting = [table for table in tables if table.dim() == 2 and table.shape[1] == width and len(table)]
    if len(fitting) != 1:
        raise InvalidShape(
            f"vocabulary must have one table (words, {width}) for inputs (batch, *positions, {width}); got tables of "
            f"shapes {[tuple(table.shape) for table in tables]}"
        )
    return fitting[0]


def _corners(x: Tensor, low: Tensor, vocabulary: Tensor, words: WordPaths) -> Tensor:
    baseline, word = (at_least_fp32(part.detach(), like=x).reshape(-1, x.shape[-1]) for part in (low, x))
    path = words.between(baseline, word, at_least_fp32(vocabulary.to(x.device), like=x))
    return path.view(len(path), *x.shape)
