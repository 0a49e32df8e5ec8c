"""How a text becomes tokens, and tokens a text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from llm_attr.errors import InvalidValue

_SURROGATE = re.compile("[\ud800-\udfff]")


def encode(tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool) -> list[int]:
    """The ids of a text, with the tokenizer's special tokens around it or without.

    A text that begins with the special tokens which the tokenizer puts in front of texts, as a chat that a template
    rendered may, gets no second ones.

    Raises:
        InvalidValue: the text holds half of a surrogate pair.
    """
    check_characters(text)
    ids = list(tokenizer.encode(text, add_special_tokens=special_tokens, verbose=False))
    return ids[repeated(tokenizer, text, ids) :] if special_tokens else ids


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of ids, special tokens included and white space untouched."""
    if not len(ids):
        return ""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def check_characters(text: str, what: str = "a text") -> None:
    """Refuses what is no text of whole characters.

    Raises:
        InvalidValue: it holds half of a surrogate pair.
    """
    if found := _SURROGATE.search(text):
        around = text[max(0, found.start() - 20) : found.end() + 20]
        raise InvalidValue(
            f"{what} holds half of a character ({found.group()!r} in {around!r}), which no tokenizer takes"
        )


def repeated(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> int:
    """How many special tokens the tokenizer put in front of a text that begins with the same ones.

    Args:
        tokenizer: The tokenizer.
        text: The text.
        ids: What the tokenizer makes of it, special tokens included.
    """
    for count in range(1, len(_leading(tokenizer, ids)) // 2 + 1):
        if list(ids[:count]) == list(ids[count : 2 * count]):
            own = tokenizer.encode(text, add_special_tokens=False, verbose=False)
            return count if list(ids[count : count + len(own)]) == list(own) else 0
    return 0


def beginning(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """The special tokens at the beginning of a text that the tokenizer would have put there, as they stand in it."""
    if not any(text.startswith(token) for token in tokenizer.all_special_tokens):
        return ""
    ids = list(tokenizer.encode(text, add_special_tokens=True, verbose=False))
    own: Any = tokenizer.convert_ids_to_tokens(ids[: repeated(tokenizer, text, ids)])
    written = "".join(own)
    return written if text.startswith(written) else ""


def _leading(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """The special tokens that ids begin with."""
    special = set(tokenizer.all_special_ids)
    first = next((place for place, token in enumerate(ids) if token not in special), len(ids))
    return list(ids[:first])
