"""Integrated gradients on paths made for text: token by token, or close to words of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.attr.base import GradientAttribution
from llm_attr.attr.baselines import vocabulary as vocabulary_of
from llm_attr.attr.forms import keeps_form
from llm_attr.core.path.walk import (
    Attributed,
    Change,
    Points,
    Quadrature,
    Walk,
    by_point,
    per_example,
    quadrature,
    weighted_sum,
)
from llm_attr.core.path.word_path import WordPaths
from llm_attr.core.problem import Gradients, Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.core.tensors import at_least_fp32, in_slots
from llm_attr.errors import InvalidShape, InvalidValue, UnknownName
from llm_attr.typing import Baselines, ForwardFunction, Target, TensorOrTensors, Tensors


class TokenPathAttribution(GradientAttribution):
    """A path method for sequences of vectors, or for token ids and the layer that embeds them.

    Args:
        layer: The embedding layer if the inputs are token ids; its outputs are attributed. None: the inputs are
            embeddings.
    """

    multiplies_by_inputs = True

    def __init__(self, forward_func: ForwardFunction, layer: nn.Module | Site | None = None) -> None:
        super().__init__(forward_func)
        self.layer = None if layer is None else Site.of(layer)

    def _problem(self, *args: Any) -> Problem:
        """The problem of `_of_outputs`, cut at the embedding layer if there is one."""
        problem = self._of_outputs(*args)
        return problem if self.layer is None else problem.cut_at([self.layer])


@registered
class SequentialIntegratedGradients(TokenPathAttribution):
    """Integrates the gradient position by position, while all others keep their inputs.

    `attribution_p = (x_p - b_p) * integral over a in [0, 1] of df/dx_p at (x with b_p + a (x_p - b_p) at p)`

    No point of a path has more than one interpolated word. The attributions of a position sum to the change of the
    output when its baseline (the mask or pad token) is put there; those of all positions do not sum to the total
    change. The paper's normalisation (by the norm over positions) is not applied. The cost is `n_steps` points for each
    position that differs from its baseline.

    Source: J. Enguehard, Sequential Integrated Gradients: a simple but effective method for explaining language
    models, Findings of ACL 2023, equation 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import SequentialIntegratedGradients
        >>> method = SequentialIntegratedGradients(lambda x: x[:, 0, 0] * x[:, 1, 0])
        >>> method.attribute(torch.tensor([[[2.0], [3.0]]])).round(decimals=4)
        tensor([[[6.],
                 [6.]]])
    """

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 50,
        method: str = "gausslegendre",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The sequential integrated gradient of each entry.

        Shared arguments: see `GradientAttribution`.

        Args:
            inputs: Embeddings `(batch, positions, *features)`, or token ids if there is a layer; a tuple holds several
                sequences.
            baselines: See `Attribution`; for token ids, for example the mask token (leave special tokens unchanged).
            n_steps: The number of points per position.
            return_convergence_delta: Whether to also return the delta of each position: the sum of its attributions
                minus the change of the output between baseline and input at this position.

        Returns:
            Same form as the inputs (or the layer's output), in units of the output; followed by the delta
            `(batch, positions)` if requested, a tuple for several tensors.

        Raises:
            InvalidShape: an input has no axis of positions.
        """
        problem = self._problem(inputs, baselines, target, targets, additional_forward_args)
        paths = _PositionPaths.of(problem, quadrature(method, n_steps))
        walk = self._walk(problem, paths.count, internal_batch_size)
        attributed = _along(walk, paths.points, paths.lengths, paths.count)
        if not return_convergence_delta:
            return self._in_form(attributed)
        return self._in_form(attributed), in_slots(paths.deltas(walk, attributed), attributed.slots)[0]


