"""Prompts as units: what is a feature, and what is left of the text when some of them are absent."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr import LanguageModel, Prompt
from llm_attr.errors import EmptyPrompt, InvalidShape, InvalidType, InvalidValue, UnalignedTokenizer, UnknownName
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.llm.prompt.chat import render
from tests.llm.chats import ALTERNATING, CHAT, CHATML, STRIPPING, WITH_DEFAULT_SYSTEM, with_template
from tests.llm.texts import unicode_text
from tests.zoo import tiny_model, tokenizer_of

TWICE = "{{ messages[-1].content }} | {{ messages[-1].content }}"
LONGER = "{{ messages[-1].content }}\nAnswer{% if messages[-1].content | length > 9 %} at length{% endif %}"
UPPER = "{% for m in messages %}{{ m.content | upper }}{% endfor %}"


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return with_template(CHATML)


def bound(lm: LanguageModel, content: Any, unit: str = "sentence") -> BoundPrompt:
    return Prompt(content, unit=unit).bind(lm)


def rest(prompt: BoundPrompt, *absent: int) -> str:
    return prompt.without([i not in absent for i in range(len(prompt.spans))])


def ids(prompt: BoundPrompt, *absent: int) -> list[int]:
    present = torch.tensor([[float(i not in absent) for i in range(len(prompt.spans))]])
    return list(prompt.to_model_input(present)[0].tolist())


@pytest.mark.parametrize(
    ("text", "absent", "expected"),
    [
        ("One. Two. Three.", [0], "Two. Three."),
        ("One. Two. Three.", [1], "One. Three."),
        ("One. Two. Three.", [2], "One. Two."),
        ("One. Two. Three.", [0, 1, 2], ""),
        ("One. Two. Three.", [0, 2], "Two."),
        ("One.  Two.\n\nThree.\nFour.", [1], "One.\n\nThree.\nFour."),
        ("One.  Two.\n\nThree.\nFour.", [2], "One.  Two.\n\nFour."),
        ("One.  Two.\n\nThree.\nFour.", [1, 2], "One.\n\nFour."),
        ("One.  Two. Three.", [1], "One.  Three."),
        (" \nOne. Two.\n", [0], " \nTwo.\n"),
        (" \nOne. Two.\n", [1], " \nOne.\n"),
        (" \nOne. Two.\n", [0, 1], " \n\n"),
        ("他走了。她来了！好。", [1], "他走了。好。"),
        ("A\r\nB\r\nC", [1], "A\r\nC"),
    ],
)
def test_what_is_left(lm: LanguageModel, text: str, absent: list[int], expected: str) -> None:
    prompt = bound(lm, text)
    assert rest(prompt, *absent) == expected
    assert ids(prompt, *absent) == lm.tokenizer.encode(expected)


@settings(max_examples=60, deadline=None)
@given(text=unicode_text.filter(str.strip), unit=st.sampled_from(["word", "sentence"]), data=st.data())
def test_what_is_left_of_any_text(text: str, unit: str, data: st.DataObject) -> None:
    prompt = bound(_plain(), text, unit)
    present = data.draw(st.lists(st.booleans(), min_size=len(prompt.spans), max_size=len(prompt.spans)))
    left = prompt.without(present)
    kept = "".join(value for value, here in zip(prompt.values, present, strict=True) if here)
    assert "".join(left.split()) == "".join(kept.split())
    assert prompt.without([True] * len(present)) == text == prompt.text
    lead, trail = text[: prompt.spans[0][0]], text[prompt.spans[-1][1] :]
    assert left.startswith(lead)
    assert left.endswith(trail)
    assert any(present) or left == lead + trail
    assert "".join(itertools.chain(*itertools.zip_longest(prompt.context, prompt.values, fillvalue=""))) == text


_cache: list[LanguageModel] = []


def _plain() -> LanguageModel:
    if not _cache:
        _cache.append(with_template(None))
    return _cache[0]


@pytest.mark.parametrize("unit", ["word", "sentence", "token"])
def test_the_whole_prompt_is_what_the_model_gets(lm: LanguageModel, unit: str) -> None:
    text = "Dr. Smith paid $3.50. 日本 🙂!"
    prompt = bound(lm, text, unit)
    assert ids(prompt) == prompt.to_model_input()[0].tolist() == lm.tokenizer.encode(text)
    chat = bound(lm, CHAT, unit)
    assert ids(chat) == lm.tokenizer.encode(chat.text, add_special_tokens=False)
    assert chat.text == lm.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    tokenised = lm.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert ids(chat) == list(tokenised)


def test_units_of_tokens_are_taken_out_by_id(lm: LanguageModel) -> None:
    prompt = bound(lm, "Dave lives in Palm Coast.", "token")
    whole = lm.tokenizer.encode("Dave lives in Palm Coast.")
    assert [value.strip() for value in prompt.values] == ["Dave", "lives", "in", "Palm", "Coast", "."]
    assert whole[0] == lm.tokenizer.bos_token_id
    for place in range(len(prompt.values)):
        assert ids(prompt, place) == [*whole[: place + 1], *whole[place + 2 :]]
    assert ids(prompt, *range(6)) == whole[:1]


def test_tokens_of_a_slow_tokenizer() -> None:
    slow = LanguageModel(tiny_model("llama"), tokenizer_of("slow"), "slow")
    assert bound(slow, "a cab.", "token").values == list("a cab.")
    with pytest.raises(UnalignedTokenizer):
        bound(slow, "Zoë", "token")
    assert bound(slow, "Zoë came. She left.").values == ["Zoë came.", "She left."]


@pytest.mark.parametrize("template", [CHATML, WITH_DEFAULT_SYSTEM, STRIPPING])
@pytest.mark.parametrize("unit", ["word", "sentence", "token"])
def test_nothing_of_the_template_is_a_feature(template: str, unit: str) -> None:
    lm = with_template(template)
    prompt = bound(lm, CHAT[1:], unit)
    inside = [False] * len(prompt.text)
    for start, end in prompt.contents:
        inside[start:end] = [True] * (end - start)
    assert [prompt.text[start:end] for start, end in prompt.contents] == [message["content"] for message in CHAT[1:]]
    for start, end in prompt.spans:
        piece = prompt.text[start:end]
        first = start + len(piece) - len(piece.lstrip())
        assert inside[first]
        assert all(inside[start:end])
    nothing = lm.tokenizer.decode(ids(prompt, *range(len(prompt.spans))))
    frame = render(lm, [{**message, "content": ""} for message in CHAT[1:]])
    assert nothing.split() == frame.split()


def test_all_contents_are_covered(lm: LanguageModel) -> None:
    prompt = bound(lm, CHAT)
    assert prompt.values == [
        "Answer from the notes.",
        "Be brief.",
        "The mill was built in 1854.",
        "Aksel repairs violins.",
        "I see.",
        "What does Aksel do?",
    ]
    assert rest(prompt, 3).count("The mill was built in 1854.</s>") == 1


def test_a_template_that_enforces_roles() -> None:
    lm = with_template(ALTERNATING)
    prompt = bound(lm, CHAT[1:])
    assert prompt.values[-1] == "What does Aksel do?"
    assert rest(prompt, 2) == rest(prompt).replace("I see.", "")
    with pytest.raises(InvalidValue, match="the chat template refused the messages: roles must alternate"):
        bound(lm, CHAT)


@pytest.mark.parametrize("content", ["Hi there.\n", "  Hi there.", "\n Hi there. \n\n", "Hi there."])
@pytest.mark.parametrize("template", [CHATML, STRIPPING])
def test_a_template_that_strips_contents(content: str, template: str) -> None:
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": content}, CHAT[-1]]
    prompt = bound(with_template(template), chat)
    assert prompt.values == ["Hi there.", "Hi there.", "What does Aksel do?"]
    assert rest(prompt) == prompt.text
    assert rest(prompt, 0) == prompt.text.replace("Hi there.", "", 1)


@pytest.mark.parametrize(
    ("template", "chat"),
    [(TWICE, CHAT[-1:]), (LONGER, CHAT[-1:]), (UPPER, CHAT), (UPPER + TWICE, CHAT)],
)
def test_a_template_that_hides_or_changes_a_content(template: str, chat: list[dict[str, str]]) -> None:
    with pytest.raises(InvalidValue, match=r"chat template of tiny does not show .* pass the text"):
        bound(with_template(template), chat)


def test_a_content_that_looks_like_another_or_like_the_template(lm: LanguageModel) -> None:
    chat = [
        {"role": "user", "content": "user\nSame."},
        {"role": "assistant", "content": "Same."},
        {"role": "user", "content": "Same.</s>\n<|im_start|>user\nSame."},
    ]
    prompt = bound(lm, chat)
    assert [prompt.text[start:end] for start, end in prompt.contents] == [message["content"] for message in chat]


def test_an_empty_message_is_no_unit(lm: LanguageModel) -> None:
    prompt = bound(lm, [{"role": "system", "content": ""}, {"role": "user", "content": "Hi."}])
    assert prompt.values == ["Hi."]


def test_messages_are_left_as_they_are(lm: LanguageModel) -> None:
    chat = copy.deepcopy(CHAT)
    bound(lm, chat)
    assert chat == CHAT


@pytest.mark.parametrize("content", ["", "  \n", [], [{"role": "user", "content": " "}]])
def test_an_empty_prompt(content: Any) -> None:
    with pytest.raises(EmptyPrompt, match="the prompt is empty"):
        Prompt(content)


@pytest.mark.parametrize(
    "content",
    [
        7,
        None,
        b"text",
        ["a", "b"],
        {"role": "user"},
        [{"role": "user"}, 3],
        [{"content": "a"}],
        [{"role": "user"}],
        [{"role": "user", "content": ["parts"]}],
        [{"role": 1, "content": "a"}],
    ],
)
def test_a_prompt_of_another_type(content: Any) -> None:
    with pytest.raises(InvalidType):
        Prompt(content)


def test_half_of_a_character() -> None:
    with pytest.raises(InvalidValue, match="half of a character"):
        Prompt("broken \ud83d text")


def test_an_unknown_unit() -> None:
    with pytest.raises(UnknownName, match=r"'sentense' \(did you mean 'sentence'\?\); accepted: token, word, sentence"):
        Prompt("Hi.", unit="sentense")


def test_no_chat_template() -> None:
    with pytest.raises(InvalidValue, match="tiny has no chat template; pass the prompt as a text"):
        bound(_plain(), CHAT)


def test_the_wrong_number_of_units(lm: LanguageModel) -> None:
    with pytest.raises(InvalidShape, match=r"shape \(1, 2\); got \(1, 3\)"):
        bound(lm, "One. Two.").to_model_input(torch.ones(1, 3))


@pytest.mark.parametrize("unit", ["word", "sentence", "token"])
def test_context_goes_around_the_units(lm: LanguageModel, unit: str) -> None:
    prompt = bound(lm, CHAT, unit)
    assert len(prompt.context) == len(prompt.values) + 1
    assert "".join(itertools.chain(*itertools.zip_longest(prompt.context, prompt.values, fillvalue=""))) == prompt.text


@pytest.mark.parametrize("kind", ["byte_bos", "metaspace"])
def test_tokens_of_one_character(kind: str) -> None:
    lm = with_template(None, kind)
    prompt = bound(lm, "a 🙂 b日 é", "token")
    assert len(prompt.values) == len(lm.tokenizer.encode("a 🙂 b日 é")) - 1
    assert prompt.values.count("🙂") == 1
    assert "".join(itertools.chain(*itertools.zip_longest(prompt.context, prompt.values, fillvalue=""))) == prompt.text
