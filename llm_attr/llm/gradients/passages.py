"""The parts in which an answer is scored: all of its tokens in one pass, or a few at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import free_for

MEMORY_SHARE = 32
"""The rows of the tokens that are explained together may take this part of the free memory."""


@dataclass(frozen=True)
class Passage:
    """The part of an answer whose tokens are scored in one pass, after the prompt and what comes before it.

    Attributes:
        prompt: Token ids of the prompt.
        answer: Token ids of the answer up to the last one that is scored.
        first: The first token of the answer that is scored.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    first: int = 0

    @property
    def ids(self) -> tuple[int, ...]:
        """What the model reads."""
        return (*self.prompt, *self.answer[:-1])

    @property
    def rows(self) -> range:
        """The positions whose outputs predict the scored tokens."""
        return range(len(self.prompt) - 1 + self.first, len(self.prompt) - 1 + len(self.answer))

    @property
    def places(self) -> Tensor:
        """The places in the answer of the scored tokens."""
        return torch.arange(self.first, len(self.answer), device="cpu")

    @property
    def scored(self) -> tuple[int, ...]:
        """The tokens that are scored."""
        return self.answer[self.first :]


def passages_of(prompt: tuple[int, ...], answer: tuple[int, ...], size: int) -> Iterator[Passage]:
    """The tokens in groups of this size: each pass reads no further than to the last token that it scores."""
    for first in range(0, len(answer), size):
        yield Passage(prompt, answer[: first + size], first)


def group_size(language_model: LanguageModel, prompt: int, tokens: int, quantities: int) -> int:
    """How many tokens are best explained together, of an answer of so many.

    Args:
        language_model: The model.
        prompt: The length of the prompt.
        tokens: The length of the answer.
        quantities: How many quantities each token has.
    """
    room = free_for(language_model) // MEMORY_SHARE
    token_bytes = 4 * language_model.text_config.hidden_size * (prompt + tokens) * quantities
    most = max(1, min(tokens, room // token_bytes))

    def cost(size: int) -> int:
        """Positions that go forwards and backwards."""
        starts = range(0, tokens, size)
        return sum((prompt + min(at + size, tokens)) * (1 + quantities * min(size, tokens - at)) for at in starts)

    return min(range(1, most + 1), key=cost)
