"""LLMAttribution against a plain loop and against Captum, and its manners."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import captum.attr as captum
import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2Model, T5Config, T5ForConditionalGeneration

from llm_attr import LanguageModel, Prompt
from llm_attr.attr import (
    FeatureAblation,
    InterpretableInput,
    LLMAttribution,
    LLMAttributionResult,
    ProductBaselines,
    TextTemplateInput,
    TextTokenInput,
)
from llm_attr.attr.base import Attribution
from llm_attr.errors import (
    ContextTooLong,
    EmptyPrompt,
    EmptyTarget,
    InvalidShape,
    InvalidType,
    InvalidValue,
    NonFiniteScore,
    NotALanguageModel,
    UnknownKeyword,
    UnknownName,
    UnsupportedMethod,
)
from tests.reference.scoring import answer_log_probs, distinct_prefixes, leave_one_out, text_log_probs
from tests.zoo import CONTEXT, FAMILIES, TOKENIZERS, TREE_FAMILIES, VOCABULARY, tiny, tiny_model, tokenizer_of

TOLERANCE = 1e-4
TEMPLATE = "{} lives in {}, {} and is a {}."
VALUES = ["Dave", "Palm Coast", "FL", "lawyer"]
TARGET = " He likes fishing."

_models: dict[tuple[str, str], LanguageModel] = {}


def model_of(family: str, kind: str = "byte_bos") -> LanguageModel:
    if (family, kind) not in _models:
        _models[family, kind] = tiny(family, kind)
    return _models[family, kind]


def wrapper(lm: LanguageModel, attr_target: Any = "log_prob") -> LLMAttribution:
    return LLMAttribution(FeatureAblation(lm.model), lm.tokenizer, attr_target)


def attribute(lm: LanguageModel, inp: Any, target: Any = TARGET, **options: Any) -> LLMAttributionResult:
    return wrapper(lm).attribute(inp, target, **options)


def both(result: Any) -> Tensor:
    """`(1 + answer tokens, units)`."""
    return torch.cat([result.seq_attr[None], result.token_attr])


def without_each(values: list[str], baseline: str = "") -> list[str]:
    return [TEMPLATE.format(*values[:i], baseline, *values[i + 1 :]) for i in range(len(values))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_exact(family: str, kind: str) -> None:
    lm = model_of(family, kind)
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    result = attribute(lm, TextTemplateInput(TEMPLATE, VALUES))
    whole = text_log_probs(lm, TEMPLATE.format(*VALUES), answer)
    lost = leave_one_out(whole, [text_log_probs(lm, text, answer) for text in without_each(VALUES)])
    assert (both(result) - lost).abs().max() < TOLERANCE
    assert (result.output_probs - whole.exp()).abs().max() < TOLERANCE
    assert result.output_ids == tuple(answer)
    assert lost.abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text", ["日本は島国です。 Ça va? 🙂 ok.", "A. B. C. B. C.", "One"])
@pytest.mark.parametrize("unit", ["sentence", "token"])
def test_exact_for_prompts(family: str, text: str, unit: str) -> None:
    lm = model_of(family)
    prompt = Prompt(text, unit=unit).bind(lm)
    result = attribute(lm, Prompt(text, unit=unit), [7, 300, 7])
    count = len(prompt.spans)
    rows = [prompt.to_model_input(1 - torch.eye(count)[i : i + 1])[0].tolist() for i in range(count)]
    whole = answer_log_probs(lm.model, lm.tokenizer.encode(text), [7, 300, 7])
    lost = leave_one_out(whole, [answer_log_probs(lm.model, row, [7, 300, 7]) for row in rows])
    assert (both(result) - lost).abs().max() < TOLERANCE
    assert result.input_tokens == prompt.values


def theirs(lm: LanguageModel, inp: Any, attr_target: str = "log_prob", target: Any = TARGET, **options: Any) -> Any:
    method = captum.LLMAttribution(captum.FeatureAblation(lm.model), lm.tokenizer, attr_target=attr_target)
    return method.attribute(inp, target, **options)


TEMPLATES: dict[str, tuple[Any, ...]] = {
    "list": (TEMPLATE, VALUES),
    "baselines": (TEMPLATE, VALUES, ["Someone", "a place", "USA", "worker"]),
    "names": ("{a} is in {b}.", {"a": "Dave", "b": "it"}, {"b": "FL", "a": "He"}),
    "groups": (TEMPLATE, VALUES, None, [0, 1, 1, 0]),
    "groups out of order": (TEMPLATE, VALUES, ["Someone", "a place", "USA", "worker"], [7, 3, 3, 5]),
    "function": (lambda *parts: " ".join(parts), VALUES),
}


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "bloom"])
@pytest.mark.parametrize("case", TEMPLATES)
@pytest.mark.parametrize("attr_target", ["log_prob", "prob"])
def test_templates_as_captum(family: str, case: str, attr_target: Any) -> None:
    lm = model_of(family)
    ours = wrapper(lm, attr_target).attribute(TextTemplateInput(*TEMPLATES[case]), TARGET)
    other = theirs(lm, captum.TextTemplateInput(*TEMPLATES[case]), attr_target, forward_in_tokens=False)
    assert (ours.seq_attr - other.seq_attr).abs().max() < TOLERANCE
    assert (ours.token_attr - other.token_attr).abs().max() < TOLERANCE
    assert ours.input_tokens == other.input_tokens
    assert [text.strip() for text in ours.output_tokens] == other.output_tokens


TOKENS: dict[str, tuple[Any, ...]] = {
    "default": (),
    "baseline": ("a",),
    "skip": (3, [0]),
    "skip tokens": ("Ġin", ["<s>", "Dave"]),
}


@pytest.mark.parametrize("family", ["qwen3", "opt", "mistral"])
@pytest.mark.parametrize("case", TOKENS)
def test_tokens_as_captum(family: str, case: str) -> None:
    lm, text = model_of(family), "Dave lives in it, the lake."
    ours = attribute(lm, TextTokenInput(text, lm.tokenizer, *TOKENS[case]))
    inp = captum.TextTokenInput(text, lm.tokenizer, *TOKENS[case])
    other = theirs(lm, inp, use_cached_outputs=False)
    assert (ours.seq_attr - other.seq_attr).abs().max() < TOLERANCE
    assert (ours.token_attr - other.token_attr).abs().max() < TOLERANCE
    assert len(ours.input_tokens) == len(other.input_tokens)


@pytest.mark.parametrize("mask", [[[0, 1, 0, 1]], [[4, 2, 2, 9]], [[0, 0, 0, 0]]])
def test_feature_mask_as_captum(mask: list[list[int]]) -> None:
    lm, feature_mask = model_of("llama"), torch.tensor(mask)
    ours = attribute(lm, TextTemplateInput(TEMPLATE, VALUES), feature_mask=feature_mask)
    inp = captum.TextTemplateInput(TEMPLATE, VALUES)
    other = theirs(lm, inp, forward_in_tokens=False, feature_mask=feature_mask)
    assert (both(ours) - both(other)).abs().max() < TOLERANCE


@pytest.mark.parametrize("shape", [(1, 3), (5,)])
def test_a_feature_mask_of_the_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidShape, match="feature_mask 0 must broadcast"):
        attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), feature_mask=torch.zeros(shape))


@pytest.mark.parametrize("option", ["forward_in_tokens", "use_cached_outputs"])
def test_options_that_choose_no_other_result(option: str) -> None:
    lm, inp = model_of("gemma3"), TextTemplateInput(TEMPLATE, VALUES)
    expected = both(attribute(lm, inp))
    for value in (True, False):
        found = attribute(lm, inp, **{option: value})
        assert (both(found) - expected).abs().max() < TOLERANCE
    assert found.provenance["scoring"].startswith("whole" if option == "use_cached_outputs" else "prefix tree")


@pytest.mark.parametrize("per_eval", [1, 2, 3, 100])
def test_perturbations_per_eval(per_eval: int) -> None:
    lm, inp = tiny("mistral"), TextTemplateInput(TEMPLATE, VALUES)
    found = attribute(lm, inp, perturbations_per_eval=per_eval)
    assert (both(found) - both(attribute(model_of("mistral"), inp))).abs().max() < TOLERANCE
    assert found.provenance["passes"] >= 5 / per_eval


@pytest.mark.parametrize("family", TREE_FAMILIES)
def test_what_it_costs(family: str) -> None:
    lm, seen = model_of(family), Counter[str]()
    attribute(lm, TextTemplateInput(TEMPLATE, VALUES))  # a new model is checked here

    def count(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
        seen["positions"] += keywords["input_ids"].numel()
        seen["rows"] += len(keywords["logits_to_keep"])
        seen["passes"] += 1

    handle = lm.model.register_forward_pre_hook(count, with_kwargs=True)
    found = attribute(lm, TextTemplateInput(TEMPLATE, [*VALUES[:3], VALUES[3]]), num_trials=3).provenance
    handle.remove()
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    rows = [lm.tokenizer.encode(text) + answer[:-1] for text in (TEMPLATE.format(*VALUES), *without_each(VALUES))]
    assert found["variants"] == len(rows)
    assert seen["positions"] == found["positions"] <= distinct_prefixes(rows)
    assert seen["rows"] == found["head_rows"] == len(rows) * len(answer)
    assert seen["passes"] == found["passes"]
    assert found["check_positions"] == 0


def test_equal_variants_are_scored_once() -> None:
    lm = model_of("llama")
    found = attribute(lm, TextTemplateInput("{}{}{}x", ["a", "", ""]))
    assert found.provenance["variants"] == 2
    assert found.seq_attr[1:].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("form", [list, tuple, torch.tensor])
def test_targets_as_ids(form: Any) -> None:
    lm, inp = model_of("llama"), TextTemplateInput(TEMPLATE, VALUES)
    ids = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    assert torch.equal(both(attribute(lm, inp, form(ids))), both(attribute(lm, inp)))


@pytest.mark.parametrize("target", ["", [], torch.tensor([], dtype=torch.long), ()])
def test_an_empty_target(target: Any) -> None:
    with pytest.raises(EmptyTarget, match="holds no token"):
        attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), target)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        (torch.zeros(1, 2, dtype=torch.long), InvalidShape),
        (torch.zeros(()), InvalidShape),
        (torch.tensor([0.5]), InvalidType),
        (["He"], InvalidType),
        (7, InvalidType),
        ([-1], InvalidValue),
        ([10**6], InvalidValue),
    ],
)
def test_a_bad_target(target: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="target"):
        attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), target)


def generated(lm: LanguageModel, prompt: str, **options: Any) -> list[int]:
    """What transformers generates, without us."""
    ids = torch.tensor([lm.tokenizer.encode(prompt)])
    return lm.model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=1, **options)[
        0, ids.shape[1] :
    ].tolist()


@pytest.mark.parametrize("family", ["llama", "opt", "bloom", "mamba"])
def test_a_generated_target(family: str) -> None:
    lm = model_of(family)
    result = attribute(lm, TextTemplateInput(TEMPLATE, VALUES), None)
    expected = generated(lm, TEMPLATE.format(*VALUES), max_new_tokens=25, do_sample=False)
    assert result.output_ids == tuple(expected)
    assert result.output_text == lm.tokenizer.decode(expected)
    assert "".join(result.output_tokens) == result.output_text
    few = attribute(lm, TextTemplateInput(TEMPLATE, VALUES), None, gen_args={"max_new_tokens": 3, "do_sample": False})
    assert few.output_ids == tuple(expected[:3])


def loud(token: int) -> LanguageModel:
    """A model that says this token again and again."""
    lm = tiny("gpt2")
    with torch.no_grad():
        head = lm.model.get_output_embeddings()
        head.weight = nn.Parameter(torch.zeros_like(head.weight))
        lm.model.transformer.ln_f.bias.fill_(1.0)
        lm.model.transformer.ln_f.weight.fill_(0.0)
        head.weight[token] = 1.0
    return lm


def test_eos_is_kept_only_if_the_model_gave_it() -> None:
    ends = attribute(loud(1), TextTemplateInput(TEMPLATE, VALUES), None)
    assert ends.output_ids == (1,)
    goes_on = attribute(loud(9), TextTemplateInput(TEMPLATE, VALUES), None, gen_args={"max_new_tokens": 4})
    assert goes_on.output_ids == (9, 9, 9, 9)


def test_the_attention_mask_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, given = tiny("llama"), {}
    generate = lm.model.generate

    def spy(**keywords: Any) -> Any:
        given.update(keywords)
        return generate(**keywords)

    monkeypatch.setattr(lm.model, "generate", spy)
    attribute(lm, TextTemplateInput(TEMPLATE, VALUES), None)
    assert given["attention_mask"].shape == given["input_ids"].shape
    assert given["attention_mask"].all()


def test_sampling() -> None:
    lm, inp = model_of("llama"), TextTemplateInput(TEMPLATE, VALUES)
    options = {"max_new_tokens": 6, "do_sample": True, "temperature": 2.0}
    seeded = {attribute(lm, inp, None, gen_args={**options, "seed": 3}).output_ids for _ in range(2)}
    assert len(seeded) == 1
    others = {attribute(lm, inp, None, gen_args={**options, "seed": seed}).output_ids for seed in range(3)}
    assert len(others) == 3
    state = torch.get_rng_state()
    attribute(lm, inp, None, gen_args={**options, "seed": 3})
    assert torch.equal(state, torch.get_rng_state())
    assert options == {"max_new_tokens": 6, "do_sample": True, "temperature": 2.0}


def test_gen_args_with_a_target() -> None:
    with pytest.raises(InvalidValue, match="gen_args"):
        attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), gen_args={"max_new_tokens": 2})


def test_trials_average_over_one_draw_each() -> None:
    lm, candidates = model_of("llama"), [["He", "Someone"], ["a place", "it", "FL"], ["USA", "the lake"], ["keeper"]]
    random.seed(8)
    found = attribute(lm, TextTemplateInput(TEMPLATE, VALUES, ProductBaselines(candidates)), num_trials=4)
    random.seed(8)
    draws = [ProductBaselines(candidates)() for _ in range(4)]
    each = [both(attribute(lm, TextTemplateInput(TEMPLATE, VALUES, draw))) for draw in draws]
    assert (both(found) - torch.stack(each).mean(0)).abs().max() < TOLERANCE
    assert (each[0] - each[1]).abs().max() > 100 * TOLERANCE or draws[0] == draws[1]


@pytest.mark.parametrize("trials", [0, -1, 1.5, "2"])
def test_bad_trials(trials: Any) -> None:
    with pytest.raises(InvalidValue, match="num_trials"):
        attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), num_trials=trials)


@pytest.mark.parametrize("most", [0, -2])
def test_bad_perturbations_per_eval(most: int) -> None:
    with pytest.raises(InvalidValue, match="perturbations_per_eval"):
        attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), perturbations_per_eval=most)


@pytest.mark.parametrize("options", [{}, {"perturbations_per_eval": 2}, {"num_trials": 2}])
def test_inspection_sees_each_variant_once(options: dict[str, Any]) -> None:
    lm, calls = model_of("llama"), []
    attribute(lm, TextTemplateInput(TEMPLATE, VALUES), _inspect_forward=lambda *given: calls.append(given), **options)
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    expected = [TEMPLATE.format(*VALUES), *without_each(VALUES)]
    assert sorted(prompt for prompt, _, _ in calls) == sorted(f"<s>{text}" for text in expected)
    for prompt, response, probabilities in calls:
        each = text_log_probs(lm, prompt.removeprefix("<s>"), answer).exp()
        assert response == TARGET
        assert torch.allclose(torch.tensor(probabilities), torch.cat([each.prod()[None], each]), atol=1e-5)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), show_progress=True, num_trials=2)
    shown = capsys.readouterr()
    assert "Feature Ablation attribution: 100%" in shown.err
    assert "10/10" in shown.err
    assert shown.out == ""
    attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES))
    assert capsys.readouterr().err == ""


def test_an_unknown_keyword() -> None:
    with pytest.raises(UnknownKeyword, match=r"'show_progres' \(did you mean 'show_progress'\?\)"):
        attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES), show_progres=True)


def test_an_unknown_attr_target() -> None:
    with pytest.raises(UnknownName, match=r"'logprob'.*log_prob, prob"):
        wrapper(model_of("llama"), "logprob")


class Other(Attribution):
    """No game."""


def test_a_method_that_plays_no_games() -> None:
    lm = model_of("llama")
    with pytest.raises(UnsupportedMethod, match=r"does not support Other; supported: .*FeatureAblation"):
        LLMAttribution(Other(lm.model), lm.tokenizer)


def not_language_models() -> dict[str, Any]:
    widths = {"n_embd": 8, "n_layer": 1, "n_head": 1, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
    encoder_decoder = T5Config(vocab_size=20, d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8)
    return {
        "no head": GPT2Model(GPT2Config(**widths)),
        "encoder-decoder": T5ForConditionalGeneration(encoder_decoder),
        "plain module": nn.Linear(2, 2),
        "function": len,
    }


def test_what_is_no_language_model() -> None:
    for model in not_language_models().values():
        with pytest.raises(NotALanguageModel, match="causal language model"):
            LLMAttribution(FeatureAblation(model), tokenizer_of("byte"))


def test_what_is_no_tokenizer() -> None:
    with pytest.raises(InvalidType, match="tokenizer must be"):
        LLMAttribution(FeatureAblation(tiny_model("llama")), "gpt2")  # type: ignore[arg-type]


@pytest.mark.parametrize("inp", ["Dave", 7, None, ["a"]])
def test_what_is_no_input(inp: Any) -> None:
    with pytest.raises(InvalidType, match="inp must be"):
        attribute(model_of("llama"), inp)


@pytest.mark.parametrize(("kind", "placeholder"), [("byte_bos", None), ("byte", "</s>"), ("wordpiece", "[SEP]")])
@pytest.mark.parametrize("family", ["llama", "mamba"])
def test_all_units_empty(family: str, kind: str, placeholder: str | None) -> None:
    lm = model_of(family, kind)
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    result = attribute(lm, TextTemplateInput("{}{}", ["Dave", " lives"], None, [0, 0]))
    lost = text_log_probs(lm, "Dave lives", answer) - text_log_probs(lm, "", answer)
    assert (result.token_attr - lost[:, None]).abs().max() < TOLERANCE
    assert result.provenance["empty_prompt"] == placeholder
    shown = dict(result.view().notes)
    assert shown.get("empty prompt") == (None if placeholder is None else f"scored after {placeholder}")


def test_an_empty_prompt_without_a_stand_in() -> None:
    lm = model_of("llama", "unigram")
    with pytest.raises(EmptyPrompt, match="neither a BOS nor an EOS"):
        attribute(lm, TextTemplateInput("{}", ["Dave"]))
    with pytest.raises(EmptyPrompt, match="neither a BOS nor an EOS"):
        attribute(lm, TextTemplateInput("{}", [""]))


def test_the_stand_in_of_a_later_trial_is_told() -> None:
    lm, draws = model_of("llama", "byte"), iter([["x"], [""], ["y"]])
    result = attribute(lm, TextTemplateInput("{}", ["Dave"], lambda: next(draws)), num_trials=3)
    assert result.provenance["empty_prompt"] == "</s>"


@pytest.mark.parametrize("target", [TARGET, None])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prompt_longer_than_the_context(family: str, target: Any) -> None:
    lm = model_of(family)
    with pytest.raises(ContextTooLong, match=f"has {CONTEXT}; shorten"):
        attribute(lm, TextTemplateInput("{}" + " a" * CONTEXT, ["Dave"]), target)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prompt_that_leaves_little_room_for_the_answer(family: str) -> None:
    lm = model_of(family)
    ids = lm.tokenizer.encode("Dave" + " a" * CONTEXT)[: CONTEXT - 10]
    inp = TextTemplateInput("{}" + lm.tokenizer.decode(ids[2:]), ["Dave"])
    for gen_args in (None, {"max_new_tokens": 40, "min_new_tokens": 2}):
        result = attribute(lm, inp, None, gen_args=gen_args)
        assert (2 if gen_args else 1) <= len(result.output_ids or ()) <= 11


def test_nan_weights() -> None:
    lm = tiny("llama")
    with torch.no_grad():
        lm.model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(NonFiniteScore, match="NaN"):
        attribute(lm, TextTemplateInput(TEMPLATE, VALUES))


class Lines(InterpretableInput):
    """An input of a user's own."""

    values = ("first", "second")

    def to_tensor(self) -> Tensor:
        return torch.tensor([[1.0, 1.0]])

    def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
        rows = self.to_tensor() if perturbed_tensor is None else perturbed_tensor
        return "\n".join(value for value, here in zip(self.values, rows[0], strict=True) if here)


