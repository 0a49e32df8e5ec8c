"""Where words and sentences begin and end. ICU finds the words, sentencex the sentences."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise

from icu4py.breakers import WordBreaker
from sentencex import segment

Span = tuple[int, int]
"""Characters `[start, end)` of a text."""


def words(text: str) -> list[Span]:
    """Words with the punctuation that touches them, without white space.

    Chinese, Japanese, Thai and their like, written without spaces, are split with ICU's dictionaries. Closing
    punctuation goes with the word before, opening punctuation with the word after.
    """
    return _without_space(text, _word_ends(text))


def sentences(text: str) -> list[Span]:
    """Sentences without the white space around them; a line break ends a sentence."""
    return _without_space(text, _sentence_ends(text))


def paragraphs(text: str) -> list[Span]:
    """Paragraphs without the white space around them; one or more blank lines end a paragraph."""
    return _without_space(text, _paragraph_ends(text))


SPLITTERS: dict[str, Callable[[str], list[Span]]] = {
    "word": words,
    "sentence": sentences,
    "paragraph": paragraphs,
}


def _word_ends(text: str) -> Iterator[int]:
    """Ends of words; a piece is held back while punctuation may still join it."""
    pieces = [str(piece) for piece in WordBreaker(text, "en")]
    end, held = 0, False
    for piece, following in pairwise([*pieces, " "]):
        end += len(piece)
        held = _is_mark(piece) and (held or _opens(piece, text, end - len(piece)))
        closes = _is_mark(following) and not _opens(following, text, end)
        if not held and not closes:
            yield end
    yield len(text)


def _is_mark(piece: str) -> bool:
    return all(
        unicodedata.category(character)[0] == "P" or unicodedata.category(character) == "Sc" for character in piece
    )


def _opens(piece: str, text: str, start: int) -> bool:
    """Whether a mark belongs to what follows: an opening bracket or quote, a currency, or a mark after white space."""
    if unicodedata.category(piece[0]) in {"Ps", "Pi", "Sc"}:
        return True
    return start == 0 or text[start - 1].isspace()


def _sentence_ends(text: str) -> Iterator[int]:
    end = 0
    for line in text.splitlines(keepends=True):
        for sentence in segment("en", line):
            end += len(sentence)
            yield end


def _paragraph_ends(text: str) -> Iterator[int]:
    end = 0
    for line in text.splitlines(keepends=True):
        end += len(line)
        if not line.strip():
            yield end
    yield end


def _without_space(text: str, ends: Iterator[int]) -> list[Span]:
    spans, start = [], 0
    for end in ends:
        part = text[start:end]
        left, right = start + len(part) - len(part.lstrip()), start + len(part.rstrip())
        if left < right:
            spans.append((left, right))
        start = end
    return spans
