"""KernelSHAP: Shapley values by the additive game closest to a sample of pairs under the Shapley kernel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from llm_attr.core.estimators.paired_sampling import Fit, PairedRegression, PairedSample
from llm_attr.core.estimators.surrogate import pseudo_inverse

MIN_LEVERAGE_COMPLEMENT = 1e-6
"""Lower bound for one minus the leverage of a pair, by which its residual is divided."""


class AdditiveRegression(PairedRegression):
    """The Shapley values by the closest additive game that is exact at the empty and the full coalition.

    Source: S. M. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, theorem 2;
    I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021, sections 3.1 and 4.2 (constraint, pairs).
    """

    def _fit(self, sample: PairedSample) -> Fit:
        return AdditiveFit.of(sample)


@dataclass(frozen=True)
class AdditiveFit(Fit):
    """The additive game closest to the sample by its weights and exact at the full coalition.

    Attributes:
        signs: `(pairs, features)`.
        leverage_complements: `(pairs,)`: one minus the leverage of each pair.

    Source: I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021; leave-one-out residuals: J. G. MacKinnon and
    H. White, Some Heteroskedasticity-Consistent Covariance Matrix Estimators, 1985 (HC3).
    """

    signs: Tensor
    leverage_complements: Tensor

    @classmethod
    def of(cls, sample: PairedSample) -> AdditiveFit:
        """The fit to a sample."""
        signs, features = sample.signs, sample.signs.shape[1]
        share = signs.mean(1, keepdim=True)
        rows = (signs - share) / 2
        spread = rows @ pseudo_inverse((rows.T * sample.weights) @ rows)
        solved = spread.T * sample.weights
        complements = (1 - (spread * rows).sum(1) * sample.weights).clamp_min(MIN_LEVERAGE_COMPLEMENT)
        sampled = (1 - sample.probabilities).clamp_min(0)
        return cls(2 / features - solved @ share[:, 0], solved, sampled, signs, complements)

    def loo_residuals(self, full: Tensor, odd: Tensor) -> Tensor:
        return (odd - self.signs @ self.values(full, odd) / 2) / self.leverage_complements[:, None]
