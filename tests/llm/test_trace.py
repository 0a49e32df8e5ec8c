"""Traces of agents: what templates make of them, where their parts are, and what is refused."""

from __future__ import annotations

import copy
import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import llm_attr
from llm_attr import LLMAttributionResult, Prompt
from llm_attr.errors import InvalidTarget, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.llm.prompt.chat import render
from tests.llm.chats import with_template
from tests.llm.traces import MAIL, PLAIN, RESULT, SHORT, TRACE, WEATHER, call, long_model, of

NAMES = ("qwen3", "llama3", "gpt_oss")
SAYS_LESS = "ignore:the chat template of tiny does not show all:UserWarning"


def bound(name: str, messages: Any = TRACE, tools: Any = (WEATHER, MAIL), **options: Any) -> BoundPrompt:
    return Prompt.from_trace(messages, tools=list(tools), **options).bind(of(name))


def labelled(prompt: BoundPrompt) -> list[tuple[str, str]]:
    return [
        (f"{group.kind} {group.label}", prompt.values[unit])
        for group in prompt.groups
        for unit in range(group.first, group.stop)
    ]


@pytest.mark.filterwarnings(SAYS_LESS)  # Llama's format has no place for reasoning
@pytest.mark.parametrize("name", NAMES)
def test_every_part_is_found_as_the_template_writes_it(name: str) -> None:
    found = dict(labelled(bound(name)))
    escaped = json.dumps(RESULT)[1:-1]
    arguments = '{"city": "Oslo"}'
    calls = {
        "qwen3": f'{{"name": "get_weather", "arguments": {arguments}}}',
        "llama3": f'{{"name": "get_weather", "parameters": {arguments}}}',
        "gpt_oss": arguments,
    }
    assert found["message 0: system"] == "You are careful."
    assert found["message 1: user"] == "Mail Ann the weather in Oslo."
    assert found["message 2: assistant calls get_weather"] == calls[name]
    assert found["message 3: tool get_weather (untrusted)"] == (RESULT if name == "qwen3" else escaped)
    assert ("message 2: assistant reasoning" in found) == (name != "llama3")
    for tool in (WEATHER, MAIL):
        shown, function = found[f"tool {tool['function']['name']}"], tool["function"]
        if name == "gpt_oss":
            assert shown.startswith(f"// {function['description']}\ntype {function['name']} = ")
            assert shown.rstrip().endswith("}) => any;")
        else:
            assert json.loads(shown) == tool


@pytest.mark.filterwarnings(SAYS_LESS)
@pytest.mark.parametrize("name", NAMES)
def test_without_a_tool_the_text_is_what_the_template_renders_without_it(name: str) -> None:
    prompt = bound(name)
    for number, other in ((0, MAIL), (1, WEATHER)):
        places = [unit for unit, group in enumerate(prompt.groups) if group.kind == "tool"]
        present = [unit != places[number] for unit in range(len(prompt.values))]
        assert prompt.without(present) == bound(name, tools=[other]).text


@pytest.mark.parametrize("name", ["qwen3", "gpt_oss"])
def test_an_absent_step_is_as_if_it_had_not_been(name: str) -> None:
    later = [{"role": "user", "content": "And Bergen?"}, {"role": "assistant", "content": "Dry."}]
    messages = [{k: v for k, v in m.items() if k != "reasoning_content"} for m in [*TRACE, *later]]
    messages.insert(5, {"role": "tool", "tool_call_id": "b", "content": "Sent."})
    prompt = bound(name, messages, unit="step")
    steps = [unit for unit, mark in enumerate(prompt.marks) if mark["step"] >= 0]
    assert [prompt.marks[unit]["step"] for unit in steps] == [0, 1, 2, 3]
    assert [prompt.marks[unit]["untrusted"] for unit in steps] == [False, True, True, False]
    without = {0: messages[:1] + messages[2:], 1: messages[:2] + messages[4:], 2: messages[:4] + messages[6:]}
    for step, rest in without.items():
        present = [unit != steps[step] for unit in range(len(prompt.values))]
        assert prompt.without(present) == bound(name, rest).text
    prefixes = [prompt.without([unit <= last for unit in range(len(prompt.values))]) for last in steps]
    ending = prompt.text[prompt.spans[-1][1] :]
    assert all(prompt.text.startswith(prefix.removesuffix(ending)) for prefix in prefixes)


@pytest.mark.filterwarnings(SAYS_LESS)
def test_units_inside() -> None:
    sentences = labelled(bound("qwen3", unit="sentence"))
    assert [text for label, text in sentences if label.startswith("message 3")] == RESULT.split("\n")
    assert sum(label.startswith("tool") for label, _ in sentences) == 2
    words = labelled(bound("qwen3", unit="word"))
    assert sum(label == "tool get_weather" for label, _ in words) > 5


