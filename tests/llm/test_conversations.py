"""Conversations whose templates treat messages in their own way, and messages that are no units."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import Prompt, explain
from llm_attr.errors import EmptyPrompt, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.viz.text.lines.terminal import render
from tests.llm.chats import CHATML, with_template
from tests.reference.scoring import answer_log_probs

TOOLS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content %}{% if m.role == 'assistant' and '</think>' in "
    "m.content %}{{ m.content.split('</think>')[-1].lstrip('\n') }}{% elif m.content is string %}{{ m.content }}"
    "{% else %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}{% endif %}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MERGED = (
    "{% for m in messages[1:] %}[{{ m.role }}] {% if loop.first %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content | trim }}\n{% endfor %}"
)
MOVED = (
    "{% for m in messages[1:] %}[{{ m.role }}] {% if loop.last %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}\n{% endfor %}"
)
LAST_ONLY = "{{ messages[-1].content }}\nAnswer:"
UPPER_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content | upper }}{% else %}{{ m.content }}{% endif %}\n"
    "{% endfor %}"
)
QUOTED_TOOLS = "{% for m in messages %}{{ m.content | tojson if m.role == 'tool' else m.content }}\n{% endfor %}"

CALL = [{"type": "function", "function": {"name": "lookup", "arguments": {"who": "Aksel"}}}]
QUESTION = {"role": "user", "content": "Who is Aksel?"}
FOUND = {"role": "tool", "content": "Aksel repairs violins."}
THOUGHT = [
    QUESTION,
    {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nA luthier."},
    {"role": "user", "content": "What does he repair?"},
]
CHAT = [
    {"role": "system", "content": "Be brief. Be kind."},
    QUESTION,
    {"role": "assistant", "content": "A luthier. He is old."},
    {"role": "user", "content": "What does he repair?"},
]


def bound(template: str, chat: Any, **options: Any) -> BoundPrompt:
    """The prompt of a template; a warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return Prompt(chat, **options).bind(with_template(template))


def without(prompt: BoundPrompt, *absent: int) -> str:
    return prompt.without([number not in absent for number in range(len(prompt.spans))])


@pytest.mark.parametrize("content", [{"content": None}, {}, {"content": ""}, {"content": []}], ids=str)
@pytest.mark.parametrize("unit", ["word", "sentence", "message"])
def test_a_turn_of_tool_calls_alone(content: dict[str, Any], unit: str) -> None:
    chat = [QUESTION, {"role": "assistant", "tool_calls": CALL, **content}, FOUND]
    prompt = bound(TOOLS, chat, unit=unit)
    assert " ".join(prompt.values) == "Who is Aksel? Aksel repairs violins."
    assert '<call>{"name": "lookup", "arguments": {"who": "Aksel"}}</call>' in without(prompt, *range(9))
    assert [group.label for group in prompt.groups] == ["user", "tool"]


def test_tool_calls_beside_contents_in_parts() -> None:
    said = [{"type": "text", "text": "I look."}, {"type": "text", "text": " "}]
    chat = [QUESTION, {"role": "assistant", "content": said, "tool_calls": CALL}, {**FOUND, "content": said[:1]}]
    assert bound(TOOLS, chat).values == ["Who is Aksel?", "I look.", "I look."]


def test_a_last_turn_of_tool_calls_is_no_beginning_of_an_answer() -> None:
    lm = with_template(TOOLS)
    chat = [QUESTION, {"role": "assistant", "content": None, "tool_calls": CALL}]
    text = lm.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert bound(TOOLS, chat).text == text


@pytest.mark.parametrize("message", [{"role": "assistant"}, {"role": "user"}, {"role": "user", "tool_calls": CALL}])
def test_a_turn_of_nothing(message: dict[str, Any]) -> None:
    with pytest.raises(InvalidType, match="an assistant's with tool calls may lack"):
        Prompt([QUESTION, message])
    with pytest.raises(EmptyPrompt):
        Prompt([{"role": "assistant", "content": None, "tool_calls": CALL}])


def told(template: str, chat: Any, message: str, **options: Any) -> BoundPrompt:
    with pytest.warns(UserWarning, match=message):
        return Prompt(chat, **options).bind(with_template(template))


@pytest.mark.parametrize("unit", ["sentence", "message"])
def test_a_thought_that_the_template_drops(unit: str) -> None:
    prompt = told(TOOLS, THOUGHT, r"message 1 \(assistant\) is shown only as 'A luthier.'", unit=unit)
    assert prompt.values == ["Who is Aksel?", "A luthier.", "What does he repair?"]
    assert without(prompt, 1) == prompt.text.replace("A luthier.", "")
    lm = with_template(TOOLS)
    assert prompt.text == lm.tokenizer.apply_chat_template(THOUGHT, tokenize=False, add_generation_prompt=True)


def test_characters_of_a_message_that_is_shown_in_part() -> None:
    start = THOUGHT[1]["content"].index("luthier")
    prompt = told(TOOLS, THOUGHT, "is shown only as", spans=[(1, start, start + 7)])
    assert prompt.values == ["luthier"]
    with pytest.warns(match="is shown only as"), pytest.raises(InvalidValue, match="not inside the content"):
        Prompt(THOUGHT, spans=[(1, 0, 7)]).bind(with_template(TOOLS))


