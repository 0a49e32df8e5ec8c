"""What a user can get wrong with gradient methods, and what he is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutput

from llm_attr.attr import IntegratedGradients, LayerIntegratedGradients, NeuronIntegratedGradients, Site
from llm_attr.errors import (
    InvalidShape,
    InvalidTarget,
    InvalidType,
    InvalidValue,
    LayerNotReached,
    LlmAttrError,
    NoGradient,
    NonFiniteGradient,
    SeveralCalls,
    UnknownName,
)

X = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
IDS = torch.tensor([[1, 2, 3], [0, 5, 6]])


class Classifier(nn.Module):
    """`(batch, 4)` -> `(batch, 3)`; one layer runs twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.act, self.head = nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(self.act(x))))


class Reader(nn.Module):
    """Token ids `(batch, time)` -> `(batch, 2)`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).mean(1).tanh())


MODEL, READER = Classifier(), Reader()

Ask = Callable[..., Any]
EVERY: dict[str, Ask] = {
    "input": lambda model, x, **more: IntegratedGradients(model).attribute(x, **more),
    "layer": lambda model, x, **more: LayerIntegratedGradients(model, MODEL.body).attribute(x, **more),
    "neuron": lambda model, x, target=None, **more: NeuronIntegratedGradients(model, MODEL.body).attribute(
        x, 1, **more
    ),
}
each = pytest.mark.parametrize("ask", EVERY.values(), ids=EVERY)
OF_OUTPUTS = [EVERY["input"], EVERY["layer"]]


@each
@pytest.mark.parametrize(
    ("baselines", "error", "message"),
    [
        ((0, 0), InvalidShape, r"baselines must be one for each of the 1 inputs; got 2"),
        (torch.zeros(3, 4), InvalidShape, r"broadcast to its input of shape \(2, 4\); got \(3, 4\)"),
        (torch.zeros(2, 5), InvalidShape, r"broadcast to its input of shape \(2, 4\); got \(2, 5\)"),
        ("zero", InvalidType, r"baseline 0 must be a tensor or a number; got str"),
        ([0], InvalidType, r"baseline 0 must be a tensor or a number; got list"),
    ],
    ids=str,
)
def test_baselines(ask: Ask, baselines: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ask(MODEL, X, baselines=baselines, target=0)


@pytest.mark.parametrize("ask", OF_OUTPUTS)
@pytest.mark.parametrize(
    ("target", "message"),
    [
        (None, r"one output for each of the 2 examples.*got the shape \(2, 3\): name a target"),
        (3, r"target \(3,\) is out of range for outputs of shape \(2, 3\)"),
        (-4, r"out of range for outputs of shape \(2, 3\)"),
        ((0, 1), r"must have 1 to 1 ints; got \(0, 1\)"),
        ([0, 1, 2], r"must have one per example; got 3 targets for 2 examples"),
        (torch.tensor([0, 1, 2]), r"3 targets for 2 examples"),
        ([0, 7], r"out of range"),
        ("cat", r"target must be an int"),
    ],
    ids=str,
)
def test_targets(ask: Ask, target: Any, message: str) -> None:
    with pytest.raises(InvalidTarget, match=message):
        ask(MODEL, X, target=target)


def test_a_target_for_outputs_without_columns() -> None:
    with pytest.raises(InvalidTarget, match=r"but its shape is \(2,\); leave the target out"):
        IntegratedGradients(lambda x: MODEL(x)[:, 0]).attribute(X, target=1)


@pytest.mark.parametrize("selector", [4, -5, (0, 0), "1", 1.0, None])
def test_neurons(selector: Any) -> None:
    with pytest.raises(InvalidTarget, match=r"layer of shape \('batch', 4\) is selected by 1 indices within it"):
        NeuronIntegratedGradients(MODEL, MODEL.body).attribute(X, selector)


@pytest.mark.parametrize("make", [LayerIntegratedGradients, NeuronIntegratedGradients])
def test_layers(make: Any) -> None:
    neuron = {"neuron_selector": 0} if make is NeuronIntegratedGradients else {"target": 0}
    for stranger in (nn.Linear(4, 4), Classifier().body):
        with pytest.raises(LayerNotReached, match=r"output of layer Linear is not reached .* part of the model"):
            make(MODEL, stranger).attribute(X, **neuron)
    with pytest.raises(SeveralCalls, match=r"Tanh is passed 2 times .*Site\(layer, call=0\) to Site\(layer, call=1\)"):
        make(MODEL, MODEL.act).attribute(X, **neuron)
    with pytest.raises(LayerNotReached, match="not reached by call=2"):
        make(MODEL, Site(MODEL.act, call=2)).attribute(X, **neuron)
    first = make(MODEL, Site(MODEL.act, call=0)).attribute(X, **neuron)
    second = make(MODEL, Site(MODEL.act, call=1)).attribute(X, **neuron)
    assert first.shape == second.shape == (2, 4)
    assert not torch.allclose(first, second)
    with pytest.raises(InvalidType, match="layer must be a module of the model, or a Site; got str"):
        make(MODEL, "body")
    if make is NeuronIntegratedGradients:
        with pytest.raises(InvalidType, match="Neuron Integrated Gradients takes one layer; got 2 in a list"):
            make(MODEL, [MODEL.body, MODEL.head])
    with pytest.raises(LlmAttrError, match="layer"):
        make(MODEL, [])


def test_token_ids() -> None:
    with pytest.raises(InvalidType, match=r"input 0 holds torch.int64, .*LayerIntegratedGradients\(model, embedding\)"):
        IntegratedGradients(READER).attribute(IDS, target=0)
    with pytest.raises(InvalidType, match=r"input 1 holds torch.bool.*additional_forward_args"):
        IntegratedGradients(lambda x, mask: (x * mask).sum(1)).attribute((X, X > 0))
    method = LayerIntegratedGradients(READER, READER.embedding)
    with pytest.raises(InvalidType, match=r"input of layer Embedding is torch.int64, .* use the output"):
        method.attribute(IDS, target=0, attribute_to_layer_input=True)
    assert method.attribute(IDS, target=0).shape == (2, 3, 4)


def test_the_embeddings_of_a_transformer() -> None:
    """Captum 0.9.0 fails at both with an error from inside of torch."""
    config = BertConfig(vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    model = BertModel(config).eval()
    method = LayerIntegratedGradients(lambda ids: model(ids).last_hidden_state.sum((1, 2)).tanh(), model.embeddings)
    with pytest.raises(InvalidType, match=r"input of layer BertEmbeddings is torch.int64.*embedding layer"):
        method.attribute(IDS, attribute_to_layer_input=True)
    assert method.attribute(IDS, n_steps=3).shape == (2, 3, 8)
    words = LayerIntegratedGradients(
        lambda ids: model(input_ids=ids).pooler_output.sum(1), model.embeddings.word_embeddings
    )
    assert words.attribute(IDS, n_steps=3).shape == (2, 3, 8)


@each
def test_inputs_that_are_no_numbers(ask: Ask) -> None:
    x = X.clone()
    x[1, 2] = torch.nan
    with pytest.raises(NonFiniteGradient, match=r"NaN or infinite for the examples \[1\]; check that inputs and"):
        ask(MODEL, x, target=0)


def test_gradients_that_are_no_numbers() -> None:
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0]])
    with pytest.raises(NonFiniteGradient, match=r"for the examples \[1\].*square root"):
        IntegratedGradients(lambda x: x.sqrt().sum(1)).attribute(x)


def test_inputs_of_different_batch_size() -> None:
    with pytest.raises(InvalidShape, match=r"same batch size; got \[2, 1\]"):
        IntegratedGradients(lambda x, y: (x * y).sum(1)).attribute((X, X[:1]))


@each
@pytest.mark.parametrize("value", [0, -1, 2.5, "5", True])
def test_steps_and_sizes(ask: Ask, value: Any) -> None:
    with pytest.raises(InvalidValue, match=f"n_steps must be a whole number of at least 1 .*got {value!r}"):
        ask(MODEL, X, target=0, n_steps=value)
    with pytest.raises(InvalidValue, match=f"internal_batch_size must be a whole number of at least 1.*got {value!r}"):
        ask(MODEL, X, target=0, internal_batch_size=value)


@each
def test_unknown_names(ask: Ask) -> None:
    with pytest.raises(UnknownName, match=r"unknown method 'gauslegendre' \(did you mean 'gausslegendre'\?\)"):
        ask(MODEL, X, target=0, method="gauslegendre")
    with pytest.raises(InvalidValue, match="at least 2 for riemann_trapezoid"):
        ask(MODEL, X, target=0, method="riemann_trapezoid", n_steps=1)
    with pytest.raises(TypeError, match="n_step"):
        ask(MODEL, X, target=0, n_step=5)


def test_outputs_that_do_not_depend_on_what_moves() -> None:
    for forward in (lambda x: torch.ones(len(x)), lambda x: MODEL(x.detach())[:, 0], lambda x: MODEL(x).argmax(1)):
        with pytest.raises(NoGradient, match="does not depend on the inputs"):
            IntegratedGradients(forward).attribute(X)
    with torch.no_grad():
        assert IntegratedGradients(MODEL).attribute(X, target=0).any()

    def beside(x: Tensor) -> Tensor:
        MODEL.body(x)
        return x.sum(1)

    with pytest.raises(NoGradient):
        LayerIntegratedGradients(beside, MODEL.body).attribute(X)


@pytest.mark.parametrize("ask", OF_OUTPUTS)
def test_outputs_that_are_no_tensor(ask: Ask) -> None:
    for forward, given in (
        (lambda x: (MODEL(x), None), "tuple"),
        (lambda x: [MODEL(x)], "list"),
        (lambda x: BaseModelOutput(last_hidden_state=MODEL(x)), "BaseModelOutput"),
        (lambda x: None if MODEL(x) is not None else x, "NoneType"),
    ):
        with pytest.raises(InvalidType, match=f"must give a tensor or a number; got {given} .*wrap the model"):
            ask(forward, X, target=0)


def test_no_forward_function() -> None:
    for make in (IntegratedGradients, lambda f: LayerIntegratedGradients(f, MODEL.body)):
        with pytest.raises(InvalidType, match="forward_func must be a model or a callable; got NoneType"):
            make(None)


def test_deltas_of_other_attributions() -> None:
    method = IntegratedGradients(MODEL)
    with pytest.raises(InvalidShape, match="a row for each of the 2 examples; got 1 rows"):
        method.compute_convergence_delta(X[:1], 0, X, target=0)
    with pytest.raises(InvalidShape, match="baselines must be one for each of the 1 inputs; got 2"):
        method.compute_convergence_delta(X, (0, 0), X, target=0)
    with pytest.raises(InvalidTarget):
        method.compute_convergence_delta(X, 0, X)
