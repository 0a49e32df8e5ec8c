"""Explanations in bf16 and fp16: products in a short type, sums in fp32, and the model as it was."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr import LanguageModel, Prompt, explain, load_model, plan
from llm_attr.attr import FeatureAblation, InputXGradient, LLMAttribution, LLMGradientAttribution
from llm_attr.errors import InvalidValue, UnknownName
from llm_attr.llm.model import quantisation
from llm_attr.llm.model.backend import forward_logits
from llm_attr.llm.model.precision import GradientScale, computing, described, dtype_of
from llm_attr.llm.scoring.strategy import Noise
from tests.zoo import FAMILIES, need_attention_in, tiny, tiny_model, tokenizer_of

PROMPT = "Red fox. Blue sky. Old man."
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
EPS = {"bf16": 2**-8, "fp16": 2**-11}


def model(dtype: torch.dtype = torch.float32, family: str = "llama") -> LanguageModel:
    return LanguageModel(tiny_model(family).to(dtype), tokenizer_of("byte_bos"), family)


def attributed(lm: LanguageModel, precision: Any = None, method: str = "feature_ablation", **options: Any) -> Tensor:
    if method not in ("feature_ablation", "kernel_shap"):
        options |= {"baseline": 3}
    return explain(lm, PROMPT, unit="word", method=method, target=" cat", precision=precision, **options).seq_attr


@pytest.mark.parametrize("name", ["fp32", "float32", torch.float32])
def test_names(name: Any) -> None:
    assert dtype_of(name) == torch.float32
    for wrong in ("half", 16, torch.float64):
        with pytest.raises(UnknownName, match="accepted: fp32, bf16, fp16"):
            dtype_of(wrong)
    with pytest.raises(UnknownName, match="precision"):
        explain(tiny("llama"), PROMPT, target=" a", precision="bf17")


@pytest.mark.parametrize("weights", ["fp32", "bf16"])
@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, precision: str, weights: str) -> None:
    """The logits are in fp32, and as near to those in fp32 as rounding lets them be."""
    need_attention_in(HALVES[precision])
    lm = model(dtype_of(weights), family)
    ids = torch.tensor([[5, 17, 9, 33, 21]])
    with lm.inference():
        with computing(lm, precision):
            found = forward_logits(lm, [3, 4], input_ids=ids, use_cache=False)
            assert described(lm) == f"{precision}, sums in fp32"
        exact = LanguageModel(lm.model.float(), lm.tokenizer)
        expected = forward_logits(exact, [3, 4], input_ids=ids, use_cache=False)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 60 * EPS[precision] * expected.abs().max()


@pytest.mark.parametrize("precision", HALVES)
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("feature_ablation", {}),
        ("kernel_shap", {"n_samples": 12, "seed": 0}),
        ("saliency", {}),
        ("input_x_gradient", {}),
        ("integrated_gradients", {"n_steps": 4, "token_rows": True}),
        ("gradient_shap", {"n_samples": 3}),
        ("lrp", {}),
        ("deep_lift", {}),
        ("sequential_integrated_gradients", {"n_steps": 2}),
    ],
)
def test_every_kind_of_method(method: str, options: dict[str, Any], precision: str) -> None:
    need_attention_in(HALVES[precision])
    lm = model()
    exact, found = (attributed(lm, each, method, **options) for each in ("fp32", precision))
    assert not torch.equal(found, exact)
    assert torch.cosine_similarity(found, exact, 0) > (0.98 if precision == "bf16" else 0.999)


def test_sums_in_fp32_are_nearer_than_weights_in_bf16() -> None:
    need_attention_in(torch.bfloat16)
    short = model(torch.bfloat16)
    exact = LanguageModel(model(torch.bfloat16).model.float(), short.tokenizer)  # the same weights, rounded
    wanted = attributed(exact)
    plain, wide = ((attributed(short, each) - wanted).norm() for each in (None, "bf16"))
    assert wide < plain


def test_gradients_of_weights_in_bf16_keep_their_sums_in_fp32() -> None:
    need_attention_in(torch.bfloat16)
    lm, options = model(torch.bfloat16), {"method": "input_x_gradient", "baseline": 3, "target": " cat"}
    found = explain(lm, PROMPT, **options)
    assert found.provenance["precision"] == "bf16, sums in fp32"
    assert torch.equal(found.seq_attr, explain(lm, PROMPT, precision="bf16", **options).seq_attr)
    with torch.autocast("cpu", torch.bfloat16):  # the caller's own
        assert explain(lm, PROMPT, **options).provenance["precision"] == "bf16"


def test_weights_is_the_precision_of_the_weights_for_every_method() -> None:
    need_attention_in(torch.bfloat16)
    lm, options = model(torch.bfloat16), {"unit": "word", "target": " cat", "precision": "weights"}
    gradients = {"method": "input_x_gradient", "baseline": 3}
    found = explain(lm, PROMPT, **options, **gradients)
    assert found.provenance["precision"] == "bf16"
    assert not torch.equal(found.seq_attr, explain(lm, PROMPT, **(options | gradients | {"precision": None})).seq_attr)
    with torch.autocast("cpu", torch.float16):  # the caller's own, which a precision overrides
        again = explain(lm, PROMPT, **options, **gradients)
        ablated = explain(lm, PROMPT, **options)
    assert torch.equal(again.seq_attr, found.seq_attr)
    assert ablated.provenance["precision"] == "bf16"
    assert torch.equal(ablated.seq_attr, explain(lm, PROMPT, **(options | {"precision": None})).seq_attr)
    priced = plan(lm, PROMPT, measure=False, **options, **gradients)
    assert priced.backward == found.provenance["backward"]


@pytest.mark.parametrize("precision", ["bf16", "weights", None])
def test_the_classes_take_a_precision(precision: Any) -> None:
    need_attention_in(torch.bfloat16)
    lm, prompt = model(torch.bfloat16), Prompt(PROMPT, unit="word")
    ablation = LLMAttribution(FeatureAblation(lm.model), lm)
    gradient = LLMGradientAttribution(InputXGradient(lm.model), lm)
    for explainer, options in ((ablation, {}), (gradient, {"method": "input_x_gradient", "baseline": 3})):
        own = {name: value for name, value in options.items() if name != "method"}
        found = explainer.attribute(prompt, " cat", precision=precision, **own)
        expected = explain(lm, prompt, target=" cat", precision=precision, **options)
        assert found.provenance["precision"] == expected.provenance["precision"]
        assert torch.equal(found.seq_attr, expected.seq_attr)
        with pytest.raises(UnknownName, match="accepted: fp32, bf16, fp16, weights"):
            explainer.attribute(prompt, " cat", precision="half")
    (each,) = ablation.attribute_each([prompt], " cat", precision=precision)
    assert torch.equal(each.seq_attr, ablation.attribute(prompt, " cat", precision=precision).seq_attr)


def test_the_model_stays_as_it_was() -> None:
    need_attention_in(torch.bfloat16)
    lm = model(torch.bfloat16)
    ids = torch.tensor([[5, 17, 9]])
    with lm.inference():
        before = lm.model(ids).logits
        with computing(lm, "bf16"), pytest.raises((RuntimeError, IndexError)):
            lm.model(ids + 10**6)  # beyond the vocabulary
        assert torch.equal(lm.model(ids).logits, before)
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules()]
    assert not any(hooks)


def test_another_thread_is_not_affected() -> None:
    need_attention_in(torch.bfloat16)
    lm, found = model(torch.bfloat16), list[Tensor]()
    ids = torch.tensor([[5, 17, 9]])

    def other() -> None:
        with torch.no_grad():
            found.append(lm.model(ids).logits)

    with lm.inference():
        expected = lm.model(ids).logits
        with computing(lm, "bf16"):
            thread = Thread(target=other)
            thread.start()
            thread.join()
    assert found[0].dtype == torch.bfloat16
    assert torch.equal(found[0], expected)


def test_fp32_of_weights_in_less_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"load the model with dtype='float32'"):
        attributed(model(torch.bfloat16), "fp32")


def test_fp32_turns_autocast_off() -> None:
    lm = model()
    with torch.autocast("cpu", torch.bfloat16):
        found = attributed(lm, "fp32")
    torch.testing.assert_close(found, attributed(lm), rtol=0, atol=1e-5)


def test_a_device_without_autocast_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.amp, "is_autocast_available", lambda kind: False)
    with pytest.raises(InvalidValue, match=r"autocast, which cpu has not; load the model with dtype='bfloat16'"):
        attributed(model(), "bf16")


def test_provenance_and_plan_know_the_precision() -> None:
    need_attention_in(torch.bfloat16)
    lm = model()
    result = explain(lm, PROMPT, target=" cat", precision="bf16")
    assert (result.provenance["dtype"], result.provenance["precision"]) == ("float32", "bf16, sums in fp32")
    assert explain(lm, PROMPT, target=" cat").provenance["precision"] == "fp32"
    priced = plan(lm, PROMPT, target=" cat", precision="bf16", measure=False)
    assert priced.passes == plan(lm, PROMPT, target=" cat", measure=False).passes


def test_what_would_underflow_in_fp16_is_scaled() -> None:
    """The probability of an answer of e-17 has a gradient below the smallest number of fp16."""
    need_attention_in(torch.float16)
    lm = model(torch.float16)
    exact = LanguageModel(model(torch.float16).model.float(), lm.tokenizer)
    options = {"scalar": "prob", "method": "input_x_gradient", "token_rows": False, "baseline": 3, "unit": "word"}
    wanted = explain(exact, PROMPT, target=" zebra", **options).seq_attr
    assert 0 < wanted.abs().max() < 6e-8
    for precision in (None, "fp16"):
        found = explain(lm, PROMPT, target=" zebra", precision=precision, **options).seq_attr
        assert (found - wanted).abs().max() < 0.1 * wanted.abs().max()


def test_rows_of_tokens_are_scaled_each_by_itself() -> None:
    """Several derivatives share a backward pass, and each has a factor of its own."""
    x = torch.tensor([[1e-3, 2.0]], requires_grad=True)
    scale = GradientScale()
    y = scale.entering((scale.leaving(x).half() * torch.tensor([3.0, 5.0]).half()).float())
    weights = torch.tensor([[[1e-12, 0.0]], [[0.0, 1e9]], [[0.0, 0.0]]])
    (found,) = torch.autograd.grad(y, x, weights, is_grads_batched=True)
    torch.testing.assert_close(found, weights * torch.tensor([3.0, 5.0]), rtol=1e-3, atol=0)


def test_a_result_carries_the_noise_of_its_precision() -> None:
    need_attention_in(torch.bfloat16)
    exact = explain(tiny("llama"), PROMPT, unit="word", target=" cat")
    rounded = explain(model(torch.bfloat16), PROMPT, unit="word", target=" cat")
    assert exact.noise is not None
    assert rounded.noise is not None
    assert 0 <= exact.noise < 1e-4 < rounded.noise
    assert torch.equal(rounded.within_noise, rounded.seq_attr.abs() < 2 * rounded.noise)
    part = rounded.for_output(slice(0, 1))
    assert part.noise == pytest.approx(rounded.noise / len(rounded.output_tokens) ** 0.5)
    assert explain(tiny("llama"), PROMPT, unit="word", target=" cat", scalar="prob").noise is None


def test_gradients_carry_a_noise_in_half_precision() -> None:
    need_attention_in(torch.bfloat16)
    options = {"method": "input_x_gradient", "baseline": 3, "token_rows": False}
    for lm, precision in ((model(torch.bfloat16), None), (model(torch.bfloat16), "bf16")):
        result = explain(lm, PROMPT, unit="word", target=" cat", precision=precision, **options)
        assert result.noise is not None
        assert 0 <= result.noise < 0.05 * result.seq_attr.abs().max()
    assert explain(model(), PROMPT, unit="word", target=" cat", **options).noise is None


def test_units_within_the_noise_are_marked(capsys: pytest.CaptureFixture[str]) -> None:
    result = explain(tiny("llama"), PROMPT, unit="word", target=" cat")
    values = sorted(result.seq_attr.abs().tolist())
    result.provenance |= {"noise": (values[1] + values[2]) / 4 / len(result.output_tokens) ** 0.5, "precision": "bf16"}
    assert int(result.within_noise.sum()) == 2
    result.show(width=100)
    printed = capsys.readouterr().out
    assert printed.count(" ~ ") == 3  # two units and the note
    assert "~ marks units below twice that" in printed
    page = result.to_html()
    assert page.count('title="within the rounding of this precision"') == 2


def test_noise_adds_up_over_answers() -> None:
    noise = Noise().seen(torch.tensor([0.3, -0.3])).seen(torch.tensor([0.1, 0.1]))
    assert noise.per_token == pytest.approx((0.2 / 4) ** 0.5)
    assert Noise().seen(torch.tensor([0.2, 0.2])).per_token == pytest.approx((0.16 / 2) ** 0.5)


def test_quantised_weights_need_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantisation, "find_spec", lambda name: None)
    with pytest.raises(InvalidValue, match=r"dtype='int8' needs torchao or bitsandbytes.*pip install.*'bfloat16'"):
        load_model("nowhere", dtype="int8")
    with pytest.raises(InvalidValue, match=r"dtype='int4' needs bitsandbytes"):
        load_model("nowhere", dtype="int4")
    with pytest.raises(InvalidValue, match="give one of them"):
        load_model("nowhere", dtype="int8", quantization_config=object())
    with pytest.raises(UnknownName, match="int8"):
        load_model("nowhere", dtype="int9")
