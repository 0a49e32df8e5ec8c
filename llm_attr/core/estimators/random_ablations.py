"""Random ablations, and what linear surrogates make of them: LIME and ContextCite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llm_attr.core.estimators.surrogate import Lasso, Surrogate, bootstrap
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import precise
from llm_attr.errors import InvalidValue, positive
from llm_attr.typing import Coalitions, Values

REFITS = 30
"""Samples of the bootstrap: the standard error is known to about an eighth of itself."""

SUREST = -1e-7
"""The largest log-probability whose logit is taken; fp32 tells none from 0 beyond."""

Similarity = Callable[[Coalitions, int], Tensor]
"""From coalitions and the number of outputs to weights `(coalitions, outputs or 1)`."""

Draw = Callable[[int], Iterator[Coalitions]]
"""From the number of features to coalitions, one row each."""


class RandomAblations(ABC):
    """Coalitions that hold each feature with the same probability, each drawn for itself.

    Args:
        n_samples: How many.
        keep: The probability.
        seed: Of the coalitions; None: torch's global stream.
        refits: Samples of the bootstrap from which the standard error is taken; 0: there is none.
    """

    fixed = False

    def __init__(self, n_samples: int, keep: float, seed: int | None, refits: int) -> None:
        if not 0 < keep < 1:
            raise InvalidValue(f"keep must be a probability between 0 and 1; got {keep!r}")
        if refits < 0 or refits == 1:
            raise InvalidValue(f"refits must be 0 or at least 2; got {refits!r}")
        self.n_samples, self._keep, self._seed = positive("n_samples", n_samples), keep, seed
        self._refits = refits

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """One for each coalition, as far as there are so many."""
        return min(self.n_samples if budget is None else budget, 1 << features)

    def least(self, features: int) -> int:
        """Two: one coalition tells nothing about a difference."""
        return min(2, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """One coalition each."""
        draws, chances = generator(self._seed), torch.full((1, features), self._keep, dtype=torch.float32, device="cpu")
        while True:
            yield torch.bernoulli(chances, generator=draws).bool()

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)` coefficients, with bootstrap errors: how much they vary with the sample."""
        rows, targets = coalitions.double(), self._targets(values.double())
        weights = self._weights(coalitions, values.shape[1]).to(targets)

        def fit(chosen: Tensor) -> Tensor:
            return self._coefficients(rows[chosen], targets[chosen], weights[chosen])

        found = fit(torch.arange(len(rows), device="cpu"))
        error = bootstrap(fit, len(rows), self._refits) if self._refits else None

        return Estimate(precise(found, values), None if error is None else precise(error, values), "bootstrap")

    def _targets(self, values: Tensor) -> Tensor:
        return values

    def _weights(self, coalitions: Coalitions, outputs: int) -> Tensor:
        return torch.ones(len(coalitions), 1, dtype=torch.float32, device="cpu")

    @abstractmethod
    def _coefficients(self, rows: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """`(features, outputs)` of the surrogate."""


class WeightedSurrogate(RandomAblations):
    """The coefficients of a surrogate that is fitted to random ablations, the more so the more similar they are.

    Args:
        n_samples: Coalitions.
        interpretable_model: The surrogate; None: a lasso with the penalty 0.01.
        similarity: The weights; None: all are 1.
        draw: Where the coalitions come from; None: each feature is present with probability 1/2.
        seed: Of the coalitions; None: torch's global stream.
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
        refits: int = REFITS,
    ) -> None:
        super().__init__(n_samples, 0.5, seed, refits)
        self._surrogate: Surrogate = Lasso() if interpretable_model is None else interpretable_model
        self._similarity, self._draw = similarity, draw

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """One coalition each."""
        return super().rounds(features) if self._draw is None else self._draw(features)

    def _weights(self, coalitions: Coalitions, outputs: int) -> Tensor:
        return (
            super()._weights(coalitions, outputs) if self._similarity is None else self._similarity(coalitions, outputs)
        )

    def _coefficients(self, rows: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return self._surrogate.fitted(rows, targets, weights).coefficients


class AblationLasso(RandomAblations):
    """The coefficients of a lasso over random ablations, fitted to standardised presences.

    Log-probabilities are turned to logits, `log p - log(1 - p)`, each for itself: of a text that of the whole answer
    and those of its tokens. The logit of the whole is divided by the number of tokens for the fit, so that the
    penalty is one per token; coefficients are those of the logit itself.

    Args:
        n_samples: Coalitions.
        alpha: The penalty.
        keep: The probability with which a feature is present.
        seed: Of the coalitions; None: torch's global stream.
        log_prob: Whether values are log-probabilities, to be turned to logits; False: they are taken as they are.
        whole_first: Whether the first output is that of a whole and the others those of its tokens.
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
        refits: int = REFITS,
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
        values = values.clamp_max(SUREST)
        return values - (-values.expm1()).log()

    def _coefficients(self, rows: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        scale = targets.new_ones(targets.shape[1])
        if self._log_prob and self._whole_first and len(scale) > 1:
            scale[0] = len(scale) - 1
        spread = rows.std(0, correction=0)
        spread = torch.where(spread > 0, spread, 1.0)
        found = self._lasso.fitted((rows - rows.mean(0)) / spread, targets / scale, weights)
        return found.coefficients / spread[:, None] * scale
