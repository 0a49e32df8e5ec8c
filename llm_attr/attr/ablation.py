"""Feature ablation: what is lost when a feature is taken away."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch

from llm_attr.attr.base import PerturbationAttribution
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.features import Features
from llm_attr.core.game import Estimator, LeaveOneOut, TensorGame, joined, play
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.tensors import in_form_of
from llm_attr.errors import InvalidValue
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
    ) -> TensorOrTensors:
        """The loss of output for each feature.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: Whole numbers that broadcast to the inputs, one mask for each of them; positions with the same
                number, in any of the inputs, are one feature and are left out together. None: each position is a
                feature of its own.
            perturbations_per_eval: Coalitions of one call. None: one call is tried with a doubled batch; if the answers
                double and stay equal, calls are as large as fits, else one at a time.
            show_progress: See `Attribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(outputs, *features)` for each input,
            with all entries of the output in a row. Units and type are those of the output.

        Raises:
            InvalidShape: baselines or feature_mask do not fit the inputs.
            InvalidTarget: the target does not fit the output.
        """
        game, estimator = self._game(
            inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress
        )
        with game.evaluator:
            values = play(game, estimator, game.features.count)
        return in_form_of(inputs, game.features.spread(values))

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
        game, estimator = self._game(
            inputs, baselines, target, additional_forward_args, feature_mask, perturbations_per_eval, show_progress
        )
        with ExitStack() as stack:
            evaluator = stack.enter_context(game.evaluator)
            promises = [game.submit(block) for block in estimator.blocks(game.features.count)]
            until_done = stack.pop_all()

        def finish(done: torch.futures.Future[Any]) -> TensorOrTensors:
            with until_done:
                values = joined([promise.value() for promise in done.value()])
                evaluator.check()
            return in_form_of(inputs, game.features.spread(estimator.estimate(values)))

        return torch.futures.collect_all(promises).then(finish)

    def _game(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines,
        target: Target,
        additional_forward_args: Any,
        feature_mask: TensorOrTensors | None,
        perturbations_per_eval: int | None,
        show_progress: bool,
    ) -> tuple[TensorGame, Estimator]:
        if perturbations_per_eval is not None and perturbations_per_eval < 1:
            raise InvalidValue(f"perturbations_per_eval must be at least 1 or None; got {perturbations_per_eval}")
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        moved = problem.inputs
        features = Features.single(moved) if feature_mask is None else Features.of_mask(feature_mask, moved)
        estimator = self.estimator()
        evaluator = Evaluator(
            f"{self.get_name()} attribution",
            estimator.evaluations(features.count),
            show_progress=show_progress,
            device=moved[0].device,
        )
        return TensorGame(problem, features, evaluator, perturbations_per_eval), estimator
