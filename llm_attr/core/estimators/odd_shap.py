"""OddSHAP: Shapley values by regression on the odd interactions of a game, of which pairs of coalitions tell."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.estimators.kernel_shap import LEAST_ALONE, AdditiveFit
from llm_attr.core.estimators.paired_sampling import ComplementaryPairs, Fit, Pairs

MOST_PAIRS = 1024
"""More pairs are fitted by an additive game alone; interactions take the cube of their number."""

NOISE = 0.3
"""Variance of what interactions of the orders 3 and 5 leave over, beside 1 for the interactions of each order."""

OF_MODEL = 0.25
"""Part of the squared error that is the model's and so not less where all coalitions of a size are in the sample."""


class OddRegression(ComplementaryPairs):
    """The Shapley values by a model of the odd interactions, and of what it leaves over by the nearest additive game.

    With more than `MOST_PAIRS` pairs, or too few to tell all features apart, by the additive game alone.

    Source: F. Fumagalli, L. Butler, J. S. Kang, K. Ramchandran and R. T. Witter, An Odd Estimator for Shapley Values,
    ICML 2026 (OddSHAP: pairs, and regression on the odd part alone); for the model see `InteractingFit`.
    """

    def _fit(self, pairs: Pairs) -> Fit:
        count, features = pairs.signs.shape
        return (InteractingFit if features - 1 <= count <= MOST_PAIRS else AdditiveFit).of(pairs)


@dataclass(frozen=True)
class InteractingFit(Fit):
    """The additive game and the interactions of orders 3 and 5 that are likeliest, and what is left by `AdditiveFit`.

    A Gaussian process with the covariance `u^3 + u^5`, u = z . z' / features, and an additive game of which nothing is
    known before. Since what it leaves over is estimated by `AdditiveFit`, all coalitions give the exact values.

    Attributes:
        rest: `(pairs, 1 + pairs)`: from the odd part to how far each pair is from the fit of the others.

    Source: C. E. Rasmussen and C. K. I. Williams, Gaussian Processes for Machine Learning, 2006, sections 2.7 (basis
    functions) and 5.4.2 (leaving out one); R. T. Witter, Y. Liu and C. Musco, Regression-adjusted Monte Carlo
    Estimators for Shapley Values and Probabilistic Values, 2025 (a model, and the rest by sampling).
    """

    rest: Tensor

    @classmethod
    def of(cls, pairs: Pairs) -> InteractingFit:
        """That of a sample."""
        signs = torch.cat([torch.ones_like(pairs.signs[:1]), pairs.signs])
        cosines = signs @ signs.T / signs.shape[1]
        noise = torch.full_like(signs[:, 0], NOISE)
        noise[0] = 0
        inverse = torch.linalg.inv(cosines**3 + cosines**5 + noise.diag())
        half = inverse @ signs
        slopes = torch.linalg.solve(signs.T @ half, half.T)
        rest = inverse - half @ slopes
        additive = AdditiveFit.of(pairs)
        found = 2 * slopes + _of_interactions(signs) @ rest + additive.halves @ (noise[1:, None] * rest[1:])
        at_random = (1 - OF_MODEL) * additive.at_random + OF_MODEL * (1 - len(pairs.signs) / pairs.total)
        apart = rest[1:] / rest.diagonal()[1:, None].clamp_min(LEAST_ALONE)
        return cls(found[:, 0], found[:, 1:], at_random, apart)

    def apart(self, full: Tensor, halves: Tensor) -> Tensor:
        """`(pairs, outputs)`: how far each pair is from the fit of the others."""
        return self.rest @ torch.cat([full[None], halves])


def _of_interactions(signs: Tensor) -> Tensor:
    """`(features, coalitions)`: the Shapley values of the games `u^3 + u^5`, u = z . z' / features, for each z'.

    The mean over the share of the others that are present, of what a feature changes: with x the sum of the others'
    agreements with z', `(x + 1)^3 - (x - 1)^3 = 6 x^2 + 2`, and `10 x^4 + 20 x^2 + 2` for the power 5; the opposite
    for a feature that z' lacks.
    """
    features = signs.shape[1]
    others = features - 1
    tilt = (signs.sum(1, keepdim=True) - signs) ** 2
    second = (2 * others + tilt) / 3
    fourth = -8 * others / 15 - 16 * tilt / 15 + 8 * others**2 / 5 + 4 * others * tilt / 5 + tilt**2 / 5
    change = (6 * second + 2) / features**3 + (10 * fourth + 20 * second + 2) / features**5
    return (signs * change).T
