"""`Prompt`: the input of an explanation and its units."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass
from itertools import pairwise
from typing import Any, TypeAlias, get_args

from llm_attr.errors import EmptyPrompt, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import beginning, check_characters
from llm_attr.llm.prompt.bound import Absence, BoundPrompt, Owner, Scope
from llm_attr.llm.prompt.chat import Messages, Place, places, render, texts
from llm_attr.llm.prompt.trace import DEFINITIONS, Tools, Trace
from llm_attr.llm.prompt.trace_places import Part, RenderedTrace
from llm_attr.llm.prompt.units import SPLITTERS, Span

UNITS = ("token", *SPLITTERS, "document", "message", "step", "span")
"""The units of a prompt."""

SpanRule: TypeAlias = "str | re.Pattern[str] | tuple[int, int] | tuple[int, int, int]"
"""A substring, a pattern, characters `(start, end)` of a text or `(message, start, end)` of a chat."""

Spans: TypeAlias = "Sequence[SpanRule] | Mapping[str, SpanRule]"


@dataclass(frozen=True)
class Document:
    """A document in the content of a message, from `start` (heading) or `body` (text) to `end`."""

    name: str
    start: int
    body: int
    end: int


@dataclass(frozen=True)
class Prompt:
    """A text or a chat, and the units in which it is explained.

    Args:
        content: Raw text, or messages `{"role": ..., "content": text}` that the model's chat template renders. A final
            assistant message is the beginning of the answer.
        unit: `token`, `word`, `sentence`, `paragraph`, `document` (see `from_documents`), `message` (each text part, if
            the content has several), `step` (see `from_trace`), or `span`.
        spans: The units themselves: substrings, patterns (each match is a unit), character ranges `(start, end)` of a
            text or `(message, start, end)` of a chat; or a dict with names for them. Everything else is always present.
        absence: What happens to an absent unit. `delete`: it is removed and the text tokenised again. `replace`: each
            of its tokens becomes `replacement`. `mask`: its tokens are dropped and the others keep their positions, as
            under an attention mask. With ALiBi (BLOOM, Falcon) distances count only the remaining tokens, as in the
            model's own masked forward; models that ignore the mask (recurrent ones) are refused.
        replacement: A token, or its id, for `replace`; by default the pad token, else the end-of-text token.
        template_kwargs: Further arguments of the chat template (`tools`, `enable_thinking`, ...).
        documents: The documents in the content; set by `from_documents`.
        trace: The messages and tools of an agent; set by `from_trace`.
        pinned: What else is always present: messages by role (`"system"`) or number (-1 is the last), or documents by
            name.

    The chat template is rendered once. Its own text and control tokens, and a system message that it adds by itself,
    are always present and never features. Neither are special tokens that the tokenizer prepends, such as BOS; they are
    not added a second time to a text that begins with them. A token belongs to the unit of its first non-whitespace
    character, a token of whitespace to the unit around it.

    A deleted unit takes whitespace with it: of the whitespace before and after it, the one with more line breaks
    remains (the first of equals), and none at the beginning or end of the content. So deleting the last sentence of a
    paragraph does not join it to the next. Token units are deleted without tokenising again.

    Raises:
        UnknownName: there is no such unit or absence.
        EmptyPrompt: the content is empty or only whitespace.
        InvalidType: the content is neither a string nor a list of messages.
        InvalidValue: arguments contradict each other, or the content contains half of a surrogate pair.

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
    trace: Trace | None = None

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
        """A question about retrieved documents, each under its name.

        Args:
            question: The question; always present, after the documents.
            documents: Texts by name or id, or a list of texts, which are numbered from 1.
            unit: `document`, or a finer unit of the documents' texts.
            chat: Whether to make a chat with one user message rather than raw text.
            system: A system message for the chat.
            **options: Further arguments of `Prompt`.

        Raises:
            EmptyPrompt: there are no documents.
            InvalidType: the question or a document is not a string.
        """
        if not isinstance(documents, Mapping | Sequence) or isinstance(documents, str | bytes):
            raise InvalidType(f"documents must be texts by name, or a list of texts; got {documents!r}")
        named = documents if isinstance(documents, Mapping) else {str(i): text for i, text in enumerate(documents, 1)}
        if not named:
            raise EmptyPrompt("from_documents needs at least one document; got none")
        if wrong := [text for text in (question, *named.values()) if not isinstance(text, str)]:
            raise InvalidType(f"a question and documents are texts; got {wrong[0]!r}")
        text, located = "", []
        for name, document in named.items():
            heading = f"[{name}]\n"
            located.append(Document(str(name), len(text), len(text) + len(heading), len(text + heading + document)))
            text += f"{heading}{document}\n\n"
        text += question
        content: str | Messages = text
        if chat:
            content = [{"role": "user", "content": text}]
            content = [{"role": "system", "content": system}, *content] if system is not None else content
        elif system is not None:
            raise InvalidValue("a system message needs chat=True")
        return cls(content, unit=unit, documents=tuple(located), **options)

    @classmethod
    def from_trace(
        cls,
        messages: Messages,
        *,
        tools: Tools = (),
        unit: str = "message",
        target: str | None = None,
        call: int | None = None,
        untrusted: Collection[str | int] = ("tool",),
        **options: Any,
    ) -> Prompt:
        """What an agent has read and done, and the action that is explained.

        The template of the model renders tool definitions, reasoning, calls and results; each is found in what it
        renders. A step is an assistant's message with the results of its calls, or a user's message; an absent step is
        removed with the template's text around it.

        Args:
            messages: Messages as OpenAI and Hugging Face write them, with `tool_calls`, `tool_call_id` and
                `reasoning_content`. The last one, an assistant's, is the action.
            tools: Tool definitions: JSON schemas, or Python functions with docstrings.
            unit: `step`; `message`: each text, reasoning, call, result and tool definition; `sentence` and `paragraph`
                split texts only, `word` and `token` everything.
            target: What of the action is explained: `message` (the default), `tool` (the name of the tool that it
                calls), the JSON path of an argument, such as `$.city`, or `next`: the model's own next message, or the
                `target` of `explain`.
            call: Which call of the action, if it has several.
            untrusted: Roles, names of tools that answered, numbers of messages, or `tools` (the definitions): whose
                text comes from outside.
            **options: Further arguments of `Prompt`.

        Raises:
            UnknownName: a role, a target or something untrusted does not exist.
            InvalidValue: a tool result has no call before it, or two tools have the same name.
            InvalidTarget: the trace does not end with an action, or the action lacks the target.
            InvalidType: a message, a call or a tool has another form.

        Example:
            >>> chat = [{"role": "user", "content": "Is it wet in Oslo?"}, {"role": "assistant", "content": "Yes."}]
            >>> Prompt.from_trace(chat).trace.target
            'message'
        """
        trace = Trace.of(messages, tools, target, call, untrusted)
        if "tools" in (options.get("template_kwargs") or {}):
            raise InvalidValue("pass tools to from_trace; template_kwargs are for other arguments of the template")
        if unit == "document" or options.get("spans") is not None:
            raise InvalidValue("a trace has no documents and no spans; its units are those of from_trace")
        return cls(list(trace.messages), unit=unit, trace=trace, **options)

    def answer(self, language_model: LanguageModel) -> tuple[str, Span] | None:
        """The action of a trace as the model's template renders it, and the characters that are explained.

        None if the prompt is no trace, or the model's own next message is explained.

        Raises:
            InvalidTarget: the template does not show it.
        """
        if self.trace is None or self.trace.action is None:
            return None
        return RenderedTrace(language_model, self.trace, self.template_kwargs).answer()

    def bind(self, language_model: LanguageModel) -> BoundPrompt:
        """Binds the prompt to the text and tokens of a model."""
        if self.trace is not None:
            return self._bound_trace(language_model, self.trace)
        if isinstance(self.content, str):
            text, start = self.content, len(beginning(language_model.tokenizer, self.content))
            contents, changed = [Place("", 0, start, len(text), start)], list[str]()
        else:
            text = render(language_model, self.content, self.template_kwargs)
            contents, changed = places(language_model, self.content, text, self.template_kwargs)
        return BoundPrompt(
            language_model,
            text,
            contents=[(place.start, place.end) for place in contents],
            scopes=[scope for scope in self._scopes(contents) if not self._pins(scope.owner)],
            spans=self._spans(text, contents),
            unit=self.unit,
            pinned=list(self._pinned(contents)),
            absence=self.absence,
            replacement=self.replacement,
            special_tokens=isinstance(self.content, str),
            changed=changed,
        )

    def _bound_trace(self, language_model: LanguageModel, trace: Trace) -> BoundPrompt:
        rendered = RenderedTrace(language_model, trace, self.template_kwargs)
        parts, changed = rendered.parts()
        if self.unit == "step":
            parts = rendered.steps(parts)
        kept = [not self._pins_part(part) for part in parts]
        kinds = {"definition": "tool", "step": "step"}
        owners = [(kinds.get(part.kind, "message"), part.label, number) for number, part in enumerate(parts)]
        return BoundPrompt(
            language_model,
            rendered.text,
            contents=[(part.start, part.end) for part in parts],
            scopes=[
                Scope(owner, part.start, part.end, part.kind in ("call", "definition"))
                for owner, part, is_kept in zip(owners, parts, kept, strict=True)
                if is_kept
            ],
            unit=self.unit,
            pinned=[(part.start, part.end) for part, is_kept in zip(parts, kept, strict=True) if not is_kept],
            absence=self.absence,
            replacement=self.replacement,
            special_tokens=False,
            changed=changed,
            marks={owner: asdict(part.mark) for owner, part in zip(owners, parts, strict=True)},
        )

    def _pins_part(self, part: Part) -> bool:
        mark = part.mark
        return mark.role in self._pinned_names or (mark.message >= 0 and self._is_numbered(mark.message))

    def _check(self) -> None:
        if self.unit == "step" and self.trace is None:
            raise InvalidValue("unit 'step' needs a trace; use Prompt.from_trace")
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
            raise InvalidValue("unit 'document' needs documents; use Prompt.from_documents")
        if isinstance(self.content, str) and (self.unit == "message" or self.template_kwargs):
            raise InvalidValue("raw text has no messages and no chat template; pass messages for that")
        if self._pinned_names:
            self._check_pinned()
        if self.replacement is not None and self.absence != "replace":
            raise InvalidValue(f"replacement is for absence='replace'; got absence={self.absence!r}")

    def _check_pinned(self) -> None:
        if self.spans is not None:
            raise InvalidValue("with spans everything else is always present; pinned is for other units")
        known: set[str | int] = set()
        if self.documents and self.unit != "message":
            known = {document.name for document in self.documents}
        elif not isinstance(self.content, str):
            count = len(self.content)
            known = {message["role"] for message in self.content} | set(range(-count, count))
            known |= {DEFINITIONS} if self.trace is not None else set()
        for name in self._pinned_names:
            if isinstance(name, bool) or name not in known:
                raise UnknownName("message or document to pin", name, map(str, sorted(known, key=str)))

    def _scopes(self, contents: Sequence[Place]) -> Iterator[Scope]:
        """The parts that are split into units: documents if there are any, else messages, else the text."""
        documents = () if self.unit == "message" else self.documents
        for number, document in enumerate(documents):
            place = self._place_of_documents(contents)
            start = document.start if self.unit == "document" else document.body
            first, stop = place.start + start - place.offset, place.start + document.end - place.offset
            yield Scope(("document", document.name, number), first, min(stop, place.end))
        if not documents:
            for place in contents:
                owner = ("message", place.role, place.message) if place.role else ("text", "", 0)
                yield Scope(owner, place.start, place.end)

    def _place_of_documents(self, contents: Sequence[Place]) -> Place:
        number = 0 if isinstance(self.content, str) else len(self.content) - 1
        place = next((place for place in contents if place.message == number), None)
        if place is None or place.offset > self.documents[0].start:
            raise InvalidValue(
                "the chat template changes the message with the documents, so they cannot be located in the rendered "
                "text; use Prompt.from_documents(..., chat=False)"
            )
        return place

    @property
    def _pinned_names(self) -> tuple[str | int, ...]:
        return (self.pinned,) if isinstance(self.pinned, str | int) else tuple(self.pinned)

    def _pins(self, owner: Owner) -> bool:
        """Whether this message or document is pinned."""
        kind, name, number = owner
        return name in self._pinned_names or (kind == "message" and self._is_numbered(number))

    def _is_numbered(self, message: int) -> bool:
        return not {message, message - len(self.content)}.isdisjoint(self._pinned_names)

    def _pinned(self, contents: Sequence[Place]) -> Iterator[Span]:
        """The characters of the pinned messages or documents."""
        for scope in self._scopes(contents):
            if self._pins(scope.owner):
                yield scope.start, scope.end

    def _spans(self, text: str, contents: Sequence[Place]) -> list[tuple[str, Span]] | None:
        """The explicit spans of the rendered text with their names, in order."""
        if self.spans is None:
            return None
        named = self.spans.items() if isinstance(self.spans, Mapping) else (("", rule) for rule in self.spans)
        spans = [(str(name), span) for name, rule in named for span in _find(rule, text, contents)]
        spans.sort(key=lambda entry: entry[1])
        for (_, first), (_, second) in pairwise(spans):
            if second[0] < first[1]:
                raise InvalidValue(f"spans overlap: {text[slice(*first)]!r} and {text[slice(*second)]!r}")
        return spans


def _find(rule: SpanRule, text: str, contents: Sequence[Place]) -> list[Span]:
    if isinstance(rule, str | re.Pattern):
        pattern = re.compile(re.escape(rule)) if isinstance(rule, str) else rule
        spans = [
            (place.start + match.start(), place.start + match.end())
            for place in contents
            for match in pattern.finditer(text[place.start : place.end])
            if match.end() > match.start()
        ]
        if not spans:
            raise InvalidValue(f"the span {rule!r} is nowhere in the prompt's content")
        return spans
    if not isinstance(rule, tuple) or len(rule) not in (2, 3) or not all(isinstance(part, int) for part in rule):
        raise InvalidType(f"a span must be a string, a pattern, (start, end) or (message, start, end); got {rule!r}")
    if (len(rule) == 3) != bool(contents[0].role):
        raise InvalidValue(f"a span of a text is (start, end), of a chat (message, start, end); got {rule!r}")
    number, start, end = rule if len(rule) == 3 else (0, *rule)
    place = next((place for place in contents if place.message == number), None)
    if place is None or not place.offset <= start < end <= place.offset + place.end - place.start:
        raise InvalidValue(f"the span {rule!r} is not inside the content")
    return [(place.start + start - place.offset, place.start + end - place.offset)]
