"""Integrated gradients on paths made for text: one token after the other, or close to the words of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from llm_attr.attr.base import GradientAttribution
from llm_attr.attr.baselines import vocabulary as vocabulary_of
from llm_attr.core.path.walk import Attributed, Change, Points, Quadrature, Walk, per_example, quadrature, weighted_sum
from llm_attr.core.path.word_path import WordPaths
from llm_attr.core.problem import Gradients, Problem
from llm_attr.core.registry import registered
from llm_attr.core.site import Site
from llm_attr.core.tensors import accumulator, in_slots
from llm_attr.errors import InvalidShape, InvalidValue, UnknownName
from llm_attr.typing import Baselines, ForwardFunction, Target, TensorOrTensors, Tensors


class TokenPathAttribution(GradientAttribution):
    """A path method whose inputs are sequences of vectors, or token ids of which a layer makes such sequences.

    Args:
        forward_func: See `Attribution`.
        layer: The embedding layer, where the inputs are token ids: the path is made of its outputs, and they are what
            is attributed. None: the inputs are embeddings themselves.
    """

    def __init__(self, forward_func: ForwardFunction, layer: nn.Module | Site | None = None) -> None:
        super().__init__(forward_func)
        self.layer = None if layer is None else Site.of(layer)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Attributions are in units of the output."""
        return True

    def has_convergence_delta(self) -> bool:
        """Yes."""
        return True

    def _posed(self, inputs: TensorOrTensors, baselines: Baselines, target: Target, extras: Any) -> Problem:
        problem = Problem.of(self.forward_func, inputs, baselines, target, extras)
        return problem if self.layer is None else problem.cut_at([self.layer])


@registered
class SequentialIntegratedGradients(TokenPathAttribution):
    """Integrates the gradient for one position after the other, while all others stay as they are in the input.

    `attribution_p = (x_p - b_p) * integral over a in [0, 1] of df/dx_p at (x with b_p + a (x_p - b_p) at p)`

    No point of a path is a sequence of several half-made words. What a position gets is the change of the output when
    its baseline (the mask or pad token) is put there; nothing makes the positions add up. The paper's normalisation
    (by the norm over positions) is left to the reader. It takes `n_steps` points for each position that differs from
    its baseline.

    Args:
        forward_func: See `Attribution`.
        layer: The embedding layer, where the inputs are token ids and their embeddings are attributed; None: the
            inputs `(batch, positions, *features)` themselves are.

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
    ) -> Any:
        """The sequential integrated gradient of each entry; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: Embeddings `(batch, positions, *features)`, or token ids where there is a layer. Of several inputs
                each is a sequence of its own.
            baselines: See `Attribution`; for token ids such as the mask token (keep special tokens as they are).
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: Points for each position.
            method: See `GradientAttribution`.
            internal_batch_size: See `GradientAttribution`.
            return_convergence_delta: Also gives, for each position, how far the sum of its attributions is from the
                change of the output between baseline and input at this position.

        Returns:
            As the inputs (or the layer's output), in units of the output; then the delta `(batch, positions)`, for
            several tensors a tuple, if asked for.

        Raises:
            InvalidShape: an input has no axis of positions.
        """
        problem = self._posed(inputs, baselines, target, additional_forward_args)
        turns = _Turns.of(problem, quadrature(method, n_steps))
        walk = self._walk(problem, turns.count, internal_batch_size)
        found = _along(walk, turns.points, turns.lengths, turns.count)
        answer = self._in_form(found)
        return (answer, in_slots(turns.deltas(walk, found), found.slots)[0]) if return_convergence_delta else answer


@registered
class DiscretizedIntegratedGradients(TokenPathAttribution):
    """Integrates the gradient along a path of points that are close to words of the vocabulary.

    `attribution_i = sum over points k of df/dx_i(x^k) (x_i^(k+1) - x_i^k)`, from the baseline to the input. Each vector
    of a sequence has a path of its own, on which every entry only rises or only falls; see `WordPaths`. All vectors
    move together.

    Args:
        forward_func: See `Attribution`.
        layer: The embedding layer, where the inputs are token ids and their embeddings are attributed; None: the
            inputs `(batch, *positions, features)` themselves are.
        vocabulary: The vectors of the words, `(words, features)`; by default those of the embedding layer. Inputs of
            several widths need a table for each.
        strategy: How the next word is found: `greedy` or `maxcount`.
        n_neighbors: Among how many neighbours it is sought.

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
                "the path needs the words: give layer=, an embedding layer, or vocabulary=, their vectors"
            )
        WordPaths(1, n_neighbors, strategy)
        self.vocabulary, self.strategy, self.n_neighbors = vocabulary, strategy, n_neighbors

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
    ) -> Any:
        """The discretized integrated gradient of each entry; see `Attribution` and `GradientAttribution`.

        Args:
            inputs: Embeddings `(batch, *positions, features)`, or token ids where there is a layer.
            baselines: See `Attribution`; for token ids such as the pad or mask token.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            n_steps: Words on the way from baseline to input. The path is made first and kept, in the inputs' size
                `n_steps + 2` times.
            method: `riemann_left`, the paper's sum; `riemann_right`, with the gradient at the end of each piece;
                `riemann_trapezoid`, with the mean of the two, exact for quadratic functions; `riemann_middle`, so too
                with that in the middle. It alone keeps away from the baseline, where a normalisation of zeros explodes.
            internal_batch_size: See `GradientAttribution`.
            return_convergence_delta: See `GradientAttribution`.
            factor: How many times every piece of the path is halved.

        Returns:
            As the inputs (or the layer's output), in units of the output; then the delta `(batch,)`, if asked for.

        Raises:
            InvalidShape: the vocabulary's vectors are not as long as the inputs'.
        """
        if method not in _PIECES:
            raise UnknownName("method", method, _PIECES)
        problem = self._posed(inputs, baselines, target, additional_forward_args)
        path = _Broken.of(problem, self._tables(), WordPaths(n_steps, self.n_neighbors, self.strategy), factor)
        path = replace(path, shift=0.5 if method == "riemann_middle" else 0.0)
        walk = self._walk(problem, path.count, internal_batch_size)
        found = _along(walk, path.points, path.lengths(*_PIECES[method]), path.count)
        answer = self._in_form(found)
        if not return_convergence_delta:
            return answer
        return answer, Change.of(problem).delta(per_example(found.tensors, problem.batch))

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
"""How much of the piece before and of the piece behind it a point stands for."""


