"""Attributions without an attribution method: chance, position, length, overlap of words, embeddings, and asking."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.data import Item
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.scorer import engine_for

Baseline: TypeAlias = "Callable[[LanguageModel, Item, torch.Generator], Tensor]"
"""The attribution of each unit, `(units,)`."""

_K1, _B = 1.5, 0.75


def chance(lm: LanguageModel, item: Item, generator: torch.Generator) -> Tensor:
    """Random numbers."""
    return torch.randn(len(item.units), generator=generator, device="cpu", dtype=torch.float32)


def last(lm: LanguageModel, item: Item, generator: torch.Generator) -> Tensor:
    """The later, the more."""
    return torch.arange(len(item.units), device="cpu", dtype=torch.float32)


def longest(lm: LanguageModel, item: Item, generator: torch.Generator) -> Tensor:
    """The number of characters."""
    return torch.tensor([float(len(unit)) for unit in item.units], device="cpu", dtype=torch.float32)


def bm25(lm: LanguageModel, item: Item, generator: torch.Generator) -> Tensor:
    """BM25 of each unit for the words of question and answer.

    `sum over query words w of idf(w) n (k1 + 1) / (n + k1 (1 - b + b length / mean length))`, n the number of w in the
    unit, `idf(w) = ln(1 + (units - units with w + 1/2) / (units with w + 1/2))`, k1 = 1.5, b = 0.75.

    Source: S. Robertson and H. Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009, section 3.4.
    """
    units = [Counter(_words(unit)) for unit in item.units]
    lengths = [sum(unit.values()) for unit in units]
    mean = sum(lengths) / len(lengths) or 1.0
    scores = []
    for unit, length in zip(units, lengths, strict=True):
        score = 0.0
        for word in set(_words(f"{item.question} {item.answer}")):
            holders = sum(word in other for other in units)
            rarity = math.log(1 + (len(units) - holders + 0.5) / (holders + 0.5))
            score += rarity * unit[word] * (_K1 + 1) / (unit[word] + _K1 * (1 - _B + _B * length / mean))
        scores.append(score)
    return torch.tensor(scores, device="cpu", dtype=torch.float32)


def cosine(lm: LanguageModel, item: Item, generator: torch.Generator) -> Tensor:
    """Cosine similarity of each unit and question with answer, embedded by all-MiniLM-L6-v2."""
    embedded = _embedded([*item.units, f"{item.question} {item.answer}"])
    return embedded[:-1] @ embedded[-1]


def own_citation(lm: LanguageModel, item: Item, generator: torch.Generator) -> Tensor:
    """The model's own: the log-probability of each unit's number when it is asked which unit holds the answer."""
    lines = "\n".join(f"{number}. {unit}" for number, unit in enumerate(item.units, 1))
    text = f"{lines}\n\nQuestion: {item.question}\nAnswer: {item.answer}\nThe answer is in line number"
    prompt = lm.encode(text, special_tokens=True)
    numbers = [tuple(lm.encode(f" {number}", special_tokens=False)) for number in range(1, len(item.units) + 1)]
    queries = [Query(Variant.plain(prompt), number) for number in numbers]
    with Evaluator("own citation", len(queries), device=lm.device) as evaluator:
        rows = engine_for(lm).score(queries, evaluator)
        evaluator.finish()
    return torch.stack([row.sum() for row in rows])


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _embedded(texts: list[str]) -> Tensor:
    """Unit vectors: the means of the last hidden states."""
    model, tokenizer = _encoder()
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    mask = batch["attention_mask"].unsqueeze(-1)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@cache
def _encoder() -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    from llm_attr.models.catalogue import model_folder

    folder = model_folder("all-minilm-l6-v2")
    return AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
