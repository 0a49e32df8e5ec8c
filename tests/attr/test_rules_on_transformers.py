"""DeepLIFT is complete, and relevance conserved, on whole transformers, in whatever way they compute attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

import llm_attr
from llm_attr.attr import LRP, DeepLift, LayerDeepLift, LayerLRP, NeuronDeepLift, TextTokenInput
from llm_attr.errors import NoRule
from llm_attr.llm.gradient import LLMGradientAttribution
from tests.zoo import quiet, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


SMALL: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
DECODER = SMALL | {"num_key_value_heads": 2, "head_dim": 8}
IMAGES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}

MAKERS: dict[str, Callable[[], Any]] = {
    "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL)),
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=60, n_embd=32, n_layer=2, n_head=4, n_positions=64, **SPECIAL)
    ),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**DECODER)),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**DECODER)),
    "gemma2": lambda: transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**DECODER, query_pre_attn_scalar=8)),
    "bloom": lambda: transformers.BloomForCausalLM(
        transformers.BloomConfig(vocab_size=60, hidden_size=32, n_layer=2, n_head=4, **SPECIAL)
    ),
    "vit": lambda: transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGES, image_size=8, patch_size=4)),
    "t5": lambda: transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    ),
    "mixtral": lambda: transformers.MixtralForCausalLM(
        transformers.MixtralConfig(**DECODER, num_local_experts=4, num_experts_per_tok=2)
    ),
}


@cache
def model_of(name: str) -> Any:
    """In double precision, with weights large enough that a wrong rule shows."""
    with torch.random.fork_rng([]), quiet():
        torch.manual_seed(0)
        model = MAKERS[name]().double().eval()
        for key, weight in model.named_parameters():
            centred = weight.dim() > 1 or key.endswith("bias") or name.startswith("gemma")
            weight.data.normal_(0 if centred else 1, 0.25)
    return model


def vectors(name: str, seed: int = 1) -> Tensor:
    shape = (2, 3, 8, 8) if name == "vit" else (2, 6, 32)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def score(name: str) -> Callable[[Tensor], Tensor]:
    """A class logit, or one of the last token."""
    model = model_of(name)

    def forward(x: Tensor) -> Tensor:
        if name == "vit":
            return model(pixel_values=x).logits[:, 1]
        if name == "t5":
            return model(inputs_embeds=x, decoder_input_ids=torch.tensor([[0, 3]] * len(x))).logits[:, -1, 5]
        logits = model(inputs_embeds=x).logits
        return logits[:, 1] if logits.dim() == 2 else logits[:, -1, 5]

    return forward


EXACT, CASTING = 1e-10, 1e-5
GAPS = {"bert": EXACT, "gpt2": EXACT, "vit": EXACT} | dict.fromkeys(
    ("llama", "qwen3", "gemma2", "t5", "bloom"), CASTING
)


@pytest.mark.parametrize("name", GAPS)
@pytest.mark.parametrize("low", ["zero", "random"])
def test_deep_lift_is_complete(name: str, low: str) -> None:
    forward, x = score(name), vectors(name)
    baseline = torch.zeros_like(x) if low == "zero" else vectors(name, 2)
    found, delta = DeepLift(forward).attribute(x, baseline, return_convergence_delta=True)
    change = (forward(x) - forward(baseline)).detach()
    torch.testing.assert_close(found.flatten(1).sum(1), change, rtol=0, atol=GAPS[name])
    assert delta.abs().max() < GAPS[name]
    assert change.abs().max() > 1e-2


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "qwen3", "t5"])
def test_every_kernel_of_attention_is_the_same(name: str) -> None:
    forward, x = score(name), vectors(name)
    before = model_of(name).config._attn_implementation
    found = {}
    for kind in ("sdpa", "eager"):
        model_of(name).set_attn_implementation(kind)
        found[kind] = DeepLift(forward).attribute(x, vectors(name, 2)), LRP(forward).attribute(x)
    model_of(name).set_attn_implementation(before)
    torch.testing.assert_close(found["sdpa"], found["eager"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
def test_relevance_is_conserved_where_there_are_no_biases(name: str) -> None:
    forward, x = score(name), vectors(name)
    found, delta = LRP(forward).attribute(x, return_convergence_delta=True)
    torch.testing.assert_close(found.sum((1, 2)), forward(x).detach(), rtol=1e-4, atol=1e-5)
    assert delta.abs().max() < 1e-5


@pytest.mark.parametrize("name", ["gpt2", "bloom"])
def test_a_gelu_of_its_own_is_one_function(name: str) -> None:
    """Without biases and position embeddings nothing is absorbed, also not by a GELU written out or a Function."""
    model = model_of(name)
    saved = {key: value.clone() for key, value in model.state_dict().items()}
    for key, weight in model.named_parameters():
        if key.endswith("bias") or "wpe" in key:
            weight.data.zero_()
    _, delta = LRP(score(name)).attribute(vectors(name), return_convergence_delta=True)
    model.load_state_dict(saved)
    assert delta.abs().max() < 1e-6


def test_layers_and_neurons() -> None:
    forward, x, baseline = score("gpt2"), vectors("gpt2"), vectors("gpt2", 2)
    block = model_of("gpt2").transformer.h[1]
    found, delta = LayerDeepLift(forward, block).attribute(x, baseline, return_convergence_delta=True)
    assert found.shape == x.shape
    assert delta.abs().max() < EXACT
    relevance = LayerLRP(forward, [block, block.mlp]).attribute(x)
    assert [each.shape for each in relevance] == [x.shape] * 2
    neuron = NeuronDeepLift(forward, block.mlp.act).attribute(x, (3, 7), baseline)
    inside = model_of("gpt2").transformer.h[1].mlp.act
    seen: list[Tensor] = []
    with inside.register_forward_hook(lambda module, args, value: seen.append(value[:, 3, 7].detach())):
        forward(x), forward(baseline)
    torch.testing.assert_close(neuron.sum((1, 2)), seen[0] - seen[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_layers_of_token_ids(name: str) -> None:
    model = model_of(name)
    ids, low = torch.tensor([[4, 9, 2, 7]]), torch.tensor([[1, 1, 1, 1]])

    def forward(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids).logits
        return logits if logits.dim() == 2 else logits[:, -1]

    layer = model.get_input_embeddings()
    found, delta = LayerDeepLift(forward, layer).attribute(ids, low, target=1, return_convergence_delta=True)
    assert found.shape == (1, 4, 32)
    assert delta.abs().max() < CASTING


def test_routing_between_experts_is_refused() -> None:
    model = model_of("mixtral").float()

    def forward(x: Tensor) -> Tensor:
        return model(inputs_embeds=x).logits[:, -1, 5]

    with pytest.raises(NoRule):
        DeepLift(forward).attribute(vectors("mixtral").float(), vectors("mixtral", 2).float())


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("low", ["zero", "random"])
def test_multihead_attention(need_weights: bool, batch_first: bool, low: str) -> None:
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        attention = nn.MultiheadAttention(32, 4, batch_first=batch_first).double().eval()
        encoder = nn.TransformerEncoderLayer(32, 4, 16, dropout=0.1, batch_first=batch_first).double().eval()
    x = vectors("attention")
    baseline = torch.zeros_like(x) if low == "zero" else vectors("attention", 2)

    def forward(x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)
        x = encoder(attention(x, x, x, need_weights=need_weights)[0])
        return (x if batch_first else x.transpose(0, 1))[:, 0, :3]

    _, delta = DeepLift(forward).attribute(x, baseline, target=1, return_convergence_delta=True)
    assert delta.abs().max() < EXACT
    LRP(forward).attribute(x, target=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model = MAKERS["llama"]().to(dtype).eval()
    model.load_state_dict(model_of("llama").state_dict())
    x, baseline = vectors("llama").to(dtype), torch.zeros_like(vectors("llama")).to(dtype)
    wide = score("llama")

    def forward(x: Tensor) -> Tensor:
        return model(inputs_embeds=x).logits[:, -1, 5]

    for found, expected in (
        (LRP(forward).attribute(x), LRP(wide).attribute(x.double())),
        (DeepLift(forward).attribute(x, baseline), DeepLift(wide).attribute(x.double(), baseline.double())),
    ):
        assert found.dtype == dtype
        assert (found.double() - expected).norm() < 0.15 * expected.norm()


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_generations_are_explained_for_the_answer_and_each_token(family: str) -> None:
    language_model = tiny(family)
    model, tokenizer = language_model.model, language_model.tokenizer
    inp = TextTokenInput("Dave lives in Palm", tokenizer)
    for method in (DeepLift(model), LayerDeepLift(model, model.get_input_embeddings())):
        explainer = LLMGradientAttribution(method, tokenizer)
        result = explainer.attribute(inp, target=" Coast, FL", return_convergence_delta=True)
        assert result.token_attr is not None
        torch.testing.assert_close(result.token_attr.sum(0), result.seq_attr, rtol=1e-3, atol=1e-4)
        gaps = torch.tensor(result.provenance["token_convergence_delta"])
        assert gaps.abs().max() < 1e-3
        assert result.seq_attr.abs().max() > 0.1
    explained = llm_attr.explain(language_model, "Dave lives in Palm", target=" Coast, FL", method="lrp")
    assert explained.seq_attr.abs().max() > 0
