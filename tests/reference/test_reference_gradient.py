"""The methods of gradient.py, grad_cam.py and conductance.py give what their papers define."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llm_attr.attr import (
    InputXGradient,
    InternalInfluence,
    LayerConductance,
    LayerGradCam,
    LayerGradientXActivation,
    NeuronConductance,
    NeuronGradient,
    Saliency,
)
from tests.parity.models import made
from tests.reference.conductance import internal_influence, layer_conductance, neuron_conductance
from tests.reference.gradient import derivative, grad_cam, gradient_x_input, saliency


class Network(nn.Module):
    """`(batch, channels, width)` -> `(batch,)`, with a layer in the middle whose output has channels and places."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Conv1d(channels, 3, 2), nn.Tanh())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(3 * (width - 1), 4), nn.Sigmoid(), nn.Linear(4, 1))

    def score(self, activations: Tensor) -> Tensor:
        with torch.no_grad():
            return self.head(activations)[:, 0]

    def neurons(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.layer(x)

    def whole(self, x: Tensor) -> Tensor:
        return self.score(self.neurons(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Network, Tensor, Tensor]:
    """A network, an input and a baseline."""
    batch, channels, width = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(2, 4))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    x, baseline = torch.randn(2, batch, channels, width, generator=generator, dtype=torch.float64)
    return made(Network(channels, width), seed), x, baseline


def assert_close(result: Tensor, expected: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(result, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item() + 1e-9)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(cases())
def test_gradients_of_one_point(case: tuple[Network, Tensor, Tensor]) -> None:
    model, x, _ = case
    activations = model.neurons(x)
    assert_close(Saliency(model).attribute(x), saliency(model.whole, x))
    assert_close(Saliency(model).attribute(x, abs=False), derivative(model.whole, x))
    assert_close(InputXGradient(model).attribute(x), gradient_x_input(model.whole, x))
    at_layer = LayerGradientXActivation(model, model.layer).attribute(x)
    assert_close(at_layer, gradient_x_input(model.score, activations))
    plain = LayerGradientXActivation(model, model.layer, multiply_by_inputs=False).attribute(x)
    assert_close(plain, derivative(model.score, activations))
    neuron = NeuronGradient(model, model.layer).attribute(x, (2, 0))
    assert_close(neuron, derivative(lambda p: model.neurons(p)[:, 2, 0], x))


@settings(max_examples=12, deadline=None, derandomize=True)
@given(cases(), st.booleans())
def test_grad_cam(case: tuple[Network, Tensor, Tensor], relu: bool) -> None:
    model, x, _ = case
    result = LayerGradCam(model, model.layer).attribute(x, relu_attributions=relu)
    assert_close(result, grad_cam(model.neurons, model.score, x, relu))


@settings(max_examples=5, deadline=None, derandomize=True)
@given(cases())
def test_integrals_along_the_path(case: tuple[Network, Tensor, Tensor]) -> None:
    """The references by a fine midpoint rule, which is at most this far from the integral."""
    model, x, baseline = case
    parts = (model.neurons, model.score, x, baseline)
    influence = InternalInfluence(model, model.layer).attribute(x, baseline)
    assert_close(influence, internal_influence(*parts, steps=30), 4e-3)
    conductance = LayerConductance(model, model.layer).attribute(x, baseline, n_steps=800, method="riemann_trapezoid")
    assert_close(conductance, layer_conductance(*parts, steps=30), 1e-2)
    neuron = NeuronConductance(model, model.layer).attribute(x, (1, 0), baseline, method="gausslegendre")
    assert_close(neuron, neuron_conductance(*parts, neuron=(1, 0), steps=30), 4e-3)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(cases())
def test_conductance_is_complete(case: tuple[Network, Tensor, Tensor]) -> None:
    """A layer's neurons share the change of the output, the inputs share each neuron's conductance."""
    model, x, baseline = case
    layer = LayerConductance(model, model.layer).attribute(x, baseline, n_steps=800, method="riemann_trapezoid")
    assert_close(layer.sum((1, 2)), model.whole(x) - model.whole(baseline), 1e-2)
    neurons = [
        NeuronConductance(model, model.layer).attribute(x, (channel, place), baseline, method="gausslegendre")
        for channel in range(layer.shape[1])
        for place in range(layer.shape[2])
    ]
    by_neuron = torch.stack([part.sum((1, 2)) for part in neurons], 1)
    assert_close(by_neuron, layer.flatten(1), 1e-2)
    every = NeuronConductance(model, model.layer).attribute(
        x, (slice(None), slice(None)), baseline, method="gausslegendre"
    )
    assert_close(every, sum(neurons), 1e-9)


@pytest.mark.parametrize("slope", [2.0, -0.5])
def test_a_linear_layer_by_hand(slope: float) -> None:
    """With f = slope * sum of u and u = W x, the conductance of neuron j for input i is `slope W_ji (x_i - b_i)`."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    def forward(x: Tensor) -> Tensor:
        return slope * layer(x).sum(1)

    x, baseline = torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0, 1.0]])
    neuron = NeuronConductance(forward, layer).attribute(x, 1, baseline, method="riemann_middle")
    torch.testing.assert_close(neuron, slope * torch.tensor([[6.0, 16.0]]))
    total, delta = LayerConductance(forward, layer).attribute(
        x, baseline, method="riemann_trapezoid", return_convergence_delta=True
    )
    torch.testing.assert_close(total, slope * torch.tensor([[10.0, 22.0]]))
    torch.testing.assert_close(delta, torch.zeros(1), atol=1e-4, rtol=0)
