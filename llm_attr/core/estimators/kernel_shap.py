"""KernelSHAP: Shapley values by the additive game that is nearest to a sample of pairs under the Shapley kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llm_attr.core.estimators.paired_sampling import ComplementaryPairs, Fit, Pairs
from llm_attr.core.estimators.surrogate import pseudo_inverse

LEAST_ALONE = 1e-6
"""The least share of its own difference that a pair is taken to be without when it is left out."""


class AdditiveRegression(ComplementaryPairs):
    """The Shapley values by the nearest additive game that meets the empty and the full coalition.

    Source: S. M. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, theorem 2;
    I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021, sections 3.1 and 4.2 (constraint, pairs).
    """

    def _fit(self, pairs: Pairs) -> Fit:
        return AdditiveFit.of(pairs)


@dataclass(frozen=True)
class AdditiveFit(Fit):
    """The additive game that is nearest to the sample by its weights and exact at the full coalition.

    Attributes:
        signs: `(pairs, features)`.
        alone: `(pairs,)`: the share of a pair's difference that is not its own doing.

    Source: I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021; leaving out: J. G. MacKinnon and H. White, Some
    Heteroskedasticity-Consistent Covariance Matrix Estimators, 1985 (HC3).
    """

    signs: Tensor
    alone: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> AdditiveFit:
        """That of a sample."""
        signs, features = pairs.signs, pairs.signs.shape[1]
        share = signs.mean(1, keepdim=True)
        rows = (signs - share) / 2
        spread = rows @ pseudo_inverse((rows.T * pairs.weights) @ rows)
        solved = spread.T * pairs.weights
        alone = (1 - (spread * rows).sum(1) * pairs.weights).clamp_min(LEAST_ALONE)
        return cls(2 / features - solved @ share[:, 0], solved, (1 - pairs.chances).clamp_min(0), signs, alone)

    def apart(self, full: Tensor, halves: Tensor) -> Tensor:
        """`(pairs, outputs)`: how far each pair is from the fit of the others."""
        return (halves - self.signs @ self.values(full, halves) / 2) / self.alone[:, None]
