"""Games of prompts whose every coalition is known, so that estimators can be compared without a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import captum.attr
import torch
from torch import Tensor

import llm_attr
from llm_attr.attr import LLMAttribution, ShapleyValues
from llm_attr.core.estimators.shapley import shapley_values
from llm_attr.core.game.driver import Estimator, play
from llm_attr.core.game.stopping import Stopping
from tests.benchmarks.jobs import OURS, Job
from tests.core.games import TableGame

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


class ExactGame:
    """A game of which everything is known.

    Args:
        values: fp64 `(2^features,)`; bit i of the number of a coalition says whether feature i is present.

    Attributes:
        table: Looks them up.
        features: How many there are.
        exact: `(features,)` the Shapley values.
    """

    def __init__(self, values: Tensor) -> None:
        self.table = TableGame(values[:, None])
        self.features = self.table.features
        self.exact = shapley_values(self.table.table)[:, 0]

    def error(self, found: Tensor) -> float:
        """Relative RMSE."""
        return ((found.flatten() - self.exact).pow(2).mean() / self.exact.pow(2).mean()).sqrt().item()

    def ours(self, estimator: Callable[[int], Estimator], budget: int | None = None) -> Found:
        """Of an estimator of this library, made from a seed."""

        def run(seed: int) -> Tensor:
            made = estimator(seed)
            played = play(self.table, made, self.features, None if budget is None else Stopping(evaluations=budget))
            return made.estimate(played.coalitions, played.values).values

        return self._found(run)

    def theirs(self, method: str, n_samples: int) -> Found:
        """Of a method of Captum, which plays a forward function that looks up."""
        ones = torch.ones(1, self.features)
        explainer: Any = getattr(captum.attr, method)(lambda x: self.table(x)[:, 0])
        options = {"perturbations_per_eval": self.features} if method == "ShapleyValueSampling" else {}

        def run(seed: int) -> Tensor:
            torch.manual_seed(seed)
            return explainer.attribute(ones, torch.zeros_like(ones), n_samples=n_samples, **options)

        return self._found(run)

    def _found(self, run: Callable[[int], Tensor]) -> Found:
        errors, distinct = 0.0, 0
        for seed in range(REPEATS):
            self.table.asked.clear()
            errors += self.error(run(seed))
            distinct += len(set(self.table.asked))
        return Found(distinct / REPEATS, errors / REPEATS)


def exact_game(lm: llm_attr.LanguageModel, job: Job, folder: Path) -> ExactGame:
    """The game of a prompt and its whole answer, in nats; played once and kept in the folder."""
    inp = job.make_input(OURS, lm.tokenizer)
    absent = inp.to_model_input(torch.zeros_like(inp.to_tensor()))
    name = sha256("\0".join([lm.name, inp.to_model_input(), absent, job.target]).encode()).hexdigest()
    file = folder / f"{job.name}-{name[:16]}.pt"
    if not file.exists():
        result = LLMAttribution(ShapleyValues(lm.model), lm.tokenizer).attribute(inp, target=job.target)
        torch.save(result.table.values[0].double().sum(1), file)
    return ExactGame(torch.load(file, weights_only=True))


def evaluations_until(error: float, found: Callable[[int], Found], least: int, most: int) -> int:
    """The fewest evaluations, an even number, whose mean error is at most this, by bisection; `most` if none is."""
    low, high = least // 2, most // 2
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if found(2 * middle).error <= error else (middle + 1, high)
    return 2 * low
