"""TCAV beside Captum's: three layers and five concepts, each beside random examples."""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import llm_attr.concept as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.concept as theirs

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore"),
]

LAYERS = ["0", "2", "5"]


def network() -> nn.Module:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.MaxPool2d(4), nn.Conv2d(8, 16, 3)
    return nn.Sequential(*convolutions, nn.ReLU(), nn.Flatten(), nn.Linear(400, 10)).eval()


def sets_of(library: Any) -> list[list[Any]]:
    def concept(number: int) -> Any:
        draws = torch.Generator().manual_seed(number)
        examples = torch.rand(60, 3, 32, 32, generator=draws) + 0.1 * number
        return library.Concept(number, f"concept {number}", DataLoader(examples, batch_size=20))

    other = concept(0)
    return [[concept(number), other] for number in range(1, 6)]


def test_tcav(tmp_path: Path) -> None:
    model, x = network(), torch.rand(32, 3, 32, 32)
    pairs = {library: sets_of(library) for library in (ours, theirs)}
    times: dict[Any, dict[str, list[float]]] = {library: {"new": [], "stored": []} for library in pairs}
    for number in range(8):
        for library, sets in pairs.items():
            random.seed(number)
            np.random.seed(number)
            tcav = library.TCAV(model, LAYERS, save_path=str(tmp_path / f"{library.__name__} {number}"))
            for name in ("new", "stored"):
                start = process_time()
                tcav.interpret(x, sets, target=1)
                if number:
                    times[library][name].append(process_time() - start)
    for name in ("new", "stored"):
        own, other = (median(times[library][name]) for library in pairs)
        print(
            f"\nTCAV, {len(LAYERS)} layers x 5 concepts, {name} CAVs: {other / own:.2f} x ({own:.3f} and {other:.3f} s)"
        )
