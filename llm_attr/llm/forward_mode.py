"""All tokens of an answer at once by forward-mode derivatives: a row for each unit, not a pass for each token."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm_attr.attr.base import Attribution
from llm_attr.attr.gradient import InputXGradient, LayerGradientXActivation
from llm_attr.attr.integrated import IntegratedGradients, LayerIntegratedGradients
from llm_attr.core.batching import copies_that_fit
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.path import Quadrature, quadrature
from llm_attr.llm.answer_score import Entries
from llm_attr.llm.passes import Counter
from llm_attr.typing import Tensors

ROW_COST = 2.3
"""What a row with a derivative costs, in forward (or backward) passes of a row."""


_known: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def has_forward_mode(model: Any) -> bool | None:
    """Whether all operations of a model have a derivative in a direction; None: that has not come up."""
    return _known.get(model)


@contextmanager
def noting_forward_mode(model: Any | None) -> Iterator[None]:
    """Remembers whether what is done inside with a model in forward mode worked; None: nothing is done with any.

    Raises:
        NotImplementedError: it did not.
    """
    try:
        yield
    except NotImplementedError:
        if model is not None:
            _known[model] = False
        raise
    if model is not None:
        _known[model] = True


def rule_of(method: Attribution, options: dict[str, Any]) -> Quadrature | None:
    """The points of a method whose attributions are derivatives along input minus baseline; None for any other."""
    if not method.multiplies_by_inputs or options.get("until") is not None:
        return None
    if isinstance(method, InputXGradient | LayerGradientXActivation):
        return Quadrature(torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64))
    if isinstance(method, IntegratedGradients | LayerIntegratedGradients):
        return quadrature(options.get("method", "gausslegendre"), options.get("n_steps", 50))
    return None


def entry_rows(
    entries: Entries,
    counter: Counter,
    start: Tensors,
    end: Tensors,
    owners: Sequence[int],
    rule: Quadrature,
    units: int,
) -> Tensor:
    """`(entries, units)`: the mean derivative of each entry, along the part of `end - start` that a unit has.

    `sum_k w_k d/dh entry(start + a_k (end - start) + h (end - start)_unit)`, in at least fp32.

    Args:
        entries: Numbers of an answer.
        counter: Where rows are counted.
        start: Activations at the baseline, `(1, positions, *features)` each.
        end: Those of the prompt.
        owners: The unit of each position.
        rule: Points and weights.
        units: How many units there are.
    """
    owned = torch.tensor(owners)
    totals = torch.zeros(entries.rows, units)

    def evaluate(first: int, stop: int) -> None:
        rows = torch.arange(first, stop)
        point, unit = rows // units, rows % units
        mine = owned[None] == unit[:, None]
        points, directions = [], []
        for low, high in zip(start, end, strict=True):
            shape = (-1, *(1,) * (low.dim() - 1))
            points.append(low + rule.alphas[point].to(low).view(shape) * (high - low))
            directions.append((high - low) * mine.to(low).view(*mine.shape, *shape[2:]))
        found = _derivatives(entries, tuple(points), tuple(directions)).float().cpu()
        totals.index_add_(1, unit, (found * rule.weights[point].float()[:, None]).T)

    count = len(rule.alphas) * units
    evaluator = Evaluator("forward-mode derivatives", count, device=end[0].device)
    for _ in evaluator.run(count, copies_that_fit(end), evaluate):
        pass
    counter.forward_mode += count
    return totals


def _derivatives(entries: Entries, points: Tensors, directions: Tensors) -> Tensor:
    """`(rows, entries)`: how fast each entry changes along each row's direction."""
    with warnings.catch_warnings(), torch.no_grad(), forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
        duals = [forward_ad.make_dual(point, direction) for point, direction in zip(points, directions, strict=True)]
        tangent = forward_ad.unpack_dual(entries.values(*duals)).tangent
        return torch.zeros(len(points[0]), entries.rows) if tangent is None else tangent
