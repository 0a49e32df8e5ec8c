"""Probabilities with which features are kept, from attributions."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_probabilities(attributions: Tensor, mean: float | None) -> Tensor:
    """Attributions `(outputs, features)` scaled to probabilities, larger for larger attributions.

    They are scaled to the range from 0 to 1 (equal ones become 1/2). With a mean, they are multiplied by a factor and
    cut off at 1, such that they have this mean; if all positive ones are 1 and the mean is still smaller, the others
    share the rest evenly.

    Args:
        attributions: float64 `(outputs, features)`.
        mean: The mean probability of each output, from 0 to 1; None for the scaled attributions themselves.
    """
    low, high = attributions.amin(1, keepdim=True), attributions.amax(1, keepdim=True)
    span = high - low
    scaled = torch.where(span == 0, 0.5, (attributions - low) / torch.where(span == 0, 1.0, span))
    return scaled if mean is None else torch.stack([_with_mean(row, mean) for row in scaled])


def _with_mean(weights: Tensor, mean: float) -> Tensor:
    """Weights from 0 to 1 as probabilities with this mean."""
    total = mean * len(weights)
    above = weights > 0
    if total >= int(above.sum()):
        rest = len(weights) - int(above.sum())
        share = (total - int(above.sum())) / rest if rest else 1.0
        return torch.where(above, 1.0, share)
    ordered = weights.sort(descending=True).values
    behind = ordered.flip(0).cumsum(0).flip(0)
    full = torch.arange(len(weights), dtype=weights.dtype, device=weights.device)
    factors = (total - full) / torch.where(behind > 0, behind, 1.0)
    fits = (factors * ordered <= 1 + 1e-12) & (factors >= 0) & (behind > 0)
    return (weights * factors[fits.nonzero()[0, 0]]).clamp(max=1)
