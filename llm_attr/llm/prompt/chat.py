"""Messages of a chat as the one text that a model gets, and where their contents stand in it."""

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
    """Where the text of a message stands.

    Attributes:
        role: Of the message.
        message: Its number.
        start: Its first character in the rendered text.
        end: One past its last.
        offset: How many characters of its beginning the template left out.
    """

    role: str
    message: int
    start: int
    end: int
    offset: int


def texts(messages: Messages) -> list[tuple[int, str]]:
    """The number of the message and the text, for each text in the messages.

    Raises:
        InvalidType: something is not a message with a role and a text, or a list of text parts, as content.
    """
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidType(f"a prompt is a text or a list of messages; got {type(messages).__name__}")
    return [(number, text) for number, message in enumerate(messages) for text in _texts(message)]


def render(language_model: LanguageModel, messages: Messages, template_kwargs: Mapping[str, Any] | None = None) -> str:
    """The messages as the text that the model gets, ready for its answer.

    A text of the assistant at the end is the beginning of the answer, unless `template_kwargs` say otherwise.

    Raises:
        InvalidValue: the tokenizer has no chat template, or the template refuses the messages, or what it renders holds
            half of a surrogate pair.
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
    """Where the texts of the messages stand in the rendered text, in order, and what the template changes.

    The template is rendered once more with a marker for each text. Between the markers stands its own text; with the
    texts in their place it must make up the whole. Where it does not, since the template treats some texts in its own
    way, it is rendered with a marker for one text after the other. What it leaves out or changes has no place, which a
    warning tells and the second list, with a line for each such message.

    Raises:
        InvalidValue: the template shows none of the texts as it is.
    """

    def marked(*numbers: int) -> str:
        try:
            return render(language_model, _with_markers(messages, numbers), template_kwargs)
        except InvalidValue:
            return ""

    contents = {number: entry for number, entry in enumerate(texts(messages)) if entry[1].strip()}
    found = _joined(marked(*contents), contents, rendered)
    if found is not None:
        return [place._replace(role=str(messages[place.message]["role"])) for place in found], []
    found, changed = [], list[str]()
    for number, (message, content) in contents.items():
        place, fate = _alone(marked(number), _marker(number), content, rendered)
        role = str(messages[message]["role"])
        found += [] if place is None else [place._replace(role=role, message=message)]
        changed += [f"message {message} ({role}) {fate}"] if fate else []
    if not found:
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
    return sorted(found, key=lambda place: place.start), changed


def _marker(number: int) -> str:
    return f"\u2402{number}\u2403"


def _joined(marked: str, contents: Mapping[int, tuple[int, str]], rendered: str) -> list[Place] | None:
    """The places of all texts, if the template shows each as it is, in order, and its own text does not change."""
    frame, rest = [], marked
    for number in contents:
        own, _, rest = rest.partition(_marker(number))
        frame.append(own)
    found, made = [], frame[0]
    for (message, content), following in zip(contents.values(), [*frame[1:], rest], strict=True):
        shown = next((trim for trim in _trims(content) if rendered.startswith(made + trim + following)), None)
        if shown is None:
            return None
        found.append(Place("", message, len(made), len(made) + len(shown), content.index(shown)))
        made += shown + following
    return found if made == rendered else None


def _alone(marked: str, marker: str, content: str, rendered: str) -> tuple[Place | None, str]:
    """The place of one text, by a rendering in which a marker stands for it, and how the template changes it."""
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
        return []  # a turn of tool calls alone
    parts: Any = [{"text": content}] if isinstance(content, str) else content
    known = isinstance(message.get("role"), str) and isinstance(parts, Sequence)
    found = [part.get("text") if isinstance(part, Mapping) else None for part in parts] if known else [None]
    if not all(isinstance(text, str) for text in found):
        raise InvalidType(
            "a message is a dict with 'role' and, as 'content', a text or a list of text parts, which an assistant's "
            f"with tool calls may lack; got {dict(message)!r}"
        )
    return [str(text) for text in found]


def _with_markers(messages: Messages, numbers: Collection[int]) -> list[Mapping[str, Any]]:
    """The messages with markers in the place of these of their texts."""
    each = enumerate(texts(messages))
    new = iter([_marker(number) if number in numbers else text for number, (_, text) in each])
    return [_with_texts(message, new) if message.get("content") is not None else message for message in messages]


def _with_texts(message: Mapping[str, Any], new: Iterator[str]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message, "content": next(new)}
    return {**message, "content": [{**part, "text": next(new)} for part in message["content"]]}


def _trims(content: str) -> list[str]:
    return [content, content.strip(), content.lstrip(), content.rstrip()]
