"""Banzhaf values: the mean contribution of a feature over all coalitions of the others, equally weighted."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.estimators.shapley import all_subsets, count_subsets, gains, random_subsets
from llm_attr.core.game.estimate import Estimate, widening
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import positive
from llm_attr.typing import Coalitions, Values


class MeanDifferences(BaseEstimator):
    """The Banzhaf values: the mean value of the coalitions with a feature minus that of those without it.

    Every coalition is used for every feature (maximum sample reuse). A sample of all `2^f` coalitions is exact. A
    feature that is present, or absent, in all sampled coalitions gets 0 with an infinite standard error.

    Args:
        n_samples: Number of coalitions; None: all of them.
        seed: Seed of the coalitions; None: torch's global generator.

    Source: J. T. Wang and R. Jia, Data Banzhaf, AISTATS 2023, section 4.2.
    """

    def __init__(self, n_samples: int | None = 100, seed: int | None = 0) -> None:
        self.fixed = n_samples is None
        self.n_samples = 1 if n_samples is None else positive("n_samples", n_samples)
        self._seed = seed

    def size(self, features: int) -> int:
        return count_subsets(features) if self.fixed else self.n_samples

    def least(self, features: int) -> int:
        """One with and one without a feature."""
        return count_subsets(features) if self.fixed else min(2, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        return all_subsets(features) if self.fixed else random_subsets(features, self._seed)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        return Estimate(banzhaf_values(values)) if self.fixed else _differences(coalitions, values)


def banzhaf_values(values: Values) -> Values:
    """`(features, outputs)` from the values of all subsets, `(2^features, outputs)` in the order of their numbers."""
    features = (len(values) - 1).bit_length()
    rows = [at_least_fp32(gains(values, feature), values).mean(0) for feature in range(features)]
    return torch.stack(rows) if rows else values.new_zeros(0, *values.shape[1:])


def _differences(coalitions: Coalitions, values: Values) -> Estimate:
    """Means of the coalitions with each feature minus means without it, both sampled without replacement."""
    centred = values.double() - values.double().mean(0)
    means, variance = torch.zeros(2, coalitions.shape[1], values.shape[1], dtype=centred.dtype, device=centred.device)
    population = 2.0 ** (coalitions.shape[1] - 1)
    for sign, present in ((1, coalitions), (-1, ~coalitions)):
        members = present.to(centred.device, centred.dtype).T
        count = members.sum(1, keepdim=True)
        mean = members @ centred / count
        spread = (members @ centred**2 / count - mean**2).clamp_min(0) / (count - 1)
        means += sign * mean
        variance += torch.where(count < population, spread * (1 - count / population), 0)
    unknown = variance.isnan() | means.isnan() | variance.isinf()
    wider = widening(max(1, len(coalitions) - 2))
    return Estimate(
        at_least_fp32(torch.where(means.isnan(), 0, means), values),
        at_least_fp32(torch.where(unknown, torch.inf, variance).sqrt() * wider, values),
    )
