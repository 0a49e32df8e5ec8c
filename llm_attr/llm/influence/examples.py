"""Training texts as batches of tokens, and the loss of their tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm_attr.core.pairing.data import Batch
from llm_attr.errors import EmptyTarget, InvalidType, InvalidValue
from llm_attr.llm.model.language_model import LanguageModel

IGNORED = -100
"""The label of a token that does not count."""


@dataclass(frozen=True)
class TextExample:
    """A training text.

    Attributes:
        text: The text, or what comes before the answer.
        answer: The part whose tokens count; None: all tokens of the text but the first.
    """

    text: str
    answer: str | None = None

    @classmethod
    def of(cls, value: Any) -> TextExample:
        """An example from a string, a pair, or a mapping with `text` and perhaps `answer`.

        Raises:
            InvalidType: it is none of these.
        """
        if isinstance(value, TextExample):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, dict) and isinstance(value.get("text"), str) and value.keys() <= {"text", "answer"}:
            return cls(**value)
        if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, str) for part in value):
            return cls(*value)
        raise InvalidType(f'an example must be a string, a pair (text, answer) or {{"text", "answer"}}; got {value!r}')

    def __str__(self) -> str:
        return self.text + (self.answer or "")


def as_examples(values: Iterable[Any]) -> list[TextExample]:
    """Training texts in the caller's form.

    Raises:
        InvalidType: one of them is no example.
        InvalidValue: there is none.
    """
    if isinstance(values, str):
        raise InvalidType("examples must be a list of texts; got one string")
    examples = [TextExample.of(value) for value in values]
    if not examples:
        raise InvalidValue("examples has no text; at least one is needed")
    return examples


def fingerprint(examples: Sequence[TextExample]) -> str:
    """A hash of all texts in their order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True).encode())
    return digest.hexdigest()


def encoded(lm: LanguageModel, example: TextExample) -> tuple[list[int], list[int]]:
    """The token ids, and the labels: the ids that count, else `IGNORED`.

    Raises:
        EmptyTarget: no token counts.
        ContextTooLong: the model's context is shorter.
    """
    before = lm.encode(example.text, special_tokens=True)
    answer = [] if example.answer is None else lm.encode(example.answer, special_tokens=False)
    labels = before if example.answer is None else [IGNORED] * len(before) + answer
    labels = [IGNORED, *labels[1:]]
    if all(label == IGNORED for label in labels):
        raise EmptyTarget(f"no token of {str(example)!r} counts: a token needs one before it")
    lm.check_length(len(before), len(answer))
    return before + answer, labels


def batch_of(lm: LanguageModel, rows: Sequence[tuple[list[int], list[int]]]) -> Batch:
    """`(ids, mask, labels)`, each `(examples, tokens)`, padded on the right."""
    width = max(len(ids) for ids, _ in rows)

    def padded(values: list[list[int]], filler: int) -> Tensor:
        filled = [row + [filler] * (width - len(row)) for row in values]
        return torch.tensor(filled, dtype=torch.long, device=lm.device)

    mask = [[1] * len(ids) for ids, _ in rows]
    items = (padded([ids for ids, _ in rows], 0), padded(mask, 0), padded([labels for _, labels in rows], IGNORED))
    return Batch(items, len(rows))


@dataclass(frozen=True)
class TokenLoss:
    """Minus the log-probability of the tokens that count, summed; in nats.

    Attributes:
        lm: The model.
        draws: A generator: labels are drawn from the model's own prediction, as the Fisher matrix asks for; None: the
            labels of the data.
    """

    lm: LanguageModel
    draws: torch.Generator | None = None

    def total(self, forward: Callable[..., Any], batch: Batch) -> Tensor:
        """The sum over the examples."""
        ids, mask, labels = batch.items
        options: dict[str, Any] = {"attention_mask": mask} if self.lm.takes_mask else {}
        options |= {"use_cache": False} if "use_cache" in self.lm.forward_keywords else {}
        logits = forward(ids, **options).logits[:, :-1].float()
        labels = labels[:, 1:]
        if self.draws is not None:
            labels = self._drawn(logits, labels)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")

    def _drawn(self, logits: Tensor, labels: Tensor) -> Tensor:
        counted = labels != IGNORED
        chances = logits.detach()[counted].softmax(-1).cpu()
        drawn = labels.clone()
        drawn[counted] = torch.multinomial(chances, 1, generator=self.draws)[:, 0].to(labels.device)
        return drawn
