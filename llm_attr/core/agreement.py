"""Agreement between attributions of the same features: rank correlation and overlap of the strongest features."""

from __future__ import annotations

import torch
from torch import Tensor


def rank_correlation(values: Tensor) -> Tensor:
    """Spearman's rank correlation of each pair of rows, `(rows, features)` -> float64 `(rows, rows)`.

    It is Pearson's correlation of the ranks; ties get their mean rank. It is nan where one of the two rows is constant
    or contains nan.
    """
    ranks = torch.stack([_ranks(row) for row in values.double()])
    centred = ranks - (ranks.shape[1] + 1) / 2
    squares = centred.square().sum(1)
    correlation = (centred @ centred.T / torch.outer(squares, squares).sqrt()).clamp(-1, 1)
    return correlation.diagonal_scatter(torch.where(squares > 0, 1.0, torch.nan).to(correlation))


def top_overlap(values: Tensor, k: int) -> Tensor:
    """The fraction of the `k` features of largest |value| that each pair of rows shares, `(rows, rows)`.

    Ties go to the earlier feature; nan is weaker than any value.
    """
    strongest = values.double().abs().nan_to_num(nan=-1.0).argsort(dim=1, descending=True, stable=True)[:, :k]
    among = torch.zeros(values.shape, dtype=torch.float64, device="cpu").scatter(1, strongest.cpu(), 1.0)
    return among @ among.T / k


def _ranks(row: Tensor) -> Tensor:
    """Ranks from 1, ties get their mean; all nan if the row contains nan."""
    _, place, counts = torch.unique(row, return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2).to(torch.float64)[place]
    return torch.full_like(ranks, torch.nan) if row.isnan().any() else ranks
