"""What a model is asked, in the units that a user names: tokens, words, sentences of a text or of chat messages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, zip_longest
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor

from llm_attr.errors import EmptyPrompt, InvalidShape, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.alignment import align
from llm_attr.llm.inputs import InterpretableInput
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.units import SPLITTERS, Span

UNITS = ("token", *SPLITTERS)
"""The units that a prompt can be attributed to."""

SURROGATE = re.compile("[\ud800-\udfff]")

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Prompt:
    """A text, or the messages of a chat, and the units in which it is explained.

    Args:
        content: Raw text, or messages `{"role": ..., "content": text}` that the model's chat template renders.
        unit: `token`, `word` or `sentence`.

    An absent unit is deleted, and the text is tokenised again. Of the white space before and after it the one with
    more line breaks stays between its neighbours (the first of equals), so that taking out the last sentence of a
    paragraph does not join it to the next; none stays at the end. Units of tokens are taken out without tokenising
    again. The chat template is rendered once; its own text and control tokens are always present.

    Raises:
        UnknownName: there is no such unit.
        EmptyPrompt: the content holds nothing but white space.
        InvalidType: the content is neither a text nor messages.
        InvalidValue: the content holds half of a surrogate pair.
    """

    content: str | Messages
    unit: str = "sentence"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UnknownName("unit", self.unit, UNITS)
        texts = [self.content] if isinstance(self.content, str) else _contents(self.content)
        if not any(text.strip() for text in texts):
            raise EmptyPrompt(f"the prompt is empty: {self.content!r}")
        if broken := [text[match.start()] for text in texts if (match := SURROGATE.search(text))]:
            raise InvalidValue(f"the prompt holds half of a character ({broken[0]!r}), which no tokenizer takes")

    def bind(self, language_model: LanguageModel) -> BoundPrompt:
        """The prompt in the tokens of a model."""
        if isinstance(self.content, str):
            return BoundPrompt(language_model, self.content, ((0, len(self.content)),), self.unit, special_tokens=True)
        text = render(language_model, self.content)
        return BoundPrompt(
            language_model, text, _places(language_model, self.content, text), self.unit, special_tokens=False
        )


class BoundPrompt(InterpretableInput):
    """A prompt as one text and the spans of its units, ready for a model.

    Attributes:
        text: The whole text that the model gets, template included.
        spans: The characters of each unit; of tokens that share a character the last has it.
        values: The text of each unit.
        unit: What the units are.
    """

    def __init__(
        self, language_model: LanguageModel, text: str, contents: Sequence[Span], unit: str, *, special_tokens: bool
    ) -> None:
        self.text, self.unit, self.contents = text, unit, tuple(contents)
        self._lm, self._special_tokens = language_model, special_tokens
        self._owner: list[int] = []
        self.spans = self._token_spans() if unit == "token" else self._text_spans()
        if not self.spans:
            raise EmptyPrompt(f"the prompt holds no {unit} to attribute to")
        self.values = [text[start:end] for start, end in self.spans]

    @cached_property
    def context(self) -> list[str]:
        """The text before, between and after the units, one piece more than there are units."""
        edges = [0, *(edge for span in self.spans for edge in span), len(self.text)]
        return [self.text[start : max(start, end)] for start, end in zip(edges[::2], edges[1::2], strict=True)]

    def to_tensor(self) -> Tensor:
        """`(1, units)` of ones."""
        return torch.ones(1, len(self.spans))

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Tensor:
        """Token ids `(1, tokens)` without the absent units."""
        present = [True] * len(self.spans)
        if perturbed_tensor is not None:
            if perturbed_tensor.shape != (1, len(self.spans)):
                raise InvalidShape(
                    f"perturbed_tensor must have the shape (1, {len(self.spans)}); got {tuple(perturbed_tensor.shape)}"
                )
            present = (perturbed_tensor[0] != 0).tolist()
        if self.unit == "token":
            kept = [token for token, owner in zip(self._ids, self._owner, strict=True) if owner < 0 or present[owner]]
        else:
            kept = self._lm.encode(self.without(present), special_tokens=self._special_tokens)
        return torch.tensor([kept], dtype=torch.long)

    def without(self, present: Sequence[bool]) -> str:
        """The text without the absent units; of the white space around them only the widest break is left."""
        pieces = list(self._pieces)
        for first, last in self._runs:
            left = [i for i in range(first, last) if present[i]]
            pieces[2 * first + 1 : 2 * last] = [""] * (2 * (last - first) - 1)
            for i, following in zip_longest(left, left[1:]):
                pieces[2 * i + 1] = self.values[i]
                if following is not None:
                    gaps = self._pieces[2 * i + 2 : 2 * following + 1 : 2]
                    pieces[2 * i + 2] = max(gaps, key=lambda gap: gap.count("\n"))
        return "".join(pieces)

    @cached_property
    def _pieces(self) -> list[str]:
        """Context and units in turn."""
        edges = [0, *(edge for span in self.spans for edge in span), len(self.text)]
        return [self.text[start:end] for start, end in pairwise(edges)]

    @cached_property
    def _runs(self) -> list[tuple[int, int]]:
        """The units `[first, last)` of each content."""
        runs = []
        for start, end in self.contents:
            inside = [i for i, span in enumerate(self.spans) if start <= span[0] and span[1] <= end]
            if inside:
                runs.append((inside[0], inside[-1] + 1))
        return runs

    def _text_spans(self) -> list[Span]:
        split = SPLITTERS[self.unit]
        return [(begin + a, begin + b) for begin, end in self.contents for a, b in split(self.text[begin:end])]

    def _token_spans(self) -> list[Span]:
        alignment = align(self._lm.tokenizer, self.text, special_tokens=self._special_tokens)
        self._ids = alignment.ids
        spans: list[Span] = []
        for start, end in alignment.spans:
            piece = self.text[start:end]
            first = start + len(piece) - len(piece.lstrip()) if piece.strip() else start
            inside = start < end and any(a <= first < b for a, b in self.contents)
            self._owner.append(len(spans) if inside else -1)
            if inside:
                if spans and start < spans[-1][1]:
                    spans[-1] = (spans[-1][0], start)
                spans.append((start, end))
        return spans


def render(language_model: LanguageModel, messages: Messages) -> str:
    """The messages as the text that the model gets, ready for its answer.

    Raises:
        InvalidValue: the tokenizer has no chat template, or the template refuses the messages.
    """
    tokenizer = language_model.tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidValue(f"the tokenizer of {language_model.name} has no chat template; pass the prompt as a text")
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidValue(f"the chat template refused the messages: {error}") from error


def _contents(messages: Messages) -> list[str]:
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidType(f"a prompt is a text or a list of messages; got {type(messages).__name__}")
    for message in messages:
        if not isinstance(message.get("role"), str) or not isinstance(message.get("content"), str):
            raise InvalidType(f"a message is a dict with 'role' and a text as 'content'; got {dict(message)!r}")
    return [message["content"] for message in messages]


def _places(language_model: LanguageModel, messages: Messages, text: str) -> list[Span]:
    """Where the content of each message stands in the rendered text.

    The template is rendered once more with a marker for each content. Between the markers stands its own text; with
    the contents in their place it must make up the whole text.
    """
    markers = [f"\u2402{number}\u2403" for number in range(len(messages))]
    rest = render(
        language_model, [{**message, "content": marker} for message, marker in zip(messages, markers, strict=True)]
    )
    frame = []
    for marker in markers:
        own, _, rest = rest.partition(marker)
        frame.append(own)
    places, made = [], frame[0]
    for message, following in zip(messages, [*frame[1:], rest], strict=True):
        shown = next((c for c in _trims(message["content"]) if text.startswith(made + c + following)), None)
        if shown is None:
            raise _hidden(language_model, f"the content of the {message['role']} message")
        places.append((len(made), len(made) + len(shown)))
        made += shown + following
    if made != text:
        raise _hidden(language_model, "each content once and")
    return places


def _hidden(language_model: LanguageModel, what: str) -> InvalidValue:
    return InvalidValue(
        f"the chat template of {language_model.name} does not show {what} as it is, so its units cannot be found; "
        "render the template yourself and pass the text"
    )


def _trims(content: str) -> list[str]:
    return [content, content.strip(), content.lstrip(), content.rstrip()]
