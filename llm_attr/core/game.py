"""Games: what a coalition of features is worth, and estimators that play them.

An estimator sees `game(coalitions) -> values` and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from llm_attr.core.coalitions import each_left_out, full
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.features import Features
from llm_attr.core.memory import free_bytes
from llm_attr.core.problem import Problem, is_promise
from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Coalitions, ForwardFunction, Game, Values

CPU_CHUNK_BYTES = 1 << 18
"""Inputs of one call on a CPU: beyond the caches a larger batch is no faster."""

ACTIVATIONS_PER_INPUT = 64
"""Memory that a call is taken to need for each byte of its inputs, before back-off knows better."""


class Estimator(Protocol):
    """A design of coalitions and what their values say about each feature."""

    def evaluations(self, features: int) -> int:
        """How many coalitions the design asks for."""

    def blocks(self, features: int) -> Iterator[Coalitions]:
        """The design, in blocks of rows."""

    def estimate(self, values: Values) -> Values:
        """`(coalitions, outputs)` in the order of the design -> `(features, outputs)`."""


class LeaveOneOut:
    """The loss of value when one feature is left out: `v(all) - v(all without i)`."""

    def evaluations(self, features: int) -> int:
        """One for each feature and one for all of them."""
        return features + 1

    def blocks(self, features: int) -> Iterator[Coalitions]:
        """The full coalition, then each feature left out."""
        yield full(features)
        yield from each_left_out(features)

    def estimate(self, values: Values) -> Values:
        """`(features, outputs)`."""
        return values[:1] - values[1:]


def play(game: Game, estimator: Estimator, features: int) -> Values:
    """`(features, outputs)`: the estimator's answer for this game."""
    return estimator.estimate(torch.cat([game(block) for block in estimator.blocks(features)]))


class TensorGame:
    """The value of a coalition is the score of the inputs with absent features set to their baseline.

    Args:
        problem: What is scored.
        features: Who owns which position.
        evaluator: Runs the calls.
        per_call: Coalitions of one call of the model. None: as many as fit if a doubled batch gives doubled and equal
            answers, else one.
    """

    def __init__(self, problem: Problem, features: Features, evaluator: Evaluator, per_call: int | None = None) -> None:
        self.problem, self.features, self.evaluator = problem, features, evaluator
        self._per_call = per_call
        self._rows: int | None = None
        self._chunk: int | None = None

    def __call__(self, coalitions: Coalitions) -> Values:
        """`(coalitions, outputs)`."""
        known: list[Values] = []
        if self._chunk is None:
            known = [self._whole(coalitions[:1])]
            if len(coalitions) > 1:
                known += self._settle_chunk(coalitions[:2], known[0])
        done = sum(len(values) for values in known)
        rest = coalitions[done:]

        def evaluate(start: int, stop: int) -> Values:
            values = self._answers(rest[start:stop])
            self.evaluator.advance(stop - start)
            return values

        return torch.cat([*known, *self.evaluator.run(len(rest), self._chunk or 1, evaluate)])

    def submit(self, coalitions: Coalitions) -> torch.futures.Future[Values]:
        """The promise of `(coalitions, outputs)`, from a forward function that gives promises."""
        chunk = self._per_call or 1
        promises = [self._promise(rows) for rows in coalitions.split(chunk)]
        return torch.futures.collect_all(promises).then(lambda done: torch.cat([one.value() for one in done.value()]))

    def _whole(self, coalition: Coalitions) -> Values:
        output = self._forward(coalition)
        self._rows = len(output) if output.dim() else None
        self.evaluator.advance(1)
        return output.reshape(1, -1)

    def _settle_chunk(self, pair: Coalitions, first: Values) -> list[Values]:
        """Decides how many coalitions share a call; gives the value of the pair's second one if that was computed."""
        if self._per_call is not None:
            self._chunk = self._per_call
            return []
        self._chunk = 1
        if self._rows is None or uses_batch_statistics(self.problem.forward):
            return []
        output = self._forward(pair)
        if output.dim() == 0 or len(output) != 2 * self._rows:
            return []
        values = output.reshape(2, -1)
        if not _agree(values[:1], first):
            return []
        self._chunk = self._fitting()
        self.evaluator.advance(1)
        return [values[1:]]

    def _answers(self, coalitions: Coalitions) -> Values:
        output, copies = self._forward(coalitions), len(coalitions)
        if copies > 1 and (output.dim() == 0 or len(output) != copies * (self._rows or 0)):
            raise InvalidShape(
                f"the forward function's output must grow with its batch: one batch gave {self._rows or 'no'} rows, "
                f"{copies} batches gave the shape {tuple(output.shape)}; use perturbations_per_eval=1 or None"
            )
        return output.reshape(copies, -1)

    def _promise(self, coalitions: Coalitions) -> torch.futures.Future[Values]:
        promise = self.problem.values(self._points(coalitions), len(coalitions))
        if not is_promise(promise):
            raise InvalidType(
                "attribute_future needs a forward function that gives a torch.futures.Future; use attribute"
            )

        def stacked(done: torch.futures.Future[Tensor]) -> Values:
            output = done.value()
            if output.numel() % len(coalitions):
                raise InvalidShape(
                    "the forward function's output does not grow with its batch; use perturbations_per_eval=1"
                )
            self.evaluator.advance(len(coalitions))
            return output.reshape(len(coalitions), -1)

        return promise.then(stacked)

    def _forward(self, coalitions: Coalitions) -> Tensor:
        output = self.problem.values(self._points(coalitions), len(coalitions))
        if is_promise(output):
            raise InvalidType("the forward function gives a torch.futures.Future; use attribute_future")
        return output.float() if output.dtype == torch.bool else output

    def _points(self, coalitions: Coalitions) -> tuple[Tensor, ...]:
        moved = enumerate(zip(self.problem.inputs, self.problem.baselines, strict=True))
        return tuple(
            torch.where(self.features.present(coalitions, i, inputs.device), inputs, baseline).flatten(0, 1)
            for i, (inputs, baseline) in moved
        )

    def _fitting(self) -> int:
        bytes_each = sum(tensor.numel() * tensor.element_size() for tensor in self.problem.inputs)
        device = self.problem.inputs[0].device
        room = free_bytes(device) // (2 * ACTIVATIONS_PER_INPUT)
        if device.type == "cpu":
            room = min(room, CPU_CHUNK_BYTES)
        return max(1, room // max(1, bytes_each))


def uses_batch_statistics(forward: ForwardFunction) -> bool:
    """Whether a module in train mode makes each answer depend on the other examples of its batch."""
    module = forward if isinstance(forward, nn.Module) else getattr(forward, "__self__", None)
    if not isinstance(module, nn.Module):
        return False
    return any(part.training and hasattr(part, "running_mean") for part in module.modules())


def _agree(values: Values, expected: Values) -> bool:
    if not values.is_floating_point():
        return torch.equal(values, expected)
    tolerance = torch.finfo(values.dtype).eps ** 0.5
    scale = expected.abs().max().item() if expected.numel() else 0.0
    return torch.allclose(values, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
