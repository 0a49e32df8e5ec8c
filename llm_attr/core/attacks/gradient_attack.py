"""`GradientAttack`: repeated steps along the gradient of a loss."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm_attr.core.attacks.steps import Ball, Normalise, sign
from llm_attr.core.batching import BATCH_ERRORS, agree, copies_that_fit, uses_batch_statistics
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.problem import Problem
from llm_attr.core.random_state import Streams
from llm_attr.core.tensors import broadcasts
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, NonFiniteGradient
from llm_attr.typing import Tensors


@dataclass(frozen=True)
class GradientAttack:
    """Moves inputs along the gradient of a loss.

    `x <- bounds(x_0 + project(x + step normalise(gradient) mask - x_0))`

    Attributes:
        step: The length of a step; negative steps lower the loss.
        steps: How many.
        normalise: From a gradient to a direction.
        ball: Where perturbations are projected to after each step; None: nowhere.
        random_start: Whether the first point is drawn from the ball rather than the input.
        bounds: The least and the largest value of an entry.
        masks: For each input what its steps are multiplied by, broadcasting to it; None: nothing.
    """

    step: float
    steps: int = 1
    normalise: Normalise = sign
    ball: Ball | None = None
    random_start: bool = False
    bounds: tuple[float, float] = (-inf, inf)
    masks: tuple[Tensor | None, ...] | None = None

    def run(self, problem: Problem, description: str) -> Tensors:
        """The perturbed inputs, of the inputs' shapes and dtypes.

        Args:
            problem: Its score is the loss.
            description: The name of the attack.

        Raises:
            InvalidValue: an input is outside the bounds.
            NonFiniteGradient: a gradient is NaN.
        """
        self.check_bounds(problem.inputs)
        with self._evaluator(problem, description, 1) as evaluator:
            return self._moved(problem, self._starts(problem.inputs), 1, evaluator)

    def run_several(self, problem: Problem, attempts: int, description: str) -> Iterator[Tensors]:
        """The perturbed inputs of several attempts, one after the other.

        An attempt that draws no random number is repeated without running it again. Attempts that differ only by their
        random start share passes, as far as their results stay the same; starts are drawn in the order of the attempts.

        Args:
            problem: Its score is the loss.
            attempts: How many.
            description: The name of the attack.

        Raises:
            InvalidValue: an input is outside the bounds.
            NonFiniteGradient: a gradient is NaN.
        """
        self.check_bounds(problem.inputs)
        with self._evaluator(problem, description, attempts) as evaluator:
            start = self._starts(problem.inputs)
            before = _Drawn.now()
            first = self._moved(problem, start, 1, evaluator)
            model_draws = _Drawn.now() != before
            yield first
            if self.random_start or model_draws:
                stacks = not model_draws and not uses_batch_statistics(problem.forward)
                yield from self._others(problem, attempts - 1, start, first, stacks, evaluator)
            else:
                yield from [first] * (attempts - 1)
            evaluator.finish()

    def check_bounds(self, inputs: Tensors) -> None:
        """Raises `InvalidValue` for inputs outside the bounds."""
        low, high = self.bounds
        if self.bounds == (-inf, inf):
            return
        for index, x in enumerate(inputs):
            if bool(((x < low) | (x > high)).any()):
                raise InvalidValue(
                    f"input {index} has values from {x.min().item():.6g} to {x.max().item():.6g}, outside the bounds "
                    f"[{low:g}, {high:g}]; clamp the input, or widen the bounds"
                )

    def _evaluator(self, problem: Problem, description: str, attempts: int) -> Evaluator:
        return Evaluator(description, self.steps * attempts, device=problem.inputs[0].device)

    def _starts(self, inputs: Tensors) -> Tensors:
        """The first point of an attempt."""
        if self.ball is None or not self.random_start:
            return inputs
        with torch.no_grad():
            return tuple(self._within(x + self._masked(self.ball.start(x), i)) for i, x in enumerate(inputs))

    def _masked(self, step: Tensor, index: int) -> Tensor:
        mask = None if self.masks is None else self.masks[index]
        return step if mask is None else step * mask.to(step)

    def _moved(self, problem: Problem, points: Tensors, copies: int, evaluator: Evaluator) -> Tensors:
        """Where the steps lead from stacked batches of points."""
        origin = tuple(x if copies == 1 else x.repeat(copies, *(1,) * (x.dim() - 1)) for x in problem.inputs)
        is_nan: list[list[Tensor]] = [[] for _ in origin]
        for _ in range(self.steps):
            evaluator.check()
            gradients = problem.gradients(points, copies).gradients
            for seen, gradient in zip(is_nan, gradients, strict=True):
                seen.append(gradient.isnan().any())
            with torch.no_grad():
                each = zip(points, gradients, origin, strict=True)
                points = tuple(self._stepped(index, *parts) for index, parts in enumerate(each))
            evaluator.advance(copies)
        for index, seen in enumerate(is_nan):
            if seen and bool(torch.stack(seen).any()):
                raise NonFiniteGradient(f"the gradient of the loss is NaN at input {index}; check the loss and model")
        return points

    def _stepped(self, index: int, point: Tensor, gradient: Tensor, origin: Tensor) -> Tensor:
        moved = point + self.step * self._masked(self.normalise(gradient), index)
        if self.ball is not None:
            moved = origin + self.ball.project(moved - origin)
        return self._within(moved)

    def _within(self, moved: Tensor) -> Tensor:
        return moved if self.bounds == (-inf, inf) else moved.clamp(*self.bounds)

    def _others(
        self, problem: Problem, attempts: int, start: Tensors, first: Tensors, stacks: bool, evaluator: Evaluator
    ) -> Iterator[Tensors]:
        """The attempts after the first one; `stacks`: several may share passes."""
        size, is_checked = copies_that_fit(problem.inputs, 2) if stacks else 1, False
        while attempts > 0:
            starts = [self._starts(problem.inputs) for _ in range(min(size, attempts))]
            attempts -= len(starts)
            moved: list[Tensors] | None = None
            if len(starts) > 1 and not is_checked:
                moved, is_checked = self._checked(problem, start, first, starts, evaluator), True
            elif len(starts) > 1:
                moved = self._together(problem, starts, evaluator)
            if moved is None:
                size, moved = 1, [self._moved(problem, one, 1, evaluator) for one in starts]
            yield from moved

    def _together(self, problem: Problem, starts: list[Tensors], evaluator: Evaluator) -> list[Tensors]:
        """The results of several starts from shared passes."""

        def evaluate(first: int, stop: int) -> list[Tensors]:
            points = tuple(torch.cat(parts) for parts in zip(*starts[first:stop], strict=True))
            moved = self._moved(problem, points, stop - first, evaluator)
            return list(zip(*(tensor.chunk(stop - first) for tensor in moved), strict=True))

        return [one for piece in evaluator.run(len(starts), len(starts), evaluate) for one in piece]

    def _checked(
        self, problem: Problem, start: Tensors, first: Tensors, starts: list[Tensors], evaluator: Evaluator
    ) -> list[Tensors] | None:
        """The results of these starts beside the first; None if the first one's comes out differently in a stack."""
        try:
            again, *others = self._together(problem, [start, *starts], evaluator)
        except BATCH_ERRORS:
            return None
        return others if all(agree(*pair) for pair in zip(again, first, strict=True)) else None


