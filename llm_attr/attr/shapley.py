"""Shapley values: exact, from random orders, of neighbourhoods, and of groups (Owen values)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from llm_attr.attr.forms import keeps_form
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.local_shapley import Neighbourhoods, Others
from llm_attr.core.estimators.owen import HierarchicalOrders
from llm_attr.core.estimators.shapley import AllSubsets, RandomOrders
from llm_attr.core.game.hierarchy import Nested
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class ShapleyValues(PerturbationAttribution):
    """The mean contribution of a feature when added to the features before it, over all orders of features; exact.

    `phi_i = sum over S without i of |S|! (f - |S| - 1)! / f! (v(S with i) - v(S))`, from `2^f` evaluations

    Source: L. S. Shapley, A Value for n-Person Games, 1953.

    Example:
        >>> import torch
        >>> from llm_attr.attr import ShapleyValues
        >>> ShapleyValues(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]))
        tensor([[3., 3.]])
    """

    estimator = AllSubsets

    @keeps_form
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
        """The Shapley value of each feature.

        Shared arguments: see `PerturbationAttribution`.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output.

        Raises:
            TooManyFeatures: there are too many subsets of features to enumerate.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask, alike=False)
        return game.attributions(AllSubsets(), perturbations_per_eval, show_progress, ledger=ledger)

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
        """The promise of `attribute`'s result, for a forward function that returns a `torch.futures.Future`."""
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask, alike=False)
        return game.promise(AllSubsets(), perturbations_per_eval, show_progress)


@registered
class ShapleyValueSampling(PerturbationAttribution):
    """The mean contribution of a feature when added to the features before it, over random orders of features.

    `phi_i = mean over orders of v(those before i, with i) - v(those before i)`; coalitions shared by several orders are
    evaluated once

    Source: J. Castro, D. Gomez and J. Tejada, Polynomial calculation of the Shapley value based on sampling, 2009.

    Example:
        >>> import torch
        >>> from llm_attr.attr import ShapleyValueSampling
        >>> ShapleyValueSampling(lambda x: x.sum(1)).attribute(torch.tensor([[2.0, 3.0]]), n_samples=2)
        tensor([[2., 3.]])
    """

    estimator = RandomOrders

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        n_samples: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
        *,
        until: float | str | None = None,
        budget: int | str | None = None,
        seed: int | None = None,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The estimated Shapley value of each feature.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            n_samples: Number of orders. None: 25; with `until` as many as needed, at least 5.

        Returns:
            As for `ShapleyValues`; with `return_stderr` also the standard errors in the same form.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask, alike=False)
        estimator = RandomOrders(n_samples, seed=seed)
        return game.attributions(estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger)

    def attribute_future(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        n_samples: int | None = None,
        perturbations_per_eval: int | None = None,
        show_progress: bool = False,
    ) -> torch.futures.Future[TensorOrTensors]:
        """The promise of `attribute`'s result, for a forward function that returns a `torch.futures.Future`."""
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask, alike=False)
        return game.promise(RandomOrders(n_samples), perturbations_per_eval, show_progress)


@registered
class PermutationShapley(PerturbationAttribution):
    """The mean contribution of a feature when added to the features before it, over random orders and their reverses.

    `phi_i = mean over orders of v(those before i, with i) - v(those before i)`. Antithetic sampling: an order and its
    reverse cancel the first-order error; the standard error is estimated from the spread of the pairs.

    Source: R. Mitchell, J. Cooper, E. Frank and G. Holmes, Sampling Permutations for Shapley Value Estimation, JMLR
    2022, section 3 (antithetic pairs).

    Example:
        >>> import torch
        >>> from llm_attr.attr import PermutationShapley
        >>> PermutationShapley(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]), n_samples=1)
        tensor([[3., 3.]])
    """

    estimator = staticmethod(partial(RandomOrders, paired=True, seed=0))

    @keeps_form
    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
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
        """The estimated Shapley value of each feature.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            n_samples: Number of orders, or pairs of them. None: 25; with `until` as many as needed, at least 5.
            paired: Whether each order is followed by its reverse.

        Returns:
            As for `ShapleyValues`; with `return_stderr` also the standard errors in the same form.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask, alike=False)
        estimator = RandomOrders(n_samples, paired, seed)
        return game.attributions(estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger)


@registered
class LocalShapley(PerturbationAttribution):
    """The Shapley value of each feature in the small game of its neighbours; exact for that game, linear in features.

    `phi_i = sum over S in N(i) without i of |S|! (n - |S| - 1)! / n! (v(S with i) - v(S))` with the n features N(i)
    that are at most `radius` positions from i. Known as L-Shapley.

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

    @keeps_form
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

        Shared arguments: see `PerturbationAttribution`.

        Args:
            radius: Neighbours on each side, in the order of the features' numbers.
            others: Whether features outside the neighbourhood are `absent`, as in the paper, or `present`.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output.

        Raises:
            TooManyFeatures: the neighbourhoods have too many coalitions to enumerate (at most `1 + f 4^radius`).
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        return game.attributions(Neighbourhoods(radius, others), perturbations_per_eval, show_progress, ledger=ledger)


@registered
class Owen(PerturbationAttribution):
    """The mean contribution of a feature when added to those before it, over the orders that keep groups together.

    The values of a group's features sum to the value of the group among its sibling groups, on every level: the
    sentences of a document share the document's value. Without groups these are the Shapley values.

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

    @keeps_form
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

        Shared arguments: see `PerturbationAttribution`.

        Args:
            hierarchy: Nested lists of feature numbers of any depth, such as `[[0, 1], [2, [3, 4]]]`, each feature once.
                Features are numbered from 0 in the order of their numbers in the mask; without a mask, in the order of
                positions. None: no groups.
            n_samples: Number of random orders, or pairs of them. None: all orders, enumerated level by level.
            paired: Whether each random order is followed by its reverse.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output; with `return_stderr` also the standard errors in the same form.

        Raises:
            TooManyFeatures: all orders are requested but have too many coalitions to enumerate; states how many.
            InvalidValue: the hierarchy does not contain each feature once.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        estimator = HierarchicalOrders(hierarchy, n_samples, paired, seed)
        return game.attributions(estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger)
