"""Locating values in text that contains JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass
from json import JSONDecodeError, JSONDecoder

from llm_attr.errors import InvalidTarget, InvalidValue
from llm_attr.llm.prompt.units import Span

Step = str | int
"""The key of an object, or the index in an array."""

_STEP = re.compile(r"""\.?([^.\[\]"'*?\s]+)|\[(-?\d+)\]|\["([^"]*)"\]|\['([^']*)'\]""")
_SPACE = re.compile(r"[ \t\r\n]*")
_BEGUN = re.compile(r"[-\w.+]*\s*")
_OPENING = re.compile(r"[{\[]")
_decoder = JSONDecoder()


@dataclass(frozen=True)
class JsonPath:
    """The path to a value of a JSON document.

    Attributes:
        text: The path as the user wrote it.
        steps: Keys and indices from the outermost inwards.

    Example:
        >>> JsonPath.of("$.answers[0].name").steps
        ('answers', 0, 'name')
        >>> JsonPath.of("city").places('Here: {"city": "Oslo"}')
        [(16, 20)]
    """

    text: str
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, text: str) -> JsonPath:
        """Parses `$.answers[0].name`, `answers[0].name`, `$["a key"]`, or `$` for the entire document.

        Raises:
            InvalidValue: the path has another form.
        """
        rest, steps = text.removeprefix("$"), list[Step]()
        while rest:
            match = _STEP.match(rest)
            if match is None or (not steps and text.startswith("$") and rest[0] not in ".["):
                raise InvalidValue(
                    'a JSON path is written $.answers[0].name, with keys as .name or ["a name"] and places as [0] or '
                    f"[-1], and names one value; got {text!r}"
                )
            key = next((part for part in (match[1], match[3], match[4]) if part is not None), None)
            steps.append(int(match[2]) if key is None else key)
            rest = rest[match.end() :]
        if not text:
            raise InvalidValue("a JSON path is written $.answers[0].name; got an empty text")
        return cls(text, tuple(steps))

    def places(self, text: str) -> list[Span]:
        """The characters of the value in each JSON document of the text that has it; strings without their quotes.

        Documents are objects and arrays anywhere in the text, such as after words or in a fence, or the text itself. Of
        a document that is cut off at the end of the text, the part before the cut counts.

        Raises:
            InvalidTarget: the text has no JSON, or none with this value.
        """
        documents = _documents(text)
        if not documents:
            raise InvalidTarget(f"there is no JSON in the answer, so no {self.text!r}; it is {text[:200]!r}")
        spans, failures = list[Span](), list[str]()
        for start in documents:
            try:
                spans.append(_value(text, self._follow(text, start)))
            except _Missing as missing:
                failures.append(str(missing))
        if not spans:
            raise InvalidTarget(
                f"{self.text!r} is not in the JSON of the answer: {'; '.join(failures)}; the answer is {text[:200]!r}"
            )
        return spans

    def _follow(self, text: str, start: int) -> int:
        """The start of the value in the document that begins at `start`."""
        for done, step in enumerate(self.steps):
            children = _children(text, start)
            place = step + len(children) if isinstance(step, int) and step < 0 else step
            if place not in children:
                before = "$" + "".join(f"[{passed!r}]" for passed in self.steps[:done])
                known = ", ".join(map(repr, children)) if text[start] == "{" else f"{len(children)} items"
                raise _Missing(f"{before} has {known[:200] or 'no keys'}, and no {step!r}")
            start = children[place]
        return start


class _Missing(Exception):
    """The document has no such value."""


def _documents(text: str) -> list[int]:
    """The start of each JSON document."""
    starts, at = list[int](), 0
    while opening := _OPENING.search(text, at):
        at = opening.start()
        end = _end(text, at)
        if end is not None:
            starts.append(at)
        at = at + 1 if end is None else end
    return starts or ([_after_space(text, 0)] if _is_scalar(text) else [])


def _is_scalar(text: str) -> bool:
    """Whether the entire text is one JSON value."""
    try:
        _decoder.decode(text)
    except (JSONDecodeError, RecursionError):
        return False
    return True


def _end(text: str, start: int) -> int | None:
    """The end of the value that begins at `start`, or of the text if that cuts it off; None if it is not JSON."""
    try:
        return _decoder.raw_decode(text, start)[1]
    except JSONDecodeError as error:
        is_cut = _BEGUN.fullmatch(text, error.pos) or error.msg.startswith("Unterminated string")
        return len(text) if is_cut else None
    except RecursionError:
        return None


def _children(text: str, start: int) -> dict[Step, int]:
    """The starts of the values of an object or array, by key or index; the last one of a repeated key."""
    starts = dict[Step, int]()
    at = _after_space(text, start + 1) if text[start] in "{[" else len(text)
    while at < len(text) and text[at] not in "]}":
        key: Step = len(starts)
        if text[start] == "{":
            end = _end(text, at)
            if end in (None, len(text)):
                break
            key = _decoder.raw_decode(text, at)[0]
            at = _after_space(text, _after_space(text, end) + 1)
        end = _end(text, at) if at < len(text) else None
        if end is None:
            break
        starts[key] = at
        at = _after_space(text, end)
        at = _after_space(text, at + 1) if text[at : at + 1] == "," else at
    return starts


def _value(text: str, start: int) -> Span:
    """The characters of a value."""
    try:
        value, end = _decoder.raw_decode(text, start)
    except JSONDecodeError:
        raise _Missing("the answer is cut off before the value ends") from None
    return (start + 1, end - 1) if isinstance(value, str) and value else (start, end)


def _after_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return len(text) if match is None else match.end()
