from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
)

from llm_attr.attr import IntegratedGradients, LayerIntegratedGradients, embedding_baseline
from llm_attr.core.site import Site, replaced
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownName
from tests.zoo import WIDTHS, quiet

torch.set_num_threads(1)
IDS = torch.tensor([[2, 7, 9, 3], [2, 30, 31, 3]])


def bert() -> tuple[nn.Module, nn.Module]:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, num_labels=3,
        max_position_embeddings=20,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    return model, model.bert.embeddings.word_embeddings


def llama() -> tuple[nn.Module, nn.Module]:
    model = LlamaForCausalLM(LlamaConfig(**WIDTHS))
    return model, model.model.embed_tokens


@pytest.fixture(scope="module", params=[bert, llama], ids=["bert", "llama"])
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    with quiet():
        model, embedding = request.param()
    return model.double().eval(), embedding


def answer(model: nn.Module, ids: Tensor) -> Tensor:
    logits = model(ids).logits
    return logits if logits.dim() == 2 else logits[:, -1]


@pytest.mark.parametrize("kind", ["zero", "mean", "pad", 0.1, "vector", "each"])
def test_layer_baselines_are_complete(case: tuple[nn.Module, nn.Module], kind: object) -> None:
    model, embedding = case
    if kind == "pad" and embedding.padding_idx is None:
        pytest.skip("knows no padding token")
    width = embedding.embedding_dim
    like = torch.zeros(*IDS.shape, width, dtype=torch.float64)
    given, low = {
        "zero": ("zero", like),
        "mean": ("mean", embedding.weight.mean(0).detach().expand_as(like)),
        "pad": ("pad", like),
        0.1: (0.1, like + 0.1),
        "vector": (torch.arange(width) / width, (torch.arange(width) / width).double().expand_as(like)),
        "each": ([like + 0.2], like + 0.2),
    }[kind]
    found, delta = LayerIntegratedGradients(lambda ids: answer(model, ids), embedding).attribute(
        IDS, target=1, layer_baselines=given, return_convergence_delta=True, n_steps=100
    )
    with torch.no_grad():
        high = answer(model, IDS)[:, 1]
        with replaced(Site(embedding), (low,)):
            change = high - answer(model, IDS)[:, 1]
    torch.testing.assert_close(delta, found.sum((1, 2)) - change)
    norm_at_zero = kind == "zero" and isinstance(model, LlamaForCausalLM)
    assert norm_at_zero or (delta.abs() < 1e-2 * change.abs()).all()


@pytest.mark.parametrize("kind", ["zero", "mean", "pad", "mask"])
def test_presets_are_the_same_at_inputs_and_layer(case: tuple[nn.Module, nn.Module], kind: str) -> None:
    model, embedding = case
    token = {"pad": 0, "mask": 5}.get(kind)
    low = embedding_baseline(embedding, kind, IDS, token)
    assert torch.equal(low, embedding_baseline(embedding, kind, embedding(IDS), token))
    assert low.shape == (2, 4, embedding.embedding_dim)
    assert not low.requires_grad
    at_layer = LayerIntegratedGradients(lambda ids: answer(model, ids), embedding).attribute(
        IDS, target=1, layer_baselines=low, n_steps=8
    )

    def of_embeddings(x: Tensor) -> Tensor:
        logits = model(inputs_embeds=x).logits
        return logits if logits.dim() == 2 else logits[:, -1]

    at_inputs = IntegratedGradients(of_embeddings).attribute(embedding(IDS).detach(), low, 1, n_steps=8)
    torch.testing.assert_close(at_layer, at_inputs)
    if token is not None:
        with_ids = LayerIntegratedGradients(lambda ids: answer(model, ids), embedding).attribute(
            IDS, token, target=1, n_steps=8
        )
        torch.testing.assert_close(at_layer, with_ids)


