"""KernelShap and Lime against Captum: time for the same number of evaluations, and evaluations for the same error.

Run: pytest tests/benchmarks -m benchmark -s
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import captum.attr
import pytest
import torch
from torch import nn

import llm_attr
from llm_attr.attr import KernelShap, Lime, LLMAttribution, ShapleyValues
from llm_attr.core.estimators.kernel_shap import AdditiveRegression
from llm_attr.core.estimators.odd_shap import OddRegression
from llm_attr.core.estimators.shapley import RandomOrders
from llm_attr.core.game.driver import play
from tests.benchmarks.jobs import OURS, RAG12, TMPL10, Job
from tests.benchmarks.measure import Side, compare, report
from tests.core.games import TableGame

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize(("name", "examples", "goal"), [("KernelShap", 16, 50), ("Lime", 4, 20)])
def test_mlp(name: str, examples: int, goal: int) -> None:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    inputs = torch.randn(examples, 30)

    def side(method: Any) -> Callable[[], Any]:
        return lambda: method.attribute(inputs, target=1, n_samples=200)

    ours = {"KernelShap": KernelShap, "Lime": Lime}[name]
    sides = [Side("llm_attr", side(ours(mlp))), Side("captum", side(getattr(captum.attr, name)(mlp)))]
    sides[0].run()
    compare(sides, 5)
    print("\n" + report(f"{name}, MLP {examples}x30, n_samples=200, goal {goal} x", sides))


@pytest.mark.parametrize("job", [TMPL10, RAG12], ids=lambda job: job.name)
def test_evaluations_for_the_same_error(job: Job) -> None:
    lm = llm_attr.load_model("smollm2-135m")
    method = LLMAttribution(ShapleyValues(lm.model), lm.tokenizer)
    exact = method.attribute(job.make_input(OURS, lm.tokenizer), target=job.target)
    features, truth = len(exact.seq_attr), exact.seq_attr.double()
    game = TableGame(exact.table.values.sum(-1).reshape(-1, 1).double())

    def error(make: Callable[[int], Any]) -> tuple[float, float]:
        errors, distinct = 0.0, 0
        for seed in range(60):
            game.asked = []
            estimator = make(seed)
            found = play(game, estimator, features)
            estimate = estimator.estimate(found.coalitions, found.values).values[:, 0]
            errors += ((estimate - truth).norm() / truth.norm()).item() / 60
            distinct += len(game.asked)
        return errors, distinct / 60

    print(f"\n{job.name}: mean relative error of 60 runs at so many distinct evaluations")
    for samples in (25, 100):
        found, distinct = error(lambda seed, samples=samples: RandomOrders(samples, False, seed))
        print(f"  orders (Captum's ShapleyValueSampling, n={samples:3}) {distinct:6.0f}  {found:.4f}")
    for samples in (24, 32, 50, 100, 200, 250):
        for name, regression in (("OddShap", OddRegression), ("KernelShap", AdditiveRegression)):
            found, distinct = error(lambda seed, n=samples, make=regression: make(n, seed))
            print(f"  {name:48} {distinct:6.0f}  {found:.4f}")
