"""Encoding and decoding with transformers tokenizers, and with others that have a few methods."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from transformers import PreTrainedTokenizerBase

from llm_attr.errors import InvalidValue

MAX_PREFIX = 4
"""The most special tokens that a tokenizer prepends to a text."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@runtime_checkable
class PlainTokenizer(Protocol):
    """A tokenizer from outside transformers; the methods are those that Captum requires.

    `encode` and `__call__` take `add_special_tokens`; `__call__` also takes `return_offsets_mapping` if it supports
    offsets. `pad_token_id`, `eos_token_id`, `bos_token_id`, `all_special_ids`, `convert_tokens_to_ids` and `get_vocab`
    are used if present.
    """

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """The ids of a text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> Sequence[str]:
        """The name of each token."""

    def __call__(self, text: str, *, add_special_tokens: bool = True, return_offsets_mapping: bool = False) -> Any:
        """`input_ids`, and their `offset_mapping` of `(start, end)`."""


TokenizerLike: TypeAlias = PreTrainedTokenizerBase | PlainTokenizer


def encode(tokenizer: TokenizerLike, text: str, *, special_tokens: bool) -> list[int]:
    """The ids of a text, with or without the tokenizer's special tokens around it.

    Special tokens that the text already begins with, as a rendered chat may, are not added a second time.

    Raises:
        InvalidValue: the text contains half of a surrogate pair.
    """
    check_characters(text)
    ids = _encoded(tokenizer, text, special_tokens)
    return ids[repeated(tokenizer, text, ids) :] if special_tokens else ids


def decode(tokenizer: TokenizerLike, ids: Sequence[int]) -> str:
    """The text of ids, special tokens included and whitespace untouched."""
    if not len(ids):
        return ""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return str(tokenizer.decode(list(ids)))


def offsets(tokenizer: TokenizerLike, text: str, *, special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of a text and the tokenizer's character offsets of each; both empty if it has no offsets."""
    options: dict[str, Any] = {"add_special_tokens": special_tokens, "return_offsets_mapping": True}
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        if not tokenizer.is_fast:
            return [], []
        encoded: Any = tokenizer(text, verbose=False, **options)
    else:
        try:
            encoded = tokenizer(text, **options)
            encoded["offset_mapping"]
        except (KeyError, NotImplementedError, TypeError, ValueError):
            return [], []
    first = repeated(tokenizer, text, encoded["input_ids"]) if special_tokens else 0
    pairs = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
    return list(encoded["input_ids"])[first:], pairs[first:]


def special_ids(tokenizer: TokenizerLike) -> frozenset[int]:
    """The ids of special tokens."""
    return frozenset(getattr(tokenizer, "all_special_ids", ()))


def special_id(tokenizer: TokenizerLike, *kinds: str) -> int | None:
    """The id of the first of these special tokens (`bos`, `eos`, `pad`) that the tokenizer has."""
    tokens = (getattr(tokenizer, f"{kind}_token_id", None) for kind in kinds)
    return next((int(token) for token in tokens if token is not None), None)


def vocabulary_size(tokenizer: TokenizerLike) -> int | None:
    """The number of tokens; None if the tokenizer has no length."""
    return len(tokenizer) if isinstance(tokenizer, Sized) else None


def check_characters(text: str, what: str = "a text") -> None:
    """Checks that a text is valid Unicode.

    Raises:
        InvalidValue: it contains half of a surrogate pair.
    """
    if match := _SURROGATE.search(text):
        around = text[max(0, match.start() - 20) : match.end() + 20]
        raise InvalidValue(
            f"{what} holds half of a character ({match.group()!r} in {around!r}), which no tokenizer accepts"
        )


def repeated(tokenizer: TokenizerLike, text: str, ids: Sequence[int]) -> int:
    """How many special tokens the tokenizer prepended to a text that already begins with them.

    Args:
        tokenizer: The tokenizer.
        text: The text.
        ids: Its ids, special tokens included.
    """
    for count in range(1, min(MAX_PREFIX, len(ids) // 2) + 1):
        first = list(ids[:count])
        if first == list(ids[count : 2 * count]) and special_ids(tokenizer).issuperset(first):
            own = _encoded(tokenizer, text, False)
            return count if list(ids[count : count + len(own)]) == own else 0
    return 0


def beginning(tokenizer: TokenizerLike, text: str) -> str:
    """The special tokens, as text, that a text begins with and that the tokenizer would otherwise prepend."""
    if not any(text.startswith(token) for token in getattr(tokenizer, "all_special_tokens", ())):
        return ""
    ids = _encoded(tokenizer, text, True)
    written = "".join(tokenizer.convert_ids_to_tokens(ids[: repeated(tokenizer, text, ids)]))
    return written if text.startswith(written) else ""


def _encoded(tokenizer: TokenizerLike, text: str, special_tokens: bool) -> list[int]:
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return list(tokenizer.encode(text, add_special_tokens=special_tokens, verbose=False))
    ids = tokenizer.encode(text) if special_tokens else tokenizer.encode(text, add_special_tokens=False)
    return list(torch.as_tensor(ids, device="cpu").flatten().tolist())
