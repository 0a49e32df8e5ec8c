from __future__ import annotations

import captum.attr as captum
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from llm_attr.attr import (
    IntegratedGradients,
    InterpretableEmbeddingBase,
    LayerIntegratedGradients,
    TokenReferenceBase,
    configure_interpretable_embedding_layer,
    remove_interpretable_embedding_layer,
)
from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from tests.contract.models import assert_same, state
from tests.zoo import quiet

torch.set_num_threads(1)


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.parts = nn.ModuleList([nn.Embedding(5, 2)])
        self.inner = nn.Sequential(nn.Linear(4, 3), nn.Tanh())

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(self.embedding(ids)).sum(1)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


@pytest.fixture(scope="module")
def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    with quiet():
        config = BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=20, num_labels=3,
        )  # fmt: skip
        return BertForSequenceClassification(config).double().eval()


IDS = torch.tensor([[2, 7, 9, 3], [2, 30, 31, 3]])


def test_configured_and_removed(model: Classifier) -> None:
    before, embedding, names = state(model), model.embedding, [name for name, _ in model.named_modules()]
    layer = configure_interpretable_embedding_layer(model)
    assert isinstance(layer, InterpretableEmbeddingBase)
    assert model.embedding is layer
    assert layer.embedding is embedding
    assert (layer.full_name, layer.num_embeddings, layer.embedding_dim) == ("embedding", 9, 4)
    assert layer.weight is embedding.weight
    assert not layer.training
    remove_interpretable_embedding_layer(model, layer)
    assert model.embedding is embedding
    assert [name for name, _ in model.named_modules()] == names
    assert_same(state(model), before)


@pytest.mark.parametrize("name", ["embedding", "parts.0", "inner.0", "inner"])
def test_any_layer_by_its_dotted_name(model: Classifier, name: str) -> None:
    modules = list(model.named_modules())
    layer = configure_interpretable_embedding_layer(model, name)
    assert model.get_submodule(name) is layer
    remove_interpretable_embedding_layer(model, layer)
    assert list(model.named_modules()) == modules


def test_integrated_gradients_of_embeddings_are_captums(model: Classifier) -> None:
    ids, low = torch.tensor([[1, 2, 3]]), torch.zeros(1, 3, dtype=torch.int64)
    by_layer = LayerIntegratedGradients(model, model.embedding).attribute(ids, low, 1)
    layer = configure_interpretable_embedding_layer(model)
    x, b = layer.indices_to_embeddings(ids), layer.indices_to_embeddings(low)
    found = IntegratedGradients(model).attribute(x, b, 1)
    remove_interpretable_embedding_layer(model, layer)
    with pytest.warns(UserWarning, match="interpretable"):
        theirs = captum.configure_interpretable_embedding_layer(model, "embedding")
    x, b = theirs.indices_to_embeddings(ids), theirs.indices_to_embeddings(low)
    expected = captum.IntegratedGradients(model).attribute(x, b, 1)
    captum.remove_interpretable_embedding_layer(model, theirs)
    torch.testing.assert_close(found, expected.float())
    torch.testing.assert_close(found, by_layer)


def test_bert_word_embeddings_as_in_the_tutorial(bert: BertForSequenceClassification) -> None:
    with torch.no_grad():
        expected = bert(input_ids=IDS).logits
    by_layer = LayerIntegratedGradients(lambda i: bert(i).logits, bert.bert.embeddings.word_embeddings).attribute(
        IDS, 0, 1, n_steps=10
    )
    word_embeddings = bert.bert.embeddings.word_embeddings
    layer = configure_interpretable_embedding_layer(bert, "bert.embeddings.word_embeddings")
    embeddings = layer.indices_to_embeddings(IDS)
    low = layer.indices_to_embeddings(torch.zeros_like(IDS))

    def forward(embeddings: Tensor, mask: Tensor) -> Tensor:
        return bert(inputs_embeds=embeddings, attention_mask=mask).logits

    mask = torch.ones_like(IDS)
    with torch.no_grad():
        torch.testing.assert_close(forward(embeddings, mask), expected)
    found = IntegratedGradients(forward).attribute(embeddings, low, 1, mask, n_steps=10)
    remove_interpretable_embedding_layer(bert, layer)
    torch.testing.assert_close(found, by_layer)
    assert bert.bert.embeddings.word_embeddings is word_embeddings


def test_whole_bert_embeddings_are_called_by_keyword(bert: BertForSequenceClassification) -> None:
    with torch.no_grad():
        expected = bert(input_ids=IDS).logits
    layer = configure_interpretable_embedding_layer(bert, "bert.embeddings")
    embeddings, low = layer.indices_to_embeddings(IDS), layer.indices_to_embeddings(torch.zeros_like(IDS))

    def forward(embeddings: Tensor) -> Tensor:
        return bert(inputs_embeds=embeddings).logits

    try:
        found, delta = IntegratedGradients(forward).attribute(embeddings, low, 1, return_convergence_delta=True)
        with torch.no_grad():
            hidden = layer(input_ids=None, inputs_embeds=embeddings)
    finally:
        remove_interpretable_embedding_layer(bert, layer)
    assert found.shape == embeddings.shape
    assert delta.abs().max() < 1e-6
    assert torch.equal(hidden, embeddings)
    with torch.no_grad():
        torch.testing.assert_close(bert(input_ids=IDS).logits, expected)


def test_what_is_passed_on() -> None:
    layer = InterpretableEmbeddingBase(nn.Linear(2, 2), "linear")
    assert layer.num_embeddings is None
    x, y = torch.ones(2), torch.zeros(3)
    assert layer(x, y) is x
    assert layer(first=x, second=y) is x
    with pytest.raises(InvalidValue, match="no arguments"):
        layer()
    with pytest.raises(AttributeError, match="padding_idx"):
        _ = layer.padding_idx


def test_configured_twice_or_inside(model: Classifier) -> None:
    layer = configure_interpretable_embedding_layer(model, "inner")
    for name in ("inner", "inner.embedding", "inner.embedding.0"):
        with pytest.raises(InvalidValue, match="'inner' is interpretable already"):
            configure_interpretable_embedding_layer(model, name)
    other = configure_interpretable_embedding_layer(model)
    remove_interpretable_embedding_layer(model, layer)
    assert model.embedding is other
    with pytest.raises(InvalidValue, match="removed before"):
        remove_interpretable_embedding_layer(model, layer)
    assert isinstance(model.inner, nn.Sequential)


def test_errors(model: Classifier) -> None:
    with pytest.raises(UnknownName, match="did you mean 'embedding'"):
        configure_interpretable_embedding_layer(model, "embeddings")
    with pytest.raises(UnknownName, match="accepted: embedding"):
        configure_interpretable_embedding_layer(model, "")
    with pytest.raises(InvalidType, match="Embedding"):
        remove_interpretable_embedding_layer(model, model.embedding)  # type: ignore[arg-type]


def test_references_are_captums() -> None:
    for length in (1, 4):
        found = TokenReferenceBase(7).generate_reference(length, torch.device("cpu"))
        assert torch.equal(found, captum.TokenReferenceBase(7).generate_reference(length, torch.device("cpu")))
        assert found.dtype == torch.int64
    assert TokenReferenceBase().generate_reference(sequence_length=0, device="cpu").shape == (0,)
    assert TokenReferenceBase(3).reference_token_idx == 3
