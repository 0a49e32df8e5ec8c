"""Conductance in chunks, what it refuses, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import InternalInfluence, LayerConductance, NeuronConductance
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, InvalidValue, NoGradient, UnknownName

CLASSES: dict[str, Any] = {
    "LayerConductance": LayerConductance,
    "InternalInfluence": InternalInfluence,
    "NeuronConductance": NeuronConductance,
}
each_class = pytest.mark.parametrize("name", CLASSES)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3), nn.Softplus()).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def neuron(name: str, selector: Any = 1) -> tuple[Any, ...]:
    return (selector,) if name == "NeuronConductance" else ()


@each_class
@pytest.mark.parametrize("rows", [1, 3, 5, 6, 11, 1000])
@pytest.mark.parametrize("steps", [2, 7, 10])
def test_chunked_is_unchunked(name: str, rows: int, steps: int, model: nn.Module, x: Tensor) -> None:
    method = CLASSES[name](model, model[1])
    options = {"target": [0, 2, 1], "n_steps": steps, "baselines": 0.2, "method": "riemann_trapezoid"}
    whole = method.attribute(x, *neuron(name), internal_batch_size=3 * (steps + 1), **options)
    chunked = method.attribute(x, *neuron(name), internal_batch_size=rows, **options)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-14)


@each_class
def test_calls_of_the_model(name: str, model: nn.Module, x: Tensor) -> None:
    """One forward pass for each chunk, of no more rows than allowed."""
    rows: list[int] = []
    model.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    CLASSES[name](model, model[0]).attribute(x, *neuron(name), target=0, n_steps=10, internal_batch_size=6)
    points = 11 if name == "LayerConductance" else 10
    assert rows == [6] * (points // 2) + [3] * (points % 2)


@each_class
def test_rows_of_a_call_do_not_grow_with_the_steps(name: str) -> None:
    """Without `internal_batch_size` too, which is what keeps the memory flat."""
    layer, rows = nn.Linear(1 << 14, 2), []
    layer.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    x = torch.ones(2, 1 << 14)
    most = []
    for steps in (50, 200):
        rows.clear()
        CLASSES[name](layer, layer).attribute(x, *neuron(name), target=0, n_steps=steps)
        most.append(max(rows))
    assert most[0] == most[1] < 50


class TimeFirst(nn.Module):
    """`(batch, time, 2)` -> `(batch,)`, with a layer inside whose first axis is the time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(2, 3), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.transpose(0, 1)).tanh().prod(0))[:, 0]


@pytest.mark.parametrize("name", ["LayerConductance", "InternalInfluence"])
def test_a_layer_without_a_batch_axis_in_front_goes_point_by_point(name: str) -> None:
    torch.manual_seed(0)
    model = TimeFirst().double()
    x = torch.randn(3, 4, 2, dtype=torch.float64)
    method = CLASSES[name](model, model.layer)
    alone = [method.attribute(x[i : i + 1], n_steps=6, internal_batch_size=1) for i in range(3)]
    torch.testing.assert_close(method.attribute(x, n_steps=6), torch.cat(alone, 1))
    if name == "LayerConductance":
        with pytest.raises(InvalidShape, match="a row for each of the 3 examples"):
            method.attribute(x, n_steps=6, return_convergence_delta=True)


@each_class
def test_one_number_for_the_batch(name: str, model: nn.Module, x: Tensor) -> None:
    whole = CLASSES[name](model, model[0]).attribute(x, *neuron(name), target=1)
    total = CLASSES[name](lambda x: model(x)[:, 1].sum(), model[0]).attribute(x, *neuron(name))
    torch.testing.assert_close(total, whole)


@pytest.mark.parametrize(
    ("selector", "neurons"),
    [
        (slice(1, 4), [1, 2, 3]),
        ((slice(None),), range(6)),
        (lambda u: u[:, 2], [2]),
        (lambda u: u[:, 4] + u[:, 0], [0, 4]),
        (lambda u: u[:, ::2].sum(1), [0, 2, 4]),
    ],
)
def test_several_neurons_are_added_up(selector: Any, neurons: Any, model: nn.Module, x: Tensor) -> None:
    """Captum multiplies the sum of their gradients by the gradient of their sum, which is not a sum of conductances."""
    method = NeuronConductance(model, model[1])
    expected = sum(method.attribute(x, number, target=2) for number in neurons)
    torch.testing.assert_close(method.attribute(x, selector, target=2), expected)


