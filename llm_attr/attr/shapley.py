"""Shapley values, exact and from random orders."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.shapley import AllSubsets, RandomOrders
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class ShapleyValues(PerturbationAttribution):
    """The mean of what a feature adds to those before it, over all orders of the features; exact.

    `phi_i = sum over S without i of |S|! (f - |S| - 1)! / f! (v(S with i) - v(S))`, from `2^f` evaluations

    Source: L. S. Shapley, A Value for n-Person Games, 1953.

    Example:
        >>> import torch
        >>> from llm_attr.attr import ShapleyValues
        >>> ShapleyValues(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]))
        tensor([[3., 3.]])
    """

    estimator = AllSubsets

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
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output.

        Raises:
            TooManyFeatures: their subsets cannot be enumerated.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        playing = self._playing(problem, features, AllSubsets(), perturbations_per_eval, show_progress, ledger=ledger)
        return playing.answer(by_output=True)

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
        """The promise of `attribute`'s result, for a forward function that gives a `torch.futures.Future`."""
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        playing = self._playing(problem, features, AllSubsets(), perturbations_per_eval, show_progress)
        return playing.promise().then(lambda done: playing.in_form(done.value().values, by_output=True))


@registered
class ShapleyValueSampling(PerturbationAttribution):
    """The mean of what a feature adds to those before it, over random orders of the features.

    `phi_i = mean over orders of v(those before i, with i) - v(those before i)`; what the orders share is evaluated once

    Source: J. Castro, D. Gomez and J. Tejada, Polynomial calculation of the Shapley value based on sampling, 2009.

    Example:
        >>> import torch
        >>> from llm_attr.attr import ShapleyValueSampling
        >>> ShapleyValueSampling(lambda x: x.sum(1)).attribute(torch.tensor([[2.0, 3.0]]), n_samples=2)
        tensor([[2., 3.]])
    """

    estimator = RandomOrders

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

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            n_samples: Orders. None: 25, or with `until` as many as it takes from 5 on.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`.
            ledger: See `PerturbationAttribution`.

        Returns:
            As for `ShapleyValues`; then the standard errors in the same form, if asked for.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        estimator, stopping = RandomOrders(n_samples, seed=seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True)

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
        """The promise of `attribute`'s result, for a forward function that gives a `torch.futures.Future`."""
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        playing = self._playing(problem, features, RandomOrders(n_samples), perturbations_per_eval, show_progress)
        return playing.promise().then(lambda done: playing.in_form(done.value().values, by_output=True))


@registered
class PermutationShapley(PerturbationAttribution):
    """The mean of what a feature adds to those before it, over random orders, each followed by its reverse.

    `phi_i = mean over orders of v(those before i, with i) - v(those before i)`. Reversed pairs cancel the error of
    first order; the standard error comes from the spread of the pairs.

    Source: R. Mitchell, J. Cooper, E. Frank and G. Holmes, Sampling Permutations for Shapley Value Estimation, JMLR
    2022, section 3 (antithetic pairs).

    Example:
        >>> import torch
        >>> from llm_attr.attr import PermutationShapley
        >>> PermutationShapley(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]), n_samples=1)
        tensor([[3., 3.]])
    """

    estimator = staticmethod(partial(RandomOrders, paired=True, seed=0))

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

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            n_samples: Pairs of orders, or orders. None: 25, or with `until` as many as it takes from 5 on.
            perturbations_per_eval: See `PerturbationAttribution`.
            show_progress: See `Attribution`.
            paired: Whether each order is followed by its reverse.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`.
            ledger: See `PerturbationAttribution`.

        Returns:
            As for `ShapleyValues`; then the standard errors in the same form, if asked for.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args, alike=False)
        features = Features.of(feature_mask, problem.inputs)
        estimator, stopping = RandomOrders(n_samples, paired, seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True)
