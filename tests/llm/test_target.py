"""Which answer is explained: ids in every form, what `generate` returned, and how the model is asked for one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

import llm_attr
from llm_attr import LanguageModel
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.llm.target.generation import arguments_of, most_new_tokens
from tests.zoo import CONTEXT, tiny

TEXT = "Aksel repairs violins. What does Aksel do?"
METHODS = ["feature_ablation", "saliency"]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


def generated(lm: LanguageModel, **options: Any) -> Any:
    """What `model.generate` returns for the text, as a user calls it."""
    ids = torch.tensor([lm.tokenizer.encode(TEXT)])
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 1} | options
    return lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)


def explained(lm: LanguageModel, method: str = "feature_ablation", **options: Any) -> Any:
    return llm_attr.explain(lm, TEXT, method=method, **options)


FORMS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda ids: ids,
    "int32": lambda ids: ids.int(),
    "array": lambda ids: ids.numpy(),
    "uint16": lambda ids: ids.numpy().astype(np.uint16),
    "list": lambda ids: ids.tolist(),
    "tuple": lambda ids: tuple(ids.tolist()),
    "numbers of NumPy": lambda ids: list(ids.numpy()),
    "numbers of torch": lambda ids: list(ids),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", FORMS)
def test_ids_in_every_form(lm: LanguageModel, form: str, method: str) -> None:
    """The answer alone, and behind the prompt as in `outputs[0]`."""
    whole = generated(lm)[0]
    answer = whole[len(lm.tokenizer.encode(TEXT)) :]
    expected = explained(lm, method, target=answer.tolist())
    assert expected.output_ids == tuple(answer.tolist())
    for ids in (answer, whole):
        result = explained(lm, method, target=FORMS[form](ids))
        assert result.output_ids == expected.output_ids
        assert torch.equal(result.seq_attr, expected.seq_attr)


@pytest.mark.parametrize("method", METHODS)
def test_what_generate_returned(lm: LanguageModel, method: str) -> None:
    expected = explained(lm, method, gen_args={"max_new_tokens": 5, "do_sample": False}).output_ids
    outputs = generated(lm)
    for target in (outputs, outputs.numpy(), generated(lm, return_dict_in_generate=True)):
        assert explained(lm, method, target=target).output_ids == expected
    both = llm_attr.explain(lm, [TEXT, TEXT], method=method, target=[outputs[0], outputs.numpy()[0]])
    assert [result.output_ids for result in both] == [expected, expected]


@pytest.mark.parametrize("method", METHODS)
def test_a_foil_that_was_generated(lm: LanguageModel, method: str) -> None:
    outputs = generated(lm)
    answer = outputs[0, len(lm.tokenizer.encode(TEXT)) :]
    expected = explained(lm, method, target=" He", foil=answer.tolist())
    for foil in (outputs, outputs[0], answer.numpy(), generated(lm, return_dict_in_generate=True)):
        assert torch.equal(explained(lm, method, target=" He", foil=foil).seq_attr, expected.seq_attr)


def test_what_follows_the_end_is_no_answer(lm: LanguageModel) -> None:
    prompt = lm.tokenizer.encode(TEXT)
    assert explained(lm, target=[*prompt, 7, 1, 1, 1]).output_ids == (7, 1)
    assert explained(lm, target=[7, 1, 1]).output_ids == (7, 1, 1)  # ids that are given stay as they are


def test_an_answer_that_says_the_prompt(lm: LanguageModel) -> None:
    """It is told from a generation by the prompt in front of it."""
    prompt = lm.tokenizer.encode(TEXT)
    assert explained(lm, target=prompt).output_ids == tuple(prompt)
    assert explained(lm, target=torch.tensor([[*prompt, *prompt, 7]])).output_ids == (*prompt, 7)


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        (5, InvalidType, r"is a number; for an answer of this one token pass \[5\]"),
        (np.int64(5), InvalidType, r"pass \[5\]"),
        (torch.tensor(5), InvalidType, r"pass \[5\]"),
        (True, InvalidType, "target must be a text"),
        ([True], InvalidType, "target must be a text"),
        (torch.tensor([True]), InvalidType, "target must be a text"),
        (np.array([5.0]), InvalidType, "which are whole numbers; got numbers of float64"),
        (np.zeros((2, 30), dtype=np.int64), InvalidShape, r"outputs\[i : i \+ 1\]"),
        (torch.zeros(1, 1, 2, dtype=torch.long), InvalidShape, "one axis"),
        ([[5, 6]], InvalidType, "target must be a text"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_answer(lm: LanguageModel, target: Any, error: type[Exception], message: str, method: str) -> None:
    with pytest.raises(error, match=message):
        explained(lm, method, target=target)


@pytest.mark.parametrize("method", METHODS)
def test_a_generation_config(lm: LanguageModel, method: str) -> None:
    config = GenerationConfig(max_new_tokens=4, do_sample=False)
    expected = explained(lm, method, gen_args={"max_new_tokens": 4, "do_sample": False})
    for gen_args in (config, {"generation_config": config}):
        assert explained(lm, method, gen_args=gen_args).output_ids == expected.output_ids
        planned = llm_attr.plan(lm, TEXT, method=method, gen_args=gen_args, measure=False)
        assert planned.answer_tokens == 4
    assert config.to_dict() == GenerationConfig(max_new_tokens=4, do_sample=False).to_dict()


def test_a_generation_config_ends_at_the_context(lm: LanguageModel) -> None:
    prompt = len(lm.tokenizer.encode(TEXT))
    config = GenerationConfig(max_new_tokens=1000, do_sample=False, eos_token_id=639)
    assert most_new_tokens(lm, arguments_of(config), prompt) == CONTEXT - prompt + 1
    assert len(explained(lm, gen_args=config).output_ids) <= CONTEXT - prompt + 1


@pytest.mark.parametrize(
    ("gen_args", "error", "message"),
    [
        ({"num_return_sequences": 3, "do_sample": True}, InvalidValue, "num_return_sequences=3 requests 3 answers"),
        (GenerationConfig(num_return_sequences=2, num_beams=2), InvalidValue, "num_return_sequences=2"),
        ({"max_new_tokens": 0}, InvalidValue, "max_new_tokens must be a whole number of at least 1; got 0"),
        ({"max_new_tokens": 2.5}, InvalidValue, "max_new_tokens must be a whole number"),
        ({"max_tokens": 5}, InvalidValue, "model.generate failed with gen_args of max_tokens"),
        ("greedy", InvalidType, "gen_args must be a dict of arguments of generate or a GenerationConfig"),
        (5, InvalidType, "gen_args must be a dict"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_generate_cannot_be_asked_for(
    lm: LanguageModel, gen_args: Any, error: type[Exception], message: str, method: str
) -> None:
    with pytest.raises(error, match=message):
        explained(lm, method, gen_args=gen_args)


def test_strings_that_end_an_answer(lm: LanguageModel) -> None:
    free = explained(lm, gen_args={"max_new_tokens": 12, "do_sample": False})
    ending = lm.tokenizer.decode(free.output_ids[5:6])
    cut = explained(lm, gen_args={"max_new_tokens": 12, "do_sample": False, "stop_strings": [ending]})
    assert cut.output_ids == free.output_ids[: len(cut.output_ids)]
    assert len(cut.output_ids) < len(free.output_ids)


@pytest.mark.parametrize("method", METHODS)
def test_sampling_draws_as_generate_does(lm: LanguageModel, method: str) -> None:
    options = {"max_new_tokens": 6, "do_sample": True, "temperature": 2.0, "top_k": 0}
    first = len(lm.tokenizer.encode(TEXT))
    torch.manual_seed(11)
    expected = [tuple(generated(lm, **options)[0, first:].tolist()) for _ in range(3)]
    state = torch.get_rng_state()
    torch.manual_seed(11)
    found = [explained(lm, method, gen_args=options).output_ids for _ in range(3)]
    assert found == expected
    assert len(set(found)) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_a_greedy_answer_draws_nothing(lm: LanguageModel) -> None:
    state = torch.get_rng_state()
    explained(lm)
    assert torch.equal(torch.get_rng_state(), state)
