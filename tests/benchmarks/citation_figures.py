"""How often `cite` names the planted source, and abstains without it: a table of docs/citations.md.

In each kind every other item is for calibration, the rest is held out. What the decisions are made of is kept in a
folder, an item a file, so that another rule takes no second run.

Run: python -m tests.benchmarks.citation_figures FOLDER [--held-out] [--gather]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from scipy.stats import binomtest

import llm_attr
from llm_attr.data import KINDS, Item, items
from llm_attr.llm.citations.of_result import errors_of
from llm_attr.llm.citations.support import Rule, asked, decide
from llm_attr.llm.cite import METHOD, SAMPLES
from llm_attr.llm.prompt.prompt import Prompt
from llm_attr.llm.results.judged import subject_of
from llm_attr.llm.trust.evidence import Evidence

RULES = tuple(
    Rule(nats, stand_out) for nats in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0) for stand_out in (1.0, 2.0, 3.0, 4.0, 6.0)
)


def half(held_out: bool) -> list[Item]:
    """One half, in turn from the kinds."""
    kinds = [items(kind)[int(held_out) :: 2] for kind in KINDS]
    return [group[turn] for turn in range(max(map(len, kinds))) for group in kinds if turn < len(group)]


def prompt_of(item: Item) -> Prompt:
    """Chats as they are; all else, tool results too, as two documents of four units."""
    if item.layout in ("system", "turns"):
        return Prompt(list(item.messages or ()), unit="sentence", pinned=[-1])
    unit, between = ("sentence", " ") if item.layout == "text" else ("paragraph", "\n\n")
    documents = {"first": between.join(item.units[:4]), "second": between.join(item.units[4:])}
    return Prompt.from_documents(item.question, {k: v for k, v in documents.items() if v}, unit=unit)


def gathered(lm: Any, item: Item) -> dict[str, Any]:
    """What `cite` decides on: attributions, their errors and the known values; and which units are planted."""
    how: dict[str, Any] = {"method": METHOD, "n_samples": SAMPLES, "seed": 0, "show_progress": False}
    result = llm_attr.explain(lm, prompt_of(item), target=item.answer, **how)
    evidence = Evidence(subject_of(result), 5)
    evidence.plan(*torch.stack(asked(evidence.subject.attributions)).unique(dim=0))
    evidence.evaluate()
    evidence.subject = replace(evidence.subject, game=None, sample=None)
    planted = [item.units[source] for source in item.sources]
    texts = [text.strip() for text in result.input_tokens]
    where = {i for i, text in enumerate(texts) if text and any(text in each or each in text for each in planted)}
    return {"evidence": evidence, "errors": errors_of(result), "planted": where, "sources": len(planted)}


def gather(folder: Path, held_out: bool) -> None:
    """Explains each item of a half with and without its sources, unless its file is there."""
    lm = llm_attr.load_model("smollm2-135m")
    for item in half(held_out):
        file = folder / f"{item.id}.pt"
        if not file.exists():
            torch.save([gathered(lm, item), gathered(lm, item.removed())], file)
            print(item.id, flush=True)


def judged(folder: Path, held_out: bool) -> Iterator[tuple[Item, list[dict[str, Any]]]]:
    """The items of a half that were gathered."""
    for item in half(held_out):
        if (folder / f"{item.id}.pt").exists():
            yield item, torch.load(folder / f"{item.id}.pt", weights_only=False)


def support(case: dict[str, Any], rule: Rule) -> Any:
    """The decision on an item."""
    evidence = case["evidence"]
    return decide(evidence.subject.attributions, case["errors"], evidence, rule)


def outcome(cases: list[dict[str, Any]], rule: Rule) -> tuple[bool, bool]:
    """Whether a planted unit is cited first, and whether nothing is without it."""
    whole, removed = (support(case, rule) for case in cases)
    first = whole.sources[0] if whole.sources else -1
    return first in cases[0]["planted"], not removed.supported


def counted(right: list[bool]) -> str:
    """A share with its 95 % interval (Wilson)."""
    low, high = binomtest(sum(right), len(right)).proportion_ci(method="wilson") if right else (math.nan, math.nan)
    return f"{sum(right)} of {len(right)} ({100 * low:.0f} to {100 * high:.0f} %)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="keeps what was computed")
    parser.add_argument("--held-out", action="store_true", help="the other half")
    parser.add_argument("--gather", action="store_true", help="only compute")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    gather(given.folder, given.held_out)
    if given.gather:
        return
    found = list(judged(given.folder, given.held_out))
    for rule in (Rule(),) if given.held_out else (Rule(), *RULES):
        outcomes = [outcome(cases, rule) for _, cases in found]
        kept, abstained = ([each[i] for each in outcomes] for i in (0, 1))
        print(f"nats {rule.nats:g}, stands out {rule.stand_out:g}: kept {counted(kept)}, abstains {counted(abstained)}")
    for kind in KINDS:
        outcomes = [outcome(cases, Rule()) for item, cases in found if item.kind == kind]
        print(kind, f"kept {sum(o[0] for o in outcomes)}, abstains {sum(o[1] for o in outcomes)} of {len(outcomes)}")


if __name__ == "__main__":
    main()
