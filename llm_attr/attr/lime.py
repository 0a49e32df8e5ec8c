"""LIME: the coefficients of an interpretable model that is fitted around an input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm_attr.attr.forms import keeps_form
from llm_attr.attr.linear_models import LinearModel
from llm_attr.attr.original import Original, PerturbFunction, SimilarityFunction
from llm_attr.attr.perturbation import FeatureGame, PerturbationAttribution
from llm_attr.core.estimators.random_ablations import BOOTSTRAP_SAMPLES, WeightedSurrogate
from llm_attr.core.estimators.similarity import Distance, ExponentialKernel
from llm_attr.core.estimators.surrogate import OneByOne, Surrogate
from llm_attr.core.evaluator import share_of
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.errors import InvalidType
from llm_attr.typing import Baselines, Coalitions, ForwardFunction, Target, TensorOrTensors


def get_exp_kernel_similarity_function(
    distance_mode: Distance = "cosine", kernel_width: float = 1.0
) -> ExponentialKernel:
    """The similarity `exp(-distance^2 / (2 kernel_width^2))` of a perturbed input to the original, for Lime.

    Args:
        distance_mode: `cosine` (1 less the cosine) or `euclidean`, over all inputs together.
        kernel_width: At which distance a sample still weighs `exp(-1/2)`.

    Raises:
        UnknownName: there is no such distance.
    """
    return ExponentialKernel(distance_mode, kernel_width)


def lime_of_text(
    n_samples: int = 25,
    interpretable_model: Any = None,
    similarity_func: SimilarityFunction | None = None,
    perturb_func: PerturbFunction | None = None,
    seed: int | None = None,
    refits: int = BOOTSTRAP_SAMPLES,
) -> WeightedSurrogate:
    """The estimator for texts, where the input is a one for each unit and absence a zero; arguments as of `Lime`.

    Args:
        n_samples: Coalitions.
        interpretable_model: See `Lime`.
        similarity_func: See `Lime`.
        perturb_func: See `Lime`.
        seed: Of the coalitions; None: torch's global stream.
        refits: Samples of the bootstrap from which standard errors are taken; 0: there are none.
    """
    kernel = similarity_func or ExponentialKernel()

    def similarity(coalitions: Coalitions, outputs: int) -> Tensor:
        return Original.presence(coalitions.shape[1]).similarity(kernel)(coalitions, outputs)

    def draw(features: int) -> Any:
        return Original.presence(features).draw(perturb_func)(features) if perturb_func else None

    return WeightedSurrogate(
        n_samples, _surrogate(interpretable_model), similarity, draw if perturb_func else None, seed, refits
    )


@registered
class Lime(PerturbationAttribution):
    """Fits an interpretable model to the outputs for random ablations, and gives its coefficients.

    Each feature is absent with probability 1/2; a sample weighs the more, the more similar it is to the input; by
    default a lasso is fitted (scikit-learn), least squares and ridge are solved in closed form. All examples of a batch
    share their ablations and have a model each.

    Args:
        interpretable_model: One of the `SkLearn...` and `SGD...` models, or an object with `fit`, of a DataLoader that
            gives (rows, values, weights), and `representation`. None: `SkLearnLasso(alpha=0.01)`.
        similarity_func: From `get_exp_kernel_similarity_function`, or a function `(original_input, perturbed_input,
            perturbed_interpretable_input, baselines, feature_mask, num_interp_features) -> weight`, the last three by
            keyword. None: the kernel on the cosine, of width 1.
        perturb_func: A function `(original_input, baselines, feature_mask, num_interp_features)` that gives a tensor
            `(1, features)` of zeros (absent) and ones, or a generator of them. None: each is 1 with probability 1/2.

    Functions of your own are asked for each example by itself, which is slower.

    Source: M. T. Ribeiro, S. Singh and C. Guestrin, "Why Should I Trust You?", KDD 2016, section 3.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Lime, SkLearnLinearRegression
        >>> Lime(lambda x: x.sum(1), SkLearnLinearRegression()).attribute(
        ...     torch.tensor([[1.0, 2.0]]), seed=0
        ... ).round(decimals=4)
        tensor([[1., 2.]])
    """

    estimator = staticmethod(lime_of_text)

    def __init__(
        self,
        forward_func: ForwardFunction,
        interpretable_model: Any = None,
        similarity_func: SimilarityFunction | None = None,
        perturb_func: PerturbFunction | None = None,
    ) -> None:
        super().__init__(forward_func)
        _surrogate(interpretable_model)
        self.interpretable_model, self.perturb_func = interpretable_model, perturb_func
        self.similarity_func = similarity_func or ExponentialKernel()

    @property
    def estimator_options(self) -> dict[str, Any]:
        """The model and the functions that this method has."""
        names = ("interpretable_model", "similarity_func", "perturb_func")
        own = {name: getattr(self, name) for name in names}
        return {name: value for name, value in own.items() if value is not None and value != ExponentialKernel()}

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
        """The coefficient of each feature.

        Args:
            inputs: See `Attribution`.
            baselines: See `Attribution`.
            target: See `Attribution`.
            additional_forward_args: See `Attribution`.
            feature_mask: See `PerturbationAttribution`.
            n_samples: Random ablations.
            perturbations_per_eval: See `PerturbationAttribution`.
            return_input_shape: False gives `(outputs, features)` instead.
            show_progress: See `Attribution`.
            until: See `PerturbationAttribution`.
            budget: See `PerturbationAttribution`.
            seed: See `PerturbationAttribution`.
            return_stderr: See `PerturbationAttribution`; by bootstrap: how much coefficients vary with the sample, not
                how far a penalty keeps them from anything.
            ledger: See `PerturbationAttribution`.

        Returns:
            As the inputs where the model gives one output for each example; else `(*output.shape, *features)` for each
            input. In units of the output; then the standard errors in the same form, if asked for.

        Raises:
            MissingExtra: the lasso needs scikit-learn, which is not installed.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        whole = Original.of(problem, Features.of(feature_mask, problem.inputs), baselines, feature_mask)
        refits = BOOTSTRAP_SAMPLES if return_stderr or until is not None else 0
        originals, found = self._each(whole), []
        for i, original in enumerate(originals):
            with share_of(f"{self.get_name()} attribution", i, i + 1, len(originals)):
                game = FeatureGame(self, original.problem, original.features)
                estimator = self._estimator(original, n_samples, seed, refits)
                each = game.attributions(
                    estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger,
                    return_input_shape,
                )  # fmt: skip
                found.append(each)
        return found[0] if len(found) == 1 else _together(found)

    def _estimator(self, original: Original, n_samples: int, seed: int | None, refits: int) -> WeightedSurrogate:
        draw = None if self.perturb_func is None else original.draw(self.perturb_func)
        similarity, surrogate = original.similarity(self.similarity_func), _surrogate(self.interpretable_model)
        return WeightedSurrogate(n_samples, surrogate, similarity, draw, seed, refits)

    def _each(self, whole: Original) -> list[Original]:
        """The whole batch; each example for itself if functions of the caller's want to see it so."""
        own = self.perturb_func is not None or not isinstance(self.similarity_func, ExponentialKernel)
        problem = whole.problem
        if not own or problem.batch == 1:
            return [whole]
        answer = problem.values(problem.inputs, 1)
        return whole.examples() if isinstance(answer, Tensor) and answer.shape[:1] == (problem.batch,) else [whole]


def _surrogate(model: Any) -> Surrogate | None:
    """What trains the model: all outputs at once, or one by one where its training is the caller's own."""
    if model is None or (isinstance(model, LinearModel) and model.trains_as_it_comes):
        return model
    if not callable(getattr(model, "fit", None)) or not callable(getattr(model, "representation", None)):
        raise InvalidType(
            "interpretable_model must have the methods fit and representation, as SkLearnRidge(); got "
            f"{type(model).__name__}"
        )
    return OneByOne(model)


def _together(parts: list[Any]) -> Any:
    """One result from those of the examples, in the same form."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(_together(list(each)) for each in zip(*parts, strict=True))
