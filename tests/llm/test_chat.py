"""Chats: what reaches the template, where contents stand in what it renders, and what of it can be absent."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llm_attr
from llm_attr import LanguageModel, Prompt
from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.llm.prompt.bound import BoundPrompt, Group
from llm_attr.llm.prompt.chat import render
from tests.llm.chats import ALTERNATING, CHAT, CHATML, STRIPPING, WITH_DEFAULT_SYSTEM, with_template
from tests.llm.texts import unicode_text
from tests.reference.scoring import answer_log_probs

ASK = CHAT[-1:]
TOOLS = [
    {
        "type": "function",
        "function": {"name": "look_up", "description": "Looks it up.", "parameters": {"type": "object"}},
    }
]
WITH_TOOLS = (
    "{% if tools %}<|im_start|>tools\n{% for tool in tools %}{{ tool.function.name }}: "
    "{{ tool.function.description }}\n{% endfor %}</s>\n{% endif %}"
    + CHATML
    + "{% if enable_thinking %}<think>\n{% endif %}"
)
PARTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}({{ part.text }}){% endfor %}{% endif %}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
EACH = {"chatml": CHATML, "stripping": STRIPPING, "default system": WITH_DEFAULT_SYSTEM, "tools": WITH_TOOLS}


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def rest(prompt: BoundPrompt, *absent: int) -> str:
    return prompt.without([i not in absent for i in range(len(prompt.spans))])


def nothing_left(prompt: BoundPrompt) -> str:
    return rest(prompt, *range(len(prompt.spans)))


def solid(text: str) -> str:
    return "".join(text.split())


def test_tools_and_other_arguments_reach_the_template() -> None:
    lm = with_template(WITH_TOOLS)
    options: dict[str, Any] = {"tools": TOOLS, "enable_thinking": True}
    before = copy.deepcopy(options)
    prompt = Prompt(CHAT, template_kwargs=options).bind(lm)
    expected = lm.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, **options)
    assert prompt.text == expected
    assert prompt.text.startswith("<|im_start|>tools\nlook_up: Looks it up.\n</s>\n")
    assert prompt.text.endswith("<|im_start|>assistant\n<think>\n")
    assert prompt.values == Prompt(CHAT).bind(with_template(CHATML)).values
    assert "Looks it up." in nothing_left(prompt)
    assert options == before
    assert "tools" not in Prompt(CHAT).bind(lm).text


def test_template_arguments_that_end_the_prompt_otherwise() -> None:
    lm = with_template(CHATML)
    open_ended = Prompt(ASK, template_kwargs={"add_generation_prompt": False}).bind(lm)
    assert open_ended.text == "<|im_start|>user\nWhat does Aksel do?</s>\n"
    closed = {"continue_final_message": False, "add_generation_prompt": True}
    answered = Prompt([*ASK, CHAT[2]], template_kwargs=closed).bind(lm)
    assert answered.text.endswith("I see.</s>\n<|im_start|>assistant\n")
    with pytest.raises(InvalidValue, match="the chat template refused the messages"):
        Prompt(ASK, template_kwargs={"tools": 3}).bind(lm)


@pytest.mark.parametrize("template", EACH)
@pytest.mark.parametrize("beginning", ["He repairs", "He repairs violins. He ", "assistant", "</s>", "He\n\nrepairs"])
def test_a_last_message_of_the_assistant_is_the_beginning_of_the_answer(template: str, beginning: str) -> None:
    lm = with_template(EACH[template])
    chat = [*ASK, {"role": "assistant", "content": beginning}]
    prompt = Prompt(chat).bind(lm)
    shown = beginning.strip() if template == "stripping" else beginning
    assert prompt.text == lm.tokenizer.apply_chat_template(chat, tokenize=False, continue_final_message=True)
    before = Prompt(ASK).bind(lm).text + ("\n" if template == "stripping" else "")  # jinja cuts off a last line break
    assert prompt.text == before + shown
    assert prompt.contents[-1] == (len(prompt.text) - len(shown), len(prompt.text))
    assert prompt.groups[-1].label == "assistant"
    assert solid("".join(prompt.values)) == solid(ASK[0]["content"] + beginning)
    assert solid(nothing_left(prompt)) == solid(Prompt(ASK).bind(lm).text.replace(ASK[0]["content"], ""))


def test_the_answer_goes_on_where_the_assistant_began() -> None:
    lm = with_template(CHATML)
    chat = [*ASK, {"role": "assistant", "content": "He repairs"}]
    result = llm_attr.explain(lm, chat, target=" violins.")
    whole = lm.tokenizer.encode(render(lm, ASK) + "He repairs", add_special_tokens=False)
    scores = answer_log_probs(lm.model, whole, result.output_ids)
    assert (result.output_probs.log() - scores).abs().max() < 1e-4
    assert result.input_tokens[-1] == "He repairs"


def test_only_the_beginning_of_an_answer() -> None:
    prompt = Prompt([{"role": "assistant", "content": "Once upon. A time"}]).bind(with_template(CHATML))
    assert prompt.text == "<|im_start|>assistant\nOnce upon. A time"
    assert prompt.values == ["Once upon.", "A time"]


@pytest.mark.parametrize("unit", ["token", "word", "sentence", "paragraph", "message"])
def test_contents_in_parts(unit: str) -> None:
    lm = with_template(PARTS)
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts("One. Two.", "Three.", " ")},
        {"role": "assistant", "content": parts("So", "far")},
    ]
    before = copy.deepcopy(chat)
    prompt = Prompt(chat, unit=unit).bind(lm)
    head = "<|im_start|>system\nBe brief.</s>\n<|im_start|>user\n(One. Two.)(Three.)( )</s>\n<|im_start|>assistant\n"
    assert prompt.text == head + "(So)(far"
    assert solid("".join(prompt.values)) == "Bebrief.One.Two.Three.Sofar"
    assert [prompt.text[start:end] for start, end in prompt.contents] == [
        "Be brief.",
        "One. Two.",
        "Three.",
        "So",
        "far",
    ]
    assert [group.label for group in prompt.groups] == ["system", "user", "assistant"]
    assert solid(lm.decode(list(prompt.variant([False] * len(prompt.spans)).tokens))) == solid(
        "<|im_start|>system</s><|im_start|>user()()()</s><|im_start|>assistant()("
    )
    assert chat == before


def test_a_message_in_parts_is_a_unit_for_each_part() -> None:
    """Between them stands text of the template, which is no part of any unit."""
    chat = [{"role": "user", "content": parts("One. Two.", "Three.")}]
    prompt = Prompt(chat, unit="message").bind(with_template(PARTS))
    assert prompt.values == ["One. Two.", "Three."]
    assert prompt.groups == [Group("user", "message", 0, 2)]


@pytest.mark.parametrize(
    "content",
    [[{"type": "image", "url": "a.png"}], [{"type": "text"}], [{"text": 3}], [None], {"text": "a"}, 3.5, None],
)
def test_contents_that_are_no_texts(content: Any) -> None:
    with pytest.raises(InvalidType, match="a message is a dict with 'role' and, as 'content', a text"):
        Prompt([{"role": "user", "content": content}])


def test_parts_in_a_template_that_knows_none() -> None:
    """Such a template writes out the list, and so the model gets it, if the texts stand in it as they are."""
    lm = with_template(CHATML)
    listed = Prompt([{"role": "user", "content": parts("One.", "Two.")}]).bind(lm)
    assert listed.values == ["One.", "Two."]
    assert "[{'type': 'text', 'text': 'One.'}, {'type': 'text', 'text': 'Two.'}]" in listed.text
    with pytest.raises(InvalidValue, match="does not show"):
        Prompt([{"role": "user", "content": parts("One.\nTwo.")}]).bind(lm)


@pytest.mark.parametrize("unit", ["word", "sentence", "message"])
def test_roles_that_must_alternate(unit: str) -> None:
    """The template runs once, on the whole chat: taking out a message breaks no rule about roles."""
    lm = with_template(ALTERNATING)
    prompt = Prompt(CHAT[1:], unit=unit).bind(lm)
    for absent in range(len(prompt.spans)):
        left = rest(prompt, absent)
        assert [left.count(f"{role}:") for role in ("user", "assistant")] == [2, 2]
    frame = "user: \nassistant: \nuser: \nassistant:"
    assert nothing_left(prompt) == frame
    with pytest.raises(InvalidValue, match="roles must alternate"):
        Prompt([*CHAT[1:], *ASK]).bind(lm)


def test_messages_of_one_role_after_each_other() -> None:
    chat = [{"role": "user", "content": "Hi. Hello."}, {"role": "user", "content": "Well?"}]
    prompt = Prompt(chat).bind(with_template(CHATML))
    assert prompt.groups == [Group("user", "message", 0, 2), Group("user", "message", 2, 3)]


def test_other_keys_of_messages_reach_the_template() -> None:
    lm = with_template("{% for m in messages %}{{ m.name }}: {{ m.content }}\n{% endfor %}")
    prompt = Prompt([{"role": "tool", "name": "look_up", "content": "It is so."}]).bind(lm)
    assert prompt.text == "look_up: It is so.\n"
    assert nothing_left(prompt) == "look_up: \n"


contents = unicode_text.filter(str.strip)
BLOCKS = st.lists(
    st.sampled_from(["a b.", "\r\n", "\r\n\r\n", "👩\u200d🔬", "e\u0301", "\u202eאב", "\x00\x1b", "{{ x }}", "</s>"])
)
texts = st.one_of(contents, BLOCKS.map(" ".join).filter(str.strip))
_with: dict[str, LanguageModel] = {}


def lm_with(template: str | None, kind: str = "byte_bos") -> LanguageModel:
    key = f"{template}|{kind}"
    if key not in _with:
        _with[key] = with_template(EACH.get(template) if template else None, kind)
    return _with[key]


@pytest.mark.parametrize("template", EACH)
@pytest.mark.parametrize("unit", ["word", "sentence", "paragraph", "message"])
@settings(max_examples=40, deadline=None)
@given(said=st.lists(texts, min_size=1, max_size=3))
def test_units_of_any_chat(template: str, unit: str, said: list[str]) -> None:
    lm = lm_with(template)
    roles = ["system", "user", "tool"] if template != "default system" else ["user", "tool", "user"]
    chat = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    prompt = Prompt(chat, unit=unit).bind(lm)
    shown = [text.strip() if template == "stripping" else text for text in said]
    assert [prompt.text[start:end] for start, end in prompt.contents] == shown
    assert prompt.text == lm.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    _check_tiling(prompt)
    frame = render(lm, [{**message, "content": ""} for message in chat])
    assert solid(nothing_left(prompt)) == solid(frame)
    assert list(prompt.variant([True] * len(prompt.spans)).tokens) == lm.tokenizer.encode(
        prompt.text, add_special_tokens=False
    )


def _check_tiling(prompt: BoundPrompt) -> None:
    """Each character of the contents that is no space is in exactly one unit, and none of the template in any."""
    inside = [0] * len(prompt.text)
    for start, end in prompt.contents:
        for place in range(start, end):
            inside[place] = not prompt.text[place].isspace()
    held = [0] * len(prompt.text)
    for start, end in prompt.spans:
        for place in range(start, end):
            held[place] += not prompt.text[place].isspace()
    assert held == inside
    assert all(any(a <= start and end <= b for a, b in prompt.contents) for start, end in prompt.spans)


@pytest.mark.parametrize("kind", ["byte_bos", "metaspace", "unigram", "wordpiece"])
@pytest.mark.parametrize("absence", ["delete", "mask", "replace"])
@settings(max_examples=25, deadline=None)
@given(text=texts)
def test_tokens_of_any_chat(kind: str, absence: Any, text: str) -> None:
    """Of units of tokens, and of tokens that belong to units of words, none is of the template."""
    lm = lm_with("chatml", kind)
    chat = [{"role": "user", "content": text}]
    options = {"replacement": 7} if absence == "replace" else {}
    for unit in ("token", "word"):
        try:
            prompt = Prompt(chat, unit=unit, absence=absence, **options).bind(lm)
            whole = prompt.variant([True] * len(prompt.spans))
            nothing = prompt.variant([False] * len(prompt.spans))
        except llm_attr.errors.UnalignedTokenizer:
            assert kind in ("unigram", "wordpiece")  # they drop or rewrite characters
            return
        except llm_attr.errors.EmptyPrompt:
            assert kind in ("unigram", "wordpiece")  # control characters only, which they drop
            return
        assert list(whole.tokens) == lm.tokenizer.encode(prompt.text, add_special_tokens=False)
        start, end = prompt.contents[0]
        assert all(start <= first <= stop <= end for first, stop in prompt.spans)
        if absence == "mask":
            assert set(nothing.positions) <= set(whole.positions)
            assert nothing.end == whole.end


@pytest.mark.parametrize("unit", ["token", "word", "sentence", "paragraph"])
@pytest.mark.parametrize("kind", ["byte", "byte_bos", "metaspace", "wordpiece", "unigram"])
@settings(max_examples=25, deadline=None)
@given(text=texts)
def test_all_units_present_is_the_plain_tokenisation(kind: str, unit: str, text: str) -> None:
    lm = lm_with(None, kind)
    try:
        prompt = Prompt(text, unit=unit).bind(lm)
    except (llm_attr.errors.UnalignedTokenizer, llm_attr.errors.EmptyPrompt):
        assert unit == "token"
        assert kind in ("unigram", "wordpiece")
        return
    assert list(prompt.variant([True] * len(prompt.spans)).tokens) == lm.tokenizer.encode(text)
    if unit != "token":
        _check_tiling(prompt)


DEFAULT = "You are a helpful AI assistant named SmolLM"


@pytest.mark.real
@pytest.mark.parametrize("unit", ["token", "word", "sentence", "message"])
def test_the_default_system_message_stays(smollm: LanguageModel, unit: str) -> None:
    """No system message was given: the template's own is a part of the frame, and never a unit."""
    prompt = Prompt(ASK, unit=unit).bind(smollm)
    frame = render(smollm, [{"role": "user", "content": ""}])
    assert DEFAULT in frame
    assert not any("SmolLM" in value for value in prompt.values)
    assert solid("".join(prompt.values)) == solid(ASK[0]["content"])
    nothing = smollm.decode(list(prompt.variant([False] * len(prompt.spans)).tokens))
    assert nothing == frame