@dataclass(frozen=True)
class _Drawn:
    """The states of the global random streams of torch, NumPy and Python."""

    torch: Streams
    numpy: Any
    python: Any

    @classmethod
    def now(cls) -> _Drawn:
        state: Any = np.random.get_state(legacy=False)["state"]
        return cls(Streams.now(), (state["key"].tobytes(), state["pos"]), random.getstate())


def masks_of(mask: Any, inputs: Tensors) -> tuple[Tensor | None, ...] | None:
    """A mask for each input.

    Args:
        mask: None, a tensor for a single input, or a tuple with a tensor or None for each.
        inputs: What the masks broadcast to.

    Raises:
        InvalidShape: there is another number of masks, or one does not broadcast to its input.
        InvalidType: a mask is not a tensor.
    """
    if mask is None:
        return None
    masks = mask if isinstance(mask, tuple) else (mask,)
    if len(masks) != len(inputs):
        raise InvalidShape(f"mask must be one for each of the {len(inputs)} inputs; got {len(masks)}")
    for index, (each, x) in enumerate(zip(masks, inputs, strict=True)):
        if each is None:
            continue
        if not isinstance(each, Tensor):
            raise InvalidType(f"mask {index} must be a tensor or None; got {type(each).__name__}")
        if not broadcasts(each.shape, x.shape):
            raise InvalidShape(f"mask {index} must broadcast to {tuple(x.shape)}; got {tuple(each.shape)}")
    return masks
