"""Influence of training examples beside Captum.

Run: pytest tests/benchmarks/test_influence.py -m benchmark -s
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import captum.influence
import pytest
import torch
from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction as CaptumArnoldi
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from llm_attr import influence
from tests.benchmarks.measure import Side, compare, report
from tests.benchmarks.test_feature_ablation import relative_difference
from tests.influence.models import load

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


def states(model: nn.Module, count: int = 3) -> list[dict[str, Tensor]]:
    """Checkpoints of a random walk."""
    found = []
    for _ in range(count):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value) * 0.01)
        found.append({name: value.clone() for name, value in model.state_dict().items()})
    return found


def mlp(train: int = 1000) -> tuple[nn.Module, TensorDataset, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    labels = torch.randint(0, 10, (train + 100,))
    x = torch.randn(train + 100, 64)
    return model, TensorDataset(x[100:], labels[100:]), (x[:100], labels[:100])


def cnn() -> tuple[nn.Module, TensorDataset, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(1024, 10))
    x, labels = torch.randn(1100, 3, 32, 32), torch.randint(0, 10, (1100,))
    return model, TensorDataset(x[100:], labels[100:]), (x[:100], labels[:100])


@pytest.mark.parametrize(("job", "batch_size"), [("MLP", 100), ("MLP", 250), ("MLP", 1000), ("CNN", 50), ("CNN", 200)])
def test_tracin(job: str, batch_size: int) -> None:
    model, train, tests = mlp() if job == "MLP" else cnn()
    place = (model, train, states(model), load)
    options: dict[str, Any] = {
        "loss_fn": nn.CrossEntropyLoss(reduction="sum"),
        "batch_size": batch_size,
        "sample_wise_grads_per_batch": True,
    }
    mine, its = influence.TracInCP(*place, **options), captum.influence.TracInCP(*place, **options)
    sides = [
        Side("llm_attr", lambda: mine.influence(tests)),
        Side("captum, hooks", lambda: its.influence(tests)),
    ]
    if job == "CNN" and batch_size == 50:
        options |= {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "sample_wise_grads_per_batch": False}
        loop = captum.influence.TracInCP(*place, **options)
        sides.append(Side("captum, loop", lambda: loop.influence(tests)))
    compare(sides, 7 if job == "MLP" else 3)
    goal = "15 x" if job == "MLP" else "1.4 x, 20 x the loop"
    print("\n" + report(f"TracInCP {job}, batches of {batch_size}, goal {goal}", sides))
    assert relative_difference(sides[0].result, sides[1].result) <= 1e-4


@pytest.mark.parametrize(("job", "batch_size"), [("MLP", 10), ("MLP", 100), ("MLP", 1000), ("CNN", 10), ("CNN", 100)])
def test_last_layer(job: str, batch_size: int) -> None:
    model, train, tests = mlp() if job == "MLP" else cnn()
    place = (model, model[-1], train, states(model), load)
    options: dict[str, Any] = {"loss_fn": nn.CrossEntropyLoss(reduction="sum"), "batch_size": batch_size}
    mine = influence.TracInCPFast(*place, **options, include_bias=False)
    its = captum.influence.TracInCPFast(*place, **options)
    sides = [Side("llm_attr", lambda: mine.influence(tests)), Side("captum", lambda: its.influence(tests))]
    compare(sides, 7 if job == "MLP" else 3)
    print("\n" + report(f"TracInCPFast {job}, batches of {batch_size}, goal 3 x", sides))
    assert relative_difference(sides[0].result, sides[1].result) <= 1e-4


@pytest.mark.parametrize("method", ["Arnoldi", "Naive"])
def test_influence_functions(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 32), nn.Tanh(), nn.Linear(32, 5))
    train = TensorDataset(torch.randn(1000, 20), torch.randint(0, 5, (1000,)))
    tests = (torch.randn(50, 20), torch.randint(0, 5, (50,)))
    place = (model, train, states(model, 1)[0], load)
    options: dict[str, Any] = {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "batch_size": 100}
    captums = CaptumArnoldi if method == "Arnoldi" else captum.influence.NaiveInfluenceFunction
    options |= {"arnoldi_dim": 100} if method == "Arnoldi" else {}
    kind = getattr(influence, f"{method}InfluenceFunction")
    sides = [
        Side("llm_attr", lambda: kind(*place, **options).influence(tests)),
        Side("captum", lambda: captums(*place, **options).influence(tests)),
    ]
    compare(sides, 3)
    print("\n" + report(f"{method} influence function, made and asked, goal 2 x", sides))


MEMORY = """
import resource, sys, torch
from torch import nn
from torch.utils.data import Dataset
from llm_attr.influence import TracInCP
from tests.benchmarks.test_influence import mlp, states
from tests.influence.models import load

class Made(Dataset):
    def __init__(self, count):
        self.count = count
    def __len__(self):
        return self.count
    def __getitem__(self, i):
        return torch.randn(64, generator=torch.Generator().manual_seed(i)), i % 10

torch.set_num_threads(1)
model, _, tests = mlp()
place = [states(model), load]
options = {"loss_fn": nn.CrossEntropyLoss(reduction="none"), "batch_size": 100}
TracInCP(model, Made(200), *place, **options).influence(tests, k=10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
TracInCP(model, Made(int(sys.argv[1])), *place, **options).influence(tests, k=10)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(f"{sys.argv[1]:>6} training examples: {(after - before) / 1e3:.1f} MB more than before the query")
"""


def test_memory_is_flat() -> None:
    """The growth of the process's peak during a query of the ten most influential; examples are made when asked for."""
    for count in (1_000, 5_000, 20_000):
        command = [sys.executable, "-c", MEMORY, str(count)]
        print("\n" + subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