def test_a_scaled_embedding_counts_with_its_scale() -> None:
    with quiet():
        model = Gemma2ForCausalLM(Gemma2Config(**WIDTHS, query_pre_attn_scalar=8)).eval()
    embedding = model.model.embed_tokens
    found = embedding_baseline(embedding, "mean", IDS)
    torch.testing.assert_close(found[0, 0], embedding(torch.arange(WIDTHS["vocab_size"])).mean(0))
    assert not torch.allclose(found[0, 0], embedding.weight.mean(0), rtol=0.1, atol=0)


def test_half_precision_is_averaged_in_fp32() -> None:
    embedding = nn.Embedding(5000, 2).to(torch.float16)
    nn.init.constant_(embedding.weight, 100.0)
    assert embedding_baseline(embedding, "mean", IDS)[0, 0].tolist() == [100, 100]


def test_several_layers() -> None:
    one, other = nn.Embedding(9, 3), nn.Embedding(9, 2)

    def forward(i: Tensor, j: Tensor) -> Tensor:
        return one(i).sum((1, 2)).sin() * other(j).sum((1, 2))

    ids = (torch.tensor([[1, 2]]), torch.tensor([[3]]))
    method = LayerIntegratedGradients(forward, [one, other])
    for given in ("mean", ["mean", torch.ones(2)], 0.5, (torch.zeros(3), "zero")):
        found, delta = method.attribute(ids, layer_baselines=given, return_convergence_delta=True)
        assert [part.shape for part in found] == [(1, 2, 3), (1, 1, 2)]
        assert delta.abs().max() < 1e-4


def test_errors() -> None:
    embedding = nn.Embedding(9, 3)
    linear = nn.Linear(3, 1)
    method = LayerIntegratedGradients(lambda i: linear(embedding(i)).sum((1, 2)), embedding)
    ids = torch.tensor([[1, 2]])
    with pytest.raises(InvalidValue, match="one of the two"):
        method.attribute(ids, 0, layer_baselines="mean")
    with pytest.raises(UnknownName, match="'mean'"):
        method.attribute(ids, layer_baselines="meen")
    with pytest.raises(InvalidValue, match="token_id"):
        method.attribute(ids, layer_baselines="pad")
    with pytest.raises(InvalidShape, match=r"\(1, 2, 3\)"):
        method.attribute(ids, layer_baselines=torch.ones(4))
    with pytest.raises(InvalidShape, match="each of the 1"):
        method.attribute(ids, layer_baselines=(0, 0))
    with pytest.raises(InvalidValue, match="each of the 1"):
        method.attribute(ids, layer_baselines=("mean", "mean"))
    with pytest.raises(InvalidType, match="Linear"):
        LayerIntegratedGradients(method.forward_func, linear).attribute(ids, layer_baselines="mean")
    with pytest.raises(InvalidType, match="output of an embedding layer"):
        LayerIntegratedGradients(method.forward_func, linear).attribute(
            ids, layer_baselines="mean", attribute_to_layer_input=True
        )
    with pytest.raises(InvalidValue, match="0 to 8"):
        embedding_baseline(embedding, "mask", ids, 9)


# baseline equal to the input


def squares(x: Tensor) -> Tensor:
    return x.square().flatten(1).sum(1)


def test_warns_of_examples_that_are_their_baseline() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    with pytest.warns(UserWarning, match=r"equal for the examples \[1, 3\]") as caught:
        found = IntegratedGradients(squares).attribute(x)
    assert caught[0].filename == __file__
    assert not found[1].any()
    embedding = nn.Embedding(9, 3)
    with pytest.warns(UserWarning, match=r"\[1\]"):
        LayerIntegratedGradients(lambda i: squares(embedding(i)), embedding).attribute(torch.tensor([[1, 4], [0, 0]]))
    with pytest.warns(UserWarning, match="and 2 more"):
        IntegratedGradients(squares).attribute(torch.zeros(12, 1))


def test_does_not_warn_without_cause() -> None:
    zero, one = torch.zeros(2, 2), torch.ones(2, 2)
    IntegratedGradients(squares, multiply_by_inputs=False).attribute(zero)
    IntegratedGradients(lambda x, y: squares(x) + squares(y)).attribute((zero, one))
    IntegratedGradients(squares).attribute(zero, one)
