"""What a model is asked, in the units that a user names."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from itertools import pairwise
from typing import Any, TypeAlias, get_args

from llm_attr.errors import EmptyPrompt, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import beginning, check_characters
from llm_attr.llm.prompt.bound import Absence, BoundPrompt, Owner, Scope
from llm_attr.llm.prompt.chat import Messages, Place, places, render, texts
from llm_attr.llm.prompt.units import SPLITTERS, Span

UNITS = ("token", *SPLITTERS, "document", "message", "span")
"""The units that a prompt can be attributed to."""

SpanRule: TypeAlias = "str | re.Pattern[str] | tuple[int, int] | tuple[int, int, int]"
"""Parts of the content: a text, a pattern, characters `(start, end)` of a text or `(message, start, end)` of a chat."""

Spans: TypeAlias = "Sequence[SpanRule] | Mapping[str, SpanRule]"


@dataclass(frozen=True)
class Document:
    """A document in the content of a message: `start` with its heading, `body` without, up to `end`."""

    name: str
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class Prompt:
    """A text, or the messages of a chat, and the units in which it is explained.

    Args:
        content: Raw text, or messages `{"role": ..., "content": text}` that the model's chat template renders. A last
            message of the assistant is the beginning of the answer.
        unit: `token`, `word`, `sentence`, `paragraph`, `document` (see `from_documents`), `message` (of a content in
            several text parts, each part), or `span`.
        spans: The units themselves: substrings, patterns (each match is a unit), character ranges `(start, end)` of a
            text or `(message, start, end)` of a chat; in a dict, under names. Everything else is always present.
        absence: What happens to an absent unit. `delete`: it is taken out and the text tokenised again. `replace`: each
            of its tokens becomes `replacement`. `mask`: its tokens are dropped and the others keep their positions, as
            under an attention mask. With ALiBi (BLOOM, Falcon) distances are counted over what is left, as the model
            does under such a mask; models that a mask hides nothing from (recurrent ones) are refused.
        replacement: A token, or its id, for `replace`; by default the pad token, else that of the end of text.
        template_kwargs: Further arguments of the chat template (`tools`, `enable_thinking`, ...).
        documents: Where documents stand in the content; filled by `from_documents`.
        pinned: What is always present, too, and no unit: messages by their role (`"system"`) or number (the last one is
            -1), or documents by their name.

    The chat template is rendered once. Its own text and control tokens are always present and never features, and so is
    a system message that it adds by itself. Special tokens that the tokenizer puts in front of a text, such as BOS, are
    no features either; a text that begins with them gets no second ones. A token belongs to the unit of its first
    character that is no white space, and a token of white space to the unit that it is inside of.

    Deleted units take white space with them: of that before and after, the one with more line breaks stays between
    their neighbours (of equals the first that there is), and none at the beginning or end of the content. So taking out
    the last sentence of a paragraph does not join it to the next. Units of tokens are taken out without tokenising
    again.

    Raises:
        UnknownName: there is no such unit or absence.
        EmptyPrompt: the content holds nothing but white space.
        InvalidType: the content is neither a text nor messages.
        InvalidValue: arguments do not fit each other, or the content holds half of a surrogate pair.

    Example:
        >>> Prompt("Aksel repairs violins. He has a dog.", unit="sentence").unit
        'sentence'
    """

    content: str | Messages
    _: KW_ONLY
    unit: str = "sentence"
    spans: Spans | None = None
    absence: Absence = "delete"
    replacement: int | str | None = None
    template_kwargs: Mapping[str, Any] | None = None
    documents: tuple[Document, ...] = ()
    pinned: str | int | Sequence[str | int] = ()

    def __post_init__(self) -> None:
        if self.spans is not None and self.unit in ("sentence", "span"):
            object.__setattr__(self, "unit", "span")
        if self.unit not in UNITS:
            raise UnknownName("unit", self.unit, UNITS)
        if self.absence not in get_args(Absence):
            raise UnknownName("absence", self.absence, get_args(Absence))
        self._check()

    @classmethod
    def from_documents(
        cls,
        question: str,
        documents: Mapping[str, str] | Sequence[str],
        *,
        unit: str = "document",
        chat: bool = True,
        system: str | None = None,
        **options: Any,
    ) -> Prompt:
        """A question over retrieved documents, each under its name.

        Args:
            question: What is asked; always present, after the documents.
            documents: Texts by name or id, or a list of texts, which are numbered from 1.
            unit: `document`, or a finer unit of the documents' texts.
            chat: Whether the model gets a chat with one user message, or the raw text.
            system: A system message for the chat.
            **options: Further arguments of `Prompt`.

        Raises:
            EmptyPrompt: there are no documents.
            InvalidType: the question or a document is no text.
        """
        if not isinstance(documents, Mapping | Sequence) or isinstance(documents, str | bytes):
            raise InvalidType(f"documents must be texts by name, or a list of texts; got {documents!r}")
        named = documents if isinstance(documents, Mapping) else {str(i): text for i, text in enumerate(documents, 1)}
        if not named:
            raise EmptyPrompt("from_documents needs at least one document; got none")
        if wrong := [text for text in (question, *named.values()) if not isinstance(text, str)]:
            raise InvalidType(f"a question and documents are texts; got {wrong[0]!r}")
        text, found = "", []
        for name, document in named.items():
            heading = f"[{name}]\n"
            found.append(Document(str(name), len(text), len(text) + len(heading), len(text + heading + document)))
            text += f"{heading}{document}\n\n"
        text += question
        content: str | Messages = text
        if chat:
            content = [{"role": "user", "content": text}]
            content = [{"role": "system", "content": system}, *content] if system is not None else content
        elif system is not None:
            raise InvalidValue("a system message needs chat=True")
        return cls(content, unit=unit, documents=tuple(found), **options)

    def bind(self, language_model: LanguageModel) -> BoundPrompt:
        """The prompt in the text and tokens of a model."""
        if isinstance(self.content, str):
            text, start = self.content, len(beginning(language_model.tokenizer, self.content))
            found, changed = [Place("", 0, start, len(text), start)], list[str]()
        else:
            text = render(language_model, self.content, self.template_kwargs)
            found, changed = places(language_model, self.content, text, self.template_kwargs)
        return BoundPrompt(
            language_model,
            text,
            contents=[(place.start, place.end) for place in found],
            scopes=[scope for scope in self._scopes(found) if not self._pins(scope.owner)],
            spans=self._spans(text, found),
            unit=self.unit,
            pinned=list(self._pinned(found)),
            absence=self.absence,
            replacement=self.replacement,
            special_tokens=isinstance(self.content, str),
            changed=changed,
        )

    def _check(self) -> None:
        if self.spans is not None and not isinstance(self.spans, list | tuple | Mapping):
            raise InvalidType(f"spans must be a list of spans, or a dict of named ones; got {self.spans!r}")
        contents = [self.content] if isinstance(self.content, str) else [text for _, text in texts(self.content)]
        if not any(text.strip() for text in contents):
            raise EmptyPrompt(f"the prompt is empty: {self.content!r}")
        for text in contents:
            check_characters(text, "the prompt")
        if (self.unit == "span") != (self.spans is not None):
            raise InvalidValue(
                f"unit 'span' and spans=... go together; got unit {self.unit!r} and spans {self.spans!r}"
            )
        if self.unit == "document" and not self.documents:
            raise InvalidValue("unit 'document' needs documents: make the prompt with Prompt.from_documents")
        if isinstance(self.content, str) and (self.unit == "message" or self.template_kwargs):
            raise InvalidValue("a raw text has no messages and no chat template; pass messages for that")
        if self._pinned_names:
            self._check_pinned()
        if self.replacement is not None and self.absence != "replace":
            raise InvalidValue(f"replacement is for absence='replace'; got absence={self.absence!r}")

    def _check_pinned(self) -> None:
        if self.spans is not None:
            raise InvalidValue("spans are the units, and all else is always present; pinned is for other units")
        known: set[str | int] = set()
        if self.documents and self.unit != "message":
            known = {document.name for document in self.documents}
        elif not isinstance(self.content, str):
            count = len(self.content)
            known = {message["role"] for message in self.content} | set(range(-count, count))
        for name in self._pinned_names:
            if isinstance(name, bool) or name not in known:
                raise UnknownName("message or document to pin", name, map(str, sorted(known, key=str)))

    def _scopes(self, found: Sequence[Place]) -> Iterator[Scope]:
        """What units are looked for in: documents if there are any, else messages, else the text."""
        documents = () if self.unit == "message" else self.documents
        for number, document in enumerate(documents):
            place = self._place_of_documents(found)
            start = document.start if self.unit == "document" else document.body
            first, stop = place.start + start - place.offset, place.start + document.end - place.offset
            yield Scope(("document", document.name, number), first, min(stop, place.end))
        if not documents:
            for place in found:
                owner = ("message", place.role, place.message) if place.role else ("text", "", 0)
                yield Scope(owner, place.start, place.end)

    def _place_of_documents(self, found: Sequence[Place]) -> Place:
        number = 0 if isinstance(self.content, str) else len(self.content) - 1
        place = next((place for place in found if place.message == number), None)
        if place is None or place.offset > self.documents[0].start:
            raise InvalidValue(
                "the chat template does not show the message with the documents as it is, so they cannot be found in "
                "what it renders; make the prompt with Prompt.from_documents(..., chat=False)"
            )
        return place

    @property
    def _pinned_names(self) -> tuple[str | int, ...]:
        return (self.pinned,) if isinstance(self.pinned, str | int) else tuple(self.pinned)

    def _pins(self, owner: Owner) -> bool:
        """Whether this message or document is always present."""
        kind, name, number = owner
        return name in self._pinned_names or (kind == "message" and self._is_numbered(number))

    def _is_numbered(self, message: int) -> bool:
        return not {message, message - len(self.content)}.isdisjoint(self._pinned_names)

    def _pinned(self, found: Sequence[Place]) -> Iterator[Span]:
        """The characters of the pinned messages or documents."""
        for scope in self._scopes(found):
            if self._pins(scope.owner):
                yield scope.start, scope.end

    def _spans(self, text: str, found: Sequence[Place]) -> list[tuple[str, Span]] | None:
        """The explicit spans of the rendered text with their names, in order."""
        if self.spans is None:
            return None
        named = self.spans.items() if isinstance(self.spans, Mapping) else (("", rule) for rule in self.spans)
        spans = [(str(name), span) for name, rule in named for span in _find(rule, text, found)]
        spans.sort(key=lambda entry: entry[1])
        for (_, first), (_, second) in pairwise(spans):
            if second[0] < first[1]:
                raise InvalidValue(f"spans overlap: {text[slice(*first)]!r} and {text[slice(*second)]!r}")
        return spans


def _find(rule: SpanRule, text: str, found: Sequence[Place]) -> list[Span]:
    if isinstance(rule, str | re.Pattern):
        pattern = re.compile(re.escape(rule)) if isinstance(rule, str) else rule
        spans = [
            (place.start + match.start(), place.start + match.end())
            for place in found
            for match in pattern.finditer(text[place.start : place.end])
            if match.end() > match.start()
        ]
        if not spans:
            raise InvalidValue(f"the span {rule!r} is nowhere in the prompt's content")
        return spans
    if not isinstance(rule, tuple) or len(rule) not in (2, 3) or not all(isinstance(part, int) for part in rule):
        raise InvalidType(f"a span is a text, a pattern, (start, end) or (message, start, end); got {rule!r}")
    if (len(rule) == 3) != bool(found[0].role):
        raise InvalidValue(f"a span of a text is (start, end), of a chat (message, start, end); got {rule!r}")
    number, start, end = rule if len(rule) == 3 else (0, *rule)
    place = next((place for place in found if place.message == number), None)
    if place is None or not place.offset <= start < end <= place.offset + place.end - place.start:
        raise InvalidValue(f"the span {rule!r} is not inside the content")
    return [(place.start + start - place.offset, place.start + end - place.offset)]
