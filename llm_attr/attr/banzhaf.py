"""Banzhaf values."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.banzhaf import MeanDifferences
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class Banzhaf(PerturbationAttribution):
    """The mean of what a feature adds, over all coalitions of the others alike.

    `phi_i = mean of v over the coalitions with feature i - mean of v over those without it`. Every coalition counts for
    every feature. Values don't sum to the change of the output, but are the most stable against noise of the values.

    Source: J. T. Wang and R. Jia, Data Banzhaf: A Robust Data Valuation Framework for Machine Learning, AISTATS 2023,
    section 4.2 (maximum sample reuse).

    Example:
        >>> import torch
        >>> from llm_attr.attr import Banzhaf
        >>> Banzhaf(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]), n_samples=None)
        tensor([[3., 3.]])
    """

    estimator = MeanDifferences

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        n_samples: int | None = 100,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        until: float | str | None = None,
        budget: int | str | None = None,
        seed: int | None = 0,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The Banzhaf value of each feature.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            n_samples: Random coalitions, none twice; exact where there are no more than so many. None: all of them.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`; infinite, with the attribution
                0, for a feature that is present (or absent) in the whole sample.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output; then the standard errors in the same form, if asked for.

        Raises:
            TooManyFeatures: all coalitions are wanted and cannot be enumerated.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        estimator, stopping = MeanDifferences(n_samples, seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True)
