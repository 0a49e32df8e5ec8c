"""Verified alignment of tokens with the characters of a text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from unicodedata import normalize

from llm_attr.errors import InvalidValue, UnalignedTokenizer
from llm_attr.llm.model.tokenizer import TokenizerLike, check_characters, decode, encode, offsets, special_ids
from llm_attr.llm.prompt.units import Span

UNFINISHED = "\ufffd"
"""What decoding shows for a character whose last bytes are in a later token."""


@dataclass(frozen=True)
class Alignment:
    """The tokens of a text.

    Attributes:
        ids: Token ids, special tokens included.
        spans: The characters of each token; empty for special tokens without text. Tokens that share a character
            overlap there.
    """

    ids: tuple[int, ...]
    spans: tuple[Span, ...]


def align(tokenizer: TokenizerLike, text: str, *, special_tokens: bool) -> Alignment:
    """Tokenises a text and finds the characters of every token.

    The tokenizer's own offsets are used if they cover the text in order (up to composed characters); else the tokens
    are decoded one by one, and the pieces must make up the text.

    Raises:
        InvalidValue: the text contains half of a surrogate pair.
        UnalignedTokenizer: neither way covers the text.
    """
    check_characters(text)
    ids, pairs = offsets(tokenizer, text, special_tokens=special_tokens)
    spans = _with_composed(pairs, text)
    if ids and _covers(spans, text):
        return Alignment(tuple(ids), tuple(spans))
    ids = encode(tokenizer, text, special_tokens=special_tokens)
    spans = _decoded_spans(tokenizer, ids, text)
    if _covers(spans, text):
        return Alignment(tuple(ids), tuple(spans))
    raise UnalignedTokenizer(
        f"{type(tokenizer).__name__} gives no reliable map from tokens to characters of {text[:60]!r}: its offsets do "
        "not cover the text and its tokens do not decode to it; use a fast tokenizer, or units of words or sentences"
    )


def owners(text: str, tokens: Sequence[Span], units: Sequence[Span]) -> list[int]:
    """The unit of each token, or -1: the unit of its first non-whitespace character.

    A token of whitespace must be inside the unit.

    Args:
        text: The text.
        tokens: The characters of each token.
        units: The characters of each unit, in order.
    """
    starts = [start for start, _ in units]

    def owner(start: int, end: int) -> int:
        first = first_character(text, start, end)
        place, stop = (start, end) if first is None else (first, first + 1)
        nearest = bisect_right(starts, place) - 1
        return nearest if place < stop and nearest >= 0 and stop <= units[nearest][1] else -1

    return [owner(*span) for span in tokens]


def first_character(text: str, start: int, end: int) -> int | None:
    """The first non-whitespace character in a part of the text."""
    return next((i for i in range(start, end) if not text[i].isspace()), None)


def token_texts(tokenizer: TokenizerLike, ids: Sequence[int], before: Sequence[int] = ()) -> list[str]:
    """The text that each token adds, so that the pieces make up the decoded text.

    A character whose bytes are in several tokens goes to the last of them. `before` are the preceding tokens, on which
    some tokenizers' leading spaces depend.
    """
    return pieces(*token_spans(tokenizer, ids, before))


def pieces(text: str, spans: Sequence[Span]) -> list[str]:
    """A text cut into a piece per token, by consecutive spans; shared characters go to the last token."""
    return [text[start:stop] for start, stop in pairwise([*(start for start, _ in spans), len(text)])]


def spans_of(text: str, tokens: Sequence[str], given: Sequence[Sequence[int]] | None) -> tuple[Span, ...] | None:
    """The characters of each token of a text: the given ones, or consecutive ones if the tokens make up the text.

    Raises:
        InvalidValue: the given spans are not in order, or do not cut the text into these tokens.
    """
    if given is None:
        ends = list(accumulate(map(len, tokens), initial=0))
        return tuple(pairwise(ends)) if "".join(tokens) == text else None
    spans = tuple((int(start), int(end)) for start, end in given)
    starts = [start for start, _ in spans]
    in_order = starts == sorted(starts) and all(start <= end <= len(text) for start, end in spans)
    if not in_order or starts[:1] not in ([], [0]) or pieces(text, spans) != list(tokens):
        raise InvalidValue("output_spans must be in order, within the answer, and cut it into its tokens")
    return spans


def token_spans(tokenizer: TokenizerLike, ids: Sequence[int], before: Sequence[int] = ()) -> tuple[str, list[Span]]:
    """The text that tokens add to those `before`, and the characters of it that each token contributes to."""
    tokens, first = [*before, *ids], len(before)
    text, spans, unfinished, complete, start = "", list[Span](), list[str](), [0], 0
    shown = decode(tokenizer, before).rstrip(UNFINISHED)
    for end in range(first + 1, len(tokens) + 1):
        decoded = decode(tokenizer, tokens[start:end])
        added = decoded[_shared(shown, decoded) :]
        if decoded.endswith(UNFINISHED) and end < len(tokens):
            unfinished.append(added)
            continue
        spans += [(len(text) + a, len(text) + b) for a, b in _growth([*unfinished, added])]
        text, unfinished = text + added, []
        complete.append(end)
        start = next(place for place in reversed(complete) if place <= max(0, end - 4))
        shown = decode(tokenizer, tokens[start:end])
    return text, spans


def _growth(texts: Sequence[str]) -> list[Span]:
    """The part of each token in the last of the texts, each decoded with one more token than the one before."""
    finished, spans = 0, []
    for text in texts:
        end = max(finished, min(len(text), len(texts[-1])))
        spans.append((finished, end))
        finished = max(finished, min(end, len(text.rstrip(UNFINISHED))))
    return spans


def _shared(first: str, second: str) -> int:
    """The length of the common prefix of two texts."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def _decoded_spans(tokenizer: TokenizerLike, ids: Sequence[int], text: str) -> list[Span]:
    special = special_ids(tokenizer)
    plain = [token for token in ids if token not in special]
    pieces = iter(token_texts(tokenizer, plain))
    spans, place = [], 0
    for token in ids:
        piece = str(tokenizer.convert_ids_to_tokens([token])[0]) if token in special else next(pieces)
        if piece and not text.startswith(piece, place) and text.startswith(piece.lstrip(" "), place):
            piece = piece.lstrip(" ")
        end = place + len(piece) if text.startswith(piece, place) else place
        spans.append((place, end))
        place = end
    return spans


def _with_composed(spans: Sequence[Span], text: str) -> list[Span]:
    """Extends the offsets of a tokenizer that composes characters, which name only the first of each, to all."""
    extended: list[Span] = []
    after, before, last = len(text), (0, 0), (0, 0)
    for start, end in reversed(spans):
        if start < end and (start, end) != before:
            before, stop = (start, end), end + len(text[end:after].rstrip())
            composed = end < stop and len(normalize("NFC", text[start:stop])) <= end - start
            after, last = start, (start, stop if composed else end)
        extended.append(last if start < end else (start, end))
    return extended[::-1]


def _covers(spans: Sequence[Span], text: str) -> bool:
    """Whether the spans lie in the text, in order, and leave out only whitespace."""
    place = 0
    for start, end in spans:
        if start == end:
            continue
        if not 0 <= start < end <= len(text) or text[place:start].strip() or end < place:
            return False
        place = end
    return not text[place:].strip()
