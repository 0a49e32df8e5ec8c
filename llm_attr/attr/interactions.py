"""Interactions between pairs of features."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.forms import keeps_form
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.interactions import Index, PairInteractions
from llm_attr.core.game.driver import estimated
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class PairwiseInteractions(PerturbationAttribution):
    """The interaction of each pair of features: their joint effect minus their separate ones; and the main effects.

    `index="shapley"`: the Shapley interaction index, the weighted mean over coalitions S of
    `v(S with i and j) - v(S with i) - v(S with j) + v(S)`; main effects are the Shapley values.

    `index="faith_banzhaf"`: the coefficients of the least-squares fit over all coalitions, equally weighted,
    `v(S) ~ e + sum over i in S of e_i + sum over pairs i, j in S of e_ij`; main effects are the `e_i`.

    Redundant features have a negative interaction, complementary ones a positive interaction.

    Source: M. Grabisch and M. Roubens, An axiomatic approach to the concept of interaction among players in cooperative
    games, 1999; C.-P. Tsai, C.-K. Yeh and P. Ravikumar, Faith-Shap: The Faithful Shapley Interaction Index, JMLR 2023
    (faith-Banzhaf).

    Example:
        >>> import torch
        >>> from llm_attr.attr import PairwiseInteractions
        >>> method = PairwiseInteractions(lambda x: x[:, 0] * x[:, 1] + x[:, 2])
        >>> method.interactions(torch.tensor([[2.0, 3.0, 4.0]]), index="faith_banzhaf")
        tensor([[[0., 6., 0.],
                 [6., 0., 0.],
                 [0., 0., 4.]]])
    """

    estimator = PairInteractions

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        index: Index = "shapley",
        n_samples: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        until: float | str | None = None,
        budget: int | str | None = None,
        seed: int | None = 0,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The main effect of each feature: the diagonal of `interactions`.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            index: `shapley` or `faith_banzhaf`.
            n_samples: As for `interactions`.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output; with `return_stderr` also the standard errors in the same form.

        Raises:
            TooManyFeatures: all coalitions are requested but there are too many to enumerate.
            InvalidValue: there are fewer samples than the fit needs.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        estimator = PairInteractions(index, n_samples, seed)
        return game.attributions(estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger)

    def interactions(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        index: Index = "shapley",
        n_samples: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        until: float | str | None = None,
        budget: int | str | None = None,
        seed: int | None = 0,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The interactions of all pairs of features.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            index: `shapley` or `faith_banzhaf`.
            n_samples: None: all coalitions. For `shapley` the number of rounds of random orders in which every two
                features meet, about `f^2` evaluations each (`2 f^2` for an odd number of features); for `faith_banzhaf`
                random coalitions, more than the `1 + f + f (f - 1) / 2` coefficients.
            until: See `PerturbationAttribution`; applies to the main effects.

        Returns:
            `(outputs, features, features)`, symmetric, with the main effects on the diagonal: all entries of the output
            in one axis, features in the order of their numbers in the mask. With `return_stderr` also the standard
            errors in the same form.

        Raises:
            TooManyFeatures: all coalitions are requested but there are too many to enumerate.
            InvalidValue: there are fewer samples than the fit needs.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        estimator = PairInteractions(index, n_samples, seed)
        played, _ = game.play(estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger)
        estimate = estimated(estimator.interactions, played.coalitions, played.values)
        return estimate.mapped(lambda values: values.movedim(-1, 0), return_stderr)
