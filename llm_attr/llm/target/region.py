"""Regions: parts of an answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llm_attr.errors import EmptyTarget, InvalidTarget, InvalidType, InvalidValue
from llm_attr.llm.prompt.json_path import JsonPath
from llm_attr.llm.prompt.units import Span, sentences

RegionName: TypeAlias = str | re.Pattern[str] | slice | int
"""A substring, a pattern, a slice of tokens, or a token index."""

LISTED = 10
"""The most matches that an error lists."""

AROUND = 20
"""Characters of context that it shows around a match."""


@dataclass(frozen=True)
class Region:
    """A part of an answer; it includes every token that overlaps it.

    Attributes:
        name: A substring, a pattern, a slice of tokens, or a token index.
        characters: `(start, end)` characters of the answer.
        sentence: The index of a sentence; negative ones count from the end.
        json: The path of a JSON value in the answer, e.g. `$.answers[0].name`; strings are taken without their quotes.
        after: A text such as `</think>`; the region is everything after its last occurrence.
        occurrence: Which match of a substring, pattern or path; negative ones count from the end.

    Raises:
        InvalidValue: not exactly one of the others is given, `occurrence` does not apply, or the path is malformed.
        InvalidType: one of them has another type.
    """

    name: RegionName | None = None
    characters: Span | None = None
    sentence: int | None = None
    occurrence: int | None = None
    json: str | None = None
    after: str | None = None

    def __post_init__(self) -> None:
        ways = ("name", "characters", "sentence", "json", "after")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidValue(
                "a region is one of: a text, a pattern, a slice of tokens or the number of a token; characters=(start, "
                f"end); sentence=number; json=path; after=text; got {' and '.join(given) or 'none of them'}"
            )
        self._check_types()
        if self.json is not None:
            JsonPath.of(self.json)
        if self.occurrence is not None and not self.is_matched:
            raise InvalidValue(
                "occurrence selects a match of a text, pattern or JSON path; other regions do not have several"
            )

    @classmethod
    def of(cls, given: RegionName | Region | None, *others: Any) -> Region:
        """A region from a `Region`, or from its attributes in order.

        The strings `json:path` and `after:text` set `json` and `after`; for a literal text that begins like that, use
        `Region(text)`.

        Raises:
            InvalidValue: a `Region` is combined with other arguments.
        """
        if isinstance(given, Region):
            if any(other is not None for other in others):
                raise InvalidValue(f"a Region is complete; no other argument may be given besides {given}")
            return given
        way, colon, rest = given.partition(":") if isinstance(given, str) else ("", "", "")
        named = dict(zip(("characters", "sentence", "occurrence", "json", "after"), others, strict=False))
        if colon and way in ("json", "after") and named.get(way) is None:
            return cls(**{**named, way: rest})
        return cls(given, *others)

    @property
    def is_matched(self) -> bool:
        """Whether the region is searched in the text, so that it may match several times."""
        return isinstance(self.name, str | re.Pattern) or self.json is not None

    @property
    def needs_text(self) -> bool:
        """Whether the region refers to characters rather than to token indices."""
        return not isinstance(self.name, slice | int)

    def tokens(self, text: str, spans: Sequence[Span]) -> range:
        """The tokens of the region.

        Args:
            text: The answer.
            spans: The characters of each token, in order; tokens that share a character overlap. If the region refers
                to token indices, only the number of spans matters.

        Raises:
            InvalidTarget: the region is not in the answer, or matches several times without an `occurrence`.
            EmptyTarget: the region holds no token.
        """
        if isinstance(self.name, slice):
            return _sliced(self.name, len(spans), text)
        if isinstance(self.name, int):
            _check_edges([self.name], len(spans) - 1, len(spans), text)
            number = range(len(spans))[self.name]
            return range(number, number + 1)
        start, end = self._span(text)
        inside = [number for number, span in enumerate(spans) if span[0] < end and start < span[1]]
        if not inside:
            raise EmptyTarget(f"characters {start} to {end} of the answer {_shown(text)} belong to no token")
        return range(inside[0], inside[-1] + 1)

    def _span(self, text: str) -> Span:
        if self.characters is not None:
            return _within(self.characters, text)
        if self.sentence is not None:
            return _chosen(sentences(text), self.sentence, "sentence", text)
        if self.after is not None:
            return _following(self.after, text)
        if self.json is not None:
            return self._only(JsonPath.of(self.json).places(text), repr(self.json), text)
        if isinstance(self.name, str | re.Pattern):
            return self._match(self.name, text)
        raise InvalidType(f"{self.name!r} names tokens, not characters")

    def _match(self, name: str | re.Pattern[str], text: str) -> Span:
        if name == "":
            raise EmptyTarget("a region of the answer must hold at least one character; got an empty text")
        spans = [span for span in _matches(name, text) if span[0] < span[1]]
        shown = repr(name.pattern if isinstance(name, re.Pattern) else name)
        if not spans:
            raise InvalidTarget(f"{shown} is nowhere in the answer, which is {_shown(text)}")
        return self._only(spans, shown, text)

    def _only(self, spans: Sequence[Span], shown: str, text: str) -> Span:
        """The selected one of several matches."""
        if self.occurrence is not None:
            return _chosen(spans, self.occurrence, f"match of {shown}", text)
        if len(spans) > 1:
            listed = "; ".join(f"{number}: {_surrounded(text, span)}" for number, span in enumerate(spans[:LISTED]))
            more = f"; and {len(spans) - LISTED} more" if len(spans) > LISTED else ""
            raise InvalidTarget(
                f"{shown} is in the answer {len(spans)} times; say which with occurrence=number: {listed}{more}"
            )
        return spans[0]

    def _check_types(self) -> None:
        if self.name is not None and (
            isinstance(self.name, bool) or not isinstance(self.name, str | re.Pattern | slice | int)
        ):
            raise InvalidType(
                f"a region is a text, a pattern, a slice of tokens or the number of a token; got {self.name!r}"
            )
        if isinstance(self.name, re.Pattern) and not isinstance(self.name.pattern, str):
            raise InvalidType(f"a pattern must be for text, not bytes; got {self.name.pattern!r}")
        for name, number in (("sentence", self.sentence), ("occurrence", self.occurrence)):
            if number is not None and not _is_number(number):
                raise InvalidType(f"{name} must be a whole number; got {number!r}")
        for name, given in (("json", self.json), ("after", self.after)):
            if given is not None and not isinstance(given, str):
                raise InvalidType(f"{name} must be a text; got {given!r}")
        pair = self.characters
        if pair is not None and not (isinstance(pair, tuple) and len(pair) == 2 and all(map(_is_number, pair))):
            raise InvalidType(f"characters must be (start, end), two whole numbers; got {pair!r}")


def _is_number(given: object) -> bool:
    return isinstance(given, int) and not isinstance(given, bool)


def _sliced(wanted: slice, count: int, text: str) -> range:
    edges = [edge for edge in (wanted.start, wanted.stop) if edge is not None]
    if not all(map(_is_number, edges)) or wanted.step not in (None, 1):
        raise InvalidType(f"a slice of tokens takes whole numbers and no step; got {wanted!r}")
    _check_edges(edges, count, count, text)
    chosen = range(count)[wanted]
    if not chosen:
        raise EmptyTarget(f"{wanted!r} holds none of the {count} tokens of the answer {_shown(text)}")
    return chosen


def _check_edges(edges: Sequence[int], highest: int, count: int, text: str) -> None:
    if outside := [edge for edge in edges if not -count <= edge <= highest]:
        raise InvalidTarget(f"there is no token {outside[0]}: the answer {_shown(text)} has {count} tokens")


def _within(characters: Span, text: str) -> Span:
    start, end = characters
    if not 0 <= start <= end <= len(text):
        raise InvalidTarget(f"characters {characters} are not in the answer, which has {len(text)}: {_shown(text)}")
    if start == end:
        raise EmptyTarget(f"characters {characters} of the answer {_shown(text)} are empty")
    return start, end


def _following(mark: str, text: str) -> Span:
    """Everything after the last occurrence of a text."""
    start = text.rfind(mark)
    if not mark or start < 0:
        raise InvalidTarget(f"{mark!r} is nowhere in the answer, so nothing follows it; the answer is {_shown(text)}")
    if start + len(mark) == len(text):
        raise EmptyTarget(f"nothing follows {mark!r} in the answer {_shown(text)}")
    return start + len(mark), len(text)


def _matches(name: str | re.Pattern[str], text: str) -> list[Span]:
    """All matches of a pattern, or of a substring; those of a substring may overlap."""
    if isinstance(name, re.Pattern):
        return [match.span() for match in name.finditer(text)]
    return [match.span(1) for match in re.finditer(f"(?=({re.escape(name)}))", text)]


def _chosen(spans: Sequence[Span], number: int, what: str, text: str) -> Span:
    if not -len(spans) <= number < len(spans):
        known = f"{len(spans)}, from 0 to {len(spans) - 1}" if spans else "none"
        raise InvalidTarget(f"there is no {what} {number}: the answer has {known}; it is {_shown(text)}")
    return spans[number]


def _surrounded(text: str, span: Span) -> str:
    start, end = span
    before, after = text[max(0, start - AROUND) : start], text[end : end + AROUND]
    left, right = "…" if start > AROUND else "", "…" if end + AROUND < len(text) else ""
    return repr(f"{left}{before}[{text[start:end]}]{after}{right}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:199]}…")
