"""Layers that nothing depends on, and methods whose layer is named later, as Captum's TCAV does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr.attr
from llm_attr.attr import LayerIntegratedGradients
from llm_attr.errors import InvalidType, NoGradient
from llm_attr.llm.gradient import LLMGradientAttribution
from tests.zoo import tiny

LAYER_METHODS = [
    "LayerDeepLift",
    "LayerConductance",
    "LayerGradCam",
    "LayerGradientXActivation",
    "LayerIntegratedGradients",
    "InternalInfluence",
]


class Network(nn.Module):
    """One of its layers runs for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.relu = nn.Linear(3, 4), nn.Linear(3, 2), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        return self.relu(self.used(x)).sum(1)


@pytest.mark.parametrize("name", LAYER_METHODS)
@pytest.mark.parametrize("frozen", [False, True])
def test_a_layer_that_nothing_depends_on_has_zeros_where_they_are_asked_for(name: str, frozen: bool) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = Network().requires_grad_(not frozen), torch.randn(2, 3)
    method = getattr(llm_attr.attr, name)(model, model.unused)
    found = method.attribute(x, grad_kwargs={"materialize_grads": True})
    if name == "LayerDeepLift" and not frozen:
        theirs = captum.LayerDeepLift(model, model.unused).attribute(x, grad_kwargs={"materialize_grads": True})
        assert torch.equal(found, theirs.detach())
    assert found.shape == ((2, 1) if name == "LayerGradCam" else (2, 2))
    assert not found.any()
    with pytest.raises(NoGradient):
        method.attribute(x)


@pytest.mark.parametrize("name", [*LAYER_METHODS, "LayerGradientShap", "LayerActivation", "NeuronIntegratedGradients"])
def test_a_layer_may_be_assigned_later(name: str) -> None:
    model, x = Network(), torch.randn(2, 3)
    kind: Any = getattr(llm_attr.attr, name)
    later = kind(model, None)
    options: dict[str, Any] = {"baselines": torch.zeros(1, 3), "seed": 0} if name == "LayerGradientShap" else {}
    options |= {"neuron_selector": 0} if name.startswith("Neuron") else {}
    with pytest.raises(InvalidType, match="was made without a layer"):
        later.attribute(x, **options)
    later.layer = model.used
    assert torch.equal(later.attribute(x, **options), kind(model, model.used).attribute(x, **options))


def test_a_generation_needs_the_layer_too() -> None:
    lm = tiny("llama", "byte_bos")
    wrapper = LLMGradientAttribution(LayerIntegratedGradients(lm.model, None), lm.tokenizer)
    with pytest.raises(InvalidType, match="layer must be a module"):
        wrapper.attribute(llm_attr.Prompt("Dave sails."), target=" Dave")
    wrapper.attr_method.layer = lm.model.get_input_embeddings()
    assert wrapper.attribute(llm_attr.Prompt("Dave sails."), target=" Dave", n_steps=2).seq_attr.shape == (1,)
