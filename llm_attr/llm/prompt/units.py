"""Splitting text into words (with ICU), sentences (with sentencex) and paragraphs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise

from icu4py.breakers import WordBreaker
from sentencex import segment

Span = tuple[int, int]
"""Characters `[start, end)` of a text."""

_LABEL = re.compile(
    r"""[\W_]*                                              # bullets, brackets, emphasis
    (?:(?:[^\W\d_]+\.?\s+)?                                 # at most one word: Step, Section, Fig.
    (?:[^\W\d_]{0,2}\d{1,3}[^\W\d_]?(?:\.\d{1,3})*          # 1, Q1, 3a, 3.2
    |[A-ZА-Я]|[IVXLC]{1,7})                                 # A, IV
    |[a-zа-я]|[ivx]{1,5})                                   # a, iv
    \.[)\]*_~"']*\s*""",
    re.VERBOSE,
)
"""A number or letter with a full stop that labels what follows."""

_LONGEST_LABEL = 40

_ORDINAL = re.compile(r"[(–/]*\d{1,3}\.|\d{3,4}гг?\.")

_MONTH = re.compile(
    r"(?:Jan(?:uar)?|Jänner|Feb(?:ruar)?|Mär(?:z)?|Apr(?:il)?|Mai|Jun[io]?|Jul[io]?|Aug(?:ust)?|Sept?(?:ember)?|"
    r"Okt(?:ober)?|Nov(?:ember)?|Dez(?:ember)?)\b"
)
"""A German month: the only language with a full stop after ordinals that capitalises months."""

_GERMAN = {"am", "im", "zum", "zur", "vom", "beim", "der", "die", "das", "den", "dem", "des"}
"""German words before an ordinal; a capitalised noun follows."""

_COUNTED = {
    *("n.", "no.", "nr.", "nº.", "fig.", "abb.", "tab.", "art.", "abs.", "kap.", "cap.", "vol.", "núm.", "pág."),
    *("рис.", "табл.", "гл.", "ст.", "стр.", "п.", "пп.", "разд."),
}
"""Abbreviations that are followed by a number."""

_CLOSING = re.compile(r"[*_~]+(?=\s|$)")
"""The end of Markdown emphasis."""


def words(text: str) -> list[Span]:
    """Words with adjacent punctuation, without whitespace.

    Languages written without spaces, such as Chinese, Japanese and Thai, are split with ICU's dictionaries. Closing
    punctuation joins the word before, opening punctuation the word after.
    """
    return _without_space(text, _word_ends(text))


def sentences(text: str) -> list[Span]:
    """Sentences without surrounding whitespace; a line break ends a sentence.

    A label ("1.", "Step 2.", "Fig. 3.", "a.", "IV.") or an ordinal ("3. Mai") stays with what follows.
    """
    return _without_space(text, _sentence_ends(text))


def paragraphs(text: str) -> list[Span]:
    """Paragraphs without surrounding whitespace; blank lines end a paragraph."""
    return _without_space(text, _paragraph_ends(text))


SPLITTERS: dict[str, Callable[[str], list[Span]]] = {
    "word": words,
    "sentence": sentences,
    "paragraph": paragraphs,
}


def _word_ends(text: str) -> Iterator[int]:
    """Ends of words; an end is held back while punctuation may still join the word."""
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
    """Whether a mark belongs to what follows: an opening bracket or quote, a currency, or a mark after whitespace."""
    if unicodedata.category(piece[0]) in {"Ps", "Pi", "Sc"}:
        return True
    return start == 0 or text[start - 1].isspace()


def _sentence_ends(text: str) -> Iterator[int]:
    done = 0
    for line in text.splitlines(keepends=True):
        start = 0
        for cut in accumulate(map(len, segment("en", line))):
            mark = None if line[cut - 1].isspace() else _CLOSING.match(line, cut)
            end = cut if mark is None else mark.end()
            if end == len(line) or not _goes_on(line[start:end], line[end:].lstrip()):
                yield done + end
            start = end
        done += len(line)


def _goes_on(piece: str, following: str) -> bool:
    """Whether the full stop ends a number, or an abbreviation before a number, rather than a sentence."""
    if len(piece) <= _LONGEST_LABEL and _LABEL.fullmatch(piece):
        return True
    *before, last = piece.rsplit(None, 3) or [""]
    if _ORDINAL.fullmatch(last) or last in ("г.", "гг."):
        german = [word.lower() for word in before[-2:]]
        names_a_noun = german[-1:] != [] and german[-1] in _GERMAN and german != ["i", "am"]
        return names_a_noun or following[:1].islower() or _MONTH.match(following) is not None
    return following[:1].isdigit() and last.lower().lstrip("(") in _COUNTED


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
