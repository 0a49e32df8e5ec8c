"""How a text becomes tokens, and tokens a text: tokenizers of transformers, and others of a few methods."""

from __future__ import annotations

import re
from collections.abc import Sequence, Sized
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from transformers import PreTrainedTokenizerBase

from llm_attr.errors import InvalidValue

MOST_IN_FRONT = 4
"""Special tokens that a tokenizer may put in front of a text."""

_SURROGATE = re.compile("[\ud800-\udfff]")


@runtime_checkable
class PlainTokenizer(Protocol):
    """A tokenizer that is not of transformers, by the methods that Captum asks for.

    `encode` and `__call__` take `add_special_tokens`, the latter also `return_offsets_mapping` if it can tell the
    characters of each token. Where it has them, `pad_token_id`, `eos_token_id`, `bos_token_id`, `all_special_ids`,
    `convert_tokens_to_ids` and `get_vocab` are used too.
    """

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Any:
        """The ids of a text."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of ids."""

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> Sequence[str]:
        """The name of each token."""

    def __call__(self, text: str, *, add_special_tokens: bool = True, return_offsets_mapping: bool = False) -> Any:
        """`input_ids`, and `offset_mapping` `(start, end)` of each."""


TokenizerLike: TypeAlias = PreTrainedTokenizerBase | PlainTokenizer


def encode(tokenizer: TokenizerLike, text: str, *, special_tokens: bool) -> list[int]:
    """The ids of a text, with the tokenizer's special tokens around it or without.

    A text that begins with the special tokens which the tokenizer puts in front of texts, as a chat that a template
    rendered may, gets no second ones.

    Raises:
        InvalidValue: the text holds half of a surrogate pair.
    """
    check_characters(text)
    ids = _encoded(tokenizer, text, special_tokens)
    return ids[repeated(tokenizer, text, ids) :] if special_tokens else ids


def decode(tokenizer: TokenizerLike, ids: Sequence[int]) -> str:
    """The text of ids, special tokens included and white space untouched."""
    if not len(ids):
        return ""
    if isinstance(tokenizer, PreTrainedTokenizerBase):
        return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
    return str(tokenizer.decode(list(ids)))


def offsets(tokenizer: TokenizerLike, text: str, *, special_tokens: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """The ids of a text and the characters of each as the tokenizer tells them; nothing if it does not."""
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
    found = (getattr(tokenizer, f"{kind}_token_id", None) for kind in kinds)
    return next((int(token) for token in found if token is not None), None)


def vocabulary_size(tokenizer: TokenizerLike) -> int | None:
    """How many tokens there are, if the tokenizer tells."""
    return len(tokenizer) if isinstance(tokenizer, Sized) else None


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


def repeated(tokenizer: TokenizerLike, text: str, ids: Sequence[int]) -> int:
    """How many special tokens the tokenizer put in front of a text that begins with the same ones.

    Args:
        tokenizer: The tokenizer.
        text: The text.
        ids: What the tokenizer makes of it, special tokens included.
    """
    for count in range(1, min(MOST_IN_FRONT, len(ids) // 2) + 1):
        first = list(ids[:count])
        if first == list(ids[count : 2 * count]) and special_ids(tokenizer).issuperset(first):
            own = _encoded(tokenizer, text, False)
            return count if list(ids[count : count + len(own)]) == own else 0
    return 0


def beginning(tokenizer: TokenizerLike, text: str) -> str:
    """The special tokens at the beginning of a text that the tokenizer would have put there, as they stand in it."""
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
