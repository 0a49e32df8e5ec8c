"""Captum's names for a remote model."""

from __future__ import annotations

from inspect import signature
from typing import Any

import captum.attr
import pytest
import torch

import llm_attr.attr as attr
from llm_attr import LanguageModel
from llm_attr.attr import (
    FeatureAblation,
    LLMAttribution,
    RemoteLLMAttribution,
    RemoteLLMProvider,
    ShapleyValueSampling,
    TextTemplateInput,
    VLLMProvider,
)
from llm_attr.errors import EngineRefused, InvalidType, InvalidValue, UnsupportedMethod
from tests.llm.engines.servers import Served
from tests.reference.scoring import answer_log_probs

TARGET = " He likes fishing."


class Local(RemoteLLMProvider):
    """A provider of texts over a model in this process."""

    api_url = "nowhere"

    def __init__(self, lm: LanguageModel, extra: int = 0) -> None:
        self.lm, self.extra, self.asked = lm, extra, list[tuple[str, str]]()

    def generate(self, prompt: str, **gen_args: Any) -> str:
        assert gen_args["max_new_tokens"] == 25
        return TARGET

    def get_logprobs(self, input_prompt: str, target_str: str, tokenizer: Any = None) -> list[float]:
        self.asked.append((input_prompt, target_str))
        prompt, answer = (self.lm.encode(input_prompt, special_tokens=True), tokenizer.encode(target_str)[1:])
        return [*answer_log_probs(self.lm.model, prompt, answer).tolist(), *[0.0] * self.extra]


def template() -> Any:
    return TextTemplateInput("{} lives in {}. He is a {}.", ["Dave", "Palm Coast", "lawyer"])


@pytest.mark.parametrize("method", [FeatureAblation, ShapleyValueSampling])
@pytest.mark.parametrize("kind", ["vllm", "own"])
def test_it_equals_the_local_class(lm: LanguageModel, server: Served, method: Any, kind: str) -> None:
    provider = VLLMProvider(f"{server.url}/v1") if kind == "vllm" else Local(lm)
    remote = RemoteLLMAttribution(method(RemoteLLMAttribution.placeholder_model), lm.tokenizer, provider)
    torch.manual_seed(0)
    mine = remote.attribute(template(), target=TARGET)
    torch.manual_seed(0)
    own = LLMAttribution(method(lm.model), lm.tokenizer).attribute(template(), target=TARGET)
    torch.testing.assert_close(mine.seq_attr, own.seq_attr, atol=1e-3, rtol=0)
    torch.testing.assert_close(mine.token_attr, own.token_attr, atol=1e-3, rtol=0)


def test_a_provider_of_ones_own_generates_and_is_asked_once_per_variant(lm: LanguageModel) -> None:
    provider = Local(lm)
    remote = RemoteLLMAttribution(FeatureAblation(RemoteLLMAttribution.placeholder_model), lm.tokenizer, provider)
    assert remote.attribute(template()).output_text == TARGET
    assert len(provider.asked) == len(set(provider.asked)) == 4


def test_the_vllm_provider_answers_in_texts(lm: LanguageModel, server: Served) -> None:
    provider = VLLMProvider(server.url)
    values = provider.get_logprobs("Dave lives in", " Palm Coast", lm.tokenizer)
    prompt, answer = lm.encode("Dave lives in", special_tokens=True), lm.encode(" Palm Coast", special_tokens=False)
    assert values == pytest.approx(answer_log_probs(lm.model, prompt, answer).tolist(), abs=1e-3)
    assert isinstance(provider.generate("Dave", max_new_tokens=3, do_sample=False, temperature=None), str)
    with pytest.raises(InvalidType, match="tokenizer"):
        provider.get_logprobs("a", "b")


def test_what_is_wrong_is_said(lm: LanguageModel) -> None:
    method = FeatureAblation(RemoteLLMAttribution.placeholder_model)
    with pytest.raises(EngineRefused, match="8 values for the 7 tokens"):
        RemoteLLMAttribution(method, lm.tokenizer, Local(lm, extra=1)).attribute(template(), target=TARGET)
    with pytest.raises(InvalidType, match="RemoteLLMProvider"):
        RemoteLLMAttribution(method, lm.tokenizer, "http://127.0.0.1:1")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="read from logits"):
        RemoteLLMAttribution(method, lm.tokenizer, Local(lm), "entropy")
    with pytest.raises(InvalidValue, match="api_url"):
        VLLMProvider("")
    with pytest.raises(UnsupportedMethod):
        RemoteLLMAttribution(attr.Saliency(RemoteLLMAttribution.placeholder_model), lm.tokenizer, Local(lm))
    with pytest.raises(InvalidType, match="placeholder_model"):
        RemoteLLMAttribution.placeholder_model(torch.zeros(1))


@pytest.mark.parametrize("name", ["RemoteLLMAttribution", "RemoteLLMProvider", "VLLMProvider"])
def test_signatures_are_those_of_captum(name: str) -> None:
    mine, theirs = getattr(attr, name), getattr(captum.attr, name)
    for member in {"__init__", "generate", "get_logprobs"} & vars(theirs).keys():
        ours, captums = (signature(getattr(each, member)).parameters for each in (mine, theirs))
        assert list(ours) == list(captums)
