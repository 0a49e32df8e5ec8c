"""Feature ablation: what is lost when a feature is taken away."""

from __future__ import annotations

from typing import Any

import torch

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class FeatureAblation(PerturbationAttribution):
    """Leaves each feature out once and reports how much the output falls.

    `attribution_i = f(x) - f(x with feature i at its baseline)`

    Source: M. D. Zeiler and R. Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.

    Example:
        >>> import torch
        >>> from llm_attr.attr import FeatureAblation
        >>> FeatureAblation(lambda x: x.sum(1)).attribute(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """

    estimator = LeaveOneOut

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        ledger: Ledger | None = None,
    ) -> Any:
        """The loss of output for each feature.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(outputs, *features)` for each input,
            with all entries of the output in a row. Units and type are those of the output.

        Raises:
            InvalidShape: baselines or feature_mask do not fit the inputs.
            InvalidTarget: the target does not fit the output.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        playing = self._playing(problem, features, LeaveOneOut(), perturbations_per_eval, show_progress, ledger=ledger)
        return playing.answer()

    def attribute_future(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> torch.futures.Future[TensorOrTensors]:
        """The promise of `attribute`'s result, for a forward function that gives a `torch.futures.Future`.

        All calls are made at once; with `perturbations_per_eval=None` each has one coalition.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        playing = self._playing(problem, features, LeaveOneOut(), perturbations_per_eval, show_progress)
        return playing.promise().then(lambda done: playing.in_form(done.value().values))
