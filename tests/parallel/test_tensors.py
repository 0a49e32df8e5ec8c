"""The tensor API shared by several processes gives the numbers of one."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import llm_attr
from llm_attr.attr import (
    DataLoaderAttribution,
    FeatureAblation,
    GradientShap,
    InputXGradient,
    IntegratedGradients,
    KernelShap,
    LayerConductance,
    Lime,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValueSampling,
)
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.memory import is_out_of_memory
from llm_attr.errors import InvalidTarget, OutOfMemory
from tests.parallel.processes import needs_gloo, values

pytestmark = [needs_gloo, pytest.mark.usefixtures("one_thread")]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double().eval()


NET = network()
X = torch.linspace(-1, 2, 12, dtype=torch.float64).view(2, 6)
STATES = torch.linspace(0, 1, 30, dtype=torch.float64).view(5, 6)

CASES: dict[str, Callable[[], Any]] = {
    "ablation": lambda: FeatureAblation(NET).attribute(X, target=1),
    "occlusion": lambda: Occlusion(NET).attribute(X, (2,), target=1, perturbations_per_eval=2),
    "kernel_shap": lambda: KernelShap(NET).attribute(X[:1], target=1, n_samples=20),
    "sampling": lambda: ShapleyValueSampling(NET).attribute(X, target=1, n_samples=5),
    "adaptive": lambda: ShapleyValueSampling(NET).attribute(X, target=1, until=0.05),
    "integrated": lambda: IntegratedGradients(NET).attribute(X, target=1, n_steps=20, internal_batch_size=4),
    "delta": lambda: IntegratedGradients(NET).attribute(X, target=1, n_steps=7, return_convergence_delta=True),
    "targets": lambda: IntegratedGradients(NET).attribute(X, targets=[0, 2], n_steps=6),
    "gradient_shap": lambda: GradientShap(NET).attribute(X, STATES, target=1, n_samples=8),
    "noise": lambda: NoiseTunnel(Saliency(NET)).attribute(X, target=1, nt_samples=7, nt_type="vargrad"),
    "noisy_shap": lambda: NoiseTunnel(GradientShap(NET)).attribute(X, target=1, nt_samples=3, baselines=STATES),
    "conductance": lambda: LayerConductance(NET, NET[1]).attribute(X, target=1, n_steps=9),
    "one pass": lambda: InputXGradient(NET).attribute(X, target=1),
    "lime": lambda: Lime(NET).attribute(X[:1], target=1, n_samples=12),
    "data": lambda: DataLoaderAttribution(FeatureAblation(lambda x: NET(x).sum(0))).attribute([X, X + 1]),
}


def seeded() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


@pytest.fixture(scope="module", params=[2, 3])
def shared(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each process found; only the first one's random streams are seeded."""

    def work(rank: int) -> dict[str, Any]:
        found = {}
        for name, case in CASES.items():
            if rank == 0:
                seeded()
            with llm_attr.parallel():
                found[name] = case()
        return found

    return values(work, request.param)


@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_process(name: str, shared: list[dict[str, Any]]) -> None:
    seeded()
    expected = CASES[name]()
    for found in shared:
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-12)


def test_the_calls_are_divided() -> None:
    calls = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal calls
        calls += len(x)
        return NET(x)

    def work(rank: int) -> int:
        with llm_attr.parallel():
            FeatureAblation(counted).attribute(X[:1].repeat(1, 1), target=1, perturbations_per_eval=1)
            IntegratedGradients(counted).attribute(X[:1], target=1, n_steps=21, internal_batch_size=1)
        return calls

    of_each = values(work, 2)
    assert of_each == [4 + 11, 3 + 10]


def test_streams_of_the_other_processes_stay() -> None:
    def work(rank: int) -> tuple[bool, bool]:
        torch.manual_seed(rank)
        before = torch.get_rng_state()
        with llm_attr.parallel():
            KernelShap(NET).attribute(X[:1], target=1, n_samples=24)
        return rank == 0, torch.equal(before, torch.get_rng_state())

    assert values(work, 2) == [(True, False), (False, True)]


def test_too_little_memory_in_one_process() -> None:
    def work(rank: int) -> list[tuple[int, int]]:
        sizes = []

        def piece(start: int, stop: int) -> tuple[int, int]:
            if rank == 1 and stop - start > 2:
                raise MemoryError
            sizes.append((start, stop))
            return start, stop

        evaluator = Evaluator("work", 20)
        with llm_attr.parallel(), pytest.warns(RuntimeWarning, match="did not fit into memory"):
            return list(evaluator.share_out(20, 8, piece))

    (one, other) = values(work, 2)
    assert one == other == [(start, start + 2) for start in range(0, 20, 2)]


def test_errors_are_the_same_everywhere() -> None:
    def work(rank: int) -> type[BaseException]:
        with pytest.raises(InvalidTarget) as raised, llm_attr.parallel():
            Saliency(NET).attribute(X, target=7)
        return type(raised.value)

    assert values(work, 2) == [InvalidTarget] * 2


def test_out_of_memory_is_told() -> None:
    def work(rank: int) -> bool:
        def piece(start: int, stop: int) -> int:
            raise MemoryError

        with pytest.raises(OutOfMemory) as raised, llm_attr.parallel():
            list(Evaluator("work", 2).share_out(2, 1, piece))
        return is_out_of_memory(raised.value)

    assert values(work, 2) == [True, True]
