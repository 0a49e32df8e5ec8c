"""LIME: the coefficients of an interpretable model fitted around an input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.attr.forms import keeps_form
from llm_attr.attr.linear_models import LinearModel
from llm_attr.attr.perturbation import FeatureGame, PerturbationAttribution
from llm_attr.core.estimators.random_ablations import BOOTSTRAP_SAMPLES, Similarity, WeightedSurrogate
from llm_attr.core.estimators.similarity import Distance, ExponentialKernel, Products
from llm_attr.core.estimators.surrogate import OneByOne, Surrogate
from llm_attr.core.evaluator import share_of
from llm_attr.core.game.features import Features
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.tensor_game import points
from llm_attr.core.problem import Problem
from llm_attr.core.registry import registered
from llm_attr.core.tensors import in_slots, map_tensors
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import Baselines, Coalitions, ForwardFunction, Target, TensorOrTensors, Tensors

SimilarityFunction: TypeAlias = Callable[..., Any]
"""`(original_input, perturbed_input, perturbed_interpretable_input (1, features), **keywords) -> number`."""

PerturbFunction: TypeAlias = Callable[..., Any]
"""`(original_input, **keywords) -> (1, features)` of zeros and ones, or a generator of these."""


def get_exp_kernel_similarity_function(
    distance_mode: Distance = "cosine", kernel_width: float = 1.0
) -> ExponentialKernel:
    """The similarity `exp(-distance^2 / (2 kernel_width^2))` of a perturbed input to the original, for Lime.

    Args:
        distance_mode: `cosine` (1 minus the cosine) or `euclidean`, over all inputs together.
        kernel_width: The distance at which the weight is `exp(-1/2)`.

    Raises:
        UnknownName: the distance is unknown.
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
    """The estimator for text, where the input has a one per unit and absence is zero.

    Args:
        n_samples: Number of coalitions.
        interpretable_model: The surrogate, see `Lime`; None: a lasso with penalty 0.01.
        similarity_func: Weights the samples, see `Lime`; None: the cosine kernel of width 1.
        perturb_func: Draws the coalitions, see `Lime`; None: each unit is present with probability 1/2.
        seed: Seed of the coalitions; None: torch's global generator.
        refits: Number of bootstrap samples for the standard errors; 0: no standard errors.
    """
    kernel = similarity_func or ExponentialKernel()

    def similarity(coalitions: Coalitions, outputs: int) -> Tensor:
        return _Original.presence(coalitions.shape[1]).similarity(kernel)(coalitions, outputs)

    def draw(features: int) -> Iterator[Coalitions]:
        return _Original.presence(features).coalitions(perturb_func)

    surrogate = _surrogate(interpretable_model)
    return WeightedSurrogate(n_samples, surrogate, similarity, draw if perturb_func else None, seed, refits)


