"""The options of a perturbation explanation, parsed from keywords."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import inf
from os import PathLike
from typing import Any

from torch import Tensor

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.game.driver import MAX_ROWS, Estimator
from llm_attr.core.game.features import Features
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.registry import METHODS, snake_case
from llm_attr.errors import InvalidValue, UnknownKeyword
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.keywords import refuse_unknown
from llm_attr.llm.scoring.text_game import Inspector
from llm_attr.llm.target.generation import GenArgs
from llm_attr.llm.target.scalar import Scalar

SAMPLES = (1000, 500, 250, 100, 50, 25, 10, 5, 2)
"""Sample sizes that a suggestion may name."""

_OF_CALL = {"feature_mask", "perturbations_per_eval", "show_progress", "until", "budget"}


@dataclass(frozen=True)
class Options:
    """How prompts are explained.

    Attributes:
        method_name: The name of the method in `explain`.
        estimator: Its estimator.
        method_options: The estimator's options.
        trials: How often an input's random baselines are sampled.
        gen_args: Arguments of `generate`, if the answer is generated.
        cached: False scores every variant in full, without cache.
        inspect: Called with every variant.
        scalars: The quantities that are attributed.
        ledger: The file of a ledger on disk.
        feature_mask: Which features are left out together, `(1, features)`.
        perturbations_per_eval: The most variants per pass.
        show_progress: Whether to show a progress bar.
        until: The precision at which sampling stops, see `PerturbationAttribution`.
        budget: The most that sampling may cost per prompt, see `PerturbationAttribution`; also `"50 passes"` or
            `"2000 positions"`.
    """

    method_name: str
    estimator: Estimator
    method_options: Mapping[str, Any]
    trials: int
    gen_args: GenArgs | None
    cached: bool
    inspect: Inspector | None
    scalars: tuple[Scalar, ...]
    ledger: str | PathLike[str] | None = None
    feature_mask: Tensor | None = None
    perturbations_per_eval: int | None = None
    show_progress: bool = False
    until: float | str | None = None
    budget: int | str | None = None

    @property
    def stopping(self) -> Stopping:
        """When sampling ends."""
        return Stopping.of(self.until, self.budget)

    @classmethod
    def accepted(cls, method: PerturbationAttribution) -> set[str]:
        """Every keyword that is accepted with this method."""
        return _OF_CALL | set(signature(method.estimator).parameters)

    @classmethod
    def split(cls, method: PerturbationAttribution, keywords: Mapping[str, Any], **of_attribute: Any) -> Options:
        """Splits keywords into those of the call and those of the method's estimator.

        Raises:
            UnknownKeyword: neither accepts one of them.
            InvalidValue: the number of trials or of variants is less than one.
        """
        refuse_unknown(f"LLMAttribution.attribute with {method.get_name()}", keywords, cls.accepted(method))
        own = {name: value for name, value in keywords.items() if name not in _OF_CALL}
        of_method = {**cls._about_values(method, of_attribute["scalars"]), **method.estimator_options, **own}
        of_call = {name: value for name, value in keywords.items() if name in _OF_CALL}
        name, estimator = snake_case(type(method).__name__), method.estimator(**of_method)
        options = cls(name, estimator, of_method, **of_attribute, **of_call)
        most, trials = options.perturbations_per_eval, options.trials
        if most is not None and most < 1:
            raise InvalidValue(f"perturbations_per_eval must be at least 1 or None; got {most}")
        if options.estimator.fixed and options.stopping.adaptive:
            raise UnknownKeyword(
                f"{method.get_name()}, which needs a fixed number of evaluations,",
                {"until", "budget"} & set(keywords),
                cls.accepted(method) - {"until", "budget"},
            )
        if not isinstance(trials, int) or trials < 1:
            raise InvalidValue(f"num_trials must be a whole number of at least 1; got {trials!r}")
        return options

    @staticmethod
    def _about_values(method: PerturbationAttribution, scalars: tuple[Scalar, ...]) -> dict[str, bool]:
        """`log_prob`, for estimators with such an option: whether the values are log-probabilities."""
        if "log_prob" not in signature(method.estimator).parameters:
            return {}
        return {"log_prob": all(scalar.name == "log_prob" for scalar in scalars)}

    def method_seed(self, method: PerturbationAttribution) -> int | None:
        """The seed of the sample; None for torch's global stream or a fixed design."""
        bound = signature(method.estimator).bind_partial(**self.method_options)
        bound.apply_defaults()
        return None if self.estimator.fixed else bound.arguments.get("seed")

    def evaluations(self, features: Features) -> int:
        """The number of coalitions in all trials."""
        return self.trials * self.estimator.evaluations(features.count, self.stopping.evaluations)

    def most(self, features: int) -> int:
        """The most coalitions in one trial."""
        stopping = self.stopping
        if stopping.evaluations is not None or not stopping.adaptive:
            return self.estimator.evaluations(features, stopping.evaluations)
        if stopping.seconds is not None or stopping.metered is not None:
            return 1 << features
        return min(1 << features, MAX_ROWS + 2 * self.estimator.least(features))

    def quicker(self, method: PerturbationAttribution, features: Sequence[int], share: float) -> list[str]:
        """Suggests options that take at most half of the evaluations.

        Args:
            method: The method of these options.
            features: The number of features of each prompt.
            share: The desired fraction of the evaluations.
        """
        if self.stopping.adaptive:
            less = ["a larger until"] if self.stopping.wants_certainty else []
            return [*less, "budget='30 s'" if self.stopping.budget is None else "a smaller budget"]

        def cost(kind: type[PerturbationAttribution], **given: Any) -> float:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error", UserWarning)
                    estimator = kind.estimator(**given)
                    return sum(estimator.evaluations(count) for count in features)
            except (InvalidValue, UserWarning):
                return inf

        exact = type(method) is METHODS["shapley_values"]
        kind, given = (METHODS["kernel_shap"], {}) if exact else (type(method), self.method_options)
        most = sum(map(self.estimator.evaluations, features)) / 2
        suggestions = [] if self.estimator.fixed else ["budget='30 s'"]
        if not exact and "n_samples" not in self.accepted(method):
            return suggestions
        costs = {size: cost(kind, **{**given, "n_samples": size}) for size in SAMPLES}
        fewer = [size for size in SAMPLES if costs[size] <= most]
        size = next((size for size in fewer if costs[size] <= 2 * share * most), fewer[-1] if fewer else None)
        if size is None:
            return suggestions
        other = "method='kernel_shap', " if exact else ""
        return [f"{other}n_samples={size} ({costs[size]:,} evaluations)", *suggestions]

    def features(self, inp: InterpretableInput) -> Features:
        """The features of an input, grouped by the mask, if any."""
        return Features.of(self.feature_mask, (inp.to_tensor(),))
