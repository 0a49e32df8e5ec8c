"""Texts as tokens: one beginning of text, and whole characters only."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tokenizers import processors

import llm_attr
from llm_attr import LanguageModel, Prompt
from llm_attr.attr import FeatureAblation, LLMAttribution, TextTemplateInput, TextTokenInput
from llm_attr.errors import InvalidValue
from llm_attr.llm.model.tokenizer import beginning, encode
from tests.llm.chats import CHATML
from tests.reference.scoring import answer_log_probs
from tests.zoo import tiny_model, tokenizer_of

CHAT = [{"role": "user", "content": "Aksel repairs violins. What does Aksel do?"}]
ANSWER = " He repairs."
BROKEN = "a \ud83d b"


def language_model(kind: str = "byte_bos", template: str = "{{ bos_token }}" + CHATML) -> LanguageModel:
    tokenizer = copy.deepcopy(tokenizer_of(kind))
    tokenizer.chat_template = template
    return LanguageModel(tiny_model("llama"), tokenizer, "tiny")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return language_model()


def rendered(lm: LanguageModel) -> tuple[str, list[int]]:
    """The chat as text and, as transformers tokenises it, as ids."""
    text = lm.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    ids = lm.tokenizer.apply_chat_template(CHAT, tokenize=True, add_generation_prompt=True, return_dict=False)
    return str(text), list(ids)


@pytest.mark.parametrize("kind", ["byte_bos", "metaspace"])
@pytest.mark.parametrize("unit", ["token", "word", "sentence"])
def test_a_rendered_chat_as_text_has_one_beginning(kind: str, unit: str) -> None:
    lm = language_model(kind)
    text, ids = rendered(lm)
    assert lm.tokenizer.encode(text)[:2] == [0, 0]  # what a tokenizer does by itself
    prompt = Prompt(text, unit=unit).bind(lm)
    assert list(prompt.variant([True] * len(prompt.spans)).tokens) == ids
    assert lm.decode(list(prompt.variant([False] * len(prompt.spans)).tokens)).strip() == "<s>"
    assert "<s>" not in "".join(prompt.values)


@pytest.mark.parametrize("method", ["feature_ablation", "input_x_gradient"])
def test_the_answer_is_scored_behind_one_beginning(lm: LanguageModel, method: str) -> None:
    text, ids = rendered(lm)
    answer = lm.encode(ANSWER, special_tokens=False)
    expected = answer_log_probs(lm.model, ids, tuple(answer))
    template = TextTemplateInput(text.replace("Aksel repairs violins.", "{}"), ["Aksel repairs violins."])
    for inp in (text, CHAT, TextTokenInput(text, lm.tokenizer), template):
        found = llm_attr.explain(lm, inp, target=ANSWER, method=method)
        torch.testing.assert_close(found.output_probs.log(), expected, atol=1e-4, rtol=1e-4)


def test_what_a_text_begins_with_by_itself_stays(lm: LanguageModel) -> None:
    plain = lm.tokenizer.encode("Aksel.")
    assert encode(lm.tokenizer, "Aksel.", special_tokens=True) == plain
    assert encode(lm.tokenizer, "<s>Aksel.", special_tokens=True) == plain
    assert encode(lm.tokenizer, "<s><s>Aksel.", special_tokens=True) == [0, *plain]
    assert encode(lm.tokenizer, "</s>Aksel.", special_tokens=True) == [0, 1, *plain[1:]]
    without = tokenizer_of("byte")
    assert encode(without, "<s><s>Aksel.", special_tokens=True) == without.encode("<s><s>Aksel.")


def test_a_beginning_of_several_tokens_and_an_end() -> None:
    tokenizer = copy.deepcopy(tokenizer_of("byte_bos"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> <s> $A </s>", special_tokens=[("<|im_start|>", 2), ("<s>", 0), ("</s>", 1)]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    assert encode(tokenizer, "<|im_start|><s>A", special_tokens=True) == tokenizer.encode("A")
    assert beginning(tokenizer, "<|im_start|><s>A") == "<|im_start|><s>"
    assert beginning(tokenizer, "<s>A") == ""


def test_characters_are_counted_from_the_beginning_of_the_text(lm: LanguageModel) -> None:
    prompt = Prompt("<s>One. Two.", spans=[(3, 7)]).bind(lm)
    assert prompt.values == ["One."]
    with pytest.raises(InvalidValue, match="not inside the content"):
        Prompt("<s>One. Two.", spans=[(0, 7)]).bind(lm)


ASKED: dict[str, Any] = {
    "prompt": lambda lm: Prompt(BROKEN),
    "message": lambda lm: Prompt([{"role": "user", "content": BROKEN}]),
    "document": lambda lm: Prompt.from_documents("Who?", {"one": "a", "two": BROKEN}),
    "name of a document": lambda lm: Prompt.from_documents("Who?", {BROKEN: "a"}),
    "argument of the template": lambda lm: Prompt(CHAT, template_kwargs={"bos_token": BROKEN}).bind(lm),
    "tool call": lambda lm: Prompt(
        [*CHAT, {"role": "assistant", "content": "So.", "tool_calls": [{"name": BROKEN}]}, *CHAT]
    ).bind(language_model(template=CHATML + "{{ messages[1].tool_calls[0].name }}")),
    "target": lambda lm: llm_attr.explain(lm, "a b", target=BROKEN),
    "foil": lambda lm: llm_attr.explain(lm, "a b", target="x", foil=BROKEN),
    "foil of gradients": lambda lm: llm_attr.explain(lm, "a b", target="x", foil=BROKEN, method="saliency"),
    "replacement": lambda lm: Prompt("a b", absence="replace", replacement=BROKEN).bind(lm),
    "baseline": lambda lm: llm_attr.explain(lm, "a b", target="x", baseline=BROKEN, method="integrated_gradients"),
    "tokens": lambda lm: TextTokenInput(BROKEN, lm.tokenizer),
    "skipped token": lambda lm: TextTokenInput("a b", lm.tokenizer, skip_tokens=[BROKEN]),
    "value": lambda lm: attributed(lm, TextTemplateInput("{} b", [BROKEN])),
    "baseline of a value": lambda lm: attributed(lm, TextTemplateInput("{} b", ["a"], baselines=[BROKEN])),
    "template": lambda lm: attributed(lm, TextTemplateInput("{} " + BROKEN, ["a"])),
    "value under gradients": lambda lm: llm_attr.explain(
        lm, TextTemplateInput("{} b", [BROKEN]), target="x", method="saliency"
    ),
}


def attributed(lm: LanguageModel, inp: Any) -> Any:
    return LLMAttribution(FeatureAblation(lm.model), lm.tokenizer).attribute(inp, target="x")


@pytest.mark.parametrize("where", ASKED)
def test_half_of_a_character(lm: LanguageModel, where: str) -> None:
    with pytest.raises(
        InvalidValue, match=r"holds half of a character \('\\ud83d' in .*'\), which no tokenizer accepts"
    ):
        ASKED[where](lm)
