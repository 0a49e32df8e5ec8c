"""Games of tensors: the output of a model for a coalition of features."""

from __future__ import annotations

import torch
from torch import Tensor

from llm_attr.core.batching import (
    BATCH_ERRORS,
    agree,
    copies_that_fit,
    grew,
    problem_fingerprint,
    uses_batch_statistics,
)
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.features import Ownership
from llm_attr.core.parallel.sharing import share_rows
from llm_attr.core.parallel.team import current_team
from llm_attr.core.problem import Problem, is_promise
from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Coalitions, Tensors, Values

_DOES_NOT_GROW = "the forward function's output does not grow with its batch; use perturbations_per_eval=1"


BATCH_ROUNDING = 0.02
"""The largest relative change of an output in a larger batch that can still be rounding error."""


class TensorGame:
    """The game whose value is the score of the inputs with absent features set to their baseline.

    Args:
        problem: The problem.
        features: Which positions are absent together.
        evaluator: Runs the calls.
        per_call: Coalitions per call of the model. None: as many as fit if a doubled batch gives doubled and equal
            outputs, otherwise one; also one if the inputs differ in their first axis.

    Attributes:
        shape: Shape of the output for one coalition; None before the first call.
    """

    def __init__(
        self, problem: Problem, features: Ownership, evaluator: Evaluator, per_call: int | None = None
    ) -> None:
        self.problem, self.features, self.evaluator = problem, features, evaluator
        alike = len({len(x) for x in problem.inputs}) == 1
        self._per_call = self._chunk = per_call if alike else 1
        self._first: tuple[Coalitions, Tensor] | None = None
        self.shape: torch.Size | None = None
        self._submitted = False

    def __call__(self, coalitions: Coalitions) -> Values:
        """`(coalitions, outputs)`."""
        evaluator, before = self.evaluator, self.evaluator.done

        def part(rows: Coalitions) -> tuple[Values, torch.Size | None]:
            return self._values(rows), self.shape

        problem, about = self.problem, evaluator.description
        if current_team() is not None:
            about += f" {problem_fingerprint(problem.forward, problem.inputs, problem.baselines)}"
        parts = share_rows(about, coalitions, part, problem.inputs[0].device)
        self.shape = parts[0][1]
        evaluator.advance(before + len(coalitions) - evaluator.done)
        return torch.cat([values for values, _ in parts])

    def _values(self, coalitions: Coalitions) -> Values:
        done: list[Values] = []
        if self._first is None:
            self._first = coalitions[:1], self._alone(coalitions[:1])
            done.append(self._first[1].reshape(1, -1))
        first, answer = self._first
        if self._chunk is None and len(done) < len(coalitions):
            done += self._settle_chunk(torch.cat([first, coalitions[len(done)][None]]), answer)
        rest = coalitions[len(done) :]

        def evaluate(start: int, stop: int) -> Values:
            values = self._answers(rest[start:stop], answer)
            self.evaluator.advance(stop - start)
            return values

        return torch.cat([*done, *self.evaluator.run(len(rest), self._chunk or 1, evaluate)])

    def submit(self, coalitions: Coalitions) -> torch.futures.Future[Values]:
        """The promise of `(coalitions, outputs)`, for a forward function that returns promises.

        The first coalition gets a call of its own, to compare the shapes of larger calls with.
        """
        alone = 0 if self._submitted else 1
        self._submitted = True
        calls = [coalitions[:alone], *coalitions[alone:].split(self._per_call or 1)]
        promises = [self._promise(rows) for rows in calls if len(rows)]
        return torch.futures.collect_all(promises).then(lambda done: joined([one.value() for one in done.value()]))

    def _alone(self, coalition: Coalitions) -> Tensor:
        (answer,) = self.evaluator.run(1, 1, lambda start, stop: self._forward(coalition))
        self.features.check_outputs(answer.shape)
        self.shape = answer.shape
        self.evaluator.advance(1)
        return answer

    def _settle_chunk(self, pair: Coalitions, answer: Tensor) -> list[Values]:
        """Decides how many coalitions share a call; returns the value of the pair's second one if it is valid.

        The output for the pair's first coalition is known, and the pair must reproduce it. A call that fails with two
        coalitions may succeed with one: for lack of memory, or because the model supports only one batch size.
        """
        self._chunk = 1
        if answer.dim() == 0 or uses_batch_statistics(self.problem.forward):
            return []
        try:
            output = self._forward(pair)
        except BATCH_ERRORS:
            return []
        if not grew(output, answer, 2) or not self._is_the_same(pair, output[: len(answer)], answer):
            return []
        self._chunk = copies_that_fit((*self.problem.inputs, answer))
        self.evaluator.advance(1)
        return [output[len(answer) :].reshape(1, -1)]

    def _is_the_same(self, pair: Coalitions, beside: Tensor, answer: Tensor) -> bool:
        """Whether the output of a coalition in a pair equals that without the other one, up to rounding.

        TF32 products and convolutions round differently in batches of different size. Such an output depends only on
        the batch size: it does not change if the other coalition is replaced by a copy of the first.
        """
        if agree(beside, answer):
            return True
        if not agree(beside, answer, BATCH_ROUNDING):
            return False
        return agree(self._forward(pair[[0, 0]])[: len(answer)], beside)

    def _answers(self, coalitions: Coalitions, answer: Tensor) -> Values:
        output, copies = self._forward(coalitions), len(coalitions)
        if copies > 1 and not grew(output, answer, copies):
            raise InvalidShape(
                "the forward function's output must grow with its batch: one batch gave the shape "
                f"{tuple(answer.shape)}, {copies} batches gave {tuple(output.shape)}; "
                "use perturbations_per_eval=1 or None"
            )
        if output.numel() != copies * answer.numel():
            raise InvalidShape(
                "the forward function's output must have the same shape whatever features are absent; got "
                f"{tuple(answer.shape)} and {tuple(output.shape)}"
            )
        return output.reshape(copies, answer.numel())

    def _promise(self, coalitions: Coalitions) -> torch.futures.Future[Values]:
        self.evaluator.check()
        copies = len(coalitions)
        promise = self.problem.values(self._points(coalitions), copies)
        if not is_promise(promise):
            raise InvalidType(
                "attribute_future needs a forward function that gives a torch.futures.Future; use attribute"
            )

        def stacked(done: torch.futures.Future[Tensor]) -> Values:
            output = done.value()
            if copies == 1 and self.shape is None:
                self.features.check_outputs(output.shape)
                self.shape = output.shape
            if output.numel() % copies:
                raise InvalidShape(_DOES_NOT_GROW)
            self.evaluator.advance(copies)
            return output.reshape(copies, output.numel() // copies)

        return promise.then(stacked)

    def _forward(self, coalitions: Coalitions) -> Tensor:
        output = self.problem.values(self._points(coalitions), len(coalitions))
        if not isinstance(output, Tensor):
            raise InvalidType("the forward function gives a torch.futures.Future; use attribute_future")
        return output

    @torch.no_grad()
    def _points(self, coalitions: Coalitions) -> tuple[Tensor, ...]:
        return points(self.features, coalitions, self.problem.inputs, self.problem.baselines)


def points(features: Ownership, coalitions: Coalitions, inputs: Tensors, baselines: Tensors) -> Tensors:
    """`(coalitions * batch, *features)` for each input, absent positions at their baseline."""
    moved = enumerate(zip(inputs, baselines, strict=True))
    return tuple(
        torch.where(features.present(coalitions, i, x.device), x, baseline).flatten(0, 1) for i, (x, baseline) in moved
    )


def joined(pieces: list[Values]) -> Values:
    """The rows of all pieces, in order.

    Raises:
        InvalidShape: rows differ in length, because the output did not grow with the batch.
    """
    if len({piece.shape[1] for piece in pieces}) > 1:
        raise InvalidShape(_DOES_NOT_GROW)
    return torch.cat(pieces)
