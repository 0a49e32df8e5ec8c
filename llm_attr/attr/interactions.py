"""What pairs of features are worth together."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.interactions import Index, Pairs
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class PairwiseInteractions(PerturbationAttribution):
    """What two features are worth together beyond what each is worth alone, and the main effect of each.

    `index="shapley"`: the Shapley interaction index, the weighted mean over coalitions S of
    `v(S with i and j) - v(S with i) - v(S with j) + v(S)`; main effects are the Shapley values.

    `index="faith_banzhaf"`: the coefficients of the best fit over all coalitions alike,
    `v(S) ~ e + sum over i in S of e_i + sum over pairs i, j in S of e_ij`; main effects are the `e_i`.

    Two features that say the same have a negative interaction; two that need each other a positive one.

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

    estimator = Pairs

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

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            index: `shapley` or `faith_banzhaf`.
            n_samples: See `interactions`.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output; then the standard errors in the same form, if asked for.

        Raises:
            TooManyFeatures: all coalitions are wanted and cannot be enumerated.
            InvalidValue: there are fewer samples than the fit needs.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        estimator, stopping = Pairs(index, n_samples, seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True)

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

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            index: `shapley` or `faith_banzhaf`.
            n_samples: None: all coalitions. For `shapley` rounds of random orders in which every two features meet,
                about `f^2` evaluations each (`2 f^2` for an odd number of features); for `faith_banzhaf` random
                coalitions, more than the `1 + f + f (f - 1) / 2` coefficients.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            until: See `PerturbationAttribution`; the main effects decide.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`.
            ledger: See `PerturbationAttribution`.

        Returns:
            `(outputs, features, features)`, symmetric, with the main effects on the diagonal: all entries of the output
            in a row, features in the order of their numbers in the mask. Then the standard errors in the same form, if
            asked for.

        Raises:
            TooManyFeatures: all coalitions are wanted and cannot be enumerated.
            InvalidValue: there are fewer samples than the fit needs.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        estimator, stopping = Pairs(index, n_samples, seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        found = playing.estimate(estimator.interactions, return_stderr)
        values = found.values.movedim(-1, 0)
        return (values, found.stderr.movedim(-1, 0)) if found.stderr is not None and return_stderr else values
