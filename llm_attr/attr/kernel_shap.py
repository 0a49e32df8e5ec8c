"""KernelSHAP and OddSHAP: Shapley values by regression."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.forms import keeps_form
from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.kernel_shap import AdditiveRegression
from llm_attr.core.estimators.odd_shap import OddRegression
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors

ENDPOINT_WEIGHT = 1e6
"""Captum's finite substitute for the kernel's infinite weight of the empty and the full coalition."""


@registered
class KernelShap(PerturbationAttribution):
    """The additive model closest to the outputs for ablated inputs, with the weights that yield the Shapley values.

    `(f - 1) / (C(f, s) s (f - s))` is the weight of a coalition of s out of f features. The empty and the full
    coalition are met exactly, so the attributions sum to the change of the output. Coalitions are sampled in
    complementary pairs without repetition, and sizes whose coalitions are all needed are enumerated; with all `2^f`
    coalitions the values are exact. About four evaluations per feature are recommended; with fewer than two, features
    that the sample cannot distinguish get equal shares, with a warning.

    Source: S. M. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, theorem 2;
    I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021 (pairs, constraint).

    Example:
        >>> import torch
        >>> from llm_attr.attr import KernelShap
        >>> KernelShap(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]))
        tensor([[3., 3.]])
    """

    estimator = AdditiveRegression

    @keeps_form
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
        seed: int | None = None,
        return_stderr: bool = False,
        ledger: Ledger | None = None,
    ) -> Any:
        """The estimated Shapley value of each feature.

        Shared arguments: see `PerturbationAttribution`.

        Args:
            n_samples: Number of evaluations, including the empty and full coalitions.
            return_input_shape: False: the result is `(outputs, features)`.
            return_stderr: See `PerturbationAttribution`; with fewer than three evaluations per feature the error is the
                spread of the attributions.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output; with `return_stderr` also the standard errors in the same form.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        estimator = AdditiveRegression(n_samples, seed)
        return game.attributions(
            estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger, return_input_shape
        )

    def kernel_shap_similarity_kernel(
        self, _: TensorOrTensors, __: TensorOrTensors, interpretable_sample: Tensor, **kwargs: Any
    ) -> Tensor:
        """The weight of a sample from `kernel_shap_perturb_generator`, for `Lime(similarity_func=...)`.

        1, since the generator draws sizes according to the kernel; 1,000,000 for the empty and the full coalition.

        Args:
            interpretable_sample: `(1, features)` of zeros and ones.
            **kwargs: Ignored; further keywords that Lime passes.
        """
        ends = (interpretable_sample != 0).all() or (interpretable_sample == 0).all()
        return torch.tensor([ENDPOINT_WEIGHT if ends else 1.0], dtype=torch.float32, device="cpu")

    def kernel_shap_perturb_generator(self, original_inp: TensorOrTensors, **kwargs: Any) -> Iterator[Tensor]:
        """Samples `(1, features)` from the Shapley kernel, for `Lime(perturb_func=...)`: full, empty, then random.

        Sizes k have `p(k) ~ (f - 1) / (k (f - k))`, and all coalitions of a size are equally likely. Draws from torch's
        global generator.

        Args:
            original_inp: The input; the samples are on its device.
            **kwargs: `num_interp_features`, the number of features; `num_select_distribution`, a distribution of
                sizes minus one that replaces the default.
        """
        features: int = kwargs["num_interp_features"]
        device = original_inp.device if isinstance(original_inp, Tensor) else original_inp[0].device
        yield torch.ones(1, features, device=device, dtype=torch.long)
        yield torch.zeros(1, features, device=device, dtype=torch.long)
        sizes = torch.arange(1, features, dtype=torch.float64, device="cpu")
        probabilities = 1 / (sizes * (features - sizes))
        distribution = kwargs.get("num_select_distribution")
        while features > 1:
            size = 1 + int(torch.multinomial(probabilities, 1) if distribution is None else distribution.sample())
            present = torch.randperm(features, device="cpu")[:size]
            yield torch.zeros(features, dtype=torch.long, device="cpu").index_fill(0, present, 1)[None].to(device)


@registered
class OddShap(PerturbationAttribution):
    """The Shapley values of a model of the outputs for ablated inputs that includes interactions.

    Uses the same complementary pairs of coalitions as `KernelShap`, which cancel all interactions of even order.
    Interactions of orders 3 and 5 are removed by a model whose Shapley values are known in closed form, so that fewer
    samples suffice where outputs are smooth. The interactions have a Gaussian prior, whereas OddSHAP selects a few by
    tree models.

    Source: F. Fumagalli, L. Butler, J. S. Kang, K. Ramchandran and R. T. Witter, An Odd Estimator for Shapley Values,
    ICML 2026; for the residual of the model: R. T. Witter, Y. Liu and C. Musco, Regression-adjusted Monte Carlo
    Estimators for Shapley Values and Probabilistic Values, 2025.

    Example:
        >>> import torch
        >>> from llm_attr.attr import OddShap
        >>> OddShap(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]))
        tensor([[3., 3.]])
    """

    estimator = staticmethod(partial(OddRegression, seed=0))

    @keeps_form
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

        Shared arguments: see `PerturbationAttribution`.

        Args:
            n_samples: Number of evaluations, including the empty and full coalitions.
            return_input_shape: False: the result is `(outputs, features)`.
            return_stderr: See `PerturbationAttribution`; with fewer than three evaluations per feature the error is the
                spread of the attributions.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output; with `return_stderr` also the standard errors in the same form.
        """
        game = self._game(inputs, baselines, target, additional_forward_args, feature_mask)
        estimator = OddRegression(n_samples, seed)
        return game.attributions(
            estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger, return_input_shape
        )