def _along(walk: Walk, points: Points, lengths: Points, count: int) -> Attributed:
    """`sum_k gradient(points_k) lengths_k`, `(batch, *features)` for each tensor."""

    def products() -> Iterator[tuple[int, Gradients]]:
        done = 0
        for copies, part in walk.gradients(points, count):
            steps = lengths(done, done + copies)
            done += copies
            products = (g.to(accumulator(g.dtype)) * step for g, step in zip(part.gradients, steps, strict=True))
            yield copies, replace(part, gradients=tuple(products))

    return weighted_sum(products(), torch.ones(count, dtype=torch.float64, device="cpu"))


@dataclass(frozen=True)
class _Turns:
    """The straight path of each position in turn.

    Attributes:
        problem: What is explained.
        places: Input and position of each path.
        rule: The quadrature on each.
    """

    problem: Problem
    places: list[tuple[int, int]]
    rule: Quadrature

    @classmethod
    def of(cls, problem: Problem, rule: Quadrature) -> _Turns:
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
        """The inputs, with one position on its way in each copy."""
        turns = [(*self._place(k), self.rule.alphas[k % len(self.rule.alphas)].item()) for k in range(start, stop)]
        return self._with(turns)

    def lengths(self, start: int, stop: int) -> Tensors:
        """The weight of each point times `x - b` at its position, zero elsewhere."""
        sizes = [(stop - start, *x.shape) for x in self.problem.inputs]
        pairs = zip(sizes, self.problem.inputs, strict=True)
        stacked = [torch.zeros(size, dtype=accumulator(x.dtype), device=x.device) for size, x in pairs]
        for copy, k in enumerate(range(start, stop)):
            i, position = self._place(k)
            weight = self.rule.weights[k % len(self.rule.weights)].item()
            high, low = self._ends(i, position)
            stacked[i][copy, :, position] = weight * (high - low)
        return tuple(tensor.flatten(0, 1) for tensor in stacked)

    def deltas(self, walk: Walk, found: Attributed) -> Tensors:
        """`(batch, positions)` for each tensor: the sum of the attributions less the change of the output."""
        high = self.problem.number_each(self.problem.inputs)
        absent = walk.scores(lambda a, b: self._with([(*place, 0.0) for place in self.places[a:b]]), len(self.places))
        sums = tuple(part.flatten(2).sum(2) if part.dim() > 2 else part.clone() for part in found.tensors)
        for (i, position), low in zip(self.places, absent.view(len(self.places), -1), strict=True):
            sums[i][:, position] -= (high - low).to(sums[i])
        return sums

    def _place(self, k: int) -> tuple[int, int]:
        return self.places[k // len(self.rule.alphas)]

    def _ends(self, i: int, position: int) -> tuple[Tensor, Tensor]:
        """Input and baseline of a position, `(batch, *features)`, in at least fp32."""
        x = self.problem.inputs[i].detach()
        low = self.problem.baselines[i].detach().expand_as(x)
        wide = accumulator(x.dtype)
        return x[:, position].to(wide), low[:, position].to(wide)

    def _with(self, turns: list[tuple[int, int, float]]) -> Tensors:
        """A copy of the inputs for each turn, with input i at `b + share (x - b)` at a position."""
        stacked = [x.detach().repeat(len(turns), *(1,) * x.dim()).view(-1, *x.shape) for x in self.problem.inputs]
        for copy, (i, position, share) in enumerate(turns):
            high, low = self._ends(i, position)
            stacked[i][copy, :, position] = (low + share * (high - low)).to(stacked[i].dtype)
        return tuple(tensor.flatten(0, 1) for tensor in stacked)


@dataclass(frozen=True)
class _Broken:
    """A path of straight pieces.

    Attributes:
        corners: `(corners, batch, *features)` for each input, from baseline to input, in at least fp32.
        dtypes: The types of the inputs.
        pieces: Into how many parts each piece is cut.
        shift: How far behind the beginning of each part its point is, as a share of the part.
    """

    corners: Tensors
    dtypes: tuple[torch.dtype, ...]
    pieces: int
    shift: float = 0.0

    @classmethod
    def of(cls, problem: Problem, tables: list[Tensor], words: WordPaths, factor: int) -> _Broken:
        if isinstance(factor, bool) or not isinstance(factor, int) or factor < 0:
            raise InvalidValue(f"factor must be a whole number of at least 0; got {factor!r}")
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
        found = self._at(torch.arange(start, stop, device="cpu") + self.shift)
        return tuple(point.to(dtype) for point, dtype in zip(found, self.dtypes, strict=True))

    def lengths(self, before: float, behind: float) -> Points:
        """How much of the path each point stands for: these shares of the two pieces at it."""

        def lengths(start: int, stop: int) -> Tensors:
            k = torch.arange(start, stop, device="cpu")
            around = zip(self._at(k - 1), self._at(k), self._at(k + 1), strict=True)
            return tuple(before * (here - last) + behind * (following - here) for last, here, following in around)

        return lengths

    def _at(self, numbers: Tensor) -> Tensors:
        """The points of these numbers; before the first the first, behind the last the last."""
        places = numbers.clamp(0, self._last).double() / self.pieces
        corner = places.floor().long()
        share = places - corner

        def at(path: Tensor) -> Tensor:
            low, high = path[corner], path[(corner + 1).clamp(max=len(path) - 1)]
            return low.lerp(high, share.to(path).view(-1, *(1,) * (path.dim() - 1))).flatten(0, 1)

        return tuple(at(path) for path in self.corners)


def _of_width(tables: list[Tensor], width: int) -> Tensor:
    """The vocabulary whose vectors are so long."""
    fitting = [table for table in tables if table.dim() == 2 and table.shape[1] == width and len(table)]
    if len(fitting) != 1:
        raise InvalidShape(
            f"vocabulary must have one table (words, {width}) for inputs (batch, *positions, {width}); got tables of "
            f"{[tuple(table.shape) for table in tables]}"
        )
    return fitting[0]


def _corners(x: Tensor, low: Tensor, vocabulary: Tensor, words: WordPaths) -> Tensor:
    wide = accumulator(x.dtype)
    baseline, word = (part.detach().to(wide).reshape(-1, x.shape[-1]) for part in (low, x))
    path = words.between(baseline, word, vocabulary.to(x.device, wide))
    return path.view(len(path), *x.shape)
