"""What orders and dominance find on planted traces; prints Markdown: `python -m tests.benchmarks.agent_figures`."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import torch

import llm_attr
from llm_attr import LanguageModel, Prompt
from tests.benchmarks.agent_traces import KINDS, Planted, traces

TEMPLATES = Path(__file__).parents[1] / "data" / "chat_templates"
SAMPLES = 8


def model_with(template: str) -> LanguageModel:
    """SmolLM2 with another chat template."""
    loaded = llm_attr.load_model("smollm2-135m")
    tokenizer = copy.deepcopy(loaded.tokenizer)
    tokenizer.chat_template = (TEMPLATES / f"{template}.jinja").read_text(encoding="utf-8")
    return LanguageModel(loaded.model, tokenizer, "smollm2-135m")


def wilson(hits: int, count: int) -> str:
    """A share with its 95 % interval."""
    z, share = 1.96, hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return f"{share:.2f} [{middle - half:.2f}, {middle + half:.2f}]"


def auroc(positive: torch.Tensor, negative: torch.Tensor) -> float:
    """How often a positive score is above a negative one."""
    above = positive[:, None] - negative[None]
    return float(((above > 0).double() + 0.5 * (above == 0)).mean())


def interval(positive: torch.Tensor, negative: torch.Tensor) -> str:
    """AUROC with its 95 % bootstrap interval over traces."""
    generator = torch.Generator().manual_seed(0)
    draws = []
    for _ in range(2000):
        a = torch.randint(len(positive), (len(positive),), generator=generator)
        b = torch.randint(len(negative), (len(negative),), generator=generator)
        draws.append(auroc(positive[a], negative[b]))
    low, high = torch.tensor(draws).quantile(torch.tensor([0.025, 0.975])).tolist()
    return f"{auroc(positive, negative):.2f} [{low:.2f}, {high:.2f}]"


def main() -> None:
    """Prints the tables."""
    lm, began = model_with("qwen3"), time.process_time()
    found: list[tuple[Planted, dict[str, bool], float, float, float]] = []
    chance = []
    for planted in traces():
        prompt = Prompt.from_trace(planted.messages, target=planted.path)
        result = llm_attr.explain(lm, prompt)
        each, measured = result.orders(), result.dominance(samples=SAMPLES)
        messages = result.provenance["trace"]["message"]
        chance.append(messages.count(planted.source) / len(messages))
        scores = {name: getattr(each, name) for name in ("reveal", "drop", "keep")}
        hits = {name: messages[int(score.argmax())] == planted.source for name, score in scores.items()}
        found.append((planted, hits, measured.margin, measured.loo_margin, measured.stderr))
        print(f"<!-- {planted.kind} {planted.untrusted} {hits} {measured} -->", flush=True)
    generator = torch.Generator().manual_seed(0)
    print("| traces | reveal | drop | keep | chance |\n|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        rows = [row for row in found if row[0].untrusted and kind in (row[0].kind, "all")]
        cells = [wilson(sum(row[1][name] for row in rows), len(rows)) for name in ("reveal", "drop", "keep")]
        print(f"| {kind} | {' | '.join(cells)} | {sum(chance) / len(chance):.2f} |")
    print(
        "| traces | AUROC of dominance | traces above their twin | AUROC of the leave-one-out margin | random scores |"
    )
    print("|---|---|---|---|---|")
    for kind in (*KINDS, "all"):
        rows = [row for row in found if kind in (row[0].kind, "all")]
        cells = []
        for column in (2, 3, None):
            values = (
                torch.rand(len(rows), generator=generator)
                if column is None
                else torch.tensor([r[column] for r in rows])
            )
            is_untrusted = torch.tensor([row[0].untrusted for row in rows])
            cells.append(interval(values[is_untrusted], values[~is_untrusted]))
        margins = torch.tensor([row[2] for row in rows])
        pairs = wilson(int((margins[::2] > margins[1::2]).sum()), len(rows) // 2)
        print(f"| {kind} | {cells[0]} | {pairs} | {' | '.join(cells[1:])} |")
    called = [row for row in found if abs(row[2]) > 2 * row[4]]
    right = sum((row[2] > 0) == row[0].untrusted for row in called)
    print(f"called: {len(called)} of {len(found)}, right: {right}; {time.process_time() - began:.0f} s CPU")


if __name__ == "__main__":
    main()
