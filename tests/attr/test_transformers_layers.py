"""Layers of transformers models, which give tuples with None and take hidden states by keyword."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from llm_attr.attr import (
    InternalInfluence,
    LayerActivation,
    LayerConductance,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    NeuronConductance,
    NeuronGradient,
)
from tests.zoo import VOCABULARY, quiet, tiny_model

IDS = torch.randint(3, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(0))


pytestmark = pytest.mark.usefixtures("one_thread")


@cache
def llama() -> Any:
    return tiny_model("llama", "eager").double()


@cache
def bert() -> Any:
    with torch.random.fork_rng([]), quiet():
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            initializer_range=0.3,
            num_labels=3,
        )
        return BertForSequenceClassification(config).double().eval()


def logits_of(model: Any) -> Any:
    """The last token's logits of a language model, or the class logits; ids or vectors."""

    def forward(x: Tensor) -> Tensor:
        named = {"inputs_embeds": x} if x.is_floating_point() else {"input_ids": x}
        logits = model(**named, attention_mask=torch.ones(x.shape[:2], dtype=torch.long)).logits
        return logits[:, -1] if logits.dim() == 3 else logits

    return forward


MODELS = {"llama": llama, "bert": bert}
LAYERS = {
    "llama": ("model.embed_tokens", "model.layers.1", "model.layers.1.self_attn", "model.layers.1.mlp", "lm_head"),
    "bert": (
        "bert.embeddings.word_embeddings",
        "bert.embeddings",
        "bert.encoder.layer.0",
        "bert.encoder.layer.1.attention.self",
        "bert.encoder.layer.1.output",
        "bert.pooler",
    ),
}
TABLE = [(name, layer) for name, layers in LAYERS.items() for layer in layers]
each_layer = pytest.mark.parametrize(("name", "layer"), TABLE)


def vectors(name: str) -> Tensor:
    return MODELS[name]().get_input_embeddings()(IDS).detach()


def plain(model: nn.Module, layer: nn.Module, x: Tensor, target: int) -> tuple[Tensor, Tensor]:
    """The first tensor that a layer gives, and the gradient of the target's logit there."""
    seen: list[Tensor] = []

    def see(module: nn.Module, args: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])

    handle = layer.register_forward_hook(see)
    x = x.clone().requires_grad_() if x.is_floating_point() else x
    score = logits_of(model)(x)[:, target].sum()
    handle.remove()
    return seen[0].detach(), torch.autograd.grad(score, seen[0])[0]


def first(value: Any) -> Tensor:
    """The tensor of a layer that may give a tuple with None behind it."""
    if isinstance(value, Tensor):
        return value
    assert isinstance(value, tuple)
    return value[0]


@each_layer
def test_activation_and_gradient_x_activation(name: str, layer: str) -> None:
    model = MODELS[name]()
    module = model.get_submodule(layer)
    activations, gradients = plain(model, module, IDS, 2)
    forward = logits_of(model)
    torch.testing.assert_close(first(LayerActivation(forward, module).attribute(IDS)), activations)
    result = LayerGradientXActivation(forward, module).attribute(IDS, target=2)
    torch.testing.assert_close(first(result), activations * gradients)
    assert (type(result) is tuple) == (layer.endswith(("self_attn", "attention.self")))


@pytest.mark.parametrize("name", MODELS)
def test_all_layers_at_once(name: str) -> None:
    model, forward = MODELS[name](), logits_of(MODELS[name]())
    modules = [model.get_submodule(layer) for layer in LAYERS[name]]
    together = LayerGradientXActivation(forward, modules, memory_efficient=True).attribute(IDS, target=2)
    alone = [LayerGradientXActivation(forward, module).attribute(IDS, target=2) for module in modules]
    torch.testing.assert_close(together, alone)
    activations = LayerActivation(forward, modules).attribute(IDS)
    assert [type(value) for value in activations] == [type(value) for value in alone]


@each_layer
def test_the_input_of_a_layer(name: str, layer: str) -> None:
    """Positional or by keyword."""
    model = MODELS[name]()
    module, forward = model.get_submodule(layer), logits_of(model)
    x = vectors(name) if "embed" in layer else IDS
    given = LayerActivation(forward, module).attribute(IDS, attribute_to_layer_input=True)
    if layer in ("model.embed_tokens", "bert.embeddings.word_embeddings"):
        assert torch.equal(given, IDS)
    elif layer != "bert.embeddings":
        result = LayerGradientXActivation(forward, module).attribute(x, target=1, attribute_to_layer_input=True)
        assert first(result).shape == first(given).shape
        assert first(result).abs().sum() > 0


