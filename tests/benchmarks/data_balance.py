"""Whether something other than the meaning gives the sources of `llm_attr.data` away, and whether they are causal.

Run: python -m tests.benchmarks.data_balance [--model]

Each figure is the share of items in which a guess from position, length or words shared with the question finds a
source, beside that of a random guess; ties count by their share. With `--model` the losses are computed again.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

import llm_attr
from llm_attr.data import KINDS, Item, items

GUESSES: dict[str, Callable[[Item, int], float]] = {
    "first": lambda item, unit: -unit,
    "last": lambda item, unit: unit,
    "longest": lambda item, unit: len(item.units[unit]),
    "shortest": lambda item, unit: -len(item.units[unit]),
    "most words of the question": lambda item, unit: len(stems(item.units[unit]) & stems(item.question)),
    "fewest words of the question": lambda item, unit: -len(stems(item.units[unit]) & stems(item.question)),
}

COMMON = frozenset(
    re.findall(r"\w+", "the and was are who what whom which where when how does did not for from his her you your")
)


def stems(text: str) -> set[str]:
    """The first four letters of the words that say something."""
    words = (word.lower() for word in re.findall(r"\w+", text))
    return {word[:4] for word in words if len(word) > 2 and word not in COMMON}


def names(text: str) -> set[str]:
    """The stems of names: capitalised words within the question."""
    return {word.lower()[:4] for word in re.findall(r"\b[A-Z]\w+", text)[1:]}


def share(guess: Callable[[Item, int], float], among: tuple[Item, ...]) -> float:
    """How often the unit with the largest score is a source."""
    found = 0.0
    for item in among:
        scores = [guess(item, unit) for unit in range(len(item.units))]
        best = [unit for unit, score in enumerate(scores) if score == max(scores)]
        found += len(set(best) & set(item.sources)) / len(best)
    return found / len(among)


def chance(among: tuple[Item, ...]) -> float:
    """How often a random unit is a source."""
    return sum(len(item.sources) / len(item.units) for item in among) / len(among)


def is_paraphrased(item: Item) -> bool:
    """Whether question and sources share no word besides names."""
    asked = stems(item.question) - names(item.question)
    return not any(asked & stems(item.units[source]) for source in item.sources)


def losses(lm: Any, item: Item) -> list[float]:
    """Nats lost without each source, and without all of them."""
    game = llm_attr.prompt_game(lm, item.prompt(), target=item.target)
    absent = [[source] for source in item.sources] + [list(item.sources)]
    rows = torch.ones(len(absent) + 1, game.features, dtype=torch.bool)
    for row, gone in zip(rows, absent, strict=False):
        row[gone] = False
    *without, full = game.shared(rows, 1)[0].tolist()
    return [full - value for value in without]


def is_causal(item: Item, lost: list[float]) -> bool:
    """At least 2 nats without the sources; without each of them for two hops."""
    return min(lost if item.kind == "two_hops" else lost[-1:]) >= 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="store_true")
    among = items()
    print(len(among), dict(Counter(item.kind for item in among)))
    print("paraphrased", sum(item.paraphrased for item in among))
    print("positions", sorted(Counter(source for item in among for source in item.sources).items()))
    print(
        f"random {chance(among):.2f}",
        *(f"{name} {share(guess, among):.2f}" for name, guess in GUESSES.items()),
        sep="\n",
    )
    if parser.parse_args().model:
        lm = llm_attr.load_model("smollm2-135m")
        kept = Counter(item.kind for item in among if is_causal(item, losses(lm, item)))
        print("causal", {kind: kept[kind] for kind in KINDS})


if __name__ == "__main__":
    main()
