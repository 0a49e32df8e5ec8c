"""Metrics that look at attributions alone: how concentrated they are, and how far they agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.agreement import top_overlap
from llm_attr.core.faithfulness.correlation import gini, kendall, spearman
from llm_attr.core.faithfulness.feature_game import as_rows
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, NonFiniteValue, positive
from llm_attr.metrics.score import Score
from llm_attr.typing import Tensors


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far several attributions of the same features agree.

    Attributes:
        spearman: float64 `(attributions, attributions)`: rank correlation; 0 with one that is constant.
        kendall: The same by Kendall's tau-b, the share of pairs of features in the same order minus that of the others.
        top_overlap: The share of the `k` features of largest |attribution| that both have.
        k: This number.
    """

    spearman: Tensor
    kendall: Tensor
    top_overlap: Tensor
    k: int


def sparseness(attributions: Any) -> Score:
    """How concentrated attributions are: the Gini index of their absolute values.

    `G = 1 - 2 sum_k |a|_(k) / ||a||_1 (n - k + 1/2) / n` with |a|_(1) <= ... <= |a|_(n): 0 if all are equal, near 1 if
    one feature has everything. It says nothing about the model.

    Args:
        attributions: `(features,)`, or tensors `(batch, *features)` in the form of the inputs; or a result of
            `llm_attr.explain`.

    Returns:
        `(batch,)`, from 0 to 1.

    Raises:
        InvalidType: the attributions are not tensors.
        NonFiniteValue: they hold NaN or infinity.

    Source: P. Chalasani et al., Concise Explanations of Neural Networks using Adversarial Training, ICML 2020; N.
    Hurley and S. Rickard, Comparing Measures of Sparsity, 2009.

    Example:
        >>> import torch
        >>> sparseness(torch.tensor([0.0, 0.0, 0.0, 1.0])).values
        tensor([0.7500], dtype=torch.float64)
    """
    return Score("sparseness", gini(_flat(attributions)), None, True)


def recovery_at_k(attributions: Any, relevant: Any, k: int | None = None) -> Score:
    """The share of the features known to be relevant that are among the k strongest; higher is better.

    `recovery = |top_k(a) and R| / min(k, |R|)`. Features that tie at the border of the top k count by the expectation
    over their orders, so that equal attributions recover k / n where k is at least |R|.

    Args:
        attributions: `(features,)` or `(outputs, features)`, or a result of `llm_attr.explain`.
        relevant: The indices of the relevant features, or bool `(features,)`.
        k: How many features count as found; None: as many as are relevant.

    Returns:
        `(outputs,)`, from 0 to 1.

    Raises:
        InvalidValue: no feature is relevant, an index or `k` is out of range.
        InvalidType: the relevant features are neither indices nor bools.

    Source: recall at k of information retrieval, with planted facts as the relevant ones.

    Example:
        >>> import torch
        >>> recovery_at_k(torch.tensor([0.1, 3.0, 2.0, 0.0]), [1, 3]).values
        tensor([0.5000], dtype=torch.float64)
    """
    given = getattr(attributions, "seq_attr", attributions)
    if not isinstance(given, Tensor) or given.dim() not in (1, 2):
        raise InvalidType("attributions must be a tensor (features,) or (outputs, features), or a result of explain")
    rows = as_rows(given, given.shape[-1])
    known = _known(relevant, rows.shape[1])
    count = int(known.sum()) if k is None else positive("k", k)
    if count > rows.shape[1]:
        raise InvalidValue(f"k must be at most the {rows.shape[1]} features; got {count}")
    border = rows.sort(dim=1, descending=True).values[:, count - 1 : count]
    sure, tied = rows > border, rows == border
    chance = (count - sure.sum(1)).double() / tied.sum(1)
    found = (sure & known).sum(1) + chance * (tied & known).sum(1)
    return Score(f"recovery@{count}", found / min(count, int(known.sum())), None, True)


def rank_agreement(*attributions: Any, k: int = 5) -> Agreement:
    """How far attributions of the same features agree: two rank correlations, and the overlap of the strongest.

    Args:
        *attributions: Two or more: tensors `(features,)`, or of any shape common to all, or results of
            `llm_attr.explain` for the same units.
        k: How many features of largest |attribution| are compared; all, if there are fewer.

    Raises:
        InvalidValue: fewer than two are given.
        InvalidShape: they have different shapes (axes of length 1 aside).
        NonFiniteValue: one holds NaN or infinity.

    Source: Spearman 1904; Kendall 1945 (tau-b); S. Krishna et al., The Disagreement Problem in Explainable Machine
    Learning, 2022 (feature agreement).

    Example:
        >>> import torch
        >>> rank_agreement(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]), k=1).spearman[0, 1]
        tensor(0.5000, dtype=torch.float64)
    """
    if len(attributions) < 2:
        raise InvalidValue(f"rank_agreement compares two attributions or more; got {len(attributions)}")
    shapes = [[tuple(tensor.shape) for tensor in _tensors(each)] for each in attributions]
    if len({tuple(tuple(n for n in shape if n != 1) for shape in each) for each in shapes}) > 1:
        raise InvalidShape(f"the attributions must have the same features; got the shapes {shapes}")
    stacked = torch.stack([_flat(each).reshape(-1) for each in attributions])
    count = min(positive("k", k), stacked.shape[1])
    pairs = [[kendall(first, second) for second in stacked] for first in stacked]
    taus = torch.tensor(pairs, dtype=torch.float64, device="cpu")
    each = torch.stack([spearman(row.expand_as(stacked), stacked) for row in stacked])
    return Agreement(each, taus, top_overlap(stacked, count), count)


def _flat(attributions: Any) -> Tensor:
    """float64 `(batch, features)` on the CPU."""
    found = [tensor.detach().to("cpu").double() for tensor in _tensors(attributions)]
    rows = found[0][None] if len(found) == 1 and found[0].dim() == 1 else torch.cat([x.flatten(1) for x in found], 1)
    if not torch.isfinite(rows).all():
        raise NonFiniteValue("attributions hold NaN or infinity, which cannot be ranked")
    return rows


def _tensors(attributions: Any) -> Tensors:
    given = getattr(attributions, "seq_attr", attributions)
    tensors = given if isinstance(given, tuple) else (given,)
    if not tensors or not all(isinstance(x, Tensor) and x.dim() and not x.is_complex() for x in tensors):
        raise InvalidType(
            "attributions must be a tensor of real numbers, a tuple of these, or a result of explain; got "
            f"{type(given).__name__}"
        )
    return as_tensors(given)


def _known(relevant: Any, features: int) -> Tensor:
    """Bool `(features,)`."""
    try:
        given = torch.as_tensor(relevant, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        given = None
    if given is None or given.is_complex() or (given.is_floating_point() and given.numel()):
        raise InvalidType(f"relevant must be indices of features, or one bool for each; got {relevant!r}")
    if given.dtype == torch.bool:
        if given.shape != (features,):
            raise InvalidShape(f"relevant must have the shape ({features},); got {tuple(given.shape)}")
        known = given
    else:
        indices = given.flatten().long()
        if ((indices < 0) | (indices >= features)).any():
            raise InvalidValue(f"relevant features must be from 0 to {features - 1}; got {indices.tolist()}")
        known = torch.zeros(features, dtype=torch.bool, device="cpu")
        known[indices] = True
    if not known.any():
        raise InvalidValue("no feature is relevant; name one at least")
    return known