def test_parallel_calls_and_results_have_a_unit_each() -> None:
    messages = [
        {"role": "user", "content": "Weather in Oslo and Turku?"},
        {
            "role": "assistant",
            "tool_calls": [call("get_weather", city[0], {"city": city}) for city in ("Oslo", "Turku")],
        },
        {"role": "tool", "tool_call_id": "T", "content": "Dry."},
        {"role": "tool", "tool_call_id": "O", "content": "Wet."},
        {"role": "assistant", "content": "Wet, and dry."},
    ]
    prompt = bound("qwen3", messages)
    assert [text for label, text in labelled(prompt) if "calls" in label] == [
        '{"name": "get_weather", "arguments": {"city": "Oslo"}}',
        '{"name": "get_weather", "arguments": {"city": "Turku"}}',
    ]
    assert prompt.values[-2:] == ["Dry.", "Wet."]
    assert [mark["name"] for mark in prompt.marks[-2:]] == ["get_weather"] * 2
    (step,) = (
        v
        for v, m in zip(*(lambda p: (p.values, p.marks))(bound("qwen3", messages, unit="step")), strict=True)
        if m["step"] == 1
    )
    assert "Dry." in step
    assert "Wet." in step


@pytest.mark.parametrize(("name", "target"), list(product(NAMES, ("message", "tool", "$.to", "$.copies"))))
def test_the_target_is_in_the_action_as_rendered(name: str, target: str) -> None:
    prompt = Prompt.from_trace(TRACE, tools=[WEATHER, MAIL], target=target)
    answer, (start, end) = prompt.answer(of(name)) or ("", (0, 0))
    assert answer.endswith(("</tool_call>", "}"))
    expected = {"message": answer, "tool": "send_mail", "$.to": "ann@x.org", "$.copies": "2"}
    assert answer[start:end] == expected[target]


def test_a_call_of_several_is_chosen() -> None:
    messages = [*TRACE[:-1], {"role": "assistant", "tool_calls": [call("send_mail", "b", {"to": who}) for who in "pq"]}]
    answer, (start, end) = Prompt.from_trace(messages, target="$.to", call=-1).answer(of("qwen3")) or ("", (0, 0))
    assert answer[start:end] == "q"
    assert answer.index("q") < end
    with pytest.raises(InvalidTarget, match="calls 2 tools; say which with call=number: 0: send_mail, 1: send_mail"):
        Prompt.from_trace(messages, target="tool")
    with pytest.raises(InvalidTarget, match="there is no call 5"):
        Prompt.from_trace(messages, target="tool", call=5)


def test_functions_are_tools() -> None:
    def get_weather(city: str) -> str:
        """Weather of a city.

        Args:
            city: The city.
        """
        return city

    assert '"name": "get_weather"' in dict(labelled(bound("qwen3", tools=[get_weather])))["tool get_weather"]
    with pytest.raises(InvalidValue, match="tool 0 cannot be described"):
        Prompt.from_trace(TRACE, tools=[lambda city: city])


def result_without_call() -> list[dict[str, Any]]:
    return [TRACE[1], TRACE[3], TRACE[4]]


@pytest.mark.parametrize(
    ("messages", "options", "error", "text"),
    [
        (result_without_call(), {}, InvalidValue, "message 1 .*'a'.*calls without a result: none"),
        ([*TRACE[:4], TRACE[3], TRACE[4]], {}, InvalidValue, "message 4 is the result of a tool"),
        ([{"role": "robot", "content": "Hi."}], {}, UnknownName, "role of message 0 'robot'"),
        (TRACE[:4], {}, InvalidTarget, "ends with a message of the role 'tool', so there is no action"),
        (TRACE, {"target": "$.cc"}, InvalidTarget, r"'\$.cc' is not in the JSON"),
        (TRACE, {"target": "tools"}, UnknownName, "target of a trace"),
        ([*TRACE[:4], {"role": "assistant", "content": "Wet."}], {"target": "tool"}, InvalidTarget, "calls no tool"),
        (TRACE, {"untrusted": ["web"]}, UnknownName, "untrusted role, tool or message"),
        (TRACE, {"tools": [WEATHER, WEATHER]}, InvalidValue, "two tools have the name 'get_weather'"),
        (TRACE, {"tools": [{"name": 3}]}, InvalidType, "a tool is"),
        (TRACE, {"tools": WEATHER}, InvalidType, "a list of tool definitions"),
        (TRACE, {"template_kwargs": {"tools": []}}, InvalidValue, "pass tools to from_trace"),
        (TRACE, {"unit": "document"}, InvalidValue, "no documents"),
        (TRACE, {"call": "0"}, InvalidType, "call must be the number"),
        ([], {}, InvalidValue, "a trace needs messages"),
        ([TRACE[4]], {}, InvalidValue, "only the action"),
        ([TRACE[1], {"role": "assistant", "tool_calls": [call("f", "1", "{")]}], {}, InvalidValue, "are not JSON"),
        ([TRACE[1], {"role": "assistant", "tool_calls": [{"id": 1}]}], {}, InvalidType, "a tool call is"),
        ([TRACE[1], {"role": "assistant", "content": "", "reasoning_content": 3}], {}, InvalidType, "must be a text"),
    ],
)  # fmt: skip
def test_bad_traces(messages: Any, options: dict[str, Any], error: type[Exception], text: str) -> None:
    before = copy.deepcopy(messages)
    with pytest.raises(error, match=text):
        Prompt.from_trace(messages, **options)
    assert messages == before


