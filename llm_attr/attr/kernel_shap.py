"""KernelSHAP: Shapley values by least squares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.estimators.kernel_shap import AdditiveRegression
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.typing import Baselines, Target, TensorOrTensors

SUREST_WEIGHT = 1e6
"""What stands for the infinite weight of the empty and the full coalition in the kernel as Captum states it."""


@registered
class KernelShap(PerturbationAttribution):
    """The additive model nearest to the outputs for ablated inputs, under the weights that make it the Shapley values.

    `(f - 1) / (C(f, s) s (f - s))` is the weight of a coalition of s out of f features; the empty and the full one are
    met exactly, so the attributions sum to the change of the output. Coalitions are asked for in complementary pairs,
    none twice, and sizes of which all are due are enumerated; asked for all `2^f`, it is exact. About four evaluations
    for each feature are good; from fewer than two, features that no coalition tells apart get equal shares, with a
    warning.

    Source: S. M. Lundberg and S.-I. Lee, A Unified Approach to Interpreting Model Predictions, NeurIPS 2017, theorem 2;
    I. Covert and S.-I. Lee, Improving KernelSHAP, AISTATS 2021 (pairs, constraint).

    Example:
        >>> import torch
        >>> from llm_attr.attr import KernelShap
        >>> KernelShap(lambda x: x.prod(1)).attribute(torch.tensor([[2.0, 3.0]]))
        tensor([[3., 3.]])
    """

    estimator = AdditiveRegression

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
        estimator, stopping = AdditiveRegression(n_samples, seed), Stopping.of(until, budget)
        playing = self._playing(problem, features, estimator, perturbations_per_eval, show_progress, stopping, ledger)
        return playing.answer(return_stderr, by_output=True, return_input_shape=return_input_shape)

    def kernel_shap_similarity_kernel(
        self, _: TensorOrTensors, __: TensorOrTensors, interpretable_sample: Tensor, **kwargs: Any
    ) -> Tensor:
        """The weight of a sample from `kernel_shap_perturb_generator`, for `Lime(similarity_func=...)`.

        1, since the generator draws sizes by the kernel; 1,000,000 for the empty and the full coalition.

        Args:
            interpretable_sample: `(1, features)` of zeros and ones.
            kwargs: What else Lime tells.
        """
        ends = (interpretable_sample != 0).all() or (interpretable_sample == 0).all()
        return torch.tensor([SUREST_WEIGHT if ends else 1.0], dtype=torch.float32, device="cpu")

    def kernel_shap_perturb_generator(self, original_inp: TensorOrTensors, **kwargs: Any) -> Iterator[Tensor]:
        """Samples `(1, features)` by the Shapley kernel, for `Lime(perturb_func=...)`: all, none, then random ones.

        Sizes k have `p(k) ~ (f - 1) / (k (f - k))`, and each coalition of a size the same; torch's global stream.

        Args:
            original_inp: Tells the device.
            kwargs: `num_interp_features`, the number of features; `num_select_distribution`, a distribution of
                sizes less one in place of that.
        """
        features: int = kwargs["num_interp_features"]
        device = original_inp.device if isinstance(original_inp, Tensor) else original_inp[0].device
        yield torch.ones(1, features, device=device, dtype=torch.long)
        yield torch.zeros(1, features, device=device, dtype=torch.long)
        sizes = torch.arange(1, features, dtype=torch.float64, device="cpu")
        chances = 1 / (sizes * (features - sizes))
        given = kwargs.get("num_select_distribution")
        while features > 1:
            size = 1 + int(given.sample() if given is not None else torch.multinomial(chances, 1))
            present = torch.randperm(features, device="cpu")[:size]
            yield torch.zeros(features, dtype=torch.long, device="cpu").index_fill(0, present, 1)[None].to(device)
