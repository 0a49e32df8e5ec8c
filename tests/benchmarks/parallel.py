"""Prompts per second, and one prompt, with one process and with several: `python -m tests.benchmarks.parallel`.

Each process has one thread. Model loading is not timed; all processes run on this machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from statistics import median
from time import perf_counter
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.run import main as torchrun

from llm_attr import explain, load_model

NAMES = ["Aksel", "Berit", "Carl", "Dora", "Emil", "Freja", "Gorm", "Hanne"]
TRADES = [
    "repairs violins",
    "paints boats",
    "sings in the choir",
    "cooks fish",
    "builds roofs",
    "keeps bees",
    "writes letters",
    "sells old books",
]


def chat(number: int, facts: int) -> list[dict[str, str]]:
    """A question about one of several facts."""
    pairs = [(NAMES[(number + i) % 8], TRADES[(3 * number + 5 * i) % 8]) for i in range(facts)]
    text = " ".join(f"{name} {trade} in town {i}." for i, (name, trade) in enumerate(pairs))
    return [{"role": "user", "content": f"{text} What does {pairs[number % facts][0]} do?"}]


JOBS: dict[str, Any] = {
    "64 prompts": lambda lm, **how: explain(lm, [chat(i, 6) for i in range(64)], target=" It is so.", **how),
    "64 coalitions": lambda lm, **how: explain(
        lm, chat(1, 8), method="kernel_shap", n_samples=64, target=" It is so.", **how
    ),
    "20 path points": lambda lm, **how: explain(
        lm, chat(1, 8), method="integrated_gradients", n_steps=20, target=" It is so.", **how
    ),
}


def measure(model: str, rounds: int) -> None:
    """Times every job in the processes that run this."""
    torch.set_num_threads(1)
    lm = load_model(model)
    shared = int(os.environ["WORLD_SIZE"]) > 1
    for name, job in JOBS.items():
        times, found = [], None
        for _ in range(rounds + 1):
            if shared:
                dist.barrier() if dist.is_initialized() else None
            start = perf_counter()
            found = job(lm, parallel=shared)
            times.append(perf_counter() - start)
        if os.environ["RANK"] == "0":
            first = found[0] if isinstance(found, list) else found
            about = first.provenance
            print(
                f"{os.environ['WORLD_SIZE']} {name}: {median(times[1:]):.2f} s, {about['positions']} positions",
                flush=True,
            )


def main() -> None:
    """Runs the jobs with one process and with several."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if "RANK" in os.environ:
        measure(given.model, given.rounds)
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    for processes in (1, given.processes):
        torchrun(["--standalone", "--nproc-per-node", str(processes), "-m", "tests.benchmarks.parallel", *sys.argv[1:]])


if __name__ == "__main__":
    main()
