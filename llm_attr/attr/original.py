"""The input that a surrogate is local to, as callables of the caller's are told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.core.estimators.random_ablations import Draw, Similarity
from llm_attr.core.estimators.similarity import ExponentialKernel, Products
from llm_attr.core.game.features import Features
from llm_attr.core.game.tensor_game import points
from llm_attr.core.problem import Problem
from llm_attr.core.target import TargetOrSeveral
from llm_attr.core.tensors import in_slots, map_tensors
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.typing import Coalitions, TensorOrTensors, Tensors

SimilarityFunction: TypeAlias = Callable[..., Any]
"""`(original_input, perturbed_input, perturbed_interpretable_input (1, features), **told) -> number`."""

PerturbFunction: TypeAlias = Callable[..., Any]
"""`(original_input, **told) -> (1, features)` of zeros and ones, or a generator of these."""


@dataclass(frozen=True)
class Original:
    """An input, and what is told with it.

    Attributes:
        problem: Holds the input and its baselines.
        features: Who owns which position.
        told: The keyword arguments `baselines`, `feature_mask` and `num_interp_features`.
    """

    problem: Problem
    features: Features
    told: Mapping[str, Any]

    @classmethod
    def of(cls, problem: Problem, features: Features, baselines: Any, feature_mask: Any) -> Original:
        """With the baselines and the mask as the caller gave them; Captum's defaults where there were none."""
        single = problem.slots[0].single
        if baselines is None:
            baselines = 0 if single else (0,) * len(problem.inputs)
        if feature_mask is None:
            feature_mask = in_slots(features.owner, problem.slots)[0]
        told = {"baselines": baselines, "feature_mask": feature_mask, "num_interp_features": features.count}
        return cls(problem, features, told)

    @classmethod
    def presence(cls, count: int) -> Original:
        """Of a text: ones for its units, which become zeros where they are absent."""
        ones = torch.ones(1, count, dtype=torch.float32, device="cpu")
        return cls.of(problem := Problem.of(_nothing, ones), Features.single(problem.inputs), None, None)

    @property
    def inputs(self) -> TensorOrTensors:
        """The input in the caller's form."""
        return self._in_form(self.problem.inputs)

    def examples(self) -> list[Original]:
        """Each example for itself."""
        return [self._example(i) for i in range(self.problem.batch)]

    def similarity(self, function: SimilarityFunction) -> Similarity:
        """The weights that a function gives to coalitions."""
        if isinstance(function, ExponentialKernel):
            products = Products.of(self.features, self.problem.inputs, self.problem.baselines)
            return lambda coalitions, outputs: products.similarities(function, coalitions, outputs)

        def weigh(coalitions: Coalitions, outputs: int) -> Tensor:
            return torch.tensor(
                [[self._weight(function, row)] for row in coalitions.split(1)], dtype=torch.float64, device="cpu"
            )

        return weigh

    def draw(self, function: PerturbFunction) -> Draw:
        """The coalitions that a function gives."""

        def rows(features: int) -> Iterator[Coalitions]:
            first = function(self.inputs, **self.told)
            if not isinstance(first, Tensor):
                yield from (_row(row, features) for row in first)
                return
            yield _row(first, features)
            while True:
                yield _row(function(self.inputs, **self.told), features)

        return rows

    def _weight(self, function: SimilarityFunction, row: Coalitions) -> float:
        perturbed = points(self.features, row, self.problem.inputs, self.problem.baselines)
        weight = float(function(self.inputs, self._in_form(perturbed), row.float(), **self.told))
        if not 0 <= weight < float("inf"):
            raise InvalidValue(f"similarity_func must give a finite number of at least 0; got {weight}")
        return weight

    def _in_form(self, tensors: Tensors) -> TensorOrTensors:
        return in_slots(tensors, self.problem.slots)[0]

    def _example(self, i: int) -> Original:
        batch = self.problem.batch

        def own(value: Any) -> Any:
            return map_tensors(lambda x: x[i : i + 1] if x.dim() and len(x) == batch else x, value)

        problem = replace(
            self.problem,
            inputs=own(self.problem.inputs),
            baselines=own(self.problem.baselines),
            batch=1,
            extras=own(self.problem.extras),
            target=_own_target(self.problem.target, i),
        )
        told = {**self.told, "baselines": own(self.told["baselines"]), "feature_mask": own(self.told["feature_mask"])}
        return Original(problem, replace(self.features, owner=own(self.features.owner)), told)


def _own_target(target: TargetOrSeveral, i: int) -> TargetOrSeveral:
    if isinstance(target, Tensor) and target.numel() > 1:
        return target[i : i + 1]
    return target[i : i + 1] if isinstance(target, list) else target


def _row(row: Any, features: int) -> Coalitions:
    if not isinstance(row, Tensor):
        raise InvalidType(f"perturb_func must give tensors (1, {features}) or a generator of these; got {type(row)}")
    if row.numel() != features:
        raise InvalidShape(f"perturb_func must give tensors of the shape (1, {features}); got {tuple(row.shape)}")
    row = row.detach().reshape(1, features).cpu()
    if not ((row == 0) | (row == 1)).all():
        raise InvalidValue("perturb_func must give zeros (absent) and ones (present) only")
    return row.bool()


def _nothing(x: Tensor) -> Tensor:
    return x.sum(1)
