"""What is lost when whole groups of features are taken away."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.leave_one_out import GroupsLeftOut
from llm_attr.core.game.driver import estimated
from llm_attr.core.game.features import Features
from llm_attr.core.game.hierarchy import Nested
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class GroupAblation(PerturbationAttribution):
    """Leaves each group of features out, on every level of a hierarchy, and reports how much the output falls.

    `loss_g = f(x) - f(x with the group at its baseline)`. A feature gets the loss of the finest group that it is in,
    divided evenly among the group's features, so that these sum to the loss of their group.

    For text: `explain(model, prompt, method="group_ablation", groups=[[0, 1], [2, 3, 4]])` with the numbers of the
    units.

    Source: F. Liu, N. Kandpal and C. Raffel, AttriBoT: A Bag of Tricks for Efficiently Approximating Leave-One-Out
    Context Attribution, 2024 (hierarchical attribution).

    Example:
        >>> import torch
        >>> from llm_attr.attr import GroupAblation
        >>> x = torch.tensor([[2.0, 4.0, 3.0]])
        >>> GroupAblation(lambda x: x.sum(1)).attribute(x, groups=[[0, 1], 2], return_losses=True)
        (tensor([[3., 3., 3.]]), tensor([[6., 3.]]))
    """

    estimator = GroupsLeftOut

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        groups: Nested | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        return_losses: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The share of each feature in the loss of its group.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            groups: Nested lists of feature numbers, as `[[0, 1], [[2, 3], [4, 5]]]`, each feature once. Each list
                inside is a group, and so is each number beside a list. Features count from 0 in the order of their
                numbers in the mask; without mask, in that of the positions. None: each feature is a group.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            return_losses: Also gives the loss of each group.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output.

            Then the losses `(outputs, groups)`, if asked for: the groups in the order in which `groups` names them,
            each before those in it.

        Raises:
            InvalidValue: the groups do not name each feature once.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        estimator = GroupsLeftOut(groups)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, ledger=ledger)
        played = playing.played()
        found = estimated(estimator.estimate, played.coalitions, played.values)
        values = playing.in_form(found.values, by_output=True)
        return (values, estimator.losses(played.values).T) if return_losses else values
