"""What is explained: a score of inputs that can be moved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from llm_attr.core.target import select, tile_target
from llm_attr.core.tensors import as_baselines, as_tensors, tile
from llm_attr.errors import InvalidType
from llm_attr.typing import Baselines, ForwardFunction, Target, TensorOrTensors, Tensors

Output = Tensor | torch.futures.Future
"""What a score gives: a tensor, or the promise of one."""


@dataclass(frozen=True)
class Problem:
    """A scalar, or one for each example, as a function of inputs that a method moves.

    Attributes:
        forward: The user's model or function, as it was given.
        score: `(inputs, extras, target) -> (batch, ...)`, the model's answer at the target.
        inputs: What is moved, one tensor `(batch, *features)` each.
        baselines: Its absent state, broadcasting to the inputs.
        extras: Arguments that go with each example and are never moved.
        target: The entry of the output that is explained.
    """

    forward: ForwardFunction
    score: Callable[[Tensors, tuple[Any, ...], Target], Output]
    inputs: Tensors
    baselines: Tensors
    extras: tuple[Any, ...] = ()
    target: Target = None

    @classmethod
    def of(
        cls,
        forward: ForwardFunction,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
    ) -> Problem:
        """The problem of explaining `forward(*inputs, *additional_forward_args)` at `target`."""
        moved = as_tensors(inputs)
        args = additional_forward_args
        extras = () if args is None else args if isinstance(args, tuple) else (args,)

        def score(points: Tensors, extras: tuple[Any, ...], target: Target) -> Output:
            answer = forward(*points, *extras)
            if is_promise(answer):
                return answer.then(lambda done: select(as_output(done.value()), target))
            return select(as_output(answer), target)

        return cls(forward, score, moved, as_baselines(baselines, moved), extras, target)

    @property
    def batch(self) -> int:
        """The number of examples."""
        return len(self.inputs[0])

    def values(self, points: Tensors, copies: int) -> Output:
        """The score of `copies` stacked batches of points, `(copies * batch, *features)` each, without gradients."""
        with torch.no_grad():
            return self.score(points, tile(self.extras, copies, self.batch), tile_target(self.target, copies))


def is_promise(answer: Any) -> TypeGuard[torch.futures.Future]:
    """Whether an answer is still to come; what `then` gives is a future of the base class."""
    return isinstance(answer, torch._C.Future)


def as_output(answer: Any) -> Tensor:
    """The model's answer as a detached tensor; numbers count as tensors of no axes, truth values as 0 and 1."""
    if isinstance(answer, Tensor):
        return answer.detach().float() if answer.dtype == torch.bool else answer.detach()
    if isinstance(answer, int | float):
        return torch.tensor(answer, dtype=torch.float64 if isinstance(answer, float) else torch.int64)
    raise InvalidType(
        f"the forward function must give a tensor or a number; got {type(answer).__name__} "
        "(wrap the model in a function that picks the tensor to explain)"
    )
