"""Items with planted truth, and their prompts."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from llm_attr.llm.prompt.prompt import Prompt

KINDS = (
    "single_fact",
    "redundant_fact",
    "two_hops",
    "distractor",
    "table_row",
    "negation",
    "system_rule",
    "tool_result",
    "previous_turn",
    "injected_instruction",
)

LAYOUTS = ("text", "rows", "system", "tools", "turns")
"""How units become a prompt: running text, lines, a system message, tool results, or earlier turns of a chat."""


@dataclass(frozen=True)
class Item:
    """A prompt whose answer depends on known units.

    Attributes:
        id: A name that no other item has.
        kind: One of `KINDS`.
        layout: One of `LAYOUTS`.
        units: The text of each unit, in the order of the prompt; the question is no unit.
        question: What is asked.
        answer: The answer whose log-probability is explained.
        sources: The positions of the units that hold the truth.
        paraphrased: Whether question and sources share no word besides names.
        losses: Nats lost without each source, in their order, and without all of them, for SmolLM2-135M-Instruct.
    """

    id: str
    kind: str
    layout: str
    units: tuple[str, ...]
    question: str
    answer: str
    sources: tuple[int, ...]
    paraphrased: bool
    losses: tuple[float, ...] = ()

    @property
    def documents(self) -> dict[str, str]:
        """The units by name: `u0`, `u1`, ..., for functions that take documents."""
        return {f"u{position}": text for position, text in enumerate(self.units)}

    @property
    def messages(self) -> list[dict[str, Any]] | None:
        """The chat; None for the layouts `text` and `rows`."""
        question = {"role": "user", "content": self.question}
        if self.layout == "system":
            return [{"role": "system", "content": " ".join(self.units)}, question]
        if self.layout == "tools":
            return [question, *({"role": "tool", "content": text} for text in self.units)]
        if self.layout == "turns":
            noted = {"role": "assistant", "content": "I see."}
            return [each for text in self.units for each in ({"role": "user", "content": text}, noted)] + [question]
        return None

    @property
    def text(self) -> str | None:
        """The prompt as a text; None for chats."""
        if self.messages is not None:
            return None
        between = "\n" if self.layout == "rows" else " "
        return f"{between.join(self.units)}\nQuestion: {self.question}\nAnswer:"

    @property
    def target(self) -> str:
        """The answer as it follows the prompt: with a space after a text."""
        return f" {self.answer}" if self.messages is None else self.answer

    def prompt(self) -> Prompt:
        """The prompt with the item's units; all else is always present."""
        return Prompt(self.messages or self.text or "", spans=list(self.units))

    def removed(self) -> Item:
        """The same item without its sources, of which nothing carries the answer."""
        left = tuple(text for position, text in enumerate(self.units) if position not in self.sources)
        return Item(f"{self.id}-removed", self.kind, self.layout, left, self.question, self.answer, (), False)


def items(kind: str | Collection[str] | None = None, count: int | None = None) -> tuple[Item, ...]:
    """The items, always in the same order.

    Args:
        kind: One of `KINDS`, or several; None: all.
        count: How many at most; they are taken in turn from the kinds.

    Raises:
        UnknownName: there is no such kind.
        InvalidType: `count` is no whole number.
        InvalidValue: `count` is less than 1.

    Example:
        >>> items("negation")[0].kind
        'negation'
    """
    kinds = KINDS if kind is None else (kind,) if isinstance(kind, str) else tuple(kind)
    for each in kinds:
        if each not in KINDS:
            raise UnknownName("kind", each, KINDS)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
        raise InvalidType(f"count must be a whole number, or None for all items; got {type(count).__name__}")
    if count is not None and count < 1:
        raise InvalidValue(f"count must be at least 1; got {count}")
    chosen = [item for item in _all() if item.kind in kinds]
    if count is None:
        return tuple(chosen)
    by_kind = {each: [item for item in chosen if item.kind == each] for each in kinds}
    longest = max(map(len, by_kind.values()), default=0)
    turns = [group[turn] for turn in range(longest) for group in by_kind.values() if turn < len(group)]
    return tuple(turns[:count])


@cache
def _all() -> tuple[Item, ...]:
    lines = files("llm_attr.data").joinpath("items.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(_read(json.loads(line)) for line in lines)


def _read(plain: dict[str, Any]) -> Item:
    several = {name: tuple(plain[name]) for name in ("units", "sources", "losses")}
    return Item(**{**plain, **several})
