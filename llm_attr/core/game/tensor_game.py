"""Games of tensors: what a coalition of features is worth to a model."""

from __future__ import annotations

from math import isfinite

import torch
from torch import Tensor

from llm_attr.core.batching import BATCH_ERRORS, copies_that_fit, uses_batch_statistics
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.features import Ownership
from llm_attr.core.problem import Problem, is_promise
from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Coalitions, Tensors, Values

_DOES_NOT_GROW = "the forward function's output does not grow with its batch; use perturbations_per_eval=1"


BATCH_ROUNDING = 0.02
"""What rounding in a larger batch may change of an answer, beyond which it is not looked at as rounding."""


class TensorGame:
    """The value of a coalition is the score of the inputs with absent features set to their baseline.

    Args:
        problem: What is scored.
        features: Who owns which position.
        evaluator: Runs the calls.
        per_call: Coalitions of one call of the model. None: as many as fit if a doubled batch gives doubled and equal
            answers, else one; and one where the inputs differ in their first axis.

    Attributes:
        shape: That of the answer to one coalition; None before the first.
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
        known: list[Values] = []
        if self._first is None:
            self._first = coalitions[:1], self._alone(coalitions[:1])
            known.append(self._first[1].reshape(1, -1))
        first, answer = self._first
        if self._chunk is None and len(known) < len(coalitions):
            known += self._settle_chunk(torch.cat([first, coalitions[len(known)][None]]), answer)
        rest = coalitions[len(known) :]

        def evaluate(start: int, stop: int) -> Values:
            values = self._answers(rest[start:stop], answer)
            self.evaluator.advance(stop - start)
            return values

        return torch.cat([*known, *self.evaluator.run(len(rest), self._chunk or 1, evaluate)])

    def submit(self, coalitions: Coalitions) -> torch.futures.Future[Values]:
        """The promise of `(coalitions, outputs)`, from a forward function that gives promises.

        The very first coalition goes alone: its answer shows whether the others' grew with their batch.
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
        """Decides how many coalitions share a call; gives the value of the pair's second one if that can be trusted.

        The answer to the pair's first one is known: the pair must repeat it. What fails with two fails for want of
        memory or because it was written for one batch size, and may well do with one.
        """
        self._chunk = 1
        if answer.dim() == 0 or uses_batch_statistics(self.problem.forward):
            return []
        try:
            output = self._forward(pair)
        except BATCH_ERRORS:
            return []
        if not _grew(output, answer, 2) or not self._is_the_same(pair, output[: len(answer)], answer):
            return []
        self._chunk = copies_that_fit((*self.problem.inputs, answer))
        self.evaluator.advance(1)
        return [output[len(answer) :].reshape(1, -1)]

    def _is_the_same(self, pair: Coalitions, beside: Tensor, answer: Tensor) -> bool:
        """Whether the answer beside another coalition is the one without it, but for the rounding of a larger batch.

        Products in TF32 and convolutions round otherwise in a batch of another size. Such an answer is one of the
        batch size alone: it stays when the other coalition is changed for the first one itself.
        """
        if _agree(beside, answer):
            return True
        if not _agree(beside, answer, BATCH_ROUNDING):
            return False
        return _agree(self._forward(pair[[0, 0]])[: len(answer)], beside)

    def _answers(self, coalitions: Coalitions, answer: Tensor) -> Values:
        output, copies = self._forward(coalitions), len(coalitions)
        if copies > 1 and not _grew(output, answer, copies):
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
    """The rows of all the pieces, in order.

    Raises:
        InvalidShape: a row is longer in one piece than in another, because the output did not grow with the batch.
    """
    if len({piece.shape[1] for piece in pieces}) > 1:
        raise InvalidShape(_DOES_NOT_GROW)
    return torch.cat(pieces)


def _grew(output: Tensor, answer: Tensor, copies: int) -> bool:
    return output.dim() > 0 and output.shape == (copies * len(answer), *answer.shape[1:])


def _agree(output: Tensor, expected: Tensor, at_least: float = 0.0) -> bool:
    """Whether they differ by rounding, in units of the largest number; by so much at least."""
    if torch.equal(output, expected):
        return True
    if not output.is_floating_point():
        return False
    tolerance = max(at_least, torch.finfo(output.dtype).eps ** 0.5)
    largest = expected.abs().max().item()
    if isfinite(largest):
        return (output - expected).abs().max().item() <= tolerance * largest
    finite = expected[expected.isfinite()].abs()
    scale = finite.max().item() if finite.numel() else 0.0
    return torch.allclose(output, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
