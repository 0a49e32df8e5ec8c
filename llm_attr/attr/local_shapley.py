"""Shapley values of each feature among its neighbours."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.local_shapley import Neighbourhoods, Others
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class LocalShapley(PerturbationAttribution):
    """The Shapley value of each feature in the small game of its neighbours; exact for that game, linear in features.

    `phi_i = sum over S in N(i) without i of |S|! (n - |S| - 1)! / n! (v(S with i) - v(S))` with the n features N(i)
    that are at most `radius` places from i. Known as L-Shapley.

    Source: J. Chen, L. Song, M. J. Wainwright and M. I. Jordan, L-Shapley and C-Shapley: Efficient Model Interpretation
    for Structured Data, ICLR 2019, definition 1.

    Example:
        >>> import torch
        >>> from llm_attr.attr import LocalShapley
        >>> x = torch.tensor([[2.0, 3.0, 4.0]])
        >>> LocalShapley(lambda x: x[:, 0] * x[:, 1] + x[:, 2]).attribute(x, radius=1)
        tensor([[3., 3., 4.]])
    """

    estimator = Neighbourhoods

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        radius: int = 2,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        others: Others = "absent",
        ledger: Ledger | None = None,
    ) -> Any:
        """The local Shapley value of each feature.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            radius: Neighbours on each side, in the order of the features' numbers.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            others: Features outside of the neighbourhood are `absent` meanwhile, as in the paper, or `present`.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output.

        Raises:
            TooManyFeatures: the neighbourhoods' coalitions, `1 + f 4^radius` at most, cannot be enumerated.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        estimator = Neighbourhoods(radius, others)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, ledger=ledger)
        return playing.answer(by_output=True)
