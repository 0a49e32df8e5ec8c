"""Verified maps between the tokens of a text and its characters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from llm_attr.errors import UnalignedTokenizer
from llm_attr.llm.units import Span

UNFINISHED = "\ufffd"
"""What decoding shows for a character some of whose bytes are in a later token."""


@dataclass(frozen=True)
class Alignment:
    """The tokens of a text.

    Attributes:
        ids: Token ids, special tokens included.
        spans: The characters of each token; empty for special tokens that stand for no text. Tokens that share a
            character share its place.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]


def align(tokenizer: PreTrainedTokenizerBase, text: str, *, special_tokens: bool) -> Alignment:
    """Tokenises a text and finds the characters of every token.

    The tokenizer's own offsets are taken if they cover the text in order; else tokens are decoded one after the other
    and the pieces must make up the text.

    Raises:
        UnalignedTokenizer: neither gives a map that covers the text.
    """
    if tokenizer.is_fast:
        encoded = tokenizer(text, add_special_tokens=special_tokens, return_offsets_mapping=True, verbose=False)
        spans = [(int(start), int(end)) for start, end in encoded["offset_mapping"]]
        if _covers(spans, text):
            return Alignment(tuple(encoded["input_ids"]), tuple(spans))
    ids = tokenizer.encode(text, add_special_tokens=special_tokens, verbose=False)
    spans = _decoded_spans(tokenizer, ids, text)
    if _covers(spans, text):
        return Alignment(tuple(ids), tuple(spans))
    raise UnalignedTokenizer(
        f"{type(tokenizer).__name__} gives no reliable map from tokens to characters of {text[:60]!r}: its offsets do "
        "not cover the text and its tokens do not decode to it; use a fast tokenizer, or units of words or sentences"
    )


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """The text that each token adds, so that the pieces make up the decoded text.

    A character whose bytes are in several tokens stands at the last of them. `before` are the tokens in front, by which
    some tokenizers tell a leading space.
    """
    context = list(before[-4:])
    pieces, start, shown = [], 0, _decode(tokenizer, context)
    tokens = [*context, *ids]
    for end in range(len(context) + 1, len(tokens) + 1):
        decoded = _decode(tokenizer, tokens[start:end])
        unfinished = decoded.endswith(UNFINISHED) and end < len(tokens)
        if unfinished or not decoded.startswith(shown):
            pieces.append("" if unfinished else decoded)
            continue
        pieces.append(decoded[len(shown) :])
        start = max(start, end - 4)
        shown = _decode(tokenizer, tokens[start:end])
    return pieces


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return (
        str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)) if ids else ""
    )


def _decoded_spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> list[Span]:
    special = set(tokenizer.all_special_ids)
    plain = [token for token in ids if token not in special]
    pieces = iter(token_texts(tokenizer, plain))
    spans, place = [], 0
    for token in ids:
        piece = "" if token in special else next(pieces)
        if piece and not text.startswith(piece, place) and text.startswith(piece.lstrip(" "), place):
            piece = piece.lstrip(" ")
        end = place + len(piece) if text.startswith(piece, place) else place
        spans.append((place, end))
        place = end
    return spans


def _covers(spans: Sequence[Span], text: str) -> bool:
    """Whether the spans lie in the text, in order, and leave out nothing but white space."""
    place = 0
    for start, end in spans:
        if start == end:
            continue
        if not 0 <= start < end <= len(text) or text[place:start].strip() or end < place:
            return False
        place = end
    return not text[place:].strip()
