"""Where the texts, tool calls and tool definitions of a trace are in the text that its chat template renders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_attr.caller import warn_caller
from llm_attr.errors import InvalidTarget, InvalidValue
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.chat import render, texts, with_text
from llm_attr.llm.prompt.json_path import JsonPath
from llm_attr.llm.prompt.trace import Mark, Trace
from llm_attr.llm.prompt.units import Span

_MARKER = "\u2402trace\u2403"
_OPENING = re.compile(r"<\|?[^<>|\s]{1,40}\|?>")
_ENDING = re.compile(r"\s*(<\|[^<>|]{1,40}\|>|</s>|<end_of_turn>|<eos>)?\s*$")
_BETWEEN = " \n,"
_decoder = json.JSONDecoder()


@dataclass(frozen=True)
class Part:
    """A part of the rendered text.

    Attributes:
        kind: `content`, `reasoning`, `call`, `definition`, or `step`.
        mark: What it is a part of.
        start: Its first character.
        end: One past its last.
    """

    kind: str
    mark: Mark
    start: int
    end: int

    @property
    def label(self) -> str:
        """Its name in pictures."""
        mark = self.mark
        if self.kind == "definition":
            text = mark.name
        elif self.kind == "step":
            text = f"{mark.step}: {mark.name or mark.role}"
        else:
            own = {"reasoning": " reasoning", "call": f" calls {mark.name}"}.get(self.kind, "")
            text = f"{mark.message}: {mark.role}" + (own or (f" {mark.name}" if mark.name else ""))
        return text + (" (untrusted)" if mark.untrusted else "")


class RenderedTrace:
    """A trace as the chat template of a model renders it.

    Args:
        language_model: The model, whose tokenizer has the template.
        trace: The trace.
        template_kwargs: Further arguments of the template.

    Attributes:
        text: The text before the action, ready for it.

    Raises:
        InvalidValue: the template refuses the messages.
    """

    def __init__(
        self, language_model: LanguageModel, trace: Trace, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.trace, self._model, self._given = trace, language_model, dict(template_kwargs or {})
        self.text = self._before(trace)

    def parts(self) -> tuple[list[Part], list[str]]:
        """The parts, in order and apart, and what the template leaves out or changes, a line for each.

        Raises:
            InvalidValue: nothing is shown as it is.
        """
        found, lost = list[Part](), list[str]()
        for what, part in self._all():
            if part is None:
                lost.append(f"{what} is left out or changed")
            else:
                found.append(part)
        if not found:
            raise InvalidValue(f"the chat template of {self._model.name} shows nothing of the trace as it is")
        if lost:
            warn_caller(
                f"the chat template of {self._model.name} does not show all of the trace as it is: {'; '.join(lost)}. "
                "Units are made of what it shows as it is; the rest of what it renders is always present",
                UserWarning,
            )
        return _apart(found), lost

    def steps(self, parts: Sequence[Part]) -> list[Part]:
        """The parts with those of each step made one, together with what the template writes around it.

        A step whose message also holds a tool definition, or whose edges are not marked by a control token, keeps its
        parts.
        """
        numbers = sorted({part.mark.step for part in parts if part.mark.step >= 0})
        edges = {number: self._edge(parts, number) for number in numbers}
        merged = [part for part in parts if part.mark.step < 0]
        for number in numbers:
            own = [part for part in parts if part.mark.step == number]
            start, end = edges[number], edges.get(number + 1) or self._edge(parts, None)
            inside = [] if start is None or end is None else [p for p in parts if start <= p.start < end]
            if start is None or end is None or inside != own:
                merged += own
                continue
            first, last = own[0].mark, [part.mark.name for part in own if part.kind == "call"]
            untrusted = any(part.mark.untrusted for part in own)
            mark = replace(first, name=", ".join(dict.fromkeys(last)), untrusted=untrusted)
            merged.append(Part("step", mark, start, end))
        return sorted(merged, key=lambda part: part.start)

    def answer(self) -> tuple[str, Span]:
        """The action as the template renders it, without its end token, and the characters of the target in it.

        Raises:
            InvalidTarget: the template does not render the action after the prompt, or changes the target.
        """
        full = self._action(self.trace)
        if not full.startswith(self.text):
            raise InvalidTarget(
                f"the chat template of {self._model.name} renders the messages differently once the action follows, so "
                "its text is not known; pass target='next' to from_trace, and the answer as explain(..., target=text)"
            )
        answer = _ENDING.sub("", full[len(self.text) :])
        if not answer.strip():
            raise InvalidTarget(f"the chat template of {self._model.name} does not show the last message")
        if self.trace.target == "message":
            return answer, (0, len(answer))
        start, end = self._target(full)
        return answer, (start - len(self.text), end - len(self.text))

    def _target(self, full: str) -> Span:
        """The characters of the tool's name or an argument in the rendered text."""
        path = self.trace.target
        steps = None if path == "tool" else JsonPath.of(path).steps
        value = self.trace.chosen[1]["name"] if steps is None else _at(self.trace.chosen[1]["arguments"], steps)
        marked = self.trace.with_call(
            lambda function: (
                {**function, "name": _MARKER}
                if steps is None
                else {**function, "arguments": _put(function["arguments"], steps, _MARKER)}
            )
        )
        span = _difference(self._tried(marked, action=True), full, _shapes(value))
        if span is None:
            raise InvalidTarget(f"the chat template of {self._model.name} does not show {path!r} as it is")
        return span

    def _all(self) -> Iterator[tuple[str, Part | None]]:
        for number, tool in enumerate(self.trace.tools):
            name = tool["function"]["name"]
            yield f"tool {name}", self._part("definition", self.trace.mark(-1, name), self._definition(number))
        for number, message in enumerate(self.trace.messages):
            mark = self.trace.mark(number)
            what = f"message {number} ({mark.role})"
            if message.get("reasoning_content", "").strip():
                span = self._slot(number, message["reasoning_content"], reasoning=True)
                yield f"reasoning of {what}", self._part("reasoning", mark, span)
            for place, text in enumerate(text for _, text in texts([message])):
                if text.strip():
                    yield what, self._part("content", mark, self._slot(number, text, place))
            for place, call in enumerate(message.get("tool_calls", ())):
                name = call["function"]["name"]
                yield (
                    f"call of {name} in {what}",
                    self._part("call", replace(mark, name=name), self._call(number, place)),
                )

    def _part(self, kind: str, mark: Mark, span: Span | None) -> Part | None:
        return None if span is None else Part(kind, mark, *span)

    def _slot(self, number: int, text: str, place: int = 0, *, reasoning: bool = False) -> Span | None:
        """The characters of a text of a message."""
        message = self.trace.messages[number]
        if reasoning:
            names = message.keys() & {"reasoning_content", "thinking", "reasoning"}
            new = {**message, **dict.fromkeys(names, _MARKER)}
        else:
            new = with_text(message, place, _MARKER)
        return _difference(self._tried(self._with(number, new)), self.text, _shapes(text))

    def _call(self, number: int, place: int) -> Span | None:
        """The JSON object of a tool call, or its arguments if the template writes the name outside of it."""
        message = self.trace.messages[number]
        function = message["tool_calls"][place]["function"]

        def marked(name: str) -> str:
            call = {**message["tool_calls"][place], "function": {**function, name: _MARKER}}
            calls = [call if i == place else each for i, each in enumerate(message["tool_calls"])]
            return self._tried(self._with(number, {**message, "tool_calls": calls}))

        name = _difference(marked("name"), self.text, _shapes(function["name"]))
        arguments = _difference(marked("arguments"), self.text, None)
        opening = -1 if name is None else self.text.rfind("{", 0, name[0])
        if opening >= 0 and name is not None:
            end = _end_of_json(self.text, opening)
            if end is not None and end >= (name if arguments is None else arguments)[1]:
                return opening, end
        return arguments

    def _definition(self, number: int) -> Span | None:
        """The characters of a tool definition: what a second one like it adds."""
        tools = self.trace.tools
        twice = self._tried(replace(self.trace, tools=(*tools[: number + 1], *tools[number:])))
        added, last = len(twice) - len(self.text), _common(self.text, twice)
        if added <= 0 or twice[last + added :] != self.text[last:]:
            return None
        first = last = last - added
        while first > 0 and self.text[first - 1] == self.text[first - 1 + added]:
            first -= 1
        start = _beginning(self.text, first, last, added) if last >= 0 else -1
        if start >= 0 and tools[number]["function"]["name"] in self.text[start : start + added]:
            return start, start + added
        return self._only(twice[last + added :][:added], last + added)

    def _only(self, copy: str, end: int) -> Span | None:
        """The place of a definition that stands alone, from a copy of it with a separator, and its end."""
        shown = copy.strip(_BETWEEN)
        start = end - len(shown)
        return (start, end) if shown and self.text[max(0, start) : end] == shown else None

    def _edge(self, parts: Sequence[Part], step: int | None) -> int | None:
        """Where what the template writes before a step begins: at the control token that opens a message."""
        opening = self._opening()
        own = [part.start for part in parts if part.mark.step == step]
        start = len(self.text) if step is None else own[0]
        before = max((part.end for part in parts if part.start < start), default=0)
        if opening is None:
            return None
        edge = self.text.find(opening, before, start) if step is None else self.text.rfind(opening, before, start)
        return None if edge < 0 else edge

    def _opening(self) -> str | None:
        """The control token that opens a message: the one with which the answer is asked for."""
        without = self._rendered(self.trace, add_generation_prompt=False)
        asked = self.text[len(without) :] if self.text.startswith(without) else ""
        token = _OPENING.match(asked.lstrip())
        return None if token is None else token[0]

    def _with(self, number: int, message: dict[str, Any]) -> Trace:
        messages = self.trace.messages
        return replace(self.trace, messages=(*messages[:number], message, *messages[number + 1 :]))

    def _before(self, trace: Trace) -> str:
        return self._rendered(trace, add_generation_prompt=True)

    def _action(self, trace: Trace) -> str:
        messages = trace.messages if trace.action is None else (*trace.messages, trace.action)
        return self._rendered(replace(trace, messages=messages), add_generation_prompt=False)

    def _tried(self, trace: Trace, *, action: bool = False) -> str:
        """The rendered text, or "" if the template refuses it."""
        try:
            return self._action(trace) if action else self._before(trace)
        except InvalidValue:
            return ""

    def _rendered(self, trace: Trace, *, add_generation_prompt: bool) -> str:
        own = {"continue_final_message": False, "add_generation_prompt": add_generation_prompt}
        tools = {"tools": [dict(tool) for tool in trace.tools]} if trace.tools else {}
        return render(self._model, list(trace.messages), {**self._given, **tools, **own})


