"""Relevance propagation by its sums over pairs of an input and an output of each matrix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Share = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""`(x (in,), w (out, in), b (out,)) -> (parts (out, in), wholes (out,))`."""


def propagate(x: Tensor, w: Tensor, b: Tensor, relevance: Tensor, share: Share) -> Tensor:
    """`R_i = sum over j of parts_ji / whole_j R_j`."""
    parts, wholes = share(x, w, b)
    result = torch.zeros_like(x)
    for j in range(len(w)):
        for i in range(len(x)):
            if relevance[j] != 0 and wholes[j] != 0:
                result[i] += parts[j, i] / wholes[j] * relevance[j]
    return result


def epsilon(amount: float) -> Share:
    """Bach et al. 2015, equation 58."""

    def share(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        whole = w @ x + b
        return w * x, whole + amount * torch.where(whole >= 0, 1.0, -1.0)

    return share


def gamma(amount: float, bias: bool = True) -> Share:
    """Montavon et al. 2019, section 10.2.1."""

    def share(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        changed = w + amount * w.clamp(min=0)
        return changed * x, changed @ x + bias * b

    return share


def positive_weights(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Captum's Alpha1_Beta0_Rule."""
    return w.clamp(min=0) * x, w.clamp(min=0) @ x + b


def z_plus(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Montavon et al. 2017, section 5.1: the positive ones of the products."""
    parts = (w * x).clamp(min=0)
    return parts, parts.sum(1)


def flat(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Lapuschkin et al. 2019: every input the same."""
    parts = torch.ones_like(w)
    return parts, parts.sum(1)


def w_square(x: Tensor, w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Montavon et al. 2017, section 5.1."""
    return w**2, (w**2).sum(1)


def absorbed_by_bias(x: Tensor, w: Tensor, b: Tensor, relevance: Tensor) -> Tensor:
    """What a bias takes at the epsilon rule with epsilon zero."""
    whole = w @ x + b
    return (b / whole * relevance).nan_to_num(0.0).sum()
