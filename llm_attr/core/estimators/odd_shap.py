"""OddSHAP: Shapley values by regression on the odd interactions of a game."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.estimators.kernel_shap import MIN_LEVERAGE_COMPLEMENT, AdditiveFit
from llm_attr.core.estimators.paired_sampling import Fit, PairedRegression, PairedSample

MAX_PAIRS = 1024
"""The largest sample with interactions, whose cost is cubic; larger ones are fitted by the additive game only."""

NOISE_VARIANCE = 0.3
"""Variance of the residual of interactions of orders 3 and 5, relative to that of the interactions of each order."""

MODEL_SHARE = 0.25
"""Fraction of the squared error that comes from the model, and stays if all coalitions of a size are sampled."""


class OddRegression(PairedRegression):
    """The Shapley values of a model of the odd interactions plus those of its residual, by the closest additive game.

    With more than `MAX_PAIRS` pairs, or too few to distinguish all features, by the additive game only.

    Source: F. Fumagalli, L. Butler, J. S. Kang, K. Ramchandran and R. T. Witter, An Odd Estimator for Shapley Values,
    ICML 2026 (OddSHAP: pairs, and regression on the odd part only); for the model see `InteractingFit`.
    """

    def _fit(self, sample: PairedSample) -> Fit:
        count, features = sample.signs.shape
        return (InteractingFit if features - 1 <= count <= MAX_PAIRS else AdditiveFit).of(sample)


@dataclass(frozen=True)
class InteractingFit(Fit):
    """The most likely additive game with interactions of orders 3 and 5; its residual by `AdditiveFit`.

    A Gaussian process with the covariance `u^3 + u^5`, u = z . z' / features, and an additive game with a flat prior.
    Since the residual is estimated by `AdditiveFit`, all coalitions give the exact values.

    Attributes:
        to_residuals: `(pairs, 1 + pairs)`: maps the odd part to the leave-one-out residuals.

    Source: C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 (basis
    functions) and 5.4.2 (leave-one-out); R. T. Witter, Y. Liu and C. Musco, Regression-adjusted Monte Carlo
    Estimators for Shapley Values and Probabilistic Values, 2025 (a model, and its residual by sampling).
    """

    to_residuals: Tensor

    @classmethod
    def of(cls, sample: PairedSample) -> InteractingFit:
        """The fit to a sample."""
        signs = torch.cat([torch.ones_like(sample.signs[:1]), sample.signs])
        cosines = signs @ signs.T / signs.shape[1]
        noise = torch.full_like(signs[:, 0], NOISE_VARIANCE)
        noise[0] = 0
        inverse = torch.linalg.inv(cosines**3 + cosines**5 + noise.diag())
        half = inverse @ signs
        slopes = torch.linalg.solve(signs.T @ half, half.T)
        rest = inverse - half @ slopes
        additive = AdditiveFit.of(sample)
        solved = 2 * slopes + _of_interactions(signs) @ rest + additive.of_pairs @ (noise[1:, None] * rest[1:])
        left_out = 1 - len(sample.signs) / sample.total
        sampled = (1 - MODEL_SHARE) * additive.sampled_fraction + MODEL_SHARE * left_out
        to_residuals = rest[1:] / rest.diagonal()[1:, None].clamp_min(MIN_LEVERAGE_COMPLEMENT)
        return cls(solved[:, 0], solved[:, 1:], sampled, to_residuals)

    def loo_residuals(self, full: Tensor, odd: Tensor) -> Tensor:
        return self.to_residuals @ torch.cat([full[None], odd])


def _of_interactions(signs: Tensor) -> Tensor:
    """`(features, coalitions)`: the Shapley values of the games `u^3 + u^5`, u = z . z' / features, for each z'.

    The contribution of a feature, averaged over the fraction of other features that are present: with x the sum of the
    others' agreements with z', `(x + 1)^3 - (x - 1)^3 = 6 x^2 + 2`, and `10 x^4 + 20 x^2 + 2` for the power 5; negated
    for a feature absent in z'.
    """
    features = signs.shape[1]
    others = features - 1
    tilt = (signs.sum(1, keepdim=True) - signs) ** 2
    second = (2 * others + tilt) / 3
    fourth = -8 * others / 15 - 16 * tilt / 15 + 8 * others**2 / 5 + 4 * others * tilt / 5 + tilt**2 / 5
    change = (6 * second + 2) / features**3 + (10 * fourth + 20 * second + 2) / features**5
    return (signs * change).T
