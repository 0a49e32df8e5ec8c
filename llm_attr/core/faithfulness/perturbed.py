"""Perturbed copies of inputs: how many are made and evaluated at once, and what a model answers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.batching import copies_that_fit
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.problem import Problem, as_output
from llm_attr.core.target import select, tile_target
from llm_attr.core.tensors import at_least_fp32, tile
from llm_attr.errors import InvalidShape, InvalidType, positive
from llm_attr.typing import Tensors

DRAWN_BYTES = 1 << 26
"""The most bytes of input copies that are made by one call of a perturbation function, unless one copy has more."""

BLOCK = 256
"""The most single copies that are judged together."""

Draw = Callable[[int], tuple[Tensors, Tensors]]
"""`copies -> (perturbations, perturbed inputs)`, `(batch * copies, *features)` each, copies of an example adjacent."""


def copies_per_draw(samples: int, inputs: Tensors, most: int | None) -> list[int]:
    """How many copies of the batch each call of a perturbation function makes.

    Args:
        samples: The number of perturbations of each example.
        inputs: `(batch, *features)` each.
        most: The most rows of a call; None: all, unless they take more than `DRAWN_BYTES`.

    Raises:
        InvalidValue: `samples` or `most` is not a whole number of at least 1.
        InvalidShape: the batch is empty.
    """
    positive("n_perturb_samples", samples)
    batch = len(inputs[0])
    if not batch:
        raise InvalidShape("inputs must have at least one example; the batch is empty")
    if most is None:
        at_once = DRAWN_BYTES // max(1, sum(x.numel() * x.element_size() for x in inputs))
    else:
        at_once = positive("max_examples_per_batch", most) // batch
        if not at_once or most > samples * batch:
            warn_caller(
                f"max_examples_per_batch should be between the batch size {batch} and batch size times "
                f"n_perturb_samples, {samples * batch}; got {most}. "
                + ("One copy of the batch is evaluated at a time" if not at_once else "All copies are made at once"),
                UserWarning,
            )
    at_once = max(1, min(at_once, samples))
    whole, rest = divmod(samples, at_once)
    return [at_once] * whole + ([rest] if rest else [])


def takes(function: Callable[..., Any], count: int) -> bool:
    """Whether a function takes this many positional arguments; one without a signature takes any number."""
    try:
        parameters = signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    if any(each.kind is Parameter.VAR_POSITIONAL for each in parameters):
        return True
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in kinds for each in parameters) >= count


def check_shapes(what: str, given: object, inputs: Tensors, copies: int = 1) -> Tensors:
    """The tensors of a result, one for each input and of its shape, with `copies` rows for each example.

    Raises:
        InvalidType: something else than tensors was given.
        InvalidShape: the number of the tensors, or the shape of one, is another.
    """
    if isinstance(given, Tensor) and copies == 1 and len(inputs) == 1 and given.shape == inputs[0].shape:
        return (given,)
    tensors = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise InvalidType(f"{what} must be a tensor or a tuple of tensors; got {_named(given)}")
    if len(tensors) != len(inputs):
        raise InvalidShape(f"{what} must be one for each of the {len(inputs)} inputs; got {len(tensors)}")
    for i, (tensor, x) in enumerate(zip(tensors, inputs, strict=True)):
        shape = x.shape if copies == 1 else (copies * x.shape[0], *x.shape[1:])
        if tensor.shape != shape:
            raise InvalidShape(f"{what} {i} must have the shape {tuple(shape)}; got {tuple(tensor.shape)}")
    return tensors


def _named(given: object) -> str:
    if isinstance(given, tuple | list):
        return f"a {type(given).__name__} of {[type(each).__name__ for each in given]}"
    return type(given).__name__


@dataclass(frozen=True)
class Responses:
    """What a model and an attribution say of perturbations.

    Attributes:
        changes: `(samples, batch)`: `f(x) - f(perturbed x)`.
        predicted: `(samples, batch)`: the scalar product of perturbation and attribution.
    """

    changes: Tensor
    predicted: Tensor


def responses(
    problem: Problem, attributions: Tensors, draw: Draw, sizes: Sequence[int], evaluator: Evaluator, most: int | None
) -> Responses:
    """Draws perturbations and evaluates the model on them, as many at once as fit into memory.

    Args:
        problem: The model, its inputs and its target.
        attributions: One for each input, of its shape.
        draw: Makes perturbed copies.
        sizes: How many copies each call of it makes.
        evaluator: Runs the model.
        most: The most rows of a call of the model; None for as many as fit.
    """
    (unperturbed,) = evaluator.run(1, 1, lambda *_: problem.number_each(problem.inputs))
    chunk = copies_that_fit(problem.inputs) if most is None else max(1, most // max(1, problem.batch))
    changes: list[Tensor] = []
    predicted: list[Tensor] = []
    for answers, products in _blocks(problem, attributions, draw, sizes, evaluator, chunk):
        changes.append(unperturbed - answers)
        predicted.append(products)
    return Responses(_joined(changes), _joined(predicted))


def _blocks(
    problem: Problem, attributions: Tensors, draw: Draw, sizes: Sequence[int], evaluator: Evaluator, chunk: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The answers `(copies, batch)` and scalar products of draws; single copies are judged by the block."""
    single = sum(size == 1 for size in sizes)
    for size in sizes[: len(sizes) - single]:
        perturbations, perturbed = draw(size)
        answers = _answers(problem, perturbed, size, evaluator, chunk)
        yield answers, _products(perturbations, attributions)
    most = max(1, DRAWN_BYTES // max(1, 4 * sum(x.numel() * x.element_size() for x in problem.inputs)))
    while single:
        count = min(single, most, BLOCK)
        (pair,) = evaluator.run(1, 1, lambda *_, count=count: _one_by_one(problem, draw, count))
        evaluator.advance(count)
        yield pair[0], _products(pair[1], attributions)
        single -= count


def _one_by_one(problem: Problem, draw: Draw, count: int) -> tuple[Tensor, Tensors]:
    """Answers `(count, batch)` to copies that are drawn and evaluated one after the other, and the perturbations.

    The target is selected once for all of them. The model gets clones if it writes into its inputs.
    """
    perturbations, perturbed = draw(1)
    tried = tuple(x.clone() for x in perturbed)
    drawn, answers = [perturbations], [problem.forward(*tried, *problem.extras)]
    writes = any(x.is_inference() or x._version for x in tried)
    for _ in range(count - 1):
        perturbations, perturbed = draw(1)
        rows = tuple([x.clone() for x in perturbed]) if writes else perturbed
        answers.append(problem.forward(*rows, *problem.extras))
        drawn.append(perturbations)
    outputs = [as_output(answer) for answer in answers]
    output = torch.cat(outputs) if outputs[0].dim() else torch.stack(outputs)
    scores = _checked(select(output, tile_target(problem.target, count)), count * problem.batch)
    stacked = [torch.cat(each).unflatten(0, (count, problem.batch)) for each in zip(*drawn, strict=True)]
    joined = [each.transpose(0, 1).flatten(0, 1) for each in stacked]
    return scores.reshape(count, problem.batch), tuple(joined)


def _answers(problem: Problem, perturbed: Tensors, copies: int, evaluator: Evaluator, chunk: int) -> Tensor:
    """`(copies, batch)`: the model's answers for perturbed inputs, `(batch * copies, *features)` each."""

    def part(x: Tensor, start: int, stop: int) -> Tensor:
        return x.unflatten(0, (problem.batch, copies))[:, start:stop].flatten(0, 1)

    def evaluate(start: int, stop: int) -> Tensor:
        count = stop - start
        rows = perturbed if count == copies else tuple(part(x, start, stop) for x in perturbed)
        extras = tile(problem.extras, count, problem.batch, by_example=True)
        answer = problem.score(rows, extras, tile_target(problem.target, count, by_example=True))
        evaluator.advance(count)
        return _checked(as_output(answer), count * problem.batch).reshape(problem.batch, count).T

    return _joined(list(evaluator.run(copies, chunk, evaluate)))


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def _checked(scores: Tensor, rows: int) -> Tensor:
    """The scores in at least fp32.

    Raises:
        InvalidShape: they are not one for each row.
    """
    if scores.numel() != rows:
        raise InvalidShape(
            f"the forward function must give one number for each of the {rows} rows; got {tuple(scores.shape)}"
        )
    return at_least_fp32(scores)


def _products(perturbations: Tensors, attributions: Tensors) -> Tensor:
    """`(copies, batch)`: the scalar products of perturbations with the attributions of their example."""
    total: Tensor | float = 0.0
    for perturbation, attribution in zip(perturbations, attributions, strict=True):
        rows = attribution.flatten(1)
        copies = perturbation.reshape(len(rows), -1, rows.shape[1])
        if copies.dtype != rows.dtype:
            kind = torch.promote_types(copies.dtype, rows.dtype)
            copies, rows = copies.to(kind), rows.to(kind)
        products = (copies[0] @ rows[0])[None] if len(rows) == 1 else (copies @ rows[:, :, None])[:, :, 0]
        total = total + at_least_fp32(products).T
    return total if isinstance(total, Tensor) else torch.tensor(total, device="cpu")