@pytest.mark.parametrize(
    "selector", [lambda u: u.mean(1), lambda u: u[:, 0] * u[:, 1], lambda u: -u[:, 0], lambda u: torch.zeros(3)]
)
def test_computing_with_neurons_is_refused(selector: Any, model: nn.Module, x: Tensor) -> None:
    with pytest.raises(InvalidTarget, match="function that picks or sums neurons"):
        NeuronConductance(model, model[1]).attribute(x, selector, target=2)


@pytest.mark.parametrize("selector", [lambda u: u, lambda u: u[0], 6, (1, 1), "1"])
def test_one_neuron_for_each_row_is_needed(selector: Any, model: nn.Module, x: Tensor) -> None:
    with pytest.raises(InvalidTarget, match=r"one number for each of the 3 rows|selected by 1 indices"):
        NeuronConductance(model, model[1]).attribute(x, selector, target=2)


def test_the_old_name_of_the_selector(model: nn.Module, x: Tensor) -> None:
    method = NeuronConductance(model, model[1])
    with pytest.warns(DeprecationWarning, match="neuron_index= is now neuron_selector="):
        old = method.attribute(x, neuron_index=2, target=0)
    torch.testing.assert_close(old, method.attribute(x, 2, target=0))


def test_gradients_of_the_output_only_take_grad_kwargs(model: nn.Module, x: Tensor) -> None:
    method = NeuronConductance(model, model[1])
    factor = {"grad_outputs": torch.full((3,), 5.0, dtype=torch.float64)}
    result = method.attribute(x, 2, target=0, internal_batch_size=1, grad_kwargs=factor)
    torch.testing.assert_close(result, 5 * method.attribute(x, 2, target=0))


@each_class
def test_bad_arguments(name: str, model: nn.Module, x: Tensor) -> None:
    method = CLASSES[name](model, model[1])
    for steps in (0, -1, 2.5, True, None, "5"):
        with pytest.raises(InvalidValue, match="n_steps must be a whole number"):
            method.attribute(x, *neuron(name), target=0, n_steps=steps)
    with pytest.raises(UnknownName, match="riemann_trapezoid"):
        method.attribute(x, *neuron(name), target=0, method="simpson")
    for rows in (0, -3, 1.5):
        with pytest.raises(InvalidValue, match="internal_batch_size"):
            method.attribute(x, *neuron(name), target=0, internal_batch_size=rows)
    with pytest.raises(InvalidTarget, match="name a target"):
        method.attribute(x, *neuron(name))
    with pytest.raises(InvalidType, match="takes one layer"):
        CLASSES[name](model, [model[0], model[1]])
    with pytest.raises(NoGradient):
        CLASSES[name](lambda x: model(x).detach(), model[1]).attribute(x, *neuron(name), target=0)


@each_class
def test_token_ids_have_no_points_between(name: str) -> None:
    """Captum's path needs numbers; to truncate them silently would be worse."""
    embedding = nn.Embedding(5, 3)
    layer = nn.Linear(3, 2)
    method = CLASSES[name](lambda ids: layer(embedding(ids).sum(1)), layer)
    with pytest.raises(InvalidType, match=r"input 0 holds torch\.int64"):
        method.attribute(torch.tensor([[1, 2]]), *neuron(name), target=0)


@each_class
def test_inputs_that_require_gradients(name: str, model: nn.Module, x: Tensor) -> None:
    method = CLASSES[name](model, model[1])
    expected = method.attribute(x, *neuron(name), target=0)
    result = method.attribute(x.clone().requires_grad_(), *neuron(name), target=0)
    assert not result.requires_grad
    torch.testing.assert_close(result, expected)


@each_class
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_single(name: str, dtype: torch.dtype, model: nn.Module, x: Tensor) -> None:
    expected = CLASSES[name](model, model[1]).attribute(x, *neuron(name), target=0)
    half = model.to(dtype)
    result = CLASSES[name](half, half[1]).attribute(x.to(dtype), *neuron(name), target=0)
    assert result.dtype == dtype
    torch.testing.assert_close(result.double(), expected, rtol=0.1, atol=0.05 * expected.abs().max().item())