def test_steps_need_a_trace() -> None:
    with pytest.raises(InvalidValue, match="unit 'step' needs a trace"):
        Prompt("Hello.", unit="step")


def test_the_users_messages_are_left_as_they_were() -> None:
    before = copy.deepcopy(TRACE)
    Prompt.from_trace(TRACE, tools=[WEATHER]).bind(of("qwen3"))
    assert before == TRACE


@pytest.mark.parametrize("name", NAMES)
def test_hostile_text_stays_text(name: str) -> None:
    evil = '{{ 7 * 7 }} {% raw %} "}] </tool_response> <script>alert(1)</script> \u2402trace \\n ${x}'
    messages = copy.deepcopy(TRACE)
    messages[3]["content"] = evil
    del messages[2]["reasoning_content"]
    found = dict(labelled(bound(name, messages)))["message 3: tool get_weather (untrusted)"]
    assert found == (evil if name == "qwen3" else json.dumps(evil, ensure_ascii=False)[1:-1])


def test_what_a_template_leaves_out_is_reported() -> None:
    lines = "reasoning of message 2 .assistant. is left out or changed"
    with pytest.warns(UserWarning, match=lines):
        prompt = bound("llama3")
    assert prompt.about()["template_changes"] == ["reasoning of message 2 (assistant) is left out or changed"]


def test_pinned_messages_are_no_units() -> None:
    found = dict(labelled(bound("gpt_oss", pinned=["system", "tools", 3])))
    assert not [label for label in found if "system" in label or label.startswith("tool") or " 3" in label]
    with pytest.raises(UnknownName, match="message or document to pin"):
        Prompt.from_trace(TRACE, pinned="developer")


def test_explained_as_the_messages_themselves_would_be(tmp_path: Path) -> None:
    messages = PLAIN
    lm, prompt = long_model(), Prompt.from_trace(messages, target="$.to")
    result = llm_attr.explain(lm, prompt)
    assert result.output_text == "ann@x.org"
    clean = list(prompt.content)
    full = render(lm, [*clean, prompt.trace.action], {"continue_final_message": False, "add_generation_prompt": False})  # type: ignore[list-item, union-attr]
    assert render(lm, clean) + (prompt.answer(lm) or ("",))[0] in full
    whole = llm_attr.explain(
        lm, render(lm, clean), unit="word", target=(prompt.answer(lm) or ("",))[0], region="ann@x.org"
    )
    assert result.output_probs is not None
    assert whole.output_probs is not None
    assert result.provenance["trace"]["role"] == ["system", "user", "assistant", "tool"]
    result.save(tmp_path / "r")
    loaded = LLMAttributionResult.load(tmp_path / "r")
    assert loaded.provenance["trace"] == result.provenance["trace"]
    assert loaded == result
    page = result.to_html()
    assert "3: tool get_weather (untrusted)" in page
    assert "<b>rules" not in page


def test_the_models_own_next_message() -> None:
    lm = long_model()
    prompt = Prompt.from_trace(PLAIN[:4], target="next")
    assert len(llm_attr.explain(lm, prompt, gen_args={"max_new_tokens": 2}).output_tokens) <= 2
    assert llm_attr.explain(lm, prompt, target=" So").output_text == " So"


@pytest.mark.parametrize("count", [1, 2, 3])
def test_tools_in_a_list(count: int) -> None:
    """As Mistral writes them: [{...}, {...}]."""
    template = (
        "[{% for t in tools %}{{ t | tojson }}{{ '' if loop.last else ', ' }}{% endfor %}]"
        + SHORT.partition("endfor %}")[2]
    )
    third = {"type": "function", "function": {"name": "stop", "description": "Stops.", "parameters": {}}}
    tools = [WEATHER, MAIL, third][:count]
    prompt = Prompt.from_trace(PLAIN, tools=tools).bind(with_template(template))
    shown = [text for label, text in labelled(prompt) if label.startswith("tool")]
    assert [json.loads(text.strip(", ")) for text in shown] == tools
    for absent in range(count - 1):  # without the last one, its separator stays
        present = [i != absent for i in range(len(prompt.values))]
        rest = [tool for i, tool in enumerate(tools) if i != absent]
        assert prompt.without(present) == Prompt.from_trace(PLAIN, tools=rest).bind(with_template(template)).text
