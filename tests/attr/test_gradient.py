"""Gradients of one point: forms, answers of other types, memory, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import (
    InputXGradient,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    NeuronGradient,
    Saliency,
    Site,
)
from llm_attr.core.evaluator import Progress, watching
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, LayerNotReached, NoGradient, SeveralCalls


class Branches(nn.Module):
    """`(batch, 4)` and `(batch, 2)` -> `(batch, 3)`; each input has a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.unused = nn.Linear(4, 3), nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.left(x).tanh() * self.right(y)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> Branches:
    torch.manual_seed(0)
    return Branches().double()


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return tuple(torch.randn(3, width, generator=generator, dtype=torch.float64) for width in (4, 2))


def test_an_input_that_a_neuron_does_not_see_gets_zero(model: Branches, inputs: tuple[Tensor, Tensor]) -> None:
    """Where Captum raises."""
    x, y = NeuronGradient(model, model.left).attribute(inputs, 1)
    torch.testing.assert_close(x, model.left.weight[1].expand(3, 4).detach())
    assert torch.equal(y, torch.zeros(3, 2, dtype=torch.float64))


@pytest.mark.parametrize("answer", [None, {"logits": 1}, "text", 3])
def test_activations_and_neurons_do_not_care_for_the_answer(answer: Any, model: Branches) -> None:
    x = torch.ones(2, 4, dtype=torch.float64)

    def forward(x: Tensor) -> Any:
        model.left(x)
        return answer

    torch.testing.assert_close(LayerActivation(forward, model.left).attribute(x), model.left(x).detach())
    result = NeuronGradient(forward, model.left).attribute(x, 0)
    torch.testing.assert_close(result, model.left.weight[0].expand(2, 4).detach())


@pytest.mark.parametrize("cls", [Saliency, InputXGradient])
def test_one_scalar_for_the_batch(cls: Any, model: Branches, inputs: tuple[Tensor, Tensor]) -> None:
    """Of no axes too, where Captum raises."""
    x, y = inputs
    whole = cls(lambda x: model(x, y)).attribute(x, target=1)
    torch.testing.assert_close(cls(lambda x: model(x, y)[:, 1].sum()).attribute(x), whole)


def test_a_layer_of_whole_numbers() -> None:
    class Count(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x > 0).long()

    count, embedding = Count(), nn.Embedding(2, 3)
    x = torch.tensor([[1.0, -1.0]])
    result = LayerActivation(lambda x: embedding(count(x)), [count, embedding]).attribute(x)
    assert torch.equal(result[0], torch.tensor([[1, 0]]))
    assert result[1].dtype == torch.float32
    with pytest.raises(InvalidType, match=r"is torch\.int64, which cannot be interpolated or differentiated"):
        LayerGradientXActivation(lambda x: embedding(count(x)).sum((1, 2)), count).attribute(x)


def test_activations_are_given_as_they_are(model: Branches) -> None:
    """NaN is an activation; and the model goes on to change its own tensors in place."""
    layer, relu = nn.Identity(), nn.ReLU(inplace=True)
    x = torch.tensor([[-1.0, float("nan")]])
    result = LayerActivation(lambda x: relu(layer(x * 1)), layer).attribute(x)
    torch.testing.assert_close(result, x, equal_nan=True)


def test_memory_efficient_keeps_on_the_cpu_what_the_backward_pass_needs(
    model: Branches, inputs: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    offloaded: list[Tensor] = []
    original = torch.autograd.graph.saved_tensors_hooks.__init__

    def watched(self: Any, pack: Any, unpack: Any) -> None:
        original(self, lambda tensor: offloaded.append(tensor) or pack(tensor), unpack)

    monkeypatch.setattr(torch.autograd.graph.saved_tensors_hooks, "__init__", watched)
    plain = LayerGradientXActivation(model, model.left).attribute(inputs, target=1)
    assert not offloaded
    result = LayerGradientXActivation(model, model.left, memory_efficient=True).attribute(inputs, target=1)
    assert offloaded
    torch.testing.assert_close(result, plain)


@pytest.mark.parametrize(
    "cls", [Saliency, InputXGradient, LayerActivation, LayerGradientXActivation, LayerGradCam, NeuronGradient]
)
def test_one_call_and_its_progress(cls: Any, model: Branches, inputs: tuple[Tensor, Tensor]) -> None:
    calls, seen = [], list[Progress]()
    model.register_forward_hook(lambda module, args, output: calls.append(len(output)))
    method = cls(model) if cls in (Saliency, InputXGradient) else cls(model, model.left)
    options = {"neuron_selector": 1} if cls is NeuronGradient else {} if cls is LayerActivation else {"target": 1}
    with watching(seen.append):
        method.attribute(inputs, **options)
    assert calls == [3]
    assert seen == [Progress(f"{method.get_name()} attribution", 1, 1)]


def test_a_layer_that_runs_twice(model: Branches) -> None:
    x = torch.ones(2, 3, dtype=torch.float64)

    def forward(x: Tensor) -> Tensor:
        return model.unused(model.unused(x).tanh())

    with pytest.raises(SeveralCalls, match="is passed 2 times"):
        LayerActivation(forward, model.unused).attribute(x)
    for call, expected in enumerate((model.unused(x), forward(x))):
        result = LayerActivation(forward, Site(model.unused, call=call)).attribute(x)
        torch.testing.assert_close(result, expected.detach())


def test_what_is_refused(model: Branches, inputs: tuple[Tensor, Tensor]) -> None:
    for cls in (LayerActivation, LayerGradientXActivation, LayerGradCam):
        with pytest.raises(LayerNotReached):
            cls(model, model.unused).attribute(inputs, **({} if cls is LayerActivation else {"target": 0}))
    with pytest.raises(InvalidType, match="Layer Grad Cam takes one layer"):
        LayerGradCam(model, [model.left])
    with pytest.raises(InvalidTarget, match="selected by 1 indices"):
        NeuronGradient(model, model.left).attribute(inputs, (1, 1))
    with pytest.raises(InvalidTarget, match="name a target"):
        Saliency(model).attribute(inputs)
    with pytest.raises(InvalidType, match=r"input 0 holds torch\.int64"):
        InputXGradient(lambda x: x.float().sum(1)).attribute(torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(NoGradient):
        Saliency(lambda x: torch.ones(3)).attribute(inputs[0])
    identity = nn.Identity()
    with pytest.raises(InvalidShape, match="channels"):
        LayerGradCam(lambda x: identity(x.sum(1)), identity).attribute(inputs[0])


def test_the_old_name_of_the_selector(model: Branches, inputs: tuple[Tensor, Tensor]) -> None:
    with pytest.warns(DeprecationWarning, match="neuron_index= is now neuron_selector="):
        result = NeuronGradient(model, model.left).attribute(inputs, neuron_index=1)
    torch.testing.assert_close(result, NeuronGradient(model, model.left).attribute(inputs, 1))
