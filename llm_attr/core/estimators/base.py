"""The base of all estimators: how many evaluations they take, and the defaults."""

from __future__ import annotations

from abc import ABC, abstractmethod

from llm_attr.core.game.driver import Estimator


class BaseEstimator(Estimator, ABC):
    """An estimator whose design, by default, is fixed and always evaluated in full.

    A sampled estimator sets `fixed` to False and `n_samples`, and overrides `least`.
    """

    fixed: bool = True
    n_samples: int = 1
    per_round: int = 1
    takes_any_value: bool = False

    def __init__(self) -> None:
        """Takes no options; a protocol's own constructor would seem to take any."""

    @property
    def first_look(self) -> int:
        """The number of rounds from which the standard errors are valid."""
        return self.n_samples

    @abstractmethod
    def size(self, features: int) -> int:
        """The maximum number of distinct coalitions in a design of `n_samples`."""

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