@registered
class DiscretizedIntegratedGradients(TokenPathAttribution):
    """Integrates the gradient along a path of points that are close to words of the vocabulary.

    `attribution_i = sum over points k of df/dx_i(x^k) (x_i^(k+1) - x_i^k)`, from the baseline to the input. Each vector
    of a sequence has its own path, on which every entry is monotone; see `WordPaths`. All vectors move together.

    Args:
        vocabulary: The word vectors, `(words, features)`; by default those of the embedding layer. Inputs with
            different numbers of features need one table each.
        strategy: How the next word is chosen: `greedy` or `maxcount`.
        n_neighbors: The number of nearest neighbours to choose it from.

    Source: S. Sanyal and X. Ren, Discretized Integrated Gradients for Explaining Language Models, EMNLP 2021,
    section 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import DiscretizedIntegratedGradients
        >>> embedding = torch.nn.Embedding(50, 3)
        >>> model = torch.nn.Sequential(embedding, torch.nn.Linear(3, 1), torch.nn.Flatten())
        >>> method = DiscretizedIntegratedGradients(model, layer=embedding)
        >>> method.attribute(torch.tensor([[3, 14, 15]]), baselines=0, target=2).shape
        torch.Size([1, 3, 3])
    """

    def __init__(
        self,
        forward_func: ForwardFunction,
        layer: nn.Module | Site | None = None,
        *,
        vocabulary: Tensor | Sequence[Tensor] | None = None,
        strategy: str = "greedy",
        n_neighbors: int = 500,
    ) -> None:
        super().__init__(forward_func, layer)
        if vocabulary is None and self.layer is None:
            raise InvalidValue(
                "the path needs word vectors; pass an embedding layer (layer=) or a table of vectors (vocabulary=)"
            )
        WordPaths(1, n_neighbors, strategy)
        self.vocabulary, self.strategy, self.n_neighbors = vocabulary, strategy, n_neighbors

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        n_steps: int = 30,
        method: str = "riemann_left",
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        *,
        factor: int = 0,
        targets: Sequence[Target] | None = None,
    ) -> Any:
        """The discretized integrated gradient of each entry.

        Shared arguments: see `GradientAttribution`.

        Args:
            inputs: Embeddings `(batch, *positions, features)`, or token ids if there is a layer.
            baselines: See `Attribution`; for token ids, for example the pad or mask token.
            n_steps: The number of words between baseline and input. The complete path is kept in memory, `n_steps + 2`
                times the size of the inputs.
            method: Where on each segment the gradient is taken: `riemann_left` (start, as in the paper),
                `riemann_right` (end), `riemann_trapezoid` (mean of both) or `riemann_middle`; the last two are exact
                for quadratic functions. Only `riemann_middle` avoids the baseline itself, where normalising a vector of
                zeros gives huge gradients.
            factor: How many times each segment of the path is halved.

        Returns:
            Same form as the inputs (or the layer's output), in units of the output; followed by the delta `(batch,)` if
            requested.

        Raises:
            InvalidShape: the vocabulary has vectors of another length than the inputs.
        """
        if method not in _PIECES:
            raise UnknownName("method", method, _PIECES)
        problem = self._problem(inputs, baselines, target, targets, additional_forward_args)
        path = _PiecewisePath.of(problem, self._tables(), WordPaths(n_steps, self.n_neighbors, self.strategy), factor)
        path = replace(path, shift=0.5 if method == "riemann_middle" else 0.0)
        walk = self._walk(problem, path.count, internal_batch_size)
        attributed = _along(walk, path.points, path.lengths(*_PIECES[method]), path.count)
        if not return_convergence_delta:
            return self._in_form(attributed)
        return self._in_form(attributed), Change.of(problem).delta(
            per_example(attributed.tensors, problem.batch, attributed.axis)
        )

    def _tables(self) -> list[Tensor]:
        if self.vocabulary is not None:
            return [self.vocabulary] if isinstance(self.vocabulary, Tensor) else list(self.vocabulary)
        return [vocabulary_of(self.layer.layer)] if self.layer else []


_PIECES = {
    "riemann_left": (0.0, 1.0),
    "riemann_right": (1.0, 0.0),
    "riemann_trapezoid": (0.5, 0.5),
    "riemann_middle": (0.0, 1.0),
}
"""The weights of the segments before and after a point."""


def _along(walk: Walk, points: Points, lengths: Points, count: int) -> Attributed:
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
class _PositionPaths:
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
    def of(cls, problem: Problem, rule: Quadrature) -> _PositionPaths:
        places = []
        for i, (x, low) in enumerate(zip(problem.inputs, problem.baselines, strict=True)):
            if x.dim() < 2:
                raise InvalidShape(f"input {i} must be a sequence (batch, positions, *features); got {tuple(x.shape)}")
            moving = (x != low).transpose(0, 1).flatten(1).any(1)
            places += [(i, position) for position in moving.nonzero().flatten().tolist()]
        return cls(problem, places or [(0, 0)], rule)

    @property
    def count(self) -> int:
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
class _PiecewisePath:
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
    def of(cls, problem: Problem, tables: list[Tensor], words: WordPaths, factor: int) -> _PiecewisePath:
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 0:
            raise InvalidValue(f"factor must be a non-negative integer; got {factor!r}")
        pairs = zip(problem.inputs, problem.baselines, strict=True)
        with torch.no_grad():
            corners = tuple(_corners(x, low.expand_as(x), _of_width(tables, x.shape[-1]), words) for x, low in pairs)
        return cls(corners, tuple(x.dtype for x in problem.inputs), 2**factor)

    @property
    def count(self) -> int:
        return self._last + (not self.shift)

    @property
    def _last(self) -> int:
        return (len(self.corners[0]) - 1) * self.pieces

    def points(self, start: int, stop: int) -> Tensors:
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
