"""`StackedCalls`: a model's outputs for many perturbed inputs, several of which share a call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.batching import BATCH_ERRORS, agree, copies_that_fit, grew, uses_batch_statistics
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.tensors import leaves, tile, with_leaves
from llm_attr.errors import InvalidShape
from llm_attr.typing import ForwardFunction


class StackedCalls:
    """A model's output for an input, and for perturbations of it that have its shapes.

    Args:
        forward: The model; gets an input as its first argument, a tuple too.
        inputs: The input: a tensor, or tensors in tuples, lists or mappings; anything else has a call of its own.
        extras: Further arguments; tensors with a row per example are repeated along with the input.
        evaluator: Runs the calls.
        per_call: Inputs per call. None: as many as fit if a call of two gives the output of the first one alone;
            otherwise one.

    Attributes:
        output: For the input itself.
    """

    def __init__(
        self,
        forward: ForwardFunction,
        inputs: Any,
        extras: tuple[Any, ...],
        evaluator: Evaluator,
        per_call: int | None = None,
    ) -> None:
        self._forward, self._inputs, self._extras, self._evaluator = forward, inputs, extras, evaluator
        self._shapes = [tensor.shape for tensor in leaves(inputs)]
        self._batch = self._shapes[0][0] if self._shapes and self._shapes[0] else 1
        (self.output,) = evaluator.run(1, 1, lambda start, stop: self._call(inputs, 1))
        evaluator.advance(1)
        self._chunk = per_call if self._can_stack() else 1

    def outputs(self, perturbed: Iterable[Any]) -> Iterator[Any]:
        """The output for each of these inputs, in order.

        Raises:
            InvalidShape: one has other shapes than the input, or the output does not grow with the batch.
        """
        waiting = iter(perturbed)
        while group := list(islice(waiting, self._chunk or 2)):
            for one in group:
                self._check_shapes(one)
            if self._chunk is None and len(group) > 1:
                self._settle(group[0])

            def evaluate(start: int, stop: int, group: list[Any] = group) -> list[Any]:
                found = self._outputs(group[start:stop])
                self._evaluator.advance(stop - start)
                return found

            for piece in self._evaluator.run(len(group), self._chunk or 1, evaluate):
                yield from piece

    def _can_stack(self) -> bool:
        rows = {shape[0] if shape else None for shape in self._shapes}
        return rows == {self._batch} and isinstance(self.output, Tensor) and self.output.dim() > 0

    def _settle(self, other: Any) -> None:
        """Decides how many inputs share a call."""
        self._chunk = 1
        if uses_batch_statistics(self._forward):
            return
        try:
            output = self._call(self._stacked([self._inputs, other]), 2)
        except BATCH_ERRORS:
            return
        if grew(output, self.output, 2) and agree(output[: len(self.output)], self.output):
            self._chunk = copies_that_fit((*leaves(self._inputs), self.output))

    def _outputs(self, group: list[Any]) -> list[Any]:
        if len(group) == 1:
            return [self._call(group[0], 1)]
        output = self._call(self._stacked(group), len(group))
        if not isinstance(output, Tensor) or not grew(output, self.output, len(group)):
            raise InvalidShape(
                f"the output must grow with the batch: one input gave the shape {tuple(self.output.shape)}, "
                f"{len(group)} gave {tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__}; "
                "use perturbations_per_eval=1"
            )
        return list(output.split(len(self.output)))

    def _stacked(self, group: list[Any]) -> Any:
        return with_leaves(group[0], [torch.cat(parts) for parts in zip(*map(leaves, group), strict=True)])

    @torch.no_grad()
    def _call(self, inputs: Any, copies: int) -> Any:
        return self._forward(inputs, *tile(self._extras, copies, self._batch))

    def _check_shapes(self, one: Any) -> None:
        shapes = [tensor.shape for tensor in leaves(one)]
        if shapes != self._shapes:
            raise InvalidShape(
                f"a perturbed input must have the shape of the input, {[tuple(shape) for shape in self._shapes]}; got "
                f"{[tuple(shape) for shape in shapes]}"
            )
