"""Answers as generate() gives them, and several prompts at a time."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt
from llm_attr.attr import FeatureAblation, LLMAttribution, TextTemplateInput
from llm_attr.errors import (
    EmptyPrompt,
    EmptyTarget,
    InvalidShape,
    InvalidTarget,
    InvalidType,
    InvalidValue,
    LlmAttrError,
    UnknownName,
)
from tests.zoo import tiny, tokenizer_of

TEXT = "Dave lives in Palm Coast. He is a lawyer.\nWhat does he like?"
OTHER = "The old mill was white. It was built in 1854."
TARGET = " He likes fishing."
CHAT = [{"role": "system", "content": "Be brief. Be kind."}, {"role": "user", "content": "Who is Dave? Tell me."}]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    tokenizer = copy.deepcopy(tokenizer_of("byte_bos"))
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    return LanguageModel(tiny("llama").model, tokenizer, "tiny llama")


def same(first: LLMAttributionResult, second: LLMAttributionResult) -> bool:
    both = (torch.cat([one.seq_attr[None], one.token_attr]) for one in (first, second))
    return first.output_ids == second.output_ids and torch.equal(*both)


def close(first: LLMAttributionResult, second: LLMAttributionResult) -> bool:
    both = (torch.cat([one.seq_attr[None], one.token_attr]) for one in (first, second))
    return first.output_ids == second.output_ids and torch.allclose(*both, rtol=0, atol=1e-4)


def generated(lm: LanguageModel, text: str, **options: Any) -> Any:
    ids = torch.tensor([lm.tokenizer.encode(text)])
    return lm.model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False, pad_token_id=1, **options
    )


@pytest.mark.parametrize("as_output", [False, True])
def test_what_generate_returned(lm: LanguageModel, as_output: bool) -> None:
    found = generated(lm, TEXT, return_dict_in_generate=as_output)
    sequences = found.sequences if as_output else found
    answer = sequences[0, len(lm.tokenizer.encode(TEXT)) :]
    assert len(answer) == 6
    expected = llm_attr.explain(lm, TEXT, target=answer)
    assert same(llm_attr.explain(lm, TEXT, target=found), expected)
    wrapper = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer)
    assert same(wrapper.attribute(Prompt(TEXT), found), expected)
    assert same(llm_attr.explain(lm, TEXT, gen_args={"max_new_tokens": 6, "do_sample": False}), expected)


def test_a_generation_ends_where_the_model_ended_it(lm: LanguageModel) -> None:
    prompt = lm.tokenizer.encode(TEXT)
    found = llm_attr.explain(lm, TEXT, target=torch.tensor([[*prompt, 9, 8, 1, 1, 1]]))
    assert found.output_ids == (9, 8, 1)


def test_a_generation_for_a_chat(lm: LanguageModel) -> None:
    shown = lm.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = lm.tokenizer.encode(shown, add_special_tokens=False)
    found = llm_attr.explain(lm, CHAT, target=torch.tensor([[*ids, 7, 9]]))
    assert found.output_ids == (7, 9)


def test_generations_that_do_not_fit(lm: LanguageModel) -> None:
    prompt = lm.tokenizer.encode(TEXT)
    changed = [*prompt, 5, 5]
    changed[4] = 7
    place = re.escape(f"token 4 is 7 ({lm.decode([7])!r}), and in the prompt {prompt[4]} ({lm.decode([prompt[4]])!r})")
    cases: list[tuple[Any, type[Exception], str]] = [
        (torch.tensor([changed]), InvalidTarget, place),
        (torch.tensor([[*prompt, 5]] * 2), InvalidShape, r"shape \(1, tokens\).*got shape \(2, "),
        (torch.tensor([prompt[:-1]]), InvalidShape, "begin with the prompt's"),
        (torch.tensor([prompt]), EmptyTarget, "holds no token"),
        (torch.tensor([[*prompt, 5.0]]), InvalidType, "target"),
        (torch.tensor([[*prompt, 10**6]]), InvalidValue, "not a token id"),
        (generated(lm, OTHER, return_dict_in_generate=True), LlmAttrError, "prompt"),
    ]
    for target, error, message in cases:
        with pytest.raises(error, match=message):
            llm_attr.explain(lm, TEXT, target=target)


PROMPTS: dict[str, list[Any]] = {
    "texts": [TEXT, OTHER],
    "chats": [CHAT, CHAT[1:]],
    "prompts": [Prompt(TEXT, unit="word"), Prompt(OTHER)],
    "mixed": [TEXT, CHAT, Prompt(OTHER, unit="token"), TextTemplateInput("{} is {}.", ["Dave", "old"])],
    "one": [TEXT],
}


@pytest.mark.parametrize("case", PROMPTS)
@pytest.mark.parametrize("target", [None, TARGET, [7, 9, 11], "each"])
def test_a_result_for_each_prompt(lm: LanguageModel, case: str, target: Any) -> None:
    prompts = PROMPTS[case]
    each = [TARGET, [7, 9], None, torch.tensor([5])][: len(prompts)] if target == "each" else [target] * len(prompts)
    unit = None if case == "prompts" else "sentence"
    found = llm_attr.explain(lm, prompts, target=each if target == "each" else target, unit=unit)
    assert isinstance(found, list)
    expected = [llm_attr.explain(lm, prompt, target=one) for prompt, one in zip(prompts, each, strict=True)]
    assert all(close(first, second) for first, second in zip(found, expected, strict=True))


def test_messages_are_one_prompt(lm: LanguageModel) -> None:
    for chat in (CHAT, tuple(CHAT), CHAT[:1]):
        assert isinstance(llm_attr.explain(lm, chat, target=TARGET), LLMAttributionResult)


def test_errors_name_their_prompt(lm: LanguageModel) -> None:
    calls: list[int] = []
    handle = lm.model.register_forward_pre_hook(lambda *_: calls.append(1))
    for prompts, error, message in (
        ([TEXT, OTHER, ""], EmptyPrompt, r"^prompt 2: the prompt is empty: ''"),
        ([TEXT, 7], InvalidType, "^prompt 1: "),
        ([TEXT, None], InvalidType, "^prompt 1: "),
    ):
        with pytest.raises(error, match=message):
            llm_attr.explain(lm, prompts, target=TARGET)
    with pytest.raises(UnknownName, match=r"^prompt 0: unknown unit 'paragraf'"):
        llm_attr.explain(lm, [TEXT], unit="paragraf")
    with pytest.raises(InvalidShape, match="one for all of the 2 prompts or one for each; got 3"):
        llm_attr.explain(lm, [TEXT, OTHER], target=[TARGET] * 3)
    handle.remove()
    assert calls == []
    with pytest.raises(EmptyTarget, match=r"^prompt 1: the target '' holds no token"):
        llm_attr.explain(lm, [TEXT, OTHER], target=[TARGET, ""])
    with pytest.raises(EmptyPrompt):
        llm_attr.explain(lm, [])
    with pytest.raises(LlmAttrError):
        llm_attr.explain(lm, [TEXT, CHAT[0]])


def test_one_bar_over_all(lm: LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    llm_attr.explain(lm, [TEXT, OTHER], target=TARGET, show_progress=True)
    shown = capsys.readouterr().err
    assert "Feature Ablation attribution: 100%" in shown
    assert "7/7" in shown
    assert shown.count("attribution:   0%") == 1
    llm_attr.explain(lm, [TEXT, OTHER], target=TARGET)
    assert capsys.readouterr().err == ""
