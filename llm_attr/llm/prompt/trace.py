"""`Trace`: the messages, tool calls and tool results of an agent, checked, and the action that is explained."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llm_attr.errors import InvalidTarget, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.prompt.chat import Messages, texts
from llm_attr.llm.prompt.json_path import JsonPath

ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles of a trace's messages."""

TARGETS = ("message", "tool", "next")
"""What of a trace is explained: its last message, the tool that it calls, or the model's own next message."""

DEFINITIONS = "tools"
"""The name of the tool definitions where messages are named by role."""

Tools = Sequence[Mapping[str, Any] | Callable[..., Any]]


@dataclass(frozen=True)
class Mark:
    """What a unit of a trace is.

    Attributes:
        role: The role of its message; `tools` for a tool definition.
        message: The number of its message; -1 for a tool definition.
        step: The number of its step; -1 for tool definitions and system messages.
        name: The tool that is defined, called or answers; otherwise "".
        untrusted: Whether its text comes from outside.
    """

    role: str
    message: int
    step: int
    name: str
    untrusted: bool


@dataclass(frozen=True)
class Trace:
    """The messages of an agent up to an action, and the action.

    Attributes:
        messages: The messages before the action; arguments of tool calls are objects, not JSON texts.
        tools: The tool definitions, as JSON schemas.
        action: The last message, an assistant's; None if there is none, or the model's own is explained.
        target: `message`, `tool`, `next`, or the JSON path of an argument.
        call: Which tool call of the action, if it has several.
        untrusted: Roles, tools and numbers of messages whose text comes from outside.
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...]
    action: dict[str, Any] | None
    target: str
    call: int | None
    untrusted: tuple[str | int, ...]

    @classmethod
    def of(
        cls, messages: Messages, tools: Tools, target: str | None, call: int | None, untrusted: Collection[str | int]
    ) -> Trace:
        """Checks the messages and tools.

        Raises:
            InvalidType: a message, a call or a tool has another form.
            UnknownName: a role, or something untrusted, does not exist.
            InvalidValue: a tool result has no call, or two tools have the same name.
            InvalidTarget: the trace does not end with an action that has this target.
        """
        texts(messages)
        if not messages:
            raise InvalidValue("a trace needs messages; got none")
        clean = [_clean(number, message) for number, message in enumerate(messages)]
        _name_results(clean)
        wanted = "message" if target is None else target
        ends = clean[-1]["role"] == "assistant" and wanted != "next"
        trace = cls(
            messages=tuple(clean[:-1] if ends else clean),
            tools=_definitions(tools),
            action=clean[-1] if ends else None,
            target=wanted,
            call=call,
            untrusted=(untrusted,) if isinstance(untrusted, str | int) else tuple(untrusted),
        )
        trace._check()
        return trace

    @property
    def steps(self) -> list[int]:
        """The step of each message: a user's message, or an assistant's with the results of its calls; from 0."""
        numbers, step = list[int](), -1
        for message in self.messages:
            is_setting = message["role"] in ("system", "developer")
            step += not is_setting and (message["role"] != "tool" or step < 0)
            numbers.append(-1 if is_setting else step)
        return numbers

    @property
    def chosen(self) -> tuple[int, Mapping[str, Any]]:
        """The number of the tool call that is explained, and its function.

        Raises:
            InvalidTarget: the action calls no tool, or several, or not this one.
        """
        calls = (self.action or {}).get("tool_calls") or []
        if not calls:
            raise InvalidTarget(f"target={self.target!r} is of a tool call, but the last message calls no tool")
        if self.call is None and len(calls) > 1:
            names = ", ".join(f"{number}: {_function(each)['name']}" for number, each in enumerate(calls))
            raise InvalidTarget(f"the last message calls {len(calls)} tools; say which with call=number: {names}")
        number = self.call or 0
        if not -len(calls) <= number < len(calls):
            raise InvalidTarget(f"there is no call {number}: the last message has {len(calls)}")
        return number % len(calls), _function(calls[number])

    def mark(self, message: int, name: str = "") -> Mark:
        """What the texts of a message are; of -1, a tool definition."""
        if message < 0:
            return Mark(DEFINITIONS, -1, -1, name, DEFINITIONS in self.untrusted)
        role = str(self.messages[message]["role"])
        tool = str(self.messages[message].get("name") or "") if role == "tool" else ""
        names = {role, message, message - len(self.messages)} | ({tool} if tool else set())
        return Mark(role, message, self.steps[message], name or tool, not names.isdisjoint(self.untrusted))

    @property
    def names(self) -> set[str | int]:
        """What messages can be named by: roles, numbers, the tools that answered, and `tools`."""
        count = len(self.messages)
        own = {str(message["role"]) for message in self.messages}
        answered = {str(message["name"]) for message in self.messages if message["role"] == "tool"}
        return own | answered | {DEFINITIONS} | set(range(-count, count))

    def with_call(self, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Trace:
        """The trace with another function in the call that is explained."""
        number, function = self.chosen
        action = dict(self.action or {})
        action["tool_calls"] = list(action["tool_calls"])
        action["tool_calls"][number] = {**action["tool_calls"][number], "function": change(dict(function))}
        return replace(self, action=action)

    def _check(self) -> None:
        known = self.names | set(ROLES)
        for name in self.untrusted:
            if isinstance(name, bool) or name not in known:
                raise UnknownName("untrusted role, tool or message", name, map(str, sorted(known, key=str)))
        if self.call is not None and (isinstance(self.call, bool) or not isinstance(self.call, int)):
            raise InvalidType(f"call must be the number of a tool call; got {self.call!r}")
        if not isinstance(self.target, str):
            raise InvalidType(f"target must be a text; got {self.target!r}")
        if self.target not in TARGETS and not self.target.startswith("$"):
            raise UnknownName("target of a trace", self.target, [*TARGETS, "$.argument"])
        if self.target == "next":
            return
        if self.action is None:
            raise InvalidTarget(
                f"the trace ends with a message of the role {self.messages[-1]['role']!r}, so there is no action to "
                "explain; end with the assistant's message, or pass target='next' to explain what the model does next"
            )
        if not self.messages:
            raise InvalidValue("a trace needs messages before its action; got only the action")
        if self.target != "message":
            arguments = json.dumps(self.chosen[1].get("arguments", {}))
            if self.target.startswith("$"):
                JsonPath.of(self.target).places(arguments)


def _clean(number: int, message: Mapping[str, Any]) -> dict[str, Any]:
    """A message in the form that chat templates expect."""
    role = message["role"]
    if role not in ROLES:
        raise UnknownName(f"role of message {number}", role, ROLES)
    clean = {**message, "content": "" if message.get("content") is None else message["content"]}
    for name in ("reasoning", "thinking"):
        if isinstance(clean.get(name), str):
            clean.setdefault("reasoning_content", clean[name])
    reasoning = clean.get("reasoning_content")
    if reasoning is not None and not isinstance(reasoning, str):
        raise InvalidType(f"reasoning_content of message {number} must be a text; got {type(reasoning).__name__}")
    if reasoning is not None:
        clean.setdefault("thinking", reasoning)
    if calls := message.get("tool_calls"):
        if role != "assistant" or not isinstance(calls, Sequence) or isinstance(calls, str):
            raise InvalidType(f"tool_calls are a list in an assistant's message; message {number} has {calls!r}")
        clean["tool_calls"] = [_call(number, call) for call in calls]
    return clean


def _call(number: int, call: Any) -> dict[str, Any]:
    function = _function(call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidType(
            'a tool call is {"id": ..., "type": "function", "function": {"name": ..., "arguments": ...}}; message '
            f"{number} has {call!r}"
        )
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError as error:
            raise InvalidValue(
                f"the arguments of {function['name']!r} in message {number} are not JSON: {error}"
            ) from None
    if not isinstance(arguments, Mapping):
        raise InvalidType(f"the arguments of {function['name']!r} in message {number} are no object: {arguments!r}")
    own = {name: value for name, value in call.items() if name not in ("function", "name", "arguments")}
    return {"type": "function", **own, "function": {**function, "arguments": dict(arguments)}}


def _function(call: Mapping[str, Any]) -> Any:
    return call.get("function", call)


def _name_results(messages: Sequence[dict[str, Any]]) -> None:
    """Gives each tool result the name of the tool that was called.

    Raises:
        InvalidValue: a result has no call before it.
    """
    waiting = list[tuple[Any, str]]()
    for number, message in enumerate(messages):
        waiting += [(call.get("id"), call["function"]["name"]) for call in message.get("tool_calls", ())]
        if message["role"] != "tool":
            continue
        given, name = message.get("tool_call_id"), message.get("name")
        fits = [
            entry
            for entry in waiting
            if (given is None or entry[0] is None or entry[0] == given) and (name is None or entry[1] == name)
        ]
        if not fits:
            shown = f"tool_call_id {given!r}" if given is not None else f"name {name!r}"
            open_calls = ", ".join(f"{call[1]} ({call[0]!r})" for call in waiting) or "none"
            raise InvalidValue(
                f"message {number} is the result of a tool ({shown}), but no call before it waits for one; calls "
                f"without a result: {open_calls}"
            )
        waiting.remove(fits[0])
        message["name"] = fits[0][1]


def _definitions(tools: Tools) -> tuple[Mapping[str, Any], ...]:
    """The tools as JSON schemas."""
    if isinstance(tools, str | Mapping) or not isinstance(tools, Sequence):
        raise InvalidType(f"tools must be a list of tool definitions; got {type(tools).__name__}")
    found = list[Mapping[str, Any]]()
    for number, tool in enumerate(tools):
        if callable(tool):
            from transformers.utils.chat_template_utils import (
                DocstringParsingException,
                TypeHintParsingException,
                get_json_schema,
            )

            try:
                tool = get_json_schema(tool)
            except (DocstringParsingException, TypeHintParsingException) as error:
                raise InvalidValue(f"tool {number} cannot be described as a JSON schema: {error}") from error
        function = _function(tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidType(
                'a tool is {"type": "function", "function": {"name": ..., "description": ..., "parameters": ...}}, or '
                f"a function with a docstring; got {tool!r}"
            )
        found.append(
            tool if isinstance(tool, Mapping) and "function" in tool else {"type": "function", "function": tool}
        )
    names = [_function(tool)["name"] for tool in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InvalidValue(f"two tools have the name {twice[0]!r}; names must be distinct")
    return tuple(found)
