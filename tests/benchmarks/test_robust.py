"""Attacks and their comparison beside Captum's, and what `MinimalEdit` costs beside an exhaustive search."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr.robust as ours
from tests.robust.edits import prompts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.robust as theirs

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:captum"),
]

STEPS: dict[str, Any] = {"radius": 0.1, "step_size": 0.02, "step_num": 40, "target": 1}


def models() -> dict[str, tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10), nn.Softmax(1))
    convolutions = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()
    cnn = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1152, 10), nn.Softmax(1))
    return {"mlp": (mlp.eval(), torch.rand(32, 20)), "cnn": (cnn.eval(), torch.rand(4, 3, 16, 16))}


def ratio(mine: Callable[[], Any], captums: Callable[[], Any], rounds: int = 15) -> str:
    """How many times our CPU time Captum takes, in medians of interleaved runs."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        for run, taken in zip((mine, captums), times, strict=True):
            start = process_time()
            run()
            if number:
                taken.append(process_time() - start)
    own, other = map(median, times)
    return f"{other / own:.2f} x ({own * 1e3:.1f} and {other * 1e3:.1f} ms)"


def comparator(library: Any, model: nn.Module) -> Any:
    made = library.AttackComparator(model, lambda out, target: out[:, target])
    ask = {"additional_attack_arg_names": ["target"]}
    steps = {"radius": 0.1, "step_size": 0.03, "step_num": 5, "random_start": True}
    made.add_attack(lambda x: x + 0.1 * torch.randn_like(x), "noise", 20)
    made.add_attack(library.FGSM(model), "fgsm", 20, attack_kwargs={"epsilon": 0.1}, **ask)
    made.add_attack(library.PGD(model), "pgd", 20, attack_kwargs=steps, **ask)
    return made


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_attacks(name: str) -> None:
    model, x = models()[name]
    for options in ({}, {"norm": "L2"}, {"random_start": True}):
        both = [library.PGD(model) for library in (ours, theirs)]
        runs = [lambda attack=attack, options=options: attack.perturb(x, **STEPS, **options) for attack in both]
        print(f"\nPGD, {name}, {options or 'Linf'}: {ratio(*runs)}")
    mine, captums = (comparator(library, model) for library in (ours, theirs))
    runs = [lambda: mine.evaluate(x, target=1), lambda: captums.evaluate(x, target=1)]
    print(f"AttackComparator, {name}, 3 attacks x 20 attempts: {ratio(*runs, rounds=7)}")


@pytest.mark.real
def test_minimal_edits(smollm: Any) -> None:
    """Ten prompts: a drop of 5 nats, whose smallest edits have several sentences."""
    total = dict.fromkeys(("greedy", "beam", "exhaustive"), (0, 0, 0))
    for prompt, answer in prompts():
        edits = {
            search: ours.MinimalEdit(smollm).find(prompt, target=answer, drop=5.0, search=search, width=2)
            for search in total
        }
        for search, edit in edits.items():
            price = edit.variants, edit.cost.passes, edit.cost.positions
            total[search] = tuple(map(sum, zip(total[search], price, strict=True)))
        row = [f"{name} {it.size} units, {it.variants} variants, {it.cost.passes} passes" for name, it in edits.items()]
        print(f"\n{answer}: {'; '.join(row)}", end="")
    print(f"\nvariants, passes and token positions in total: {total}")
