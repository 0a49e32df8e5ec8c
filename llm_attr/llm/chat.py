"""Messages of a chat as the one text that a model gets, and where their contents stand in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jinja2 import TemplateError

from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.tokenizer import check_characters

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

    A last message of the assistant is the beginning of the answer, unless `template_kwargs` say otherwise.

    Raises:
        InvalidValue: the tokenizer has no chat template, or the template refuses the messages, or what it renders holds
            half of a surrogate pair.
    """
    tokenizer = language_model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidValue(f"the tokenizer of {language_model.name} has no chat template; pass the prompt as a text")
    prefilled = bool(messages) and messages[-1]["role"] == "assistant"
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
) -> list[Place]:
    """Where each text of the messages stands in the rendered text.

    The template is rendered once more with a marker for each text. Between the markers stands its own text; with the
    texts in their place it must make up the whole.

    Raises:
        InvalidValue: the template shows a text in another form than it is, or not at all.
    """
    contents = texts(messages)
    markers = [f"\u2402{number}\u2403" for number in range(len(contents))]
    replaced = iter(markers)
    rest = render(language_model, [_with_texts(message, replaced) for message in messages], template_kwargs)
    frame = []
    for marker in markers:
        own, _, rest = rest.partition(marker)
        frame.append(own)
    found, made = [], frame[0]
    for (message, content), following in zip(contents, [*frame[1:], rest], strict=True):
        role = str(messages[message]["role"])
        shown = next((trim for trim in _trims(content) if rendered.startswith(made + trim + following)), None)
        if shown is None:
            raise _hidden(language_model, f"the content of the {role} message")
        found.append(Place(role, message, len(made), len(made) + len(shown), content.index(shown)))
        made += shown + following
    if made != rendered:
        raise _hidden(language_model, "each content once and")
    return found


def _hidden(language_model: LanguageModel, what: str) -> InvalidValue:
    return InvalidValue(
        f"the chat template of {language_model.name} does not show {what} as it is, so its units cannot be found; "
        "render the template yourself and pass the text"
    )


def _texts(message: Mapping[str, Any]) -> list[str]:
    content = message.get("content")
    parts: Any = [{"text": content}] if isinstance(content, str) else content
    known = isinstance(message.get("role"), str) and isinstance(parts, Sequence)
    found = [part.get("text") if isinstance(part, Mapping) else None for part in parts] if known else [None]
    if not all(isinstance(text, str) for text in found):
        raise InvalidType(
            f"a message is a dict with 'role' and, as 'content', a text or a list of text parts; got {dict(message)!r}"
        )
    return [str(text) for text in found]


def _with_texts(message: Mapping[str, Any], new: Iterator[str]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return {**message, "content": next(new)}
    return {**message, "content": [{**part, "text": next(new)} for part in message["content"]]}


def _trims(content: str) -> list[str]:
    return [content, content.strip(), content.lstrip(), content.rstrip()]
