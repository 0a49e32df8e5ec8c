"""Infidelity and sensitivity beside Captum's in one run, and their memory over the number of perturbations.

Run: pytest tests/benchmarks/test_metrics.py -m benchmark -s
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import captum.attr
import captum.metrics
import pytest
import torch
from torch import Tensor

from llm_attr import attr, metrics
from tests.benchmarks.measure import Side, compare, report
from tests.benchmarks.test_path import mlp

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


def noise(inputs: Tensor) -> tuple[Tensor, Tensor]:
    drawn = torch.randn_like(inputs) * 0.01
    return drawn, inputs - drawn


@pytest.mark.parametrize("most", [1, None])
def test_infidelity(most: int | None) -> None:
    net, x = mlp(), torch.randn(1, 30)
    judged, stream = attr.Saliency(net).attribute(x, target=1), torch.get_rng_state()

    def run(package: Any) -> Tensor:
        torch.set_rng_state(stream)  # both sides would pay for `manual_seed`
        options: dict[str, Any] = {"n_perturb_samples": 200, "max_examples_per_batch": most}
        return package.infidelity(net, noise, x, judged, target=1, **options)

    sides = [Side("llm_attr", lambda: run(metrics)), Side("captum", lambda: run(captum.metrics))]
    compare(sides, 31)
    print("\n" + report(f"infidelity, MLP, n=200, max_examples_per_batch={most}", sides))
    assert torch.allclose(sides[0].result, sides[1].result, rtol=1e-4)


@pytest.mark.parametrize("most", [4, None])
def test_sensitivity(most: int | None) -> None:
    net, x = mlp(), torch.randn(4, 30)

    def run(package: Any, methods: Any) -> Tensor:
        torch.manual_seed(0)
        explain = methods.IntegratedGradients(net).attribute
        return package.sensitivity_max(explain, x, target=1, max_examples_per_batch=most)

    sides = [
        Side("llm_attr", lambda: run(metrics, attr)),
        Side("captum", lambda: run(captum.metrics, captum.attr)),
    ]
    compare(sides, 15)
    print("\n" + report(f"sensitivity_max, IntegratedGradients, max_examples_per_batch={most}", sides))
    assert torch.allclose(sides[0].result, sides[1].result, rtol=1e-3)


MEMORY = """
import resource, sys, torch, warnings
warnings.simplefilter("ignore")
torch.set_num_threads(1)
library, samples = sys.argv[1], int(sys.argv[2])
if library == "llm_attr":
    from llm_attr.metrics import infidelity
else:
    from captum.metrics import infidelity
net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3), torch.nn.Flatten(),
                          torch.nn.Linear(32 * 60 * 60, 2)).eval()
x = torch.randn(1, 3, 64, 64)
def noise(inputs):
    drawn = torch.randn_like(inputs)
    return drawn, inputs - drawn
with torch.no_grad():
    net(x)
infidelity(net, noise, x, x, target=1, n_perturb_samples=2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
infidelity(net, noise, x, x, target=1, n_perturb_samples=samples)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory() -> None:
    print("\ninfidelity of a CNN, MiB above the first call")
    for library in ("llm_attr", "captum"):
        grown = []
        for samples in (50, 500, 5000):
            if library == "captum" and samples > 500:
                continue
            command = [sys.executable, "-c", MEMORY, library, str(samples)]
            done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
            grown.append(f"n={samples}: {float(done.stdout):.0f}")
        print(f"  {library:10} {', '.join(grown)}")
