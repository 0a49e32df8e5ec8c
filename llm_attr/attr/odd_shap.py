"""OddSHAP: Shapley values by regression on odd interactions."""

from __future__ import annotations

from functools import partial
from typing import Any

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.odd_shap import OddRegression
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors


@registered
class OddShap(PerturbationAttribution):
    """The Shapley values of a model of the outputs for ablated inputs that has interactions, too.

    From the same pairs of complementary coalitions as `KernelShap`, which cancel all interactions of even order; those
    of the orders 3 and 5 are taken out by a model of them, whose own Shapley values are known, so that a sample is
    worth more where outputs are smooth. Here all of them have a Gaussian prior, where OddSHAP lets trees choose a few.

    Source: F. Fumagalli, L. Butler, J. S. Kang, K. Ramchandran and R. T. Witter, An Odd Estimator for Shapley Values,
    ICML 2026; for what the model leaves over: R. T. Witter, Y. Liu and C. Musco, Regression-adjusted Monte Carlo
    Estimators for Shapley Values and Probabilistic Values, 2025.

    Example:
        >>> import torch
        >>> from llm_attr.attr import OddShap
        >>> OddShap(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]))
        tensor([[3., 3.]])
    """

    estimator = staticmethod(partial(OddRegression, seed=0))

    def attribute(
        self,
        inputs: TensorOrTensors,
        baselines: Baselines = None,
        target: Target = None,
        additional_forward_args: Any = None,
        feature_mask: TensorOrTensors | None = None,
        n_samples: int = 25,
        perturbations_per_eval: int | None = None,
        return_input_shape: bool = True,
        show_progress: bool = False,
        *,
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
            n_samples: Evaluations, with the empty and the full coalition.
            perturbations_per_eval: See `PerturbationAttribution`.
            return_input_shape: False gives `(outputs, features)` instead.
            show_progress: See `Attribution`.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`; from fewer than three evaluations for each feature the
                spread of the attributions.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output; then the standard errors in the same form, if asked for.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        estimator, stopping = OddRegression(n_samples, seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True, return_input_shape=return_input_shape)
