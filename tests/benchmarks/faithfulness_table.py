"""Metrics by methods on SmolLM2, over twenty prompts: the table of docs/metrics.md.

Run: python -m tests.benchmarks.faithfulness_table [--first 0] [--prompts 20] [--json FILE]

All 64 coalitions of the six sentences of a prompt are scored once; each metric is then counted by a game of its own, so
its evaluations are those that it would take alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import llm_attr
from llm_attr import metrics
from tests.benchmarks.faithfulness_prompts import PROMPTS, Planted

METHODS: dict[str, dict[str, Any]] = {
    "leave-one-out": {"method": "feature_ablation"},
    "KernelSHAP, 32": {"method": "kernel_shap", "n_samples": 32, "seed": 0},
    "ContextCite, 32": {"method": "context_cite", "n_samples": 32, "seed": 0},
    "input x gradient": {"method": "input_x_gradient", "token_rows": False},
    "IG, 16 steps": {"method": "integrated_gradients", "n_steps": 16},
    "LRP": {"method": "lrp", "token_rows": False},
}
RANDOM = 16

Metric = Callable[[Tensor, Any], metrics.Score]

METRICS: dict[str, Metric] = {
    "deletion ↓": metrics.deletion,
    "insertion ↑": metrics.insertion,
    "comprehensiveness ↑": metrics.comprehensiveness,
    "sufficiency ↓": metrics.sufficiency,
    "top-1 drop ↑": metrics.top_k_drop,
    "LDS ↑": partial(metrics.linear_datamodelling_score, n_ablations=20),
    "soft NC at 1/2 ↑": partial(metrics.soft_comprehensiveness, retained=0.5),
    "soft NS at 1/2 ↑": partial(metrics.soft_sufficiency, retained=0.5),
    "RISE ↓": metrics.rise,
    "MAS ↓": metrics.mas,
    "monotonicity ↑": partial(metrics.monotonicity, signed=True),
}


def all_coalitions(features: int) -> Tensor:
    return torch.tensor([[row >> i & 1 for i in range(features)] for row in range(2**features)], dtype=torch.bool)


def known(game: Any) -> Callable[[Tensor], Tensor]:
    """The values of all coalitions, scored together, as a function."""
    features = game.features
    values = game.shared(all_coalitions(features), 1)[0]
    weights = 2 ** torch.arange(features)
    return lambda coalitions: values[(coalitions * weights).sum(1)]


def scored(rows: Tensor, lookup: Callable[[Tensor], Tensor], relevant: int) -> dict[str, tuple[float, int]]:
    """Value and evaluations of every metric for one attribution."""
    found = {}
    for name, metric in METRICS.items():
        score = metric(rows, metrics.CoalitionGame(lookup, len(rows)))
        found[name] = (float(score.values[0]), score.evaluations)
    found["recovery@1 ↑"] = (float(metrics.recovery_at_k(rows, [relevant], 1).values[0]), 0)
    return found


def of_prompt(lm: Any, planted: Planted, seed: int) -> dict[str, dict[str, tuple[float, int]]]:
    """Metrics by methods for one prompt, and what each method took."""
    text = " ".join(planted.sentences)
    start = [0]
    for sentence in planted.sentences[:-1]:
        start.append(start[-1] + len(sentence) + 1)
    spans = [(at, at + len(each)) for at, each in zip(start, planted.sentences, strict=True)]
    prompt = llm_attr.Prompt(f"{text}\nQuestion: {planted.question}\nAnswer:", spans=spans)
    game = llm_attr.prompt_game(lm, prompt, target=planted.answer)
    lookup = known(game)
    found = {}
    for name, options in METHODS.items():
        result = llm_attr.explain(lm, prompt, target=planted.answer, **options)
        passes = result.provenance.get("forward_passes", result.provenance.get("passes", 0))
        found[name] = scored(result.seq_attr, lookup, planted.relevant) | {"passes": (float(passes or 0), 0)}
    generator = torch.Generator().manual_seed(seed)
    drawn = [scored(torch.randn(6, generator=generator), lookup, planted.relevant) for _ in range(RANDOM)]
    mean = {name: torch.tensor([one[name][0] for one in drawn]).nanmean().item() for name in drawn[0]}
    found["random"] = {name: (value, drawn[0][name][1]) for name, value in mean.items()} | {"passes": (0.0, 0)}
    found["chance"] = chance(lookup, planted.relevant)
    return found


def chance(lookup: Callable[[Tensor], Tensor], relevant: int) -> dict[str, tuple[float, int]]:
    """The mean over 64 permutations of the numbers 1 to 6."""
    generator = torch.Generator().manual_seed(999)
    drawn = [scored(torch.randperm(6, generator=generator).double() - 2.5, lookup, relevant) for _ in range(64)]
    return {name: (torch.tensor([one[name][0] for one in drawn]).nanmean().item(), 0) for name in drawn[0]}


def table(found: list[dict[str, dict[str, tuple[float, int]]]]) -> str:
    """A row for each metric: mean and half the 95 % interval over the prompts for each method; evaluations."""
    methods = [*METHODS, "random", "chance"]
    lines = [f"| | {' | '.join(methods)} | evaluations |", "|---" * (len(methods) + 2) + "|"]
    for name in found[0]["random"]:
        cells = []
        for method in methods:
            values = torch.tensor([one[method][name][0] for one in found if name in one[method]])
            values = values[values.isfinite()]
            half = 1.96 * values.std() / len(values) ** 0.5 if len(values) > 1 else torch.tensor(0.0)
            cells.append(f"{values.mean():.2f} ± {half:.2f}" if len(values) else "")
        counts = [one["leave-one-out"][name][1] for one in found]
        lines.append(f"| {name} | {' | '.join(cells)} | {sum(counts) / len(counts):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    lm = llm_attr.load_model("smollm2-135m")
    found = []
    for number, planted in list(enumerate(PROMPTS))[args.first : args.first + args.prompts]:
        found.append(of_prompt(lm, planted, number))
        print(number, flush=True)
        if args.json:
            args.json.write_text(json.dumps(found))
    print(table(found))


if __name__ == "__main__":
    main()
