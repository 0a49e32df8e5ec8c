"""ContextCite: a sparse linear model of random ablations."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.forms import keeps_form
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.random_ablations import BOOTSTRAP_SAMPLES, AblationLasso
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class ContextCite(PerturbationAttribution):
    """The coefficients of a lasso fitted to the outputs for random ablations; few are nonzero.

    For text it explains the logit of the answer's probability, `log p - log(1 - p)`, and of each token's probability;
    the attributions of tokens therefore do not sum to those of the answer. Attributions are logits too. Requires
    scikit-learn.

    Source: B. Cohen-Wang, H. Shah, K. Georgiev and A. Madry, ContextCite: Attributing Model Generation to Context,
    NeurIPS 2024, section 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import ContextCite
        >>> ContextCite(lambda x: x.sum(1)).attribute(torch.tensor([[3.0, 0.0]]), alpha=0.0).round(decimals=4)
        tensor([[3., 0.]])
    """

    estimator = AblationLasso

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        n_samples: int = 64,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        alpha: float = 0.01,
        keep: float = 0.5,
        log_prob: bool = False,
        until: float | str | None = None,
        budget: int | str | None = None,
        seed: int | None = 0,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The coefficient of each feature.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            n_samples: Number of random ablations.
            alpha: Penalty of the lasso on presences with mean 0 and variance 1, in units of the output.
            keep: Probability with which a feature is present.
            log_prob: Whether the output is a log-probability whose logit is to be explained.
            return_stderr: See `PerturbationAttribution`; by bootstrap, which measures the variation with the sample but
                not the bias of the penalty.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output, or logits; with `return_stderr` also the standard errors in the same
            form.

        Raises:
            MissingExtra: scikit-learn is not installed.
            InvalidValue: a log-probability is greater than 0.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        refits = BOOTSTRAP_SAMPLES if return_stderr or until is not None else 0
        estimator = AblationLasso(n_samples, alpha, keep, seed, log_prob, False, refits)
        return game.attributions(estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger)
