"""Shapley values by regression of what pairs of complementary coalitions differ by: the odd part of a game.

Coalitions are written as signs z, 1 for features that are present and -1 for those that are not. The odd part
`o(z) = (v(z) - v(-z)) / 2` has the Shapley values of v.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.play import CONFIDENT
from llm_attr.core.surrogate import pseudo_inverse, t_quantile

MOST_PAIRS = 1024
"""More pairs are fitted by an additive game alone; interactions take the cube of their number."""

NOISE = 0.3
"""Variance of what interactions of the orders 3 and 5 leave over, beside 1 for the interactions of each order."""

OF_MODEL = 0.25
"""Part of the squared error that is the model's and so not less where all coalitions of a size are in the sample."""

LEAST_ALONE = 1e-6
"""The least share of its own difference that a pair is taken to be without when it is left out."""


@dataclass(frozen=True)
class Pairs:
    """A sample of pairs of complementary coalitions.

    Attributes:
        signs: `(pairs, features)` of the first of each pair.
        weights: `(pairs,)`: their part of the Shapley kernel, over the chance of being in the sample.
        chances: `(pairs,)`: that chance.
        total: How many pairs there are.
    """

    signs: Tensor
    weights: Tensor
    chances: Tensor
    total: float


@dataclass(frozen=True)
class Fit(ABC):
    """Shapley values as a linear function of the odd part.

    Attributes:
        full: `(features,)`: of that of the full coalition.
        halves: `(features, pairs)`: of that of each pair.
        at_random: `(pairs,)`: how much of what each pair does to the fit would be otherwise in another sample, 0 to 1.
    """

    full: Tensor
    halves: Tensor
    at_random: Tensor

    def values(self, full: Tensor, halves: Tensor) -> Tensor:
        """`(features, outputs)` from the odd part at the full coalition `(outputs,)` and at the pairs."""
        return self.full[:, None] * full + self.halves @ halves

    @abstractmethod
    def apart(self, full: Tensor, halves: Tensor) -> Tensor:
        """`(pairs, outputs)`: how far each pair is from the fit of the others."""

    def errors(self, full: Tensor, halves: Tensor) -> Tensor:
        """`(features, outputs)`: standard errors, from what it would change to leave out each pair.

        Scaled to Student's t of the pairs that are left over; infinite if none is, 0 if there are no more pairs.
        """
        features, count = self.halves.shape
        if not self.at_random.any():
            return torch.zeros_like(halves[:1]).repeat(features, 1)
        if count <= features:
            return torch.full_like(halves[:1], torch.inf).repeat(features, 1)
        moved = self.at_random[:, None] * self.apart(full, halves) ** 2
        return (self.halves**2 @ moved).sqrt() * (t_quantile(count - features) / CONFIDENT)


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
