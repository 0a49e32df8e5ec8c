"""Models that give no gradients, and rules that cannot be followed: the error names the cause and what works."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import llm_attr
from llm_attr import attr
from llm_attr.errors import NoGradient, NoRule
from tests.zoo import tiny_model, tokenizer_of

TEXT, ANSWER = "Aksel repairs violins. He lives here.", " He does."


def explained(model: Any, method: str) -> llm_attr.LLMAttributionResult:
    return llm_attr.explain(model, TEXT, tokenizer=tokenizer_of("byte_bos"), target=ANSWER, method=method)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize("method", ["Saliency", "IntegratedGradients", "DeepLift", "LRP", "GuidedBackprop"])
def test_a_network_made_in_inference_mode(method: str) -> None:
    with torch.inference_mode():
        model = network()
    with pytest.raises(NoGradient, match=r"created under torch.inference_mode\(\)"):
        getattr(attr, method)(model).attribute(torch.rand(2, 3), target=0)
    attr.FeatureAblation(model).attribute(torch.rand(2, 3), target=0)


def test_a_buffer_made_in_inference_mode() -> None:
    model = network()
    with torch.inference_mode():
        scale = torch.rand(2)
    with pytest.raises(NoGradient, match="inference_mode"):
        attr.LayerGradCam(lambda x: model(x) * scale, model[0]).attribute(torch.rand(2, 3), target=0)


@pytest.mark.parametrize("method", ["integrated_gradients", "lrp", "saliency"])
def test_a_language_model_made_in_inference_mode(method: str) -> None:
    with torch.inference_mode():
        model = tiny_model("llama")
    with pytest.raises(NoGradient, match="inference_mode"):
        explained(model, method)
    explained(model, "feature_ablation")


def test_flex_attention_on_a_cpu() -> None:
    model = tiny_model("llama")
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(NoGradient, match=r'set_attn_implementation\("sdpa"\)'):
        explained(model, "input_x_gradient")


def test_a_refusal_of_rules_names_methods_that_work() -> None:
    class Product(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.prod(1, keepdim=True)

    with pytest.raises(NoRule, match="IntegratedGradients, InputXGradient and FeatureAblation need no rules") as caught:
        attr.LRP(Product()).attribute(torch.rand(2, 4), target=0)
    for method in ("IntegratedGradients", "InputXGradient", "FeatureAblation"):
        assert method in str(caught.value)
        getattr(attr, method)(Product()).attribute(torch.rand(2, 4), target=0)


def test_a_model_without_a_relu_is_warned_of_once_and_here() -> None:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        explained(tiny_model("llama"), "guided_backprop")
    assert [(warning.filename, "no ReLU" in str(warning.message)) for warning in seen] == [(__file__, True)]


def test_a_model_without_a_relu_is_warned_of_once_for_many_passes() -> None:
    with pytest.warns(UserWarning, match="no ReLU") as seen:
        attr.NoiseTunnel(attr.GuidedBackprop(nn.Linear(3, 2))).attribute(
            torch.rand(2, 3), target=0, nt_samples=6, nt_samples_batch_size=2
        )
    assert {warning.filename for warning in seen} == {__file__}
