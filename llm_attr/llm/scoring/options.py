"""What the keywords of an attribution say."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from math import inf
from typing import Any

from torch import Tensor

from llm_attr.attr.perturbation import PerturbationAttribution
from llm_attr.core.game.driver import MAX_ROWS, Estimator
from llm_attr.core.game.features import Features
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.registry import METHODS
from llm_attr.errors import InvalidValue, UnknownKeyword
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.keywords import refuse_unknown
from llm_attr.llm.scoring.text_game import Inspector
from llm_attr.llm.target.generation import GenArgs
from llm_attr.llm.target.scalar import Scalar

SAMPLES = (1000, 500, 250, 100, 50, 25, 10, 5, 2)
"""Sizes of samples that are named where one is quicker."""

_OF_CALL = {"feature_mask", "perturbations_per_eval", "show_progress", "until", "budget"}


@dataclass(frozen=True)
class Options:
    """How prompts are to be explained.

    Attributes:
        estimator: Asks for coalitions.
        method_options: What it was made with.
        trials: Samples of an input's random baselines.
        gen_args: Arguments of `generate` where an answer is wanted.
        cached: False scores every variant whole and without cache.
        inspect: Is shown every variant.
        scalars: What is attributed.
        feature_mask: Which features are left out together, `(1, features)`.
        perturbations_per_eval: The most variants of one pass.
        show_progress: Whether a bar is shown.
        until: How sure a sampled method is to be, see `PerturbationAttribution`.
        budget: How much a sampled method may spend on each prompt, see `PerturbationAttribution`; also as `"50 passes"`
            or `"2000 positions"`.
    """

    estimator: Estimator
    method_options: Mapping[str, Any]
    trials: int
    gen_args: GenArgs | None
    cached: bool
    inspect: Inspector | None
    scalars: tuple[Scalar, ...]
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
        """Every keyword that explaining a text with this method takes."""
        return _OF_CALL | set(signature(method.estimator).parameters)

    @classmethod
    def split(cls, method: PerturbationAttribution, keywords: Mapping[str, Any], **of_attribute: Any) -> Options:
        """Sorts keywords into those of the call and those of the method's estimator.

        Raises:
            UnknownKeyword: neither takes one of them.
            InvalidValue: a number of trials or of variants is less than one.
        """
        refuse_unknown(f"LLMAttribution.attribute with {method.get_name()}", keywords, cls.accepted(method))
        own = {name: value for name, value in keywords.items() if name not in _OF_CALL}
        of_method = {**cls._told(method, of_attribute["scalars"]), **method.estimator_options, **own}
        of_call = {name: value for name, value in keywords.items() if name in _OF_CALL}
        options = cls(method.estimator(**of_method), of_method, **of_attribute, **of_call)
        most, trials = options.perturbations_per_eval, options.trials
        if most is not None and most < 1:
            raise InvalidValue(f"perturbations_per_eval must be at least 1 or None; got {most}")
        if options.estimator.fixed and options.stopping.adaptive:
            raise UnknownKeyword(
                f"{method.get_name()}, which asks for a fixed number of evaluations,",
                {"until", "budget"} & set(keywords),
                cls.accepted(method) - {"until", "budget"},
            )
        if not isinstance(trials, int) or trials < 1:
            raise InvalidValue(f"num_trials must be a whole number of at least 1; got {trials!r}")
        return options

    @staticmethod
    def _told(method: PerturbationAttribution, scalars: tuple[Scalar, ...]) -> dict[str, bool]:
        """What an estimator that asks for it is told of the values: whether they are log-probabilities."""
        if "log_prob" not in signature(method.estimator).parameters:
            return {}
        return {"log_prob": all(scalar.name == "log_prob" for scalar in scalars)}

    def method_seed(self, method: PerturbationAttribution) -> int | None:
        """The seed of the sample; None: torch's global stream, or there is no sample."""
        asked = signature(method.estimator).bind_partial(**self.method_options)
        asked.apply_defaults()
        return None if self.estimator.fixed else asked.arguments.get("seed")

    def evaluations(self, features: Features) -> int:
        """How many coalitions are asked for, in all trials."""
        return self.trials * self.estimator.evaluations(features.count, self.stopping.evaluations)

    def most(self, features: int) -> int:
        """The most coalitions that may be asked for, in one trial."""
        stopping = self.stopping
        if stopping.evaluations is not None or not stopping.adaptive:
            return self.estimator.evaluations(features, stopping.evaluations)
        if stopping.seconds is not None or stopping.metered is not None:
            return 1 << features
        return min(1 << features, MAX_ROWS + 2 * self.estimator.least(features))

    def quicker(self, method: PerturbationAttribution, features: Sequence[int], share: float) -> list[str]:
        """Other options with which so many features for each prompt take at most half of the evaluations.

        Args:
            method: The method of these options.
            features: How many each prompt has.
            share: The share of the evaluations that would be welcome.
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
        found = [] if self.estimator.fixed else ["budget='30 s'"]
        if not exact and "n_samples" not in self.accepted(method):
            return found
        costs = {size: cost(kind, **{**given, "n_samples": size}) for size in SAMPLES}
        fewer = [size for size in SAMPLES if costs[size] <= most]
        size = next((size for size in fewer if costs[size] <= 2 * share * most), fewer[-1] if fewer else None)
        if size is None:
            return found
        other = "method='kernel_shap', " if exact else ""
        return [f"{other}n_samples={size} ({costs[size]:,} evaluations)", *found]

    def features(self, inp: InterpretableInput) -> Features:
        """The features of an input, grouped by the mask if there is one."""
        return Features.of(self.feature_mask, (inp.to_tensor(),))
