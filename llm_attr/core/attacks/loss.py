"""The loss that an attack moves along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from llm_attr.core.problem import Problem, as_output
from llm_attr.errors import InvalidType
from llm_attr.typing import ForwardFunction, Target, TensorOrTensors, Tensors

Loss = Callable[[Any, Any], Any]
"""From the model's output and the target to one number for each example, or one for the batch."""


def loss_problem(
    forward: ForwardFunction,
    loss: Loss | None,
    inputs: TensorOrTensors,
    target: Any,
    additional_forward_args: Any = None,
) -> Problem:
    """The problem whose score has the gradient of the loss, up to a positive factor for each example.

    Args:
        forward: The model.
        loss: None: minus the output at the target, whose gradient has the direction of that of `-log`, also where the
            output is not positive and has no logarithm.
        inputs: What is moved.
        target: An entry of the output, or whatever the loss takes.
        additional_forward_args: See `Problem.of`.

    Raises:
        InvalidType: the inputs are whole or complex numbers.
    """
    of_output: Target = target if loss is None else None
    problem = Problem.of(forward, inputs, None, of_output, additional_forward_args)
    for index, tensor in enumerate(problem.inputs):
        if not tensor.is_floating_point():
            raise InvalidType(
                f"input {index} holds {tensor.dtype}; an attack moves along a gradient and needs floating-point "
                "inputs. Attack the embeddings of token ids (inputs_embeds), or edit a text with MinimalEdit"
            )
    inner = problem.score

    if loss is None:

        def negative(points: Tensors, extras: tuple[Any, ...], entry: Any) -> Tensor:
            return -as_output(inner(points, extras, entry))

        return replace(problem, score=negative)
    of_rows = isinstance(target, Tensor) and target.dim() > 0

    def of_loss(points: Tensors, extras: tuple[Any, ...], entry: Any) -> Tensor:
        if of_rows:
            entry, extras = extras[0], extras[1:]
        return as_output(loss(as_output(inner(points, extras, None)), entry))

    if of_rows:
        return replace(problem, score=of_loss, extras=(target, *problem.extras))
    return replace(problem, score=of_loss, target=target)
