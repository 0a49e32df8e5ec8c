"""Games of prompts whose every coalition is known, so that estimators can be compared without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import captum.attr
import torch
from torch import Tensor

import llm_attr
from llm_attr.attr import LLMAttribution, ShapleyValues
from llm_attr.core.play import Estimator, Stopping, play
from llm_attr.core.shapley import shapley_values
from llm_attr.typing import Coalitions, Values
from tests.benchmarks.jobs import OURS, Job

REPEATS = 60


@dataclass(frozen=True)
class Found:
    """What estimates cost and how far they are from the truth, means over the repeats.

    Attributes:
        distinct: Distinct coalitions.
        error: Relative RMSE.
    """

    distinct: float
    error: float


@dataclass(frozen=True)
class TabulatedGame:
    """A game that is looked up.

    Attributes:
        values: fp64 `(2^features,)`; bit i of the number of a coalition says whether feature i is present.
    """

    values: Tensor

    @cached_property
    def features(self) -> int:
        return (len(self.values) - 1).bit_length()

    @cached_property
    def exact(self) -> Tensor:
        """`(features,)` the Shapley values."""
        return shapley_values(self.values[:, None])[:, 0]

    def numbers(self, coalitions: Tensor) -> Tensor:
        return (coalitions.long() << torch.arange(self.features)).sum(1)

    def __call__(self, coalitions: Coalitions) -> Values:
        return self.values[self.numbers(coalitions)][:, None]

    def error(self, found: Tensor) -> float:
        """Relative RMSE."""
        return ((found.flatten() - self.exact).pow(2).mean() / self.exact.pow(2).mean()).sqrt().item()

    def ours(self, estimator: Callable[[int], Estimator], budget: int | None = None) -> Found:
        """Of an estimator of this library, made from a seed."""
        errors, distinct = [], []
        for seed in range(REPEATS):
            made = estimator(seed)
            played = play(self, made, self.features, None if budget is None else Stopping(evaluations=budget))
            errors.append(self.error(made.estimate(played.coalitions, played.values).values))
            distinct.append(len(self.numbers(played.coalitions).unique()))
        return Found(sum(distinct) / REPEATS, sum(errors) / REPEATS)

    def theirs(self, method: str, n_samples: int) -> Found:
        """Of a method of Captum, which plays a forward function that looks up."""
        errors, distinct = [], []
        options = {"perturbations_per_eval": self.features} if method == "ShapleyValueSampling" else {}
        for seed in range(REPEATS):
            asked: set[int] = set()

            def forward(x: Tensor, asked: set[int] = asked) -> Tensor:
                numbers = self.numbers(x)
                asked.update(numbers.tolist())
                return self.values[numbers]

            torch.manual_seed(seed)
            ones = torch.ones(1, self.features)
            explained: Any = getattr(captum.attr, method)(forward)
            errors.append(self.error(explained.attribute(ones, torch.zeros_like(ones), n_samples=n_samples, **options)))
            distinct.append(len(asked))
        return Found(sum(distinct) / REPEATS, sum(errors) / REPEATS)


def exact_game(lm: llm_attr.LanguageModel, job: Job, folder: Path) -> TabulatedGame:
    """The game of a prompt and its whole answer, in nats; played once and kept in the folder."""
    inp = job.make_input(OURS, lm.tokenizer)
    absent = inp.to_model_input(torch.zeros_like(inp.to_tensor()))
    name = sha256("\0".join([lm.name, inp.to_model_input(), absent, job.target]).encode()).hexdigest()
    file = folder / f"{job.name}-{name[:16]}.pt"
    if not file.exists():
        result = LLMAttribution(ShapleyValues(lm.model), lm.tokenizer).attribute(inp, target=job.target)
        torch.save(result.table.values[0].double().sum(1), file)
    return TabulatedGame(torch.load(file, weights_only=True))


def evaluations_until(error: float, found: Callable[[int], Found], least: int, most: int) -> int:
    """The fewest evaluations, an even number, whose mean error is at most this, by bisection; `most` if none is."""
    low, high = least // 2, most // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(2 * middle).error <= error else (middle + 1, high)
    return 2 * low
