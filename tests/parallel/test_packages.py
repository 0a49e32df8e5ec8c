"""Metrics, attacks and influence inside `parallel()` give the numbers of one process, whatever draws they make."""

from __future__ import annotations

from collections.abc import Callable
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import llm_attr
from llm_attr.attr import IntegratedGradients
from llm_attr.concept import TCAV, Concept
from llm_attr.influence import TracInCP
from llm_attr.metrics import infidelity, sensitivity_max
from llm_attr.robust import FGSM, PGD, MinParamPerturbation
from tests.parallel.processes import needs_gloo, values

pytestmark = [needs_gloo, pytest.mark.usefixtures("one_thread")]

torch.manual_seed(0)
NET = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).double().eval()
X = torch.linspace(-1, 2, 12, dtype=torch.float64).view(2, 6)
LABELS = torch.tensor([0, 2])
DATA = torch.utils.data.TensorDataset(X, LABELS)


def shaken(inputs: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn_like(inputs) * 0.1
    return noise, inputs - noise


def concept_scores() -> dict[str, Any]:
    """TCAV, in a folder of each process's own."""
    draws = torch.Generator().manual_seed(0)
    data = [torch.randn(12, 6, generator=draws, dtype=torch.float64) + number for number in range(2)]
    concepts = [Concept(number, f"c{number}", [examples]) for number, examples in enumerate(data)]
    with TemporaryDirectory() as folder:
        return TCAV(NET, ["0", "2"], save_path=folder, seed=0).interpret(X, [concepts], target=LABELS)["0-1"]


def load(model: nn.Module, checkpoint: Any) -> float:
    return 1.0


CASES: dict[str, Callable[[], Any]] = {
    "infidelity": lambda: infidelity(
        NET, shaken, X, IntegratedGradients(NET).attribute(X, target=1), target=1, n_perturb_samples=7
    ),
    "sensitivity": lambda: sensitivity_max(IntegratedGradients(NET).attribute, X, target=1, n_perturb_samples=3),
    "fgsm": lambda: FGSM(NET).perturb(X, epsilon=0.1, target=LABELS),
    "pgd": lambda: PGD(NET).perturb(X, radius=0.2, step_size=0.05, step_num=4, target=LABELS, random_start=True),
    "least": lambda: MinParamPerturbation(
        NET, lambda x, scale: x + scale * torch.randn_like(x), "scale", 0, 3, 0.5, mode="linear", num_attempts=2
    ).evaluate(X[:1], target=NET(X[:1]).argmax(1)),
    "tracin": lambda: TracInCP(
        NET, DATA, ["only"], checkpoints_load_func=load, loss_fn=nn.CrossEntropyLoss(reduction="none"), batch_size=2
    ).influence((X + 0.1, LABELS)),
    "tcav": concept_scores,
}


@pytest.fixture(scope="module")
def shared() -> list[dict[str, Any]]:
    def work(rank: int) -> dict[str, Any]:
        found = {}
        for name, case in CASES.items():
            torch.manual_seed(rank)
            np.random.seed(rank)
            with llm_attr.parallel():
                found[name] = case()
        return found

    return values(work, 2)


@pytest.mark.parametrize("name", CASES)
def test_equal_to_one_process(name: str, shared: list[dict[str, Any]]) -> None:
    torch.manual_seed(0)
    np.random.seed(0)
    expected = CASES[name]()
    for found in shared:
        torch.testing.assert_close(found[name], expected, rtol=0, atol=1e-12)