def test_an_input_of_ones_own() -> None:
    lm = model_of("qwen3")
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    texts = ["first\nsecond", "second", "first"]
    whole, *less = [text_log_probs(lm, text, answer) for text in texts]
    assert (both(attribute(lm, Lines())) - leave_one_out(whole, less)).abs().max() < TOLERANCE


def test_an_input_that_gives_something_else() -> None:
    class Wrong(Lines):
        def to_model_input(self, perturbed_tensor: Tensor | None = None) -> Any:
            return {"input_ids": 1}

    with pytest.raises(InvalidType, match="to_model_input must return a text or token ids; got dict"):
        attribute(model_of("llama"), Wrong())


def test_what_the_result_tells() -> None:
    result = attribute(model_of("llama"), TextTemplateInput(TEMPLATE, VALUES))
    told = result.provenance
    assert (told["method"], told["attr_target"], told["unit"]) == ("feature_ablation", "log_prob", "feature")
    assert told["dtype"] == "float32"
    assert told["scoring"] == "prefix tree (attention by explicit positions)"
    assert result.seq_attr_dict == dict(zip(VALUES, result.seq_attr.tolist(), strict=True))
    assert max(result.output_ids or ()) < VOCABULARY


def test_a_bad_mask_is_told_before_anything_is_generated(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = tiny("llama")
    monkeypatch.setattr(lm.model, "generate", None)
    with pytest.raises(InvalidShape):
        attribute(lm, TextTemplateInput(TEMPLATE, VALUES), None, feature_mask=torch.zeros(1, 9))


def test_values_that_are_numbers() -> None:
    result = attribute(model_of("llama"), TextTemplateInput("{} is {}.", [1854, 3.5]))
    assert result.input_tokens == ["1854", "3.5"]
    result.to_html()
