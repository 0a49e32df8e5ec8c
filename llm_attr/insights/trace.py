"""Prompts from the traces of other programs: messages of the OpenAI API, spans of OpenInference."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llm_attr.errors import InvalidValue

_SPAN_KEY = re.compile(r"llm\.(input|output)_messages\.(\d+)\.message\.(role|content)")


def prompt_of_trace(trace: Any) -> dict[str, Any]:
    """The `messages` of a trace, and the `target` where it holds the model's answer.

    Args:
        trace: A list of messages, a request `{"messages": ...}` with its `response` or `choices`, or a span (or a list
            of them, of which the last with messages counts) with OpenInference's attributes.

    Raises:
        InvalidValue: it is none of these.
    """
    spans = trace if isinstance(trace, list) else [trace]
    for span in reversed(spans):
        if isinstance(span, Mapping) and (found := _of_span(span)):
            return found
    if isinstance(trace, Mapping) and "messages" in trace:
        return _split(_messages(trace["messages"]) + _answers(trace))
    if isinstance(trace, list) and trace:
        return _split(_messages(trace))
    raise InvalidValue(
        "a trace is a list of messages, an object with messages, or OpenInference spans with llm.input_messages; got "
        f"{json.dumps(trace)[:120]}"
    )


def _split(messages: list[dict[str, str]]) -> dict[str, Any]:
    """The last message of an assistant is the answer that is explained."""
    if len(messages) > 1 and messages[-1]["role"] == "assistant":
        return {"messages": messages[:-1], "target": messages[-1]["content"]}
    return {"messages": messages}


def _messages(given: Any) -> list[dict[str, str]]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise InvalidValue(f"messages must be a list; got {json.dumps(given)[:120]}")
    return [_message(each) for each in given]


def _message(given: Any) -> dict[str, str]:
    if not isinstance(given, Mapping) or not isinstance(given.get("role"), str):
        raise InvalidValue(f"a message has a role and a content; got {json.dumps(given)[:120]}")
    content = given.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    if not isinstance(content, str):
        raise InvalidValue(f"only messages of text can be explained; got {json.dumps(given)[:120]}")
    return {"role": given["role"], "content": content}


def _answers(trace: Mapping[str, Any]) -> list[dict[str, str]]:
    response = trace.get("response", trace)
    choices = response.get("choices") if isinstance(response, Mapping) else None
    return [_message(choices[0].get("message"))] if isinstance(choices, list) and choices else []


def _of_span(span: Mapping[str, Any]) -> dict[str, Any] | None:
    """The messages of a span, whose attributes are flat (`llm.input_messages.0.message.role`)."""
    attributes = span.get("attributes", span)
    if isinstance(attributes, list):  # OTLP as JSON
        attributes = {each["key"]: next(iter(each["value"].values())) for each in attributes}
    if not isinstance(attributes, Mapping):
        return None
    found: dict[str, dict[int, dict[str, str]]] = {"input": {}, "output": {}}
    for key, value in attributes.items():
        if (match := _SPAN_KEY.fullmatch(str(key))) is not None:
            found[match[1]].setdefault(int(match[2]), {})[match[3]] = value
    if not found["input"]:
        return None
    return _split([_message(messages[place]) for messages in found.values() for place in sorted(messages)])
