"""Banzhaf values: the mean of what a feature adds, over all coalitions of the others alike."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llm_attr.core.estimators.shapley import MOST_FEATURES, AllSubsets, gains, numbered
from llm_attr.core.game.estimate import Estimate, widening
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import precise
from llm_attr.errors import positive
from llm_attr.typing import Coalitions, Values


class RandomSubsets:
    """Coalitions that hold each feature with probability 1/2, in random order and none twice.

    Args:
        n_samples: How many.
        seed: None: torch's global stream.
    """

    def __init__(self, n_samples: int, seed: int | None = 0) -> None:
        self.n_samples, self._seed = positive("n_samples", n_samples), seed

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """One for each coalition, as far as there are so many."""
        return min(self.n_samples if budget is None else budget, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """One coalition each. Of more features than can be enumerated, one may come twice."""
        draws = generator(self._seed)
        if features <= MOST_FEATURES:
            for number in torch.randperm(1 << features, generator=draws, device="cpu").split(1):
                yield numbered(number, features)
            return
        while True:
            yield torch.randint(2, (1, features), generator=draws, device="cpu").bool()


class MeanDifferences:
    """The Banzhaf values: the mean value of the coalitions with a feature less that of those without it.

    Every coalition counts for every feature (maximum sample reuse). A sample that reaches all `2^f` coalitions is
    exact. A feature that is present, or absent, in the whole sample gets 0 with an infinite standard error.

    Args:
        n_samples: Coalitions; None: all of them.
        seed: Of the coalitions; None: torch's global stream.

    Source: J. T. Wang and R. Jia, Data Banzhaf, AISTATS 2023, section 4.2.
    """

    def __init__(self, n_samples: int | None = 100, seed: int | None = 0) -> None:
        self.fixed = n_samples is None
        self._design = AllSubsets() if n_samples is None else RandomSubsets(n_samples, seed)
        self.n_samples = self._design.n_samples

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """One for each coalition."""
        return self._design.evaluations(features, budget)

    def least(self, features: int) -> int:
        """One with and one without a feature."""
        return self._design.evaluations(features) if self.fixed else min(2, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """All coalitions, or one random one each."""
        return self._design.rounds(features)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)`; of a sample with the standard errors of the differences."""
        return Estimate(banzhaf_values(values)) if self.fixed else _differences(coalitions, values)


def banzhaf_values(values: Values) -> Values:
    """From the values of all subsets, `(2^features, outputs)` in the order of their numbers: `(features, outputs)`."""
    features = (len(values) - 1).bit_length()
    found = [precise(gains(values, feature), values).mean(0) for feature in range(features)]
    return torch.stack(found) if found else values.new_zeros(0, *values.shape[1:])


def _differences(coalitions: Coalitions, values: Values) -> Estimate:
    """Means of the coalitions with each feature, less means without; both are draws without replacement."""
    worth = values.double() - values.double().mean(0)
    found, variance = torch.zeros(2, coalitions.shape[1], values.shape[1], dtype=worth.dtype, device=worth.device)
    population = 2.0 ** (coalitions.shape[1] - 1)
    for sign, present in ((1, coalitions), (-1, ~coalitions)):
        members = present.to(worth.device, worth.dtype).T
        count = members.sum(1, keepdim=True)
        mean = members @ worth / count
        spread = (members @ worth**2 / count - mean**2).clamp_min(0) / (count - 1)
        found += sign * mean
        variance += torch.where(count < population, spread * (1 - count / population), 0)
    unknown = variance.isnan() | found.isnan() | variance.isinf()
    wider = widening(max(1, len(coalitions) - 2))
    return Estimate(
        precise(torch.where(found.isnan(), 0, found), values),
        precise(torch.where(unknown, torch.inf, variance).sqrt() * wider, values),
    )
