from __future__ import annotations

from typing import Any

import captum.attr as captum
import pytest
import torch
from captum.attr._utils.input_layer_wrapper import ModelInputWrapper as CaptumWrapper
from torch import Tensor, nn

from llm_attr.attr import LayerIntegratedGradients, ModelInputWrapper


class Mixed(nn.Module):
    """Token ids, numbers and a factor."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(7, 2)

    def forward(self, ids: Tensor, numbers: Tensor | None = None, *, scale: float = 1.0) -> Tensor:
        numbers = torch.zeros(len(ids), 3) if numbers is None else numbers
        return scale * self.head(torch.cat([self.embedding(ids).sum(1), numbers], 1)).tanh()


@pytest.fixture
def model() -> Mixed:
    torch.manual_seed(0)
    return Mixed().eval()


IDS, NUMBERS = torch.tensor([[1, 2], [3, 4]]), torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, -1.0]])


def test_the_model_answers_as_before(model: Mixed) -> None:
    wrapped = ModelInputWrapper(model)
    assert list(wrapped.input_maps) == ["ids", "numbers", "scale"]
    assert wrapped.module is model
    assert not wrapped.training
    for args, kwargs in [
        ((IDS,), {}),
        ((IDS, NUMBERS), {}),
        ((IDS,), {"numbers": NUMBERS, "scale": 2.0}),
        ((), {"numbers": NUMBERS, "ids": IDS}),
    ]:
        assert torch.equal(wrapped(*args, **kwargs), model(*args, **kwargs))
    assert wrapped.state_dict().keys() == {f"module.{name}" for name in model.state_dict()}
    with pytest.raises(TypeError, match="colour"):
        wrapped(IDS, colour=1)


@pytest.mark.parametrize("to_input", [False, True])
def test_inputs_and_layers_together_as_in_captum(model: Mixed, to_input: bool) -> None:
    ours, theirs = ModelInputWrapper(model), CaptumWrapper(model)
    found = LayerIntegratedGradients(ours, ours.input_maps["numbers"]).attribute(
        (IDS, NUMBERS), target=1, attribute_to_layer_input=to_input
    )
    expected = captum.LayerIntegratedGradients(theirs, theirs.input_maps["numbers"]).attribute(
        (IDS, NUMBERS), target=1, attribute_to_layer_input=to_input
    )
    torch.testing.assert_close(found, expected, check_dtype=False)
    both, delta = LayerIntegratedGradients(ours, [model.embedding, ours.input_maps["numbers"]]).attribute(
        (IDS, NUMBERS), target=1, return_convergence_delta=True
    )
    layers = [model.embedding, theirs.input_maps["numbers"]]
    with pytest.warns(UserWarning, match="Multiple layers"):
        together = captum.LayerIntegratedGradients(theirs, layers).attribute((IDS, NUMBERS), target=1)
    for one, other in zip(both, together, strict=True):
        torch.testing.assert_close(one, other, check_dtype=False)
    assert delta.abs().max() < 1e-5


class Awkward(nn.Module):
    """Parameters named as what every module has."""

    def forward(self, values: Tensor, /, keys: Tensor, training: bool = True, *rest: Tensor, **more: Any) -> Tensor:
        return values.sum(1) * keys.sum(1) + sum(x.sum() for x in rest) + sum(more.values())


def test_parameters_of_any_name_and_kind() -> None:
    wrapped = ModelInputWrapper(Awkward())
    x = torch.ones(2, 3)
    assert torch.equal(wrapped(x, x, False, x, values=1.0), torch.full((2,), 16.0))
    assert torch.equal(wrapped(x, keys=x), torch.full((2,), 9.0))
    found = LayerIntegratedGradients(wrapped, wrapped.input_maps["values"]).attribute((x, x))
    torch.testing.assert_close(found, torch.full((2, 3), 3.0))


def test_data_parallel(model: Mixed) -> None:
    wrapped = ModelInputWrapper(nn.DataParallel(model))
    assert "numbers" in wrapped.input_maps
    assert torch.equal(wrapped(IDS, NUMBERS), model(IDS, NUMBERS))
