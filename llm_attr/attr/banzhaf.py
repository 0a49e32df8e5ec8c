"""Banzhaf values."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.forms import keeps_form
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.banzhaf import MeanDifferences
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class Banzhaf(PerturbationAttribution):
    """The mean contribution of a feature over all coalitions of the others, equally weighted.

    `phi_i = mean of v over the coalitions with feature i - mean of v over those without it`. Every coalition is used
    for every feature. Values do not sum to the change of the output, but are the most robust against noise.

    Source: J. T. Wang and R. Jia, Data Banzhaf: A Robust Data Valuation Framework for Machine Learning, AISTATS 2023,
    section 4.2 (maximum sample reuse).

    Example:
        >>> import torch
        >>> from llm_attr.attr import Banzhaf
        >>> Banzhaf(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]), n_samples=None)
        tensor([[3., 3.]])
    """

    estimator = MeanDifferences

    @keeps_form
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

        Shared arguments: see `PerturbationAttribution`.

        Args:
            n_samples: Number of random coalitions, without repetition; exact if it reaches `2^f`. None: all of them.
            return_stderr: See `PerturbationAttribution`; infinite, with attribution 0, for a feature that is present
                (or absent) in all sampled coalitions.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output; with `return_stderr` also the standard errors in the same form.

        Raises:
            TooManyFeatures: all coalitions are requested but there are too many to enumerate.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        estimator = MeanDifferences(n_samples, seed)
        return game.attributions(estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger)
