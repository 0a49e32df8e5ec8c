"""Curves of a model's value while features are removed or added, and what is computed from them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.faithfulness.feature_game import FeatureGame
from llm_attr.core.faithfulness.orders import strongest_present


@dataclass(frozen=True)
class Walked:
    """The values along orders of the features.

    Attributes:
        fractions: `(points,)`: the share of the features that are removed or added.
        values: `(draws, outputs, points)`.
    """

    fractions: Tensor
    values: Tensor

    def areas(self) -> Tensor:
        """`(draws, outputs)`: the area under each curve by the trapezoid rule."""
        return torch.trapezoid(self.values, self.fractions, dim=-1)


def walked(game: FeatureGame, order: Tensor, counts: list[int], removing: bool) -> Walked:
    """The value of a game after the first features of an order are removed from all, or added to none.

    Args:
        game: The game.
        order: `(draws, outputs, features)`.
        counts: How many features are removed or added at each point.
        removing: Whether they are removed.
    """
    draws, outputs, features = order.shape
    first = strongest_present(order, counts)
    coalitions = ~first if removing else first
    asked = coalitions.transpose(0, 1).reshape(outputs, draws * len(counts), features)
    values = game.values(asked).reshape(outputs, draws, len(counts)).transpose(0, 1)
    fractions = torch.tensor(counts, dtype=torch.float64, device="cpu") / features
    return Walked(fractions, values)


def normalized(values: Tensor, nothing: Tensor, everything: Tensor) -> Tensor:
    """`(values - f(nothing)) / (f(everything) - f(nothing))`: 0 without features, 1 with all; nan if these are equal.

    Args:
        values: `(draws, outputs, points)`.
        nothing: `(outputs,)`: the value without any feature.
        everything: `(outputs,)`: the value with all.
    """
    span = (everything - nothing)[:, None]
    return torch.where(span == 0, torch.nan, (values - nothing[:, None]) / torch.where(span == 0, 1.0, span))


def density(attributions: Tensor, order: Tensor, counts: list[int]) -> Tensor:
    """`(draws, outputs, points)`: the share of the positive attribution that the first features of an order hold.

    Without positive attribution it grows evenly.
    """
    positive = attributions.clamp(min=0)
    flat = positive.sum(1, keepdim=True) == 0
    positive = torch.where(flat, 1.0, positive)
    along = positive[None].expand(order.shape).gather(2, order).cumsum(2)
    share = torch.cat([along.new_zeros(*along.shape[:2], 1), along], 2) / along[:, :, -1:]
    return share[:, :, counts]


def mean_and_error(draws: Tensor) -> tuple[Tensor, Tensor | None]:
    """The mean over the first axis and its standard error; None for a single draw."""
    mean = draws.mean(0)
    return mean, None if len(draws) < 2 else draws.std(0) / len(draws) ** 0.5
