"""Rows, and models that another process can load."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from llm_attr import DatasetRun, LanguageModel
from tests.zoo import tiny, tokenizer_of

TEMPLATE = "{who} lives in {city}. What does he like?"
CHAT = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"

load = partial(tiny, "llama")


def chatting() -> LanguageModel:
    """With a chat template."""
    tokenizer = copy.deepcopy(tokenizer_of("byte_bos"))
    tokenizer.chat_template = CHAT
    return LanguageModel(tiny("llama").model, tokenizer, "tiny llama")


def some_rows(count: int) -> list[dict[str, Any]]:
    """Rows of a template, each different."""
    people, towns = ("Dave", "Aksel", "Mads", "Signe"), ("Oslo", "Palm Coast", "Tarnby")
    return [
        {"id": f"r{i}", "who": people[i % 4], "city": f"{towns[i % 3]} {i}", "target": " He likes fishing."}
        for i in range(count)
    ]


def numbers_of(run: DatasetRun) -> dict[int, list[float]]:
    """The attributions of each row."""
    return {record["attr_row"]: record["attr_seq"] for record in run.records(["attr_row", "attr_seq"])}