@each_layer
def test_conductance_and_influence(name: str, layer: str) -> None:
    model = MODELS[name]()
    if layer.endswith(("embed_tokens", "word_embeddings")):
        pytest.skip("not passed by vectors")
    module, forward, x = model.get_submodule(layer), logits_of(model), vectors(name)
    alphas = torch.linspace(0, 1, 4, dtype=torch.float64)
    points = [plain(model, module, alpha * x, 0) for alpha in alphas]
    expected = sum(g * (after - u) for (u, g), (after, _) in pairwise(points))
    for rows in (None, 2):
        result = LayerConductance(forward, module).attribute(
            x, target=0, n_steps=3, method="riemann_trapezoid", internal_batch_size=rows
        )
        torch.testing.assert_close(first(result), expected)
    influence = InternalInfluence(forward, module).attribute(x, target=0, n_steps=3, method="riemann_right")
    torch.testing.assert_close(first(influence), sum(g for _, g in points[1:]) / 3)


@each_layer
def test_grad_cam(name: str, layer: str) -> None:
    model = MODELS[name]()
    module = model.get_submodule(layer)
    activations, gradients = plain(model, module, IDS, 0)
    weights = gradients.mean(tuple(range(2, gradients.dim())), keepdim=True) if gradients.dim() > 2 else gradients
    result = LayerGradCam(logits_of(model), module).attribute(IDS, target=0)
    torch.testing.assert_close(first(result), (weights * activations).sum(1, keepdim=True))


@pytest.mark.parametrize(
    ("name", "layer", "position"), [("llama", "model.layers.1.self_attn", -1), ("bert", LAYERS["bert"][3], 0)]
)
def test_neurons_of_attention(name: str, layer: str, position: int) -> None:
    forward, x = logits_of(MODELS[name]()), vectors(name)
    attention = MODELS[name]().get_submodule(layer)

    def neuron(given: tuple[Tensor, ...]) -> Tensor:
        return given[0][:, position, 4]

    point, seen = x.clone().requires_grad_(), []
    handle = attention.register_forward_hook(lambda module, args, output: seen.append(output[0]))
    score = forward(point)[:, 0].sum()
    handle.remove()
    (weight,) = torch.autograd.grad(score, seen[0], retain_graph=True)
    (expected,) = torch.autograd.grad(neuron((seen[0],)).sum(), point, retain_graph=True)
    torch.testing.assert_close(NeuronGradient(forward, attention).attribute(x, neuron), expected)
    result = NeuronConductance(forward, attention).attribute(x, neuron, target=0, n_steps=1, method="riemann_right")
    torch.testing.assert_close(result, x * neuron((weight,)).view(-1, 1, 1) * expected)
    assert result.abs().sum() > 0


def test_the_model_itself_needs_no_tensor_output() -> None:
    """A transformers model answers a `ModelOutput`; for activations and neurons that does not matter."""
    model = llama()
    block = model.model.layers[0]
    activations, _ = plain(model, block, IDS, 0)
    torch.testing.assert_close(first(LayerActivation(model, block).attribute(IDS)), activations)
    taken = NeuronGradient(lambda x: model(inputs_embeds=x), block).attribute(vectors("llama"), (3, 5))
    assert taken[:, :4].abs().sum() > 0
    assert taken[:, 4:].abs().sum() == 0


@pytest.mark.parametrize("name", MODELS)
def test_attributions_of_embeddings_are_complete(name: str) -> None:
    model, forward = MODELS[name](), logits_of(MODELS[name]())
    layer = model.get_input_embeddings()
    attributions, delta = LayerIntegratedGradients(forward, layer).attribute(
        IDS, torch.zeros_like(IDS), target=1, n_steps=400, return_convergence_delta=True
    )
    change = (forward(IDS) - forward(torch.zeros_like(IDS)))[:, 1]
    assert delta.abs().max() < 0.05 * change.abs().max()
    torch.testing.assert_close(attributions.sum((1, 2)) - delta, change.detach())
