"""The common part of all estimators: how many evaluations they take."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from llm_attr.core.game.estimate import Estimate
from llm_attr.typing import Coalitions, Values


class BaseEstimator(ABC):
    """An estimator of the driver's protocol `Estimator`; by default its design is fixed and always evaluated in full.

    A sampled estimator sets `fixed` to False, `n_samples`, and overrides `least`.
    """

    fixed: bool = True
    n_samples: int = 1

    @abstractmethod
    def size(self, features: int) -> int:
        """The maximum number of distinct coalitions in a design of `n_samples`."""

    @abstractmethod
    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The design in blocks; see `Estimator`."""

    @abstractmethod
    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)` attributions; see `Estimator`."""

    def reachable(self, features: int) -> int:
        """The number of distinct coalitions that a sample of any size may contain."""
        return 1 << features

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """The maximum number of distinct coalitions that are evaluated."""
        size = self.size(features)
        return size if self.fixed else min(size if budget is None else budget, self.reachable(features))

    def least(self, features: int) -> int:
        """The minimum number of distinct coalitions for an estimate."""
        return self.size(features)
