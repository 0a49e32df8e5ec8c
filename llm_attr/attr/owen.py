"""Owen values: Shapley values that respect groups of features."""

from __future__ import annotations

from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.owen import HierarchicalOrders
from llm_attr.core.game.features import Features
from llm_attr.core.game.hierarchy import Nested
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class Owen(PerturbationAttribution):
    """The mean of what a feature adds to those before it, over the orders in which each group stays together.

    Values of a group's features sum to the value of the group among the groups around it, on every level: documents
    get what their sentences get together. Without groups these are the Shapley values.

    For text: `explain(model, prompt, method="owen", hierarchy=[[0, 1], [2, 3, 4]])` with the numbers of the units.

    Source: G. Owen, Values of Games with a Priori Unions, 1977; E. Winter, A Value for Cooperative Games with Levels
    Structure of Cooperation, 1989 (more levels).

    Example:
        >>> import torch
        >>> from llm_attr.attr import Owen
        >>> x = torch.tensor([[2.0, 3.0, 4.0]])
        >>> Owen(lambda x: x.prod(1)).attribute(x, hierarchy=[[0, 1], 2])
        tensor([[ 6.,  6., 12.]])
    """

    estimator = HierarchicalOrders

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        hierarchy: Nested | None = None,
        n_samples: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        paired: bool = True,
        until: float | str | None = None,
        budget: int | str | None = None,
        seed: int | None = 0,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The Owen value of each feature.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            hierarchy: Nested lists of feature numbers of any depth, as `[[0, 1], [2, [3, 4]]]`, each feature once.
                Features count from 0 in the order of their numbers in the mask; without mask, in that of the positions.
                None: no groups.
            n_samples: Random orders, or pairs of them. None: all orders, by enumeration level by level.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            paired: Whether each random order is followed by its reverse.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output; then the standard errors in the same form, if asked for.

        Raises:
            TooManyFeatures: all orders are wanted, and their coalitions cannot be enumerated; says how many these are.
            InvalidValue: the hierarchy does not name each feature once.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        estimator, stopping = HierarchicalOrders(hierarchy, n_samples, paired, seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True)