@pytest.mark.real
@pytest.mark.parametrize("absence", ["delete", "mask"])
def test_a_removed_system_message_is_not_replaced_by_the_default(smollm: LanguageModel, absence: Any) -> None:
    """The template was rendered once, with the user's system message: without it its frame stays, empty."""
    chat = [{"role": "system", "content": "You are Aksel. You repair violins."}, *ASK]
    prompt = Prompt(chat, unit="message", absence=absence).bind(smollm)
    assert prompt.values == [chat[0]["content"], ASK[0]["content"]]
    assert [group.label for group in prompt.groups] == ["system", "user"]
    left = smollm.decode(list(prompt.variant([False, True]).tokens))
    assert left == prompt.text.replace(chat[0]["content"], "")
    assert left.startswith("<|im_start|>system\n<|im_end|>\n<|im_start|>user\n")
    assert DEFAULT not in left
    assert DEFAULT in render(smollm, ASK)


@pytest.mark.real
def test_messages_of_a_real_chat(smollm: LanguageModel) -> None:
    chat = [{"role": "system", "content": "You are Aksel. You repair violins."}, *ASK]
    result = llm_attr.explain(smollm, Prompt(chat, unit="message"), target="Aksel repairs violins.")
    texts = [render(smollm, chat)]
    texts += [texts[0].replace(message["content"], "") for message in chat]
    ids = [smollm.tokenizer.encode(text, add_special_tokens=False) for text in texts]
    whole, *without = [answer_log_probs(smollm.model, row, result.output_ids).sum() for row in ids]
    for attribution, score in zip(result.seq_attr, without, strict=True):
        assert abs(attribution - (whole - score)) < 1e-2
    assert json.loads(result.to_json())
