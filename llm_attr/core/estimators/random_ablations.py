"""LIME and ContextCite: linear surrogates of random ablations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.estimators.surrogate import Lasso, Surrogate, bootstrap
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import InvalidValue, positive
from llm_attr.typing import Coalitions, Values

BOOTSTRAP_SAMPLES = 30
"""Number of bootstrap samples: a relative error of the standard error of about an eighth."""

MAX_LOG_PROB = -1e-7
"""The largest log-probability whose logit is taken; fp32 cannot distinguish larger ones from 0."""

Similarity = Callable[[Coalitions, int], Tensor]
"""`(coalitions, number of outputs) -> weights (coalitions, outputs or 1)`."""

Draw = Callable[[int], Iterator[Coalitions]]
"""`number of features -> coalitions`, one row each."""


class RandomAblations(BaseEstimator):
    """Coefficients of a surrogate of independent coalitions that contain each feature with the same probability.

    Args:
        n_samples: Number of coalitions.
        keep: The probability.
        seed: Seed of the coalitions; None: torch's global generator.
        refits: Number of bootstrap samples for the standard error; 0: no standard error.
    """

    fixed = False

    def __init__(self, n_samples: int, keep: float, seed: int | None, refits: int) -> None:
        if not 0 < keep < 1:
            raise InvalidValue(f"keep must be a probability between 0 and 1; got {keep!r}")
        if refits < 0 or refits == 1:
            raise InvalidValue(f"refits must be 0 or at least 2; got {refits!r}")
        self.n_samples, self._keep, self._seed = positive("n_samples", n_samples), keep, seed
        self._refits = refits

    def size(self, features: int) -> int:
        return self.n_samples

    def least(self, features: int) -> int:
        """Two, to have a difference."""
        return min(2, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """One coalition each."""
        draws = generator(self._seed)
        keep = torch.full((1, features), self._keep, dtype=torch.float32, device="cpu")
        while True:
            yield torch.bernoulli(keep, generator=draws).bool()

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """The coefficients, with bootstrap errors: their variation with the sample."""
        rows, targets = coalitions.double(), self._targets(values.double())
        weights = self._weights(coalitions, values.shape[1]).to(targets)

        def fit(chosen: Tensor) -> Tensor:
            return self._coefficients(rows[chosen], targets[chosen], weights[chosen])

        coefficients = fit(torch.arange(len(rows), device="cpu"))
        stderr = at_least_fp32(bootstrap(fit, len(rows), self._refits), values) if self._refits else None
        return Estimate(at_least_fp32(coefficients, values), stderr, "bootstrap")

    def _targets(self, values: Tensor) -> Tensor:
        return values

    def _weights(self, coalitions: Coalitions, outputs: int) -> Tensor:
        return torch.ones(len(coalitions), 1, dtype=torch.float32, device="cpu")

    @abstractmethod
    def _coefficients(self, rows: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """`(features, outputs)` of the surrogate."""


class WeightedSurrogate(RandomAblations):
    """The coefficients of a surrogate fitted to random ablations, weighted by similarity to the input.

    Args:
        n_samples: Number of coalitions.
        interpretable_model: The surrogate; None: a lasso with penalty 0.01.
        similarity: Gives the weights; None: all are 1.
        draw: Draws the coalitions; None: each feature is present with probability 1/2.
        seed: Seed of the coalitions; None: torch's global generator.
        refits: See `RandomAblations`.

    Source: M. T. Ribeiro, S. Singh and C. Guestrin, "Why Should I Trust You?", KDD 2016, section 3.
    """

    def __init__(
        self,
        n_samples: int = 25,
        interpretable_model: Surrogate | None = None,
        similarity: Similarity | None = None,
        draw: Draw | None = None,
        seed: int | None = None,
        refits: int = BOOTSTRAP_SAMPLES,
    ) -> None:
        super().__init__(n_samples, 0.5, seed, refits)
        self._surrogate: Surrogate = Lasso() if interpretable_model is None else interpretable_model
        self._similarity, self._draw = similarity, draw

    def rounds(self, features: int) -> Iterator[Coalitions]:
        return super().rounds(features) if self._draw is None else self._draw(features)

    def _weights(self, coalitions: Coalitions, outputs: int) -> Tensor:
        return (
            super()._weights(coalitions, outputs) if self._similarity is None else self._similarity(coalitions, outputs)
        )

    def _coefficients(self, rows: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return self._surrogate.fitted(rows, targets, weights).coefficients


class AblationLasso(RandomAblations):
    """The coefficients of a lasso over random ablations, fitted to standardised presences.

    Each log-probability is converted to a logit, `log p - log(1 - p)`: for text, that of the entire answer and those of
    its tokens. The logit of the answer is divided by the number of tokens for the fit, so that the penalty is per
    token; its coefficients are scaled back.

    Args:
        n_samples: Number of coalitions.
        alpha: The penalty.
        keep: Probability with which a feature is present.
        seed: Seed of the coalitions; None: torch's global generator.
        log_prob: Whether values are log-probabilities, to be converted to logits.
        whole_first: Whether the first output is that of an entire answer and the others those of its tokens.
        refits: See `RandomAblations`.

    Source: B. Cohen-Wang, H. Shah, K. Georgiev and A. Madry, ContextCite, NeurIPS 2024, section 3.
    """

    def __init__(
        self,
        n_samples: int = 64,
        alpha: float = 0.01,
        keep: float = 0.5,
        seed: int | None = 0,
        log_prob: bool = True,
        whole_first: bool = True,
        refits: int = BOOTSTRAP_SAMPLES,
    ) -> None:
        super().__init__(n_samples, keep, seed, refits)
        self._lasso, self._log_prob, self._whole_first = Lasso(alpha), log_prob, whole_first

    def _targets(self, values: Tensor) -> Tensor:
        if not self._log_prob:
            return values
        if (values > 0).any():
            raise InvalidValue(
                "ContextCite explains the logit of a probability, so values must be log-probabilities, which are at "
                f"most 0; got {values.max().item():.4g}. Use attr_target='log_prob', or log_prob=False to fit the "
                "values as they are"
            )
        values = values.clamp_max(MAX_LOG_PROB)
        return values - (-values.expm1()).log()

    def _coefficients(self, rows: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        scale = targets.new_ones(targets.shape[1])
        if self._log_prob and self._whole_first and len(scale) > 1:
            scale[0] = len(scale) - 1
        spread = rows.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        fit = self._lasso.fitted((rows - rows.mean(0)) / spread, targets / scale, weights)
        return fit.coefficients / spread[:, None] * scale
