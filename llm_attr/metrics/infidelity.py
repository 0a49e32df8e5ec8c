"""Infidelity: the squared error of what an attribution says of perturbations."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.faithfulness.perturbed import check_shapes, copies_per_draw, responses, takes
from llm_attr.core.problem import Problem
from llm_attr.core.tensors import as_baselines, as_tensors, in_form_of, tile
from llm_attr.errors import InvalidType
from llm_attr.typing import Baselines, ForwardFunction, Target, TensorOrTensors, Tensors

Perturbation = Callable[..., Any]
"""From inputs, and baselines if it takes them, to (perturbations, perturbed inputs)."""


def infidelity(
    forward_func: ForwardFunction,
    perturb_func: Perturbation,
    inputs: TensorOrTensors,
    attributions: TensorOrTensors,
    baselines: Baselines = None,
    additional_forward_args: Any = None,
    target: Target = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """The expected squared difference between what an attribution says of a perturbation and what the model does.

    `infidelity = E_I[(sum_i I_i a_i - (f(x) - f(x - I)))^2]`; 0 is best.

    Args:
        forward_func: A model, or any callable that maps the inputs and the additional arguments to a tensor.
        perturb_func: Maps copies of the inputs, and of the baselines if it takes a second argument and they are given,
            to a pair: perturbations and perturbed inputs, each a tensor, or a tuple with one per input, of the shape of
            what it was given. A function that gives perturbed inputs alone is decorated with
            `infidelity_perturb_func_decorator`. The copies of an example are adjacent rows.
        inputs: A tensor or tuple of tensors `(batch, *features)`.
        attributions: What is judged: of the form and the shapes of the inputs.
        baselines: Passed on to `perturb_func`; tensors with a row per example are repeated with it.
        additional_forward_args: Passed on to `forward_func` after the inputs.
        target: The output entry that the attributions explain, as in `Attribution.attribute`.
        n_perturb_samples: The number of perturbations per example.
        max_examples_per_batch: The most rows per call of `perturb_func` and of the model. None: `perturb_func` makes
            all copies at once (up to 64 MiB of them), and the model gets as many at once as fit into memory.
        normalize: Whether attributions are first scaled by `beta = E[p d] / E[p^2]` of their example, with the
            predictions p and the changes d, so that their size does not matter.

    Returns:
        `(batch,)`, in squared units of the output.

    Raises:
        InvalidShape: attributions, perturbations or perturbed inputs do not have the shapes of the inputs.
        InvalidType: `perturb_func` does not give a pair of perturbations and perturbed inputs.
        InvalidTarget: the output is not one number per example.

    Source: C.-K. Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019, definition 2.1; the
    scaling is the one that Captum documents.

    Example:
        >>> import torch
        >>> x, weights = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([1.0, -2.0, 0.5])
        >>> perturb = lambda inputs: (0.1 * torch.ones_like(inputs), inputs - 0.1)
        >>> infidelity(lambda x: x @ weights, perturb, x, weights[None]).abs().max() < 1e-6
        tensor(True)
    """
    for name, function in (("forward_func", forward_func), ("perturb_func", perturb_func)):
        if not callable(function):
            raise InvalidType(f"{name} must be a function; got {type(function).__name__}")
    problem = Problem.of(forward_func, inputs, None, target, additional_forward_args)
    judged = check_shapes("attributions", attributions, problem.inputs)
    sizes = copies_per_draw(n_perturb_samples, problem.inputs, max_examples_per_batch)
    draw = _Drawing(perturb_func, inputs, problem.inputs, baselines)
    device = problem.inputs[0].device
    with torch.no_grad(), Evaluator("Infidelity", n_perturb_samples, device=device) as evaluator:
        found = responses(problem, judged, draw, sizes, evaluator, max_examples_per_batch)
        predicted = found.predicted
        if normalize:
            squares = predicted.square().mean(0)
            beta = (predicted * found.changes).mean(0) / torch.where(squares == 0, 1.0, squares)
            predicted = beta * predicted
        return (predicted - found.changes).square().mean(0)


def infidelity_perturb_func_decorator(multiply_by_inputs: bool = True) -> Callable[[Callable[..., Any]], Perturbation]:
    """Decorator for a perturbation function that gives perturbed inputs alone; `infidelity` needs perturbations too.

    The perturbations are `(x - perturbed x) / (x - baseline)` with `multiply_by_inputs`, else `x - perturbed x`.

    Args:
        multiply_by_inputs: Whether the judged attributions have the factor input minus baseline, as those of
            `IntegratedGradients` do and those of `Saliency` do not. Where the two are equal the factor counts as 1.

    Example:
        >>> @infidelity_perturb_func_decorator(multiply_by_inputs=False)
        ... def halved(inputs):
        ...     return inputs / 2
        >>> import torch
        >>> halved(torch.ones(1, 2))
        ((tensor([[0.5000, 0.5000]]),), (tensor([[0.5000, 0.5000]]),))
    """

    def decorate(perturb_func: Callable[..., Any]) -> Perturbation:
        if not callable(perturb_func):
            raise InvalidType(f"a perturbation function is decorated; got {type(perturb_func).__name__}")
        several = takes(perturb_func, 2)

        @wraps(perturb_func)
        def with_perturbations(inputs: TensorOrTensors, baselines: Baselines = None) -> tuple[Tensors, Tensors]:
            given = perturb_func(inputs, baselines) if several and baselines is not None else perturb_func(inputs)
            tensors = as_tensors(inputs)
            perturbed = check_shapes("perturbed inputs", given, tensors)
            changes = tuple(x - new for x, new in zip(tensors, perturbed, strict=True))
            if multiply_by_inputs:
                spans = (x - low for x, low in zip(tensors, as_baselines(baselines, tensors), strict=True))
                changes = tuple(c / torch.where(span == 0, 1, span) for c, span in zip(changes, spans, strict=True))
            return changes, perturbed

        return with_perturbations

    return decorate


class _Drawing:
    """Calls a perturbation function with copies of the inputs.

    Args:
        perturb: The function.
        form: The inputs in the caller's form.
        inputs: The inputs.
        baselines: What a function that takes a second argument gets besides; None for nothing.
    """

    def __init__(self, perturb: Perturbation, form: TensorOrTensors, inputs: Tensors, baselines: Baselines) -> None:
        self._perturb, self._form, self._inputs = perturb, form, inputs
        self._baselines = None if baselines is None or not takes(perturb, 2) else baselines
        self._is_plain = isinstance(form, Tensor) and self._baselines is None

    def __call__(self, copies: int) -> tuple[Tensors, Tensors]:
        if self._is_plain and copies == 1:
            return self._pair(self._perturb(self._inputs[0].clone()), copies)
        rows = tuple([x.clone() if copies == 1 else x.repeat_interleave(copies, 0) for x in self._inputs])
        given = in_form_of(self._form, rows)
        if self._baselines is None:
            answer = self._perturb(given)
        else:
            answer = self._perturb(given, tile(self._baselines, copies, len(self._inputs[0]), by_example=True))
        return self._pair(answer, copies)

    def _pair(self, answer: Any, copies: int) -> tuple[Tensors, Tensors]:
        """Perturbations and perturbed inputs, checked."""
        if not isinstance(answer, tuple | list) or len(answer) != 2:
            raise InvalidType(
                "perturb_func must give a pair, perturbations and perturbed inputs (decorate one that gives perturbed "
                f"inputs alone with infidelity_perturb_func_decorator); got {type(answer).__name__}"
                + (f" of {len(answer)}" if isinstance(answer, tuple | list) else "")
            )
        return (
            check_shapes("perturbations", answer[0], self._inputs, copies),
            check_shapes("perturbed inputs", answer[1], self._inputs, copies),
        )
