"""Rendering the messages of a chat, and locating their contents in the rendered text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from llm_attr.caller import warn_caller
from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.tokenizer import check_characters

Messages = Sequence[Mapping[str, Any]]


class Place(NamedTuple):
    """The place of a message's text in the rendered text.

    Attributes:
        role: The role of the message.
        message: Its number.
        start: Its first character in the rendered text.
        end: One past its last.
        offset: How many of its leading characters the template left out.
    """

    role: str
    message: int
    start: int
    end: int
    offset: int


def texts(messages: Messages) -> list[tuple[int, str]]:
    """`(message number, text)` for each text in the messages.

    Raises:
        InvalidType: an item is not a message with a role and, as content, a text or a list of text parts.
    """
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidType(f"a prompt is a text or a list of messages; got {type(messages).__name__}")
    return [(number, text) for number, message in enumerate(messages) for text in _texts(message)]


def render(language_model: LanguageModel, messages: Messages, template_kwargs: Mapping[str, Any] | None = None) -> str:
    """The messages as the text that the model receives, ready for its answer.

    A final assistant message is a prefill of the answer, unless `template_kwargs` say otherwise.

    Raises:
        InvalidValue: the tokenizer has no chat template, the template refuses the messages, or the rendered text
            contains half of a surrogate pair.
    """
    tokenizer = language_model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidValue(f"the tokenizer of {language_model.name} has no chat template; pass the prompt as a text")
    prefilled = bool(messages) and messages[-1]["role"] == "assistant" and bool(_texts(messages[-1]))
    ending = {"continue_final_message": True} if prefilled else {"add_generation_prompt": True}
    try:
        text = str(
            tokenizer.apply_chat_template(list(messages), tokenize=False, **{**ending, **(template_kwargs or {})})
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidValue(f"the chat template refused the messages: {error}") from error
    check_characters(text, "the rendered chat")
    return text


def places(
    language_model: LanguageModel, messages: Messages, rendered: str, template_kwargs: Mapping[str, Any] | None = None
) -> tuple[list[Place], list[str]]:
    """The places of the messages' texts in the rendered text, in order, and what the template changes.

    The template is rendered again with a marker for each text; filling in the texts must reproduce the rendered text.
    If it does not, because the template processes some texts, each text is marked in turn. Texts that are left out or
    changed have no place; a warning and the second list report them, a line per message.

    Raises:
        InvalidValue: the template shows none of the texts unchanged.
    """

    def marked(*numbers: int) -> str:
        try:
            return render(language_model, _with_markers(messages, numbers), template_kwargs)
        except InvalidValue:
            return ""

    contents = {number: entry for number, entry in enumerate(texts(messages)) if entry[1].strip()}
    located = _joined(marked(*contents), contents, rendered)
    if located is not None:
        return [place._replace(role=str(messages[place.message]["role"])) for place in located], []
    located, changed = [], list[str]()
    for number, (message, content) in contents.items():
        place, fate = _alone(marked(number), _marker(number), content, rendered)
        role = str(messages[message]["role"])
        located += [] if place is None else [place._replace(role=role, message=message)]
        changed += [f"message {message} ({role}) {fate}"] if fate else []
    if not located:
        raise InvalidValue(
            f"the chat template of {language_model.name} does not show the messages as they are, so units cannot be "
            f"found in them: {'; '.join(changed)}; render the template yourself and pass the text"
        )
    if changed:
        warn_caller(
            f"the chat template of {language_model.name} does not show all messages as they are: {'; '.join(changed)}. "
            "Units are made of what it shows as it is; the rest of what it renders is always present",
            UserWarning,
        )
    return sorted(located, key=lambda place: place.start), changed


def _marker(number: int) -> str:
    return f"\u2402{number}\u2403"


def _joined(marked: str, contents: Mapping[int, tuple[int, str]], rendered: str) -> list[Place] | None:
    """The places of all texts, if the template shows each unchanged and in order, and its own text is fixed."""
    frame, rest = [], marked
    for number in contents:
        own, _, rest = rest.partition(_marker(number))
        frame.append(own)
    located, built = [], frame[0]
    for (message, content), following in zip(contents.values(), [*frame[1:], rest], strict=True):
        shown = next((trim for trim in _trims(content) if rendered.startswith(built + trim + following)), None)
        if shown is None:
            return None
        located.append(Place("", message, len(built), len(built) + len(shown), content.index(shown)))
        built += shown + following
    return located if built == rendered else None


def _alone(marked: str, marker: str, content: str, rendered: str) -> tuple[Place | None, str]:
    """The place of one text, from a rendering with a marker instead, and how the template changes it."""
    if not marked:
        return None, "is changed or checked"
    before, _, after = marked.partition(marker)
    if marked.count(marker) != 1:
        return None, "is shown several times" if marker in after else "is left out"
    start, end = len(before), len(rendered) - len(after)
    shown = rendered[start:end]
    if start > end or before + shown + after != rendered or not shown.strip() or shown not in content:
        return None, "is changed"
    fate = "" if shown in _trims(content) else f"is shown only as {_shortened(shown)!r}"
    return Place("", 0, start, end, content.rindex(shown)), fate


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:59]}…"


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    if content is None and message.get("role") == "assistant" and message.keys() - {"role", "content", "name"}:
        return []  # a turn with only tool calls
    parts: Any = [{"text": content}] if isinstance(content, str) else content
    known = isinstance(message.get("role"), str) and isinstance(parts, Sequence)
    strings = [part.get("text") if isinstance(part, Mapping) else None for part in parts] if known else [None]
    if not all(isinstance(text, str) for text in strings):
        raise InvalidType(
            "a message is a dict with 'role' and, as 'content', a text or a list of text parts, which an assistant's "
            f"with tool calls may lack; got {dict(message)!r}"
        )
    return [str(text) for text in strings]


def _with_markers(messages: Messages, numbers: Collection[int]) -> list[Mapping[str, Any]]:
    """The messages with these of their texts replaced by markers."""
    numbered = enumerate(texts(messages))
    new = iter([_marker(number) if number in numbers else text for number, (_, text) in numbered])
    return [_with_texts(message, new) if message.get("content") is not None else message for message in messages]


def _with_texts(message: Mapping[str, Any], new: Iterator[str]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message, "content": next(new)}
    return {**message, "content": [{**part, "text": next(new)} for part in message["content"]]}


def with_text(message: Mapping[str, Any], place: int, new: str) -> dict[str, Any]:
    """The message with another text in place of one of its texts."""
    return _with_texts(message, iter([new if i == place else text for i, text in enumerate(_texts(message))]))


def _trims(content: str) -> list[str]:
    return [content, content.strip(), content.lstrip(), content.rstrip()]