def test_turns_that_the_template_drops() -> None:
    prompt = told(LAST_ONLY, CHAT, r"message 0 \(system\) is left out; message 1 \(user\) is left out; message 2")
    assert prompt.values == ["What does he repair?"]
    lm = with_template(LAST_ONLY)
    for method in ("feature_ablation", "saliency"):
        with pytest.warns(UserWarning, match="does not show all messages"):
            result = explain(lm, CHAT, method=method, target="Violins.")
        assert result.provenance["template_changes"][0] == "message 0 (system) is left out"
        assert "message 0 (system) is left out" in render(result.view(), width=400)
    assert "template_changes" not in explain(with_template(CHATML), CHAT, target="Violins.").provenance


def test_a_message_that_the_template_changes_is_always_present() -> None:
    prompt = told(UPPER_SYSTEM, CHAT, r"message 0 \(system\) is changed\. Units are made of what it shows as it is")
    assert prompt.values == ["Who is Aksel?", "A luthier.", "He is old.", "What does he repair?"]
    assert without(prompt, *range(4)).startswith("BE BRIEF. BE KIND.")
    quoted = {**FOUND, "content": 'He "repairs".'}
    assert told(QUOTED_TOOLS, [QUESTION, quoted], r"message 1 \(tool\) is changed").values == ["Who is Aksel?"]


def test_a_system_message_in_another_turn() -> None:
    merged = bound(MERGED, CHAT)
    assert merged.values[:3] == ["Be brief.", "Be kind.", "Who is Aksel?"]
    assert without(merged, 0, 1).startswith("[user] \n\nWho is Aksel?")
    moved = bound(MOVED, CHAT)
    assert moved.values == [
        "Who is Aksel?",
        "A luthier.",
        "He is old.",
        "Be brief.",
        "Be kind.",
        "What does he repair?",
    ]
    assert [group.label for group in moved.groups] == ["user", "assistant", "system", "user"]
    assert without(moved, 3, 4) == moved.text.replace("Be brief. Be kind.", "")


def test_the_scores_are_those_of_what_is_left() -> None:
    lm = with_template(TOOLS)
    with pytest.warns(UserWarning, match="is shown only as"):
        result = llm_attr.explain(lm, THOUGHT, target=" Violins.")
    text = str(lm.tokenizer.apply_chat_template(THOUGHT, tokenize=False, add_generation_prompt=True))
    texts = [text, *(text.replace(sentence, "") for sentence in result.input_tokens)]
    ids = [lm.tokenizer.encode(each, add_special_tokens=False) for each in texts]
    whole, *others = [answer_log_probs(lm.model, row, result.output_ids).sum() for row in ids]
    torch.testing.assert_close(result.seq_attr, torch.stack([whole - other for other in others]), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("pinned", [["system"], "system", [0], 0, [-4], ["system", 0]], ids=str)
@pytest.mark.parametrize("unit", ["token", "word", "sentence", "message"])
def test_a_pinned_system_message(pinned: Any, unit: str) -> None:
    prompt = bound(CHATML, CHAT, unit=unit, pinned=pinned)
    assert "Be" not in "".join(prompt.values)
    assert "Be brief. Be kind." in without(prompt, *range(len(prompt.spans)))
    assert [group.label for group in prompt.groups] == ["user", "assistant", "user"]


def test_pinned_messages_of_one_role() -> None:
    assert bound(CHATML, CHAT, pinned=["user"]).values == ["Be brief.", "Be kind.", "A luthier.", "He is old."]
    assert bound(CHATML, CHAT, pinned=["system", -1]).values == ["Who is Aksel?", "A luthier.", "He is old."]


@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("unit", ["document", "sentence"])
def test_a_pinned_document(chat: bool, unit: str) -> None:
    documents = {"mill": "It is old.", "map": "It shows all.", "2": "It is new."}
    prompt = Prompt.from_documents("Who?", documents, unit=unit, chat=chat, pinned=["map"]).bind(with_template(CHATML))
    assert [group.label for group in prompt.groups] == ["mill", "2"]
    assert "[map]\nIt shows all." in without(prompt, 0, 1)


def test_what_is_pinned_does_not_move_under_gradients() -> None:
    lm = with_template(CHATML)
    pinned = Prompt(CHAT, pinned=["system"]).bind(lm)
    free, held = Prompt(CHAT).bind(lm).placed(lm), pinned.placed(lm)
    start, end = pinned.text.index("Be brief."), pinned.text.index("Be kind.") + len("Be kind.")
    whole = llm_attr.explain(lm, Prompt(CHAT, pinned=["system"]), target=" Violins.", method="input_x_gradient")
    assert len(whole.input_tokens) == 4
    system = lm.decode([token for token, moves in zip(free.ids, free.moved, strict=True) if moves])
    rest = lm.decode([token for token, moves in zip(held.ids, held.moved, strict=True) if moves])
    assert system == pinned.text[start:end] + rest


@pytest.mark.parametrize(
    ("content", "options", "error"),
    [
        (CHAT, {"pinned": ["sytem"]}, UnknownName),
        (CHAT, {"pinned": [4]}, UnknownName),
        (CHAT, {"pinned": [True]}, UnknownName),
        (CHAT, {"pinned": ["system"], "spans": ["Be"]}, InvalidValue),
        ("A text.", {"pinned": [0]}, UnknownName),
    ],
)
def test_what_cannot_be_pinned(content: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="pin"):
        Prompt(content, **options)
    with pytest.raises(UnknownName, match=r"'mil' \(did you mean 'mill'\?\)"):
        Prompt.from_documents("Who?", {"mill": "It is old."}, pinned=["mil"])


def test_nothing_but_pinned_messages() -> None:
    with pytest.raises(EmptyPrompt, match="no sentence to attribute to"):
        bound(CHATML, CHAT, pinned=["system", "user", "assistant"])
