"""A template of a prompt, whose slots are filled with the columns of a row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any, TypeAlias

from llm_attr.errors import InvalidType, InvalidValue, UnknownName

Messages: TypeAlias = Sequence[Mapping[str, Any]]

Spans: TypeAlias = dict[str, Any]
"""Where slots are: `(start, end)` in a text, `(message, start, end)` in a chat."""


@dataclass(frozen=True)
class Template:
    """A text, or the messages of a chat, with slots such as `{city}` or `{price:.2f}`; `{{` is a brace.

    Attributes:
        content: The text or the messages.
        slots: The columns whose values are units; None: all that the template names.

    Raises:
        InvalidType: the content is neither a text nor a list of messages with texts.
        InvalidValue: a slot does not name a column, or there is none.
        UnknownName: `slots` names one that the template does not have.
    """

    content: str | Messages
    slots: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not self.columns:
            raise InvalidValue(f"the template has no slot such as {{city}}: {self.content!r}")
        for name in self.slots or ():
            if name not in self.columns:
                raise UnknownName("slot", name, self.columns)

    @cached_property
    def columns(self) -> list[str]:
        """The columns that the template names, in order."""
        names = [piece[1] for text in self._texts() for piece in _pieces(text) if piece[1] is not None]
        return list(dict.fromkeys(names))

    def filled(self, row: Mapping[str, Any]) -> tuple[str | list[dict[str, Any]], Spans]:
        """The content with a row's values, and where each slot is; one that is empty is nowhere.

        A column that occurs several times has one slot for each place: `city`, `city 2`, ...

        Raises:
            InvalidValue: the row lacks a value.
        """
        spans: Spans = {}
        if isinstance(self.content, str):
            text, places = self._fill(self.content, row)
            for name, start, end in places:
                spans[_free(name, spans)] = (start, end)
            return text, spans
        messages: list[dict[str, Any]] = []
        for number, message in enumerate(self._messages):
            text, places = self._fill(message["content"], row)
            messages.append({**message, "content": text})
            for name, start, end in places:
                spans[_free(name, spans)] = (number, start, end)
        return messages, spans

    def _texts(self) -> list[str]:
        if isinstance(self.content, str):
            return [self.content]
        if not isinstance(self.content, Sequence) or not all(
            isinstance(message, Mapping) and isinstance(message.get("content"), str) for message in self.content
        ):
            raise InvalidType(f"a template must be a text or messages whose content is a text; got {self.content!r}")
        return [message["content"] for message in self._messages]

    @property
    def _messages(self) -> Sequence[Mapping[str, Any]]:
        return () if isinstance(self.content, str) else self.content

    def _fill(self, text: str, row: Mapping[str, Any]) -> tuple[str, list[tuple[str, int, int]]]:
        filled, places = "", []
        for literal, name, spec, conversion in _pieces(text):
            filled += literal
            if name is None:
                continue
            value = _value(row, name, spec, conversion)
            if value and (self.slots is None or name in self.slots):
                places.append((name, len(filled), len(filled) + len(value)))
            filled += value
        return filled, places


def _pieces(text: str) -> Iterator[tuple[str, str | None, str, str | None]]:
    """Literal text, then the column, format and conversion of the slot behind it."""
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise InvalidValue(f"the template {text!r} is malformed: {error}; write {{{{ and }}}} for braces") from error
    for literal, name, spec, conversion in pieces:
        if name is not None and (not name or any(mark in name for mark in ".[]") or name.isdigit()):
            raise InvalidValue(f"a slot of a template must name a column, such as {{city}}; got {{{name}}} in {text!r}")
        yield literal, name, spec or "", conversion


def _value(row: Mapping[str, Any], name: str, spec: str, conversion: str | None) -> str:
    value = row.get(name)
    if value is None:
        raise InvalidValue(f"the row has no value in column {name!r}, which the template needs")
    try:
        return format(Formatter().convert_field(value, conversion), spec)
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"{value!r} in column {name!r} cannot be formatted as {spec!r}: {error}") from error


def _free(name: str, taken: Spans) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} {number}"
    return free