def _difference(marked: str, text: str, shapes: set[str] | None) -> Span | None:
    """The characters of the text where the other one has the marker, if all else is equal.

    Args:
        marked: The text with the marker.
        text: The text without it.
        shapes: The forms that the characters may have; None for any.
    """
    if marked.count(_MARKER) != 1:
        return None
    before, _, after = marked.partition(_MARKER)
    for quotes in (0, 1):
        if quotes and not (before.endswith('"') and after.startswith('"')):
            break
        head, tail = before[: len(before) - quotes], after[quotes:]
        start, end = len(head), len(text) - len(tail)
        fits = start < end and text.startswith(head) and text.endswith(tail)
        if fits and (shapes is None or text[start:end] in shapes):
            return start, end
    return None


def _shapes(value: Any) -> set[str]:
    """How a template may write a value."""
    if not isinstance(value, str):
        return {
            json.dumps(value, ensure_ascii=ascii, indent=indent) for ascii in (True, False) for indent in (None, 2, 4)
        }
    own = {value, value.strip(), value.lstrip(), value.rstrip(), value.strip("\n")}
    return own | {json.dumps(each, ensure_ascii=ascii)[1:-1] for each in own for ascii in (True, False)}


def _common(first: str, second: str) -> int:
    """The length of the common beginning of two texts."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if first[:middle] == second[:middle] else (low, middle - 1)
    return low


def _beginning(text: str, first: int, last: int, length: int) -> int:
    """Where a repeated piece begins, of the places from which the text repeats: at a JSON object, else at a line."""
    places = range(first, last + 1)
    objects = [(_end_of_json(text, i) or 0, i) for i in places if text[i] == "{"]
    whole = [i for end, i in objects if not text[end : i + length].strip(_BETWEEN) and end > i]
    if whole:
        return whole[0]
    opening = text.find("{", last, last + length)
    if opening >= 0 and not text[last:opening].strip(_BETWEEN) and _end_of_json(text, opening) == last + length:
        return last
    blank = next((i for i in places if text[:i].endswith("\n\n")), None)
    line = next((i for i in places if text[:i].endswith("\n")), last)
    return line if blank is None else blank


def _end_of_json(text: str, start: int) -> int | None:
    try:
        return _decoder.raw_decode(text, start)[1]
    except (ValueError, RecursionError):
        return None


def _at(value: Any, steps: Sequence[str | int]) -> Any:
    for step in steps:
        value = value[step]
    return value


def _put(value: Any, steps: Sequence[str | int], new: Any) -> Any:
    """A copy of a JSON value with another value at a path."""
    if not steps:
        return new
    copy: Any = dict(value) if isinstance(value, Mapping) else list(value)
    copy[steps[0]] = _put(value[steps[0]], steps[1:], new)
    return copy


def _apart(parts: list[Part]) -> list[Part]:
    """The parts in order; of two that overlap, the earlier, or if they share a separator, both."""
    found = list[Part]()
    for part in sorted(parts, key=lambda part: (part.start, part.end)):
        free = found[-1].end if found else 0
        if part.start >= free:
            found.append(part)
        elif part.kind == "definition" and free < part.end:
            found.append(replace(part, start=free))
    return found
