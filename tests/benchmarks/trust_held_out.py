"""Verdicts of trust reports on items and seeds by which nothing about them was chosen: a table of docs/trust.md.

Run: python -m tests.benchmarks.trust_held_out
"""

from __future__ import annotations

from typing import Any

import torch

import llm_attr
from llm_attr.data import Item, items
from tests.benchmarks.trust_figures import SMALL, Figures

SEED = 1000


def explained(lm: Any, item: Item, method: str, **options: Any) -> Any:
    """An explanation of the answer."""
    return llm_attr.explain(lm, item.prompt(), target=item.target, method=method, show_progress=False, **options)


def of_kernel_shap(lm: Any, number: int, item: Item, figures: Figures) -> None:
    """KernelSHAP, twenty random attributions, and false alarms of leave-one-out on an item with one source."""
    figures.alarms.append(bool(explained(lm, item, "feature_ablation").trust().redundant))
    result = explained(lm, item, "kernel_shap", n_samples=64, seed=SEED + number)
    generator = torch.Generator().manual_seed(SEED + number)
    for _ in range(20):
        drawn = torch.randn(len(result.input_tokens), generator=generator)
        figures.random.append(result.with_attributions(drawn).trust(0).better_than_chance)
    report = result.trust()
    figures.own.append(report.better_than_chance)
    figures.cost.append(report.evaluations / 64)
    print(item.id, report.better_than_chance, report.p_value, flush=True)


def of_redundant(lm: Any, item: Item, figures: Figures) -> None:
    """Leave-one-out on a fact that is stated twice."""
    result = explained(lm, item, "feature_ablation")
    figures.found.append(item.sources in result.trust().redundant)
    figures.hidden.append(max(item.losses[:-1]) < SMALL * item.losses[-1])
    print(item.id, figures.found[-1], figures.hidden[-1], flush=True)


def main() -> None:
    lm, figures = llm_attr.load_model("smollm2-135m"), Figures()
    for item in items("redundant_fact"):
        of_redundant(lm, item, figures)
    for number, item in enumerate(items(("single_fact", "distractor"), 20)):
        of_kernel_shap(lm, number, item, figures)
        print("\n".join(figures.lines()), flush=True)


if __name__ == "__main__":
    main()
