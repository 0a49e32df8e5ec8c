"""ContextCite: a sparse linear model of random ablations."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.random_ablations import REFITS, AblationLasso
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class ContextCite(PerturbationAttribution):
    """The coefficients of a lasso that is fitted to the outputs for random ablations; few of them differ from 0.

    Of a text it explains the logit of the answer's probability, `log p - log(1 - p)`, and of each token's, whose
    attributions therefore don't sum to those of the answer; attributions are logits too. It needs scikit-learn.

    Source: B. Cohen-Wang, H. Shah, K. Georgiev and A. Madry, ContextCite: Attributing Model Generation to Context,
    NeurIPS 2024, section 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import ContextCite
        >>> ContextCite(lambda x: x.sum(1)).attribute(torch.tensor([[3.0, 0.0]]), alpha=0.0).round(decimals=4)
        tensor([[3., 0.]])
    """

    estimator = AblationLasso

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

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            n_samples: Random ablations.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            alpha: The penalty of the lasso on presences of mean 0 and variance 1, in units of the output.
            keep: The probability with which a feature is present.
            log_prob: Whether the output is a log-probability, whose logit is to be explained.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`; by bootstrap: how much coefficients vary with the sample, not
                how far the penalty keeps them from anything.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output, or logits; then the standard errors in the same form, if asked for.

        Raises:
            MissingExtra: scikit-learn is not installed.
            InvalidValue: a log-probability is larger than 0.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        stopping, refits = Stopping.of(until, budget), REFITS if return_stderr or until is not None else 0
        estimator = AblationLasso(n_samples, alpha, keep, seed, log_prob, False, refits)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True)
