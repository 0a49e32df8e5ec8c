"""Sensitivity: how far an explanation moves when the inputs move a little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf, isnan
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.repeated_options import repeated_options
from llm_attr.core.evaluator import Evaluator, share_of
from llm_attr.core.faithfulness.perturbed import check_shapes, copies_per_draw, takes
from llm_attr.core.tensors import as_tensors, at_least_fp32, in_form_of
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import TensorOrTensors, Tensors


def default_perturb_func(inputs: TensorOrTensors, perturb_radius: float = 0.02) -> Tensors:
    """The inputs with noise, uniformly distributed between `-perturb_radius` and `perturb_radius`.

    Args:
        inputs: A tensor or tuple of tensors.
        perturb_radius: The largest change of an entry.

    Returns:
        A tuple with one tensor per input. The noise is drawn from torch's global stream in fp32 on the CPU, one input
        after the other.

    Raises:
        InvalidValue: the radius is not a number of at least 0.

    Example:
        >>> import torch
        >>> (moved,) = default_perturb_func(torch.zeros(2, 3), 0.1)
        >>> bool(moved.abs().max() <= 0.1)
        True
    """
    is_number = isinstance(perturb_radius, int | float) and not isinstance(perturb_radius, bool)
    if not is_number or not 0 <= perturb_radius < inf:
        raise InvalidValue(f"perturb_radius must be a finite number of at least 0; got {perturb_radius!r}")

    def noisy(x: Tensor) -> Tensor:
        noise = torch.empty(x.shape, dtype=torch.float32, device="cpu").uniform_(-perturb_radius, perturb_radius)
        return x + noise.to(x.device)

    return tuple(noisy(x) for x in as_tensors(inputs))


def sensitivity_max(
    explanation_func: Callable[..., Any],
    inputs: TensorOrTensors,
    perturb_func: Callable[..., Any] = default_perturb_func,
    perturb_radius: float = 0.02,
    n_perturb_samples: int = 10,
    norm_ord: float | str = "fro",
    max_examples_per_batch: int | None = None,
    **kwargs: Any,
) -> Tensor:
    """The largest relative change of an explanation among perturbations of the inputs.

    `sensitivity = max_e ||a(x + e) - a(x)|| / ||a(x)||`; 0 is best. A norm of zero counts as 1.

    Args:
        explanation_func: The `attribute` of any method, or a function from inputs to a tensor per input with a row per
            example. It is called without gradients; methods that need them turn them on.
        inputs: A tensor or tuple of tensors `(batch, *features)`.
        perturb_func: Maps copies of the inputs, and `perturb_radius` if it takes a second argument, to perturbed ones
            of the same shapes. The copies of an example are adjacent rows.
        perturb_radius: Passed on to `perturb_func`.
        n_perturb_samples: The number of perturbations per example.
        norm_ord: The norm of the flattened explanation: `fro` (Euclidean), `nuc` (the same, as the explanation is one
            row), or the order p of a p-norm, `inf` and `-inf` included.
        max_examples_per_batch: The most rows per call of `perturb_func` and `explanation_func`. None: all copies at
            once (up to 64 MiB of them).
        **kwargs: Passed on to `explanation_func`. Targets, baselines, masks and additional arguments with one row per
            example are repeated along with their example.

    Returns:
        `(batch,)`: a ratio without unit.

    Raises:
        InvalidShape: perturbed inputs do not have the shapes of the inputs, or an explanation lacks rows.
        InvalidType: the explanation is not made of tensors.
        InvalidValue: there is no such norm.

    Source: C.-K. Yeh et al., On the (In)fidelity and Sensitivity of Explanations, NeurIPS 2019
    (max-sensitivity), relative to the norm of the explanation as in Captum.

    Example:
        >>> import torch
        >>> sensitivity_max(lambda x: torch.ones_like(x), torch.zeros(2, 3))
        tensor([0., 0.])
    """
    tensors = as_tensors(inputs)
    for name, function in (("explanation_func", explanation_func), ("perturb_func", perturb_func)):
        if not callable(function):
            raise InvalidType(f"{name} must be a function; got {type(function).__name__}")
    order = _order(norm_ord)
    sizes = copies_per_draw(n_perturb_samples, tensors, max_examples_per_batch)
    radius = (perturb_radius,) if takes(perturb_func, 2) else ()
    with torch.no_grad(), Evaluator("Sensitivity", n_perturb_samples, device=tensors[0].device) as evaluator:
        (first,) = evaluator.run(1, 1, lambda *_: _explained(explanation_func, inputs, kwargs, len(tensors[0])))
        scale = torch.linalg.vector_norm(first, order, 1)
        scale = torch.where(scale == 0, 1.0, scale)
        largest: Tensor | None = None
        for size in sizes:
            rows = in_form_of(inputs, tuple(x.repeat_interleave(size, 0) for x in tensors))
            moved = check_shapes("perturbed inputs", perturb_func(rows, *radius), tensors, size)
            for changed in _explanations(explanation_func, inputs, moved, size, kwargs, evaluator):
                distance = torch.linalg.vector_norm(changed - first[:, None], order, 2).amax(1) / scale
                largest = distance if largest is None else torch.maximum(largest, distance)
    return first.new_zeros(len(first)) if largest is None else largest


def _explanations(
    explain: Callable[..., Any],
    form: TensorOrTensors,
    moved: Tensors,
    copies: int,
    options: Mapping[str, Any],
    evaluator: Evaluator,
) -> Any:
    """`(batch, copies, entries)` of some copies at a time: all of them, if they fit into memory."""
    inputs = as_tensors(form)
    batch = len(inputs[0])
    stacked = [x.unflatten(0, (batch, copies)) for x in moved]
    before = evaluator.done

    def evaluate(start: int, stop: int) -> Tensor:
        count = stop - start
        rows = in_form_of(form, tuple(x[:, start:stop].flatten(0, 1) for x in stacked))
        repeated = repeated_options(options, inputs, count)
        with share_of(evaluator.description, before + start, before + stop, evaluator.total):
            return _explained(explain, rows, repeated, batch * count).unflatten(0, (batch, count))

    for piece in evaluator.run(copies, copies, evaluate):
        evaluator.advance(piece.shape[1])
        yield piece


def _explained(explain: Callable[..., Any], inputs: TensorOrTensors, options: Mapping[str, Any], rows: int) -> Tensor:
    """`(rows, entries)`: the explanation of all inputs, in at least fp32."""
    given = explain(inputs, **options)
    tensors = tuple(given) if isinstance(given, tuple | list) else (given,)
    if not tensors or not all(isinstance(tensor, Tensor) for tensor in tensors):
        raise InvalidType(
            "explanation_func must give a tensor, or a tuple with one per input; got "
            f"{[type(each).__name__ for each in tensors]}"
        )
    if any(tensor.dim() == 0 or len(tensor) != rows for tensor in tensors):
        raise InvalidShape(
            f"explanation_func must give a row for each of the {rows} examples; got the shapes "
            f"{[tuple(tensor.shape) for tensor in tensors]}"
        )
    return torch.cat([at_least_fp32(tensor.detach()).reshape(rows, -1) for tensor in tensors], 1)


def _order(given: object) -> float:
    """The order p of a norm.

    Raises:
        InvalidValue: there is no such norm.
    """
    if given in ("fro", "nuc"):
        return 2.0
    if isinstance(given, bool) or not isinstance(given, int | float) or isnan(given):
        raise InvalidValue(f"norm_ord must be 'fro', 'nuc' or a number (inf and -inf included); got {given!r}")
    return float(given)
