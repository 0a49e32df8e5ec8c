"""The prompt and the answer of a row: which columns they are made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from llm_attr.llm.jobs.rows.source import Row
from llm_attr.llm.jobs.rows.template import Spans, Template
from llm_attr.llm.prompt.prompt import UNITS, Prompt

ROLES = ("prompt", "messages", "documents", "target")
"""What a column can be."""

SLOT = "slot"
"""The unit of a template: a value in it."""


@dataclass(frozen=True)
class RowPrompts:
    """Makes the prompts of rows.

    Attributes:
        columns: The column of each role.
        template: The template, in place of a prompt or messages.
        unit: The kind of unit; None: `slot` with a template, `document` with documents, otherwise `sentence`.
        chat: Whether a text is the user's message of a chat.
        system: A system message before it.
        options: Further arguments of `Prompt`.

    Raises:
        InvalidValue: roles or arguments contradict each other.
        UnknownName: there is no such unit.
    """

    columns: Mapping[str, str]
    template: Template | None = None
    unit: str | None = None
    chat: bool = False
    system: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, present: Sequence[str], given: Mapping[str, str] | None, **arguments: Any) -> RowPrompts:
        """For a data set with these columns; roles that are not given have the column of their name.

        Raises:
            UnknownName: a given role or column does not exist.
            InvalidValue: see the class.
        """
        for role, column in (given or {}).items():
            if role not in ROLES:
                raise UnknownName("role of a column", role, ROLES)
            if column not in present:
                raise UnknownName("column", column, present)
        columns = {role: role for role in ROLES if role in present} | dict(given or {})
        template = arguments.get("template")
        if template is not None:
            for name in template.columns:
                if name not in present:
                    raise UnknownName("column in the template", name, present)
            for role in ("prompt", "messages", "documents"):
                if role in (given or {}):
                    raise InvalidValue(f"a template takes the place of the column for {role}; leave one of them out")
                columns.pop(role, None)
        elif not columns.keys() & {"prompt", "messages"}:
            raise InvalidValue(
                f"the data set has no column 'prompt' or 'messages'; it has {', '.join(present) or 'none'}. Name the "
                "column, columns={'prompt': ...}, or give a template"
            )
        return cls(columns, **arguments)

    def __post_init__(self) -> None:
        if self.unit is not None and self.unit not in (*UNITS, SLOT):
            raise UnknownName("unit", self.unit, (*UNITS, SLOT))
        if (self.unit == SLOT) > (self.template is not None):
            raise InvalidValue("unit 'slot' needs a template")
        if self.unit == "span":
            raise InvalidValue("unit 'span' is for a Prompt with spans; with a template the unit is 'slot'")
        if self.system is not None and not self.chat:
            raise InvalidValue("a system message needs chat=True")

    @property
    def consumed(self) -> set[str]:
        """The columns that are not carried along: prompt, messages, documents and target."""
        return set(self.columns.values())

    def prompt(self, row: Row) -> Prompt:
        """The prompt of a row.

        Raises:
            LlmAttrError: the row holds no prompt, or one of the wrong form.
        """
        if self.template is not None:
            content, spans = self._as_chat(*self.template.filled(row))
            if self.unit in (None, SLOT):
                return Prompt(content, unit="span", spans=spans, **self.options)
            return Prompt(content, unit=self.unit, **self.options)
        content = self._given(row)
        documents = self._documents(row)
        if documents is not None:
            if not isinstance(content, str):
                raise InvalidType("documents need a question that is a text; the row has messages")
            how = {"unit": self.unit or "document", "chat": self.chat, "system": self.system}
            return Prompt.from_documents(content, documents, **how, **self.options)  # type: ignore[arg-type]
        return Prompt(self._as_chat(content, {})[0], unit=self.unit or "sentence", **self.options)

    def target(self, row: Row) -> Any:
        """The answer of a row: a text or token ids; None if the model generates it."""
        name = self.columns.get("target")
        return None if name is None else row.get(name)

    def _given(self, row: Row) -> Any:
        for role in ("messages", "prompt"):
            value = row.get(self.columns.get(role, ""))
            if value is not None:
                return _without_gaps(_parsed(value) if role == "messages" else value)
        names = [repr(self.columns[role]) for role in ("prompt", "messages") if role in self.columns]
        raise InvalidValue(f"the row has no value in column {' or '.join(names)}")

    def _documents(self, row: Row) -> dict[str, str] | list[str] | None:
        value = row.get(self.columns.get("documents", ""))
        if value is None:
            return None
        value = _parsed(value)
        if isinstance(value, list) and all(isinstance(entry, Mapping) and "text" in entry for entry in value):
            return {str(entry.get("id", number)): entry["text"] for number, entry in enumerate(value, 1)}
        return value

    def _as_chat(self, content: Any, spans: Spans) -> tuple[Any, Spans]:
        """With `chat` a text as the user's message, and the spans in that."""
        if not self.chat or not isinstance(content, str):
            return content, spans
        before = [] if self.system is None else [{"role": "system", "content": self.system}]
        placed = {name: (len(before), *place) for name, place in spans.items()}
        return [*before, {"role": "user", "content": content}], placed


def _parsed(value: Any) -> Any:
    """Messages or documents; from a text column as JSON."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise InvalidValue(f"messages and documents must be lists, or lists as JSON; got {value[:60]!r}") from error


def _without_gaps(content: Any) -> Any:
    """Messages without the empty fields that a table gives to each, since another has them."""
    if isinstance(content, str):
        return content
    return [{name: value for name, value in message.items() if value is not None} for message in content]
