"""The gradient family of Captum's published READMEs (CAPTUM_CONTRACT.md 1.4), in their order, to the printed digit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import (
    DeepLift,
    DeepLiftShap,
    GradientShap,
    IntegratedGradients,
    LayerConductance,
    NeuronConductance,
    NoiseTunnel,
)


class ToyModel(nn.Module):
    """As in the READMEs."""

    def __init__(self) -> None:
        super().__init__()
        self.lin1, self.relu, self.lin2 = nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)
        self.lin1.weight = nn.Parameter(torch.arange(-4.0, 5.0).view(3, 3))
        self.lin1.bias = nn.Parameter(torch.zeros(1, 3))
        self.lin2.weight = nn.Parameter(torch.arange(-3.0, 3.0).view(2, 3))
        self.lin2.bias = nn.Parameter(torch.ones(1, 2))

    def forward(self, input: Tensor) -> Tensor:
        return self.lin2(self.relu(self.lin1(input)))


@pytest.fixture(autouse=True)
def streams() -> Iterator[None]:
    """The global streams are given back as they were."""
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)


def printed(tensor: Tensor, expected: list, digits: int = 4) -> None:
    torch.testing.assert_close(tensor, torch.tensor(expected), rtol=0, atol=0.501 * 10**-digits)


def test_the_blocks_in_their_order() -> None:
    model = ToyModel().eval()
    torch.manual_seed(123)
    np.random.seed(123)
    input, baseline = torch.rand(2, 3), torch.zeros(2, 3)

    ig = IntegratedGradients(model)
    attributions, delta = ig.attribute(input, baseline, target=0, return_convergence_delta=True)
    integrated = [[-0.5922, -1.5497, -1.0067], [0.0000, -0.2219, -5.1991]]
    printed(attributions, integrated)
    assert delta.shape == (2,)
    assert delta.abs().max() < 1e-6

    gs = GradientShap(model)
    baseline_dist = torch.randn(10, 3) * 0.001
    attributions, delta = gs.attribute(
        input, stdevs=0.09, n_samples=4, baselines=baseline_dist, target=0, return_convergence_delta=True
    )
    printed(attributions, [[-0.1542, -1.6229, -1.5835], [-0.3916, -0.2836, -4.6851]])
    printed(delta, [0.0000, -0.0005, -0.0029, -0.0084, -0.0087, -0.0405, 0.0000, -0.0084])

    dl = DeepLift(model)
    attributions, delta = dl.attribute(input, baseline, target=0, return_convergence_delta=True)
    printed(attributions, integrated)
    assert delta.tolist() == [0, 0]

    dl = DeepLiftShap(model)
    attributions, delta = dl.attribute(input, baseline_dist, target=0, return_convergence_delta=True)
    printed(attributions, [[-0.58452, -1.5447, -1.0094], [0.00065, -0.22256, -5.1892]])
    assert delta.shape == (20,)
    assert delta.abs().max() < 1e-6

    nt = NoiseTunnel(ig)
    attributions, delta = nt.attribute(
        input,
        nt_type="smoothgrad",
        stdevs=0.02,
        nt_samples=4,
        baselines=baseline,
        target=0,
        return_convergence_delta=True,
    )
    printed(attributions, [[-0.4574, -1.5493, -1.0893], [0.0000, -0.2647, -5.1619]])
    assert delta.shape == (8,)
    assert delta.abs().max() < 1e-6

    nc = NeuronConductance(model, model.lin1)
    attributions = nc.attribute(input, neuron_selector=1, target=0)
    printed(attributions, [[0.0000, 0.0000, 0.0000], [1.3358, 0.0000, -1.6811]])

    lc = LayerConductance(model, model.lin1)
    attributions, delta = lc.attribute(input, baselines=baseline, target=0, return_convergence_delta=True)
    printed(attributions, [[0.0000, 0.0000, -3.1452], [0.0000, -0.3555, -5.0596]])
    printed(delta, [0.0034, 0.0059])
    attributions, delta = lc.attribute(
        input, baselines=baseline, target=0, method="riemann_trapezoid", n_steps=50, return_convergence_delta=True
    )
    printed(attributions, [[0.0000, 0.0000, -3.0856], [0.0000, -0.3488, -4.9638]])
    printed(delta, [0.0630, 0.1084])


def test_old_spellings() -> None:
    """The same blocks with the keywords of the older READMEs."""
    model = ToyModel().eval()
    torch.manual_seed(123)
    np.random.seed(123)
    input, baseline = torch.rand(2, 3), torch.zeros(2, 3)
    torch.randn(10, 3)
    torch.normal(0.0, torch.full((8, 3), 0.09))
    nt = NoiseTunnel(IntegratedGradients(model))
    with pytest.warns(DeprecationWarning, match="n_samples= is now nt_samples="):
        attributions, delta = nt.attribute(
            input,
            nt_type="smoothgrad",
            stdevs=0.02,
            n_samples=4,
            baselines=baseline,
            target=0,
            return_convergence_delta=True,
        )
    printed(attributions, [[-0.4574, -1.5493, -1.0893], [0.0000, -0.2647, -5.1619]])
    assert delta.shape == (8,)
    with pytest.warns(DeprecationWarning, match="neuron_index= is now neuron_selector="):
        attributions = NeuronConductance(model, model.lin1).attribute(input, neuron_index=1, target=0)
    printed(attributions, [[0.0000, 0.0000, 0.0000], [1.3358, 0.0000, -1.6811]])
