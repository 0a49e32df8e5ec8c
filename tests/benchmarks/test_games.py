"""Sampled and exact games against Captum: time side by side, what was evaluated, and evaluations to the same error.

Run: pytest tests/benchmarks/test_games.py -m benchmark -s

Captum's sides are S, `forward_in_tokens=False`, the fastest of its correct options. KernelShap and Lime on
tensors are in test_surrogates.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import captum.attr
import pytest
import torch
from torch import Tensor

import llm_attr
from llm_attr.attr import LLMAttribution
from llm_attr.core.estimators.kernel_shap import AdditiveRegression
from llm_attr.core.estimators.odd_shap import OddRegression
from llm_attr.core.estimators.shapley import RandomOrders
from llm_attr.llm.results.result import LLMAttributionResult
from tests.benchmarks.exact_games import REPEATS, Found, evaluations_until, exact_game
from tests.benchmarks.jobs import OURS, RAG12, TMPL6, TMPL10, Job
from tests.benchmarks.measure import Side, compare, report
from tests.benchmarks.test_feature_ablation import relative_difference
from tests.benchmarks.test_path import counted, mlp
from tests.reference.scoring import distinct_prefixes

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def lm() -> llm_attr.LanguageModel:
    return llm_attr.load_model("smollm2-135m")


@pytest.fixture(scope="module")
def folder(request: pytest.FixtureRequest) -> Path:
    return request.config.cache.mkdir("exact_games")


def our_side(lm: llm_attr.LanguageModel, method: str, job: Job, **options: Any) -> Side:
    explainer = LLMAttribution(getattr(OURS, method)(lm.model), lm.tokenizer)
    inp = job.make_input(OURS, lm.tokenizer)

    def run() -> LLMAttributionResult:
        torch.manual_seed(0)
        return explainer.attribute(inp, target=job.target, **options)

    return Side(f"llm_attr {method} {_shown(options)}", run)


def their_side(lm: llm_attr.LanguageModel, method: str, job: Job, **options: Any) -> Side:
    explainer = captum.attr.LLMAttribution(getattr(captum.attr, method)(lm.model), lm.tokenizer)
    inp = job.make_input(captum.attr, lm.tokenizer)

    def run() -> Any:
        torch.manual_seed(0)
        return explainer.attribute(inp, target=job.target, forward_in_tokens=False, **options)

    return Side(f"captum S {method} {_shown(options)}", run)


def _shown(options: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in options.items())


@dataclass(frozen=True)
class Cost:
    """What an attribution of a prompt may cost at the most.

    Attributes:
        asked: Coalitions.
        distinct: Those of them that differ.
        positions: Nodes of the prefix tree over the variants and the answer.
        head_rows: Variants times tokens of the answer.
    """

    asked: int
    distinct: int
    positions: int
    head_rows: int

    @classmethod
    def of(cls, lm: llm_attr.LanguageModel, result: LLMAttributionResult) -> Cost:
        coalitions, answer = result.table.coalitions, result.output_ids
        variants = {lm_ids(lm, result, row) for row in coalitions.unique(dim=0)}
        nodes = distinct_prefixes([(*variant, *answer[:-1]) for variant in variants])
        return cls(len(coalitions), len(coalitions.unique(dim=0)), nodes, len(variants) * len(answer))

    def check(self, result: LLMAttributionResult) -> None:
        cost = result.provenance
        print(
            f"  {self.asked} coalitions asked, {self.distinct} distinct, {cost['variants']} variants; {cost['passes']} "
            f"calls, {cost['positions']} positions (tree of {self.positions} nodes), {cost['head_rows']} head rows"
        )
        assert cost["variants"] <= self.distinct
        assert cost["positions"] <= self.positions
        assert cost["head_rows"] <= self.head_rows


def lm_ids(lm: llm_attr.LanguageModel, result: LLMAttributionResult, coalition: Tensor) -> tuple[int, ...]:
    return tuple(lm.tokenizer.encode(result.inp.to_model_input(coalition[None].long())))


@pytest.mark.parametrize(("job", "goal"), [(TMPL10, 2.5), (RAG12, 3.0)], ids=lambda x: getattr(x, "name", x))
def test_shapley_value_sampling(lm: llm_attr.LanguageModel, job: Job, goal: float) -> None:
    sides = [side(lm, "ShapleyValueSampling", job, n_samples=10) for side in (our_side, their_side)]
    sides[0].run()
    compare(sides, 3, lm.model)
    print("\n" + report(f"{job.name}, goal {goal} x S", sides))
    found, expected = sides[0].result, sides[1].result
    features = len(found.seq_attr)
    cost = Cost.of(lm, found)
    cost.check(found)
    print(f"  relative difference {relative_difference(found.seq_attr, expected.seq_attr):.1e}")
    assert cost.asked == 10 * (features + 1)
    assert cost.distinct <= 2 + 10 * (features - 1)
    assert sides[0].calls < sides[1].calls
    assert sides[0].positions < sides[1].positions
    assert sides[0].head_rows < sides[1].head_rows
    assert relative_difference(found.seq_attr, expected.seq_attr) <= 1e-4


def test_kernel_shap(lm: llm_attr.LanguageModel, folder: Path) -> None:
    game = exact_game(lm, TMPL10, folder)
    sides = [side(lm, "KernelShap", TMPL10, n_samples=100) for side in (our_side, their_side)]
    sides[0].run()
    compare(sides, 3, lm.model)
    print("\n" + report("tmpl10, goal 2.7 x S", sides))
    cost = Cost.of(lm, sides[0].result)
    cost.check(sides[0].result)
    found, theirs = (game.error(side.result.seq_attr) for side in sides)
    print(f"  relative RMSE against the exact values: llm_attr {found:.4f}, captum {theirs:.4f}")
    assert cost.asked == cost.distinct == 100
    assert sides[0].positions < sides[1].positions
    assert found < theirs


def test_exact(lm: llm_attr.LanguageModel) -> None:
    """Captum asks for 4,321 evaluations; the time of 13 is measured."""
    sides = [our_side(lm, "ShapleyValues", TMPL6), their_side(lm, "ShapleyValueSampling", TMPL6, n_samples=2)]
    sides[0].run()
    compare(sides, 3, lm.model)
    print("\n" + report("exact ShapleyValues of 6 features, goal 160 x S", sides))
    cost = Cost.of(lm, sides[0].result)
    cost.check(sides[0].result)
    wall, busy = (4321 / 13 * ratio for ratio in ratios(sides))
    print(f"  captum's 4,321 evaluations, extrapolated from 13: {wall:.0f} x wall, {busy:.0f} x cpu")
    assert cost.asked == cost.distinct == 64


def ratios(sides: list[Side]) -> tuple[float, float]:
    """How much longer the second side takes than the first: wall, processor."""
    ours, theirs = sides
    return theirs.median / ours.median, theirs.median_busy / ours.median_busy


def odd(seed: int, n_samples: int) -> OddRegression:
    return OddRegression(n_samples, seed)


def additive(seed: int, n_samples: int) -> AdditiveRegression:
    return AdditiveRegression(n_samples, seed)


@dataclass(frozen=True)
class SameError:
    """A row of the table of evaluations to the same error.

    Attributes:
        job: The prompt.
        n_samples: Captum's orders.
        most: Evaluations after which OddShap may be no further off.
        goal: How many times as long Captum should take.
    """

    job: Job
    n_samples: int
    most: int
    goal: int


SAME_ERROR = [
    SameError(TMPL10, 25, 32, 15), SameError(TMPL10, 100, 54, 30),
    SameError(RAG12, 25, 95, 8), SameError(RAG12, 100, 200, 15),
]  # fmt: skip


@pytest.mark.parametrize("row", SAME_ERROR, ids=lambda row: f"{row.job.name}-{row.n_samples}")
def test_same_error(lm: llm_attr.LanguageModel, folder: Path, row: SameError) -> None:
    game = exact_game(lm, row.job, folder)
    features, evaluations = game.features, row.n_samples * game.features + 1
    theirs = game.theirs("ShapleyValueSampling", row.n_samples)
    print(f"\n{row.job.name}: captum n={row.n_samples}, {evaluations} evaluations, {theirs.distinct:.0f} distinct: "
          f"relative RMSE {theirs.error:.4f}, mean of {REPEATS} runs; goal {row.goal} x in time")  # fmt: skip
    ways: dict[str, Callable[[int], Found]] = {
        "OddShap": lambda n: game.ours(partial(odd, n_samples=n)),
        "KernelShap": lambda n: game.ours(partial(additive, n_samples=n)),
        "PermutationShapley": lambda n: game.ours(lambda seed: RandomOrders(1, True, seed), n),
        "ShapleyValueSampling": lambda n: game.ours(lambda seed: RandomOrders(1, False, seed), n),
    }
    needed = {}
    for name, way in ways.items():
        needed[name] = evaluations_until(theirs.error, way, 2 * features, 1 << features)
        print(
            f"  {name:32} {needed[name]:4} evaluations: {evaluations / needed[name]:5.1f} x fewer, "
            f"{theirs.distinct / needed[name]:5.1f} x fewer distinct ones"
        )
    sides = [our_side(lm, "OddShap", row.job, n_samples=needed["OddShap"]),
             their_side(lm, "ShapleyValueSampling", row.job, n_samples=1)]  # fmt: skip
    sides[0].run()
    compare(sides, 3, lm.model)
    wall, busy = (evaluations / (features + 1) * ratio for ratio in ratios(sides))
    print(report("time", sides))
    print(f"  in time, captum extrapolated from {features + 1} evaluations: {wall:.1f} x wall, {busy:.1f} x cpu")
    assert game.ours(partial(odd, n_samples=row.most)).error <= theirs.error


@pytest.mark.parametrize("job", [TMPL10, RAG12], ids=lambda job: job.name)
def test_error_curve(lm: llm_attr.LanguageModel, folder: Path, job: Job) -> None:
    game = exact_game(lm, job, folder)
    print(f"\n{job.name}: relative RMSE, means of {REPEATS} runs; largest share "
          f"{(game.exact.abs().max() / game.exact.abs().sum()).item():.0%}")  # fmt: skip
    for n in (10, 25, 100):
        found = game.theirs("ShapleyValueSampling", n)
        print(f"  captum ShapleyValueSampling n={n}: {found.distinct:.0f} distinct, {found.error:.4f}")
    for n in (100, 400):
        found = game.theirs("KernelShap", n)
        print(f"  captum KernelShap n={n}: {found.distinct:.0f} distinct, {found.error:.4f}")
    for n in (24, 32, 50, 100, 200, 400):
        kernel, plain = game.ours(partial(odd, n_samples=n)), game.ours(partial(additive, n_samples=n))
        paired, single = (game.ours(lambda seed, p=p: RandomOrders(1, p, seed), n) for p in (True, False))
        print(f"  {n:4}: OddShap {kernel.error:.4f}, KernelShap {plain.error:.4f}, "
              f"PermutationShapley {paired.error:.4f} ({paired.distinct:.0f}), "
              f"ShapleyValueSampling {single.error:.4f} ({single.distinct:.0f})")  # fmt: skip
        assert kernel.distinct == n
        assert max(paired.distinct, single.distinct) <= n


def test_core() -> None:
    """A doubled batch is tried first, which costs one batch more."""
    model, inputs = mlp(), torch.rand(64, 30, generator=torch.manual_seed(1))

    def run(library: Any, **options: Any) -> Tensor:
        torch.manual_seed(0)
        return library.ShapleyValueSampling(model).attribute(inputs, target=1, n_samples=25, **options)

    sides = [Side("llm_attr", partial(run, OURS))]
    for count in (1, 2, 4, 8, 16, 30):
        sides.append(Side(f"captum, {count} at once", partial(run, captum.attr, perturbations_per_eval=count)))
    calls = []
    for side in sides:
        with counted(model) as found:
            side.run()
        calls.append(found)
    compare(sides, 21)
    print("\n" + report("ShapleyValueSampling, MLP 64x30, n=25, goal 2 x its best", sides))
    for side, found in zip(sides, calls, strict=True):
        print(f"  {side.name}: {found.count} calls, {found.rows} rows")
    assert calls[0].rows <= 64 * (2 + 25 * 29 + 1)
    assert calls[0].count < min(found.count for found in calls[1:])
    assert relative_difference(sides[0].result, sides[1].result) <= 1e-4
