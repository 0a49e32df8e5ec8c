"""The gradient family against Captum: time side by side, model calls and rows, and memory over the number of steps.

Run: pytest tests/benchmarks/test_path.py -m benchmark -s
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm_attr import attr
from llm_attr.models.catalogue import model_folder
from tests.benchmarks.measure import Side, compare, report
from tests.benchmarks.test_feature_ablation import Cnn, relative_difference

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@dataclass
class Calls:
    """Forward passes of a model: how many, and the rows in them."""

    count: int = 0
    rows: int = 0
    most: int = 0


@contextmanager
def counted(model: nn.Module) -> Iterator[Calls]:
    found = Calls()

    def note(_: nn.Module, __: Any, output: Tensor) -> None:
        found.count += 1
        found.rows += len(output)
        found.most = max(found.most, len(output))

    handle = model.register_forward_hook(note)
    try:
        yield found
    finally:
        handle.remove()


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()


def cnn() -> nn.Module:
    torch.manual_seed(0)
    return Cnn().eval()


class Encoder(nn.Module):
    """MiniLM with a random head: the time does not depend on its weights."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModel

        torch.manual_seed(0)
        self.body = AutoModel.from_pretrained(model_folder("all-minilm-l6-v2"))
        self.head = nn.Linear(384, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.body(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.mean(1))


def minilm() -> nn.Module:
    return Encoder().eval()


def rows() -> Tensor:
    return torch.rand(64, 30, generator=torch.manual_seed(1))


def images() -> Tensor:
    return torch.rand(4, 3, 64, 64, generator=torch.manual_seed(1))


def ids() -> Tensor:
    return torch.randint(1000, 20000, (2, 32), generator=torch.manual_seed(1))


@dataclass(frozen=True)
class Job:
    """An attribution that both libraries know.

    Attributes:
        name: What it is called.
        model: Makes the model.
        inputs: Makes the inputs.
        explain: The attribution by a library's classes.
        goal: How many times as long Captum should take.
        rounds: How often it is run.
        random: Whether it draws from the global streams.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    explain: Callable[[Any, nn.Module, Tensor], Tensor]
    goal: str
    rounds: int = 31


def noise_tunnel(library: Any, model: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    tunnel = library.NoiseTunnel(library.IntegratedGradients(model))
    return tunnel.attribute(x, nt_samples=5, stdevs=0.1, n_steps=20, target=1)


def gradient_shap(library: Any, model: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    np.random.seed(0)
    return library.GradientShap(model).attribute(x, torch.zeros_like(x[:2]), n_samples=20, stdevs=0.1, target=1)


JOBS = [
    Job("IG, MLP 64x30, n=50", mlp, rows, lambda a, m, x: a.IntegratedGradients(m).attribute(x, target=1), "2.5 x"),
    Job("IG, MLP 1x30, n=50", mlp, lambda: rows()[:1],
        lambda a, m, x: a.IntegratedGradients(m).attribute(x, target=1), "1 x"),
    Job("IG, CNN 4x3x64x64, n=50", cnn, images,
        lambda a, m, x: a.IntegratedGradients(m).attribute(x, target=1), "1 x", 7),
    Job("Saliency, MLP 64x30", mlp, rows, lambda a, m, x: a.Saliency(m).attribute(x, target=1), "1 x", 101),
    Job("Saliency, CNN", cnn, images, lambda a, m, x: a.Saliency(m).attribute(x, target=1), "1 x"),
    Job("InputXGradient, MLP 64x30", mlp, rows, lambda a, m, x: a.InputXGradient(m).attribute(x, target=1), "1 x", 101),
    Job("LayerGradCam, CNN", cnn, images, lambda a, m, x: a.LayerGradCam(m, m[6]).attribute(x, target=1), "1 x"),
    Job("LayerGradientXActivation, CNN", cnn, images,
        lambda a, m, x: a.LayerGradientXActivation(m, m[6]).attribute(x, target=1), "1 x"),
    Job("LayerActivation, CNN", cnn, images, lambda a, m, x: a.LayerActivation(m, m[6]).attribute(x), "1 x"),
    Job("LayerConductance, MLP 64x30, n=50", mlp, rows,
        lambda a, m, x: a.LayerConductance(m, m[1]).attribute(x, target=1), "1 x"),
    Job("LayerConductance, CNN, n=50", cnn, images,
        lambda a, m, x: a.LayerConductance(m, m[3]).attribute(x, target=1), "1 x", 5),
    Job("LayerIG, CNN, n=50", cnn, images,
        lambda a, m, x: a.LayerIntegratedGradients(m, m[3]).attribute(x, target=1), "1 x", 5),
    Job("InternalInfluence, MLP 64x30", mlp, rows,
        lambda a, m, x: a.InternalInfluence(m, m[1]).attribute(x, target=1), "1 x"),
    Job("NeuronGradient, MLP 64x30", mlp, rows, lambda a, m, x: a.NeuronGradient(m, m[1]).attribute(x, 3), "1 x", 101),
    Job("NeuronConductance, MLP 64x30", mlp, rows,
        lambda a, m, x: a.NeuronConductance(m, m[1]).attribute(x, 3, target=1), "1 x"),
    Job("NoiseTunnel of IG, MLP 64x30", mlp, rows, noise_tunnel, "1 x"),
    Job("NoiseTunnel of IG, CNN", cnn, lambda: images()[:1], noise_tunnel, "1 x", 5),
    Job("GradientShap, MLP 64x30", mlp, rows, gradient_shap, "1 x"),
    Job("GradientShap, CNN", cnn, images, gradient_shap, "1 x", 7),
    Job("LayerIG, MiniLM embeddings 2x32, n=50", minilm, ids,
        lambda a, m, x: a.LayerIntegratedGradients(m, m.body.embeddings.word_embeddings).attribute(x, target=1),
        "1 x", 3),
]  # fmt: skip
"""Rows of shared/PERFORMANCE.md and others; the goal is how many times as long Captum should take."""


@pytest.mark.parametrize("job", JOBS, ids=lambda job: job.name)
def test_against_captum(job: Job) -> None:
    model, inputs = job.model(), job.inputs()
    sides = [
        Side("llm_attr", lambda: job.explain(attr, model, inputs)),
        Side("captum", lambda: job.explain(captum.attr, model, inputs)),
    ]
    counts = []
    for side in sides:
        with counted(model) as calls:
            side.run()
        counts.append(calls)
    compare(sides, job.rounds)
    print("\n" + report(f"{job.name}, goal {job.goal}", sides))
    for side, calls in zip(sides, counts, strict=True):
        print(f"  {side.name}: {calls.count} calls, {calls.rows} rows, {calls.most} in the largest")
    assert relative_difference(sides[0].result, sides[1].result) <= 1e-4
    assert counts[0].rows <= counts[1].rows


PEAK = """
import importlib, re, sys
import torch
from tests.benchmarks.test_path import cnn, images
torch.set_num_threads(1)
library, steps = importlib.import_module(sys.argv[1]), int(sys.argv[2])
library.IntegratedGradients(cnn()).attribute(images(), target=1, n_steps=steps)
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def peak(library: str, steps: int) -> float:
    """Peak resident memory of a fresh process in MB."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK, library, str(steps)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_steps() -> None:
    few, many = peak("llm_attr.attr", 50), peak("llm_attr.attr", 500)
    theirs = {steps: peak("captum.attr", steps) for steps in (50, 100)}
    print(f"\nIG, CNN 4x3x64x64, peak MB: llm_attr {few:.0f} at n=50, {many:.0f} at n=500; captum {theirs}")
    assert many <= few * 1.03
