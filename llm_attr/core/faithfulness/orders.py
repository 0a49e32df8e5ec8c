"""The order in which features are removed or added, and the coalitions along the way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil

import torch
from torch import Tensor

from llm_attr.errors import InvalidType, InvalidValue, positive
from llm_attr.typing import Coalitions

MOST_STEPS = 64
"""The steps of a curve by default, if there are as many features."""


def orders(attributions: Tensor, draws: int, seed: int) -> Tensor:
    """int64 `(draws, outputs, features)`: features by descending attribution, ties in random order.

    Without ties there is one order, and a single draw.

    Args:
        attributions: `(outputs, features)`.
        draws: The number of orders if there are ties.
        seed: Of the random orders; no global stream is touched.

    Raises:
        InvalidValue: `draws` is not a whole number of at least 1.
        InvalidType: `seed` is not a whole number.
    """
    positive("tie_draws", draws)
    generator = seeded(seed)
    ranked = attributions.sort(dim=1).values
    if not (ranked[:, 1:] == ranked[:, :-1]).any():
        return attributions.argsort(dim=1, descending=True, stable=True)[None]
    found = []
    for _ in range(draws):
        shuffled = torch.rand(attributions.shape, generator=generator, dtype=torch.float64, device="cpu").argsort(1)
        order = attributions.gather(1, shuffled).argsort(dim=1, descending=True, stable=True)
        found.append(shuffled.gather(1, order))
    return torch.stack(found)


def strongest_present(order: Tensor, counts: Sequence[int]) -> Coalitions:
    """Bool `(draws, outputs, counts, features)`: only the first `count` features of each order are present."""
    ranks = order.argsort(dim=-1)
    first = torch.tensor(list(counts), device="cpu").view(1, 1, -1, 1)
    return ranks[:, :, None, :] < first


def step_counts(features: int, steps: int | None) -> list[int]:
    """How many features are changed at each point of a curve, from 0 to all, evenly spaced.

    Args:
        features: The number of features.
        steps: The number of steps; None: one per feature, at most `MOST_STEPS`.

    Raises:
        InvalidValue: `steps` is not a whole number of at least 1.
    """
    wanted = min(features, MOST_STEPS if steps is None else positive("steps", steps))
    return sorted({round(features * step / wanted) for step in range(wanted + 1)})


def fraction_counts(features: int, fractions: Sequence[float]) -> list[int]:
    """How many features each fraction stands for, rounded up.

    Raises:
        InvalidValue: there is none, or one is not between 0 and 1.
    """
    given = list(fractions) if isinstance(fractions, Iterable) else []
    if not given or any(isinstance(each, bool) or not isinstance(each, int | float) for each in given):
        raise InvalidValue(f"fractions must be numbers between 0 and 1, at least one; got {fractions!r}")
    if any(not 0 <= each <= 1 for each in given):
        raise InvalidValue(f"fractions must be between 0 and 1; got {fractions!r}")
    return [min(features, ceil(round(features * each, 9))) for each in given]


def random_sets(features: int, count: int, keep: float, seed: int) -> Coalitions:
    """Bool `(count, features)`: random sets of features, all of one size.

    Args:
        features: The number of features.
        count: The number of sets, 3 or more.
        keep: The share of the features in each, rounded; at least one is in it and one is not.
        seed: Of the sets; no global stream is touched.

    Raises:
        InvalidValue: `keep` is not between 0 and 1, there are fewer than 3 sets, or fewer than 2 features.
        InvalidType: `seed` is not a whole number.
    """
    if positive("n_ablations", count) < 3:
        raise InvalidValue(f"n_ablations must be at least 3 for a correlation; got {count}")
    if isinstance(keep, bool) or not isinstance(keep, int | float) or not 0 < keep < 1:
        raise InvalidValue(f"keep must be a number between 0 and 1, both excluded; got {keep!r}")
    if features < 2:
        raise InvalidValue(f"random ablations need at least 2 features; got {features}")
    kept = min(features - 1, max(1, round(keep * features)))
    scores = torch.rand(count, features, generator=seeded(seed), dtype=torch.float64, device="cpu")
    return scores.argsort(1).argsort(1) < kept


def seeded(seed: int) -> torch.Generator:
    """A generator of its own.

    Raises:
        InvalidType: the seed is not a whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InvalidType(f"seed must be a whole number; got {type(seed).__name__}")
    return torch.Generator().manual_seed(seed)