@registered
class Lime(PerturbationAttribution):
    """Fits an interpretable model to the outputs for random ablations and returns its coefficients.

    Each feature is absent with probability 1/2, and samples are weighted by their similarity to the input. The default
    is a lasso (scikit-learn); least squares and ridge are solved in closed form. All examples of a batch share their
    ablations, and each has its own model.

    Args:
        interpretable_model: One of the `SkLearn...` and `SGD...` models, or an object with `representation` and with
            `fit`, which takes a DataLoader of (rows, values, weights). None: `SkLearnLasso(alpha=0.01)`.
        similarity_func: From `get_exp_kernel_similarity_function`, or a function `(original_input, perturbed_input,
            perturbed_interpretable_input, baselines, feature_mask, num_interp_features) -> weight`, the last three as
            keywords. None: the cosine kernel of width 1.
        perturb_func: A function `(original_input, baselines, feature_mask, num_interp_features)` that returns a tensor
            `(1, features)` of zeros (absent) and ones, or a generator of them. None: each is 1 with probability 1/2.

    Custom functions are called for each example separately, which is slower.

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
        """The constructor's arguments that differ from the defaults."""
        names = ("interpretable_model", "similarity_func", "perturb_func")
        return {name: own for name in names if (own := getattr(self, name)) not in (None, ExponentialKernel())}

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

        Shared arguments: see `PerturbationAttribution`.

        Args:
            n_samples: Number of random ablations.
            return_input_shape: False: the result is `(outputs, features)`.
            return_stderr: See `PerturbationAttribution`; by bootstrap, which measures the variation with the sample but
                not the bias of a penalty.

        Returns:
            Shaped like the inputs if the model has one output per example; otherwise `(*output.shape, *features)` per
            input. In units of the output; with `return_stderr` also the standard errors in the same form.

        Raises:
            MissingExtra: the lasso requires scikit-learn, which is not installed.
        """
        problem = Problem.of(self.forward_func, inputs, baselines, target, additional_forward_args)
        features = Features.of(feature_mask, problem.inputs)
        originals, parts = self._each(_Original.of(problem, features, baselines, feature_mask)), []
        refits = BOOTSTRAP_SAMPLES if return_stderr or until is not None else 0
        for i, original in enumerate(originals):
            game = FeatureGame(self, original.problem, original.features)
            estimator = self._estimator(original, n_samples, seed, refits)
            with share_of(f"{self.get_name()} attribution", i, i + 1, len(originals)):
                part = game.attributions(
                    estimator, perturbations_per_eval, show_progress, until, budget, return_stderr, ledger,
                    return_input_shape,
                )  # fmt: skip
            parts.append(part)
        return parts[0] if len(parts) == 1 else _joined(parts)

    def _estimator(self, original: _Original, n_samples: int, seed: int | None, refits: int) -> WeightedSurrogate:
        function = self.perturb_func
        draw = None if function is None else lambda features: original.coalitions(function)
        similarity, surrogate = original.similarity(self.similarity_func), _surrogate(self.interpretable_model)
        return WeightedSurrogate(n_samples, surrogate, similarity, draw, seed, refits)

    def _each(self, whole: _Original) -> list[_Original]:
        """The batch; or its examples, if there are custom functions and an output per example."""
        custom = self.perturb_func is not None or not isinstance(self.similarity_func, ExponentialKernel)
        problem = whole.problem
        if not custom or problem.batch == 1:
            return [whole]
        output = problem.values(problem.inputs, 1)
        by_example = isinstance(output, Tensor) and output.shape[:1] == (problem.batch,)
        return [whole.example(i) for i in range(problem.batch)] if by_example else [whole]


@dataclass(frozen=True)
class _Original:
    """The input that a surrogate is local to, and what custom functions are called with.

    Attributes:
        problem: Holds the input and its baselines.
        features: Which positions are absent together.
        keywords: `baselines`, `feature_mask` and `num_interp_features`, for custom functions.
    """

    problem: Problem
    features: Features
    keywords: Mapping[str, Any]

    @classmethod
    def of(cls, problem: Problem, features: Features, baselines: Any, feature_mask: Any) -> _Original:
        """With the caller's baselines and mask, or else Captum's defaults."""
        if baselines is None:
            baselines = 0 if problem.slots[0].single else (0,) * len(problem.inputs)
        if feature_mask is None:
            feature_mask = in_slots(features.owner, problem.slots)[0]
        keywords = {"baselines": baselines, "feature_mask": feature_mask, "num_interp_features": features.count}
        return cls(problem, features, keywords)

    @classmethod
    def presence(cls, count: int) -> _Original:
        """A text: ones for its units, zeros for absent ones."""
        ones = torch.ones(1, count, dtype=torch.float32, device="cpu")
        problem = Problem.of(lambda x: x.sum(1), ones)
        return cls.of(problem, Features.single(problem.inputs), None, None)

    def example(self, i: int) -> _Original:
        """One example of the batch."""
        batch, target = self.problem.batch, self.problem.target

        def own(value: Any) -> Any:
            return map_tensors(lambda x: x[i : i + 1] if x.dim() and len(x) == batch else x, value)

        if isinstance(target, list) or (isinstance(target, Tensor) and target.numel() > 1):
            target = target[i : i + 1]
        problem = replace(
            self.problem,
            inputs=own(self.problem.inputs),
            baselines=own(self.problem.baselines),
            batch=1,
            extras=own(self.problem.extras),
            target=target,
        )
        keywords = {name: own(value) for name, value in self.keywords.items()}
        return _Original(problem, replace(self.features, owner=own(self.features.owner)), keywords)

    def similarity(self, function: SimilarityFunction) -> Similarity:
        """The weights of coalitions by a similarity function."""
        if isinstance(function, ExponentialKernel):
            products = Products.of(self.features, self.problem.inputs, self.problem.baselines)
            return lambda coalitions, outputs: products.similarities(function, coalitions, outputs)

        def weigh(coalitions: Coalitions, outputs: int) -> Tensor:
            weights = [[self._weight(function, row)] for row in coalitions.split(1)]
            return torch.tensor(weights, dtype=torch.float64, device="cpu")

        return weigh

    def coalitions(self, function: Any) -> Iterator[Coalitions]:
        """The coalitions drawn by a perturbation function."""
        samples = drawn(function, self._in_form(self.problem.inputs), self.keywords, Tensor)
        return (_coalition(sample, self.features.count) for sample in samples)

    def _weight(self, function: SimilarityFunction, row: Coalitions) -> float:
        inputs, baselines = self.problem.inputs, self.problem.baselines
        perturbed = self._in_form(points(self.features, row, inputs, baselines))
        weight = float(function(self._in_form(inputs), perturbed, row.float(), **self.keywords))
        if not 0 <= weight < float("inf"):
            raise InvalidValue(f"similarity_func must give a finite number of at least 0; got {weight}")
        return weight

    def _in_form(self, tensors: Tensors) -> TensorOrTensors:
        return in_slots(tensors, self.problem.slots)[0]


def drawn(function: PerturbFunction, inputs: Any, keywords: Mapping[str, Any], sample: Any) -> Iterator[Any]:
    """The samples of a perturbation function, which returns one (an instance of `sample`) or a generator of them."""
    first = function(inputs, **keywords)
    if not isinstance(first, sample):
        yield from first
        return
    yield first
    while True:
        yield function(inputs, **keywords)


def _coalition(row: Any, features: int) -> Coalitions:
    if not isinstance(row, Tensor):
        raise InvalidType(f"perturb_func must give tensors (1, {features}) or a generator of these; got {type(row)}")
    if row.numel() != features:
        raise InvalidShape(f"perturb_func must give tensors of the shape (1, {features}); got {tuple(row.shape)}")
    row = row.detach().reshape(1, features).cpu()
    if not ((row == 0) | (row == 1)).all():
        raise InvalidValue("perturb_func must give zeros (absent) and ones (present) only")
    return row.bool()


def _surrogate(model: Any) -> Surrogate | None:
    """Fits all outputs at once, or one by one for a custom model."""
    if model is None or (isinstance(model, LinearModel) and model.has_library_fit):
        return model
    if not callable(getattr(model, "fit", None)) or not callable(getattr(model, "representation", None)):
        raise InvalidType(
            "interpretable_model must have the methods fit and representation, like SkLearnRidge(); got "
            f"{type(model).__name__}"
        )
    return OneByOne(model)


def _joined(parts: list[Any]) -> Any:
    """The results of the examples as one batch, in the same form."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return tuple(_joined(list(each)) for each in zip(*parts, strict=True))
