"""What trust reports say on SmolLM2 where the truth is planted: the figures of docs/trust.md.

Run: python -m tests.benchmarks.trust_figures [--items 20] [--random 20]

For each of twenty facts: KernelSHAP at 64 with the default report; random attributions on the same units, judged by the
coalitions that were paid for; and leave-one-out with the default report where the fact is stated once and twice.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

import torch

import llm_attr
from tests.benchmarks.trust_prompts import SECOND, Item, single, twice

SMALL = 1 / 3
"""Leave-one-out finds neither source if each alone loses less than this share of what both lose together."""


@dataclass
class Figures:
    """Counts over the items."""

    own: list[bool | None] = field(default_factory=list)
    cost: list[float] = field(default_factory=list)
    random: list[bool | None] = field(default_factory=list)
    hidden: list[bool] = field(default_factory=list)
    found: list[bool] = field(default_factory=list)
    alarms: list[bool] = field(default_factory=list)

    def lines(self) -> list[str]:
        def of(verdicts: list[bool | None]) -> str:
            counts = {name: sum(each is value for each in verdicts) for name, value in CALLED.items()}
            return f"{counts} of {len(verdicts)}"

        hidden = sum(found for found, is_hidden in zip(self.found, self.hidden, strict=True) if is_hidden)
        return [
            f"KernelSHAP at 64: {of(self.own)}; evaluations added: at most {max(self.cost, default=0):.0%}",
            f"random attributions: {of(self.random)}",
            f"redundant, hidden from leave-one-out: {hidden} of {sum(self.hidden)} found; of all: {sum(self.found)} of "
            f"{len(self.found)}",
            f"false alarms on single facts: {sum(self.alarms)} of {len(self.alarms)}",
        ]


CALLED = {"better": True, "open": None, "no better": False}


def of_kernel_shap(lm: Any, number: int, draws: int, figures: Figures) -> None:
    """KernelSHAP and random attributions on one item with a single fact."""
    result = single(number).explained(lm, "kernel_shap", n_samples=64, seed=number)
    generator = torch.Generator().manual_seed(number)
    for _ in range(draws):
        drawn = torch.randn(len(result.input_tokens), generator=generator)
        figures.random.append(result.with_attributions(drawn).trust(0).better_than_chance)
    report = result.trust()
    figures.own.append(report.better_than_chance)
    figures.cost.append(report.evaluations / 64)
    print(number, report.verdict, flush=True)


def of_leave_one_out(lm: Any, number: int, figures: Figures) -> None:
    """Leave-one-out where the fact is stated once and twice."""
    figures.alarms.append(bool(single(number).explained(lm, "feature_ablation").trust().redundant))
    item = twice(number)
    result = item.explained(lm, "feature_ablation")
    figures.found.append(item.relevant in result.trust().redundant)
    figures.hidden.append(is_hidden(item, result))
    print(number, result.trust_report.verdict, figures.hidden[-1], flush=True)


def is_hidden(item: Item, result: Any) -> bool:
    """Whether each source alone loses little of what both lose together."""
    rows = torch.ones(2, len(item.sentences), dtype=torch.bool)
    rows[1, list(item.relevant)] = False
    full, without = result.game.shared(rows, 1)[0].tolist()
    alone = max(float(result.seq_attr[unit]) for unit in item.relevant)
    return alone < SMALL * (full - without)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=len(SECOND))
    parser.add_argument("--random", type=int, default=20)
    args = parser.parse_args()
    lm, figures = llm_attr.load_model("smollm2-135m"), Figures()
    for number in range(args.items):
        of_leave_one_out(lm, number, figures)
    for number in range(args.items):
        of_kernel_shap(lm, number, args.random, figures)
        print("\n".join(figures.lines()), flush=True)


if __name__ == "__main__":
    main()
