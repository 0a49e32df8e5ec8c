"""Stochastic gates: Captum's numbers, the formulas, what they learn, and bad input."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_attr.module as ours
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownName
from llm_attr.module import BinaryConcreteStochasticGates, GaussianStochasticGates, StochasticGatesBase

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.module as theirs

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ["BinaryConcreteStochasticGates", "GaussianStochasticGates"]
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "BinaryConcreteStochasticGates": [
        {}, {"temperature": 0.3}, {"lower_bound": -0.4, "upper_bound": 1.3}, {"eps": 0.01},
        *({"reg_reduction": name, "reg_weight": 0.3} for name in ("sum", "mean", "none")),
    ],
    "GaussianStochasticGates": [
        {}, {"std": 0.2}, *({"reg_reduction": name, "reg_weight": 0.3} for name in ("sum", "mean", "none"))
    ],
}  # fmt: skip
MASKS = [
    (4, None, (3, 4)),
    (8, None, (3, 2, 4)),
    (3, torch.tensor([0, 0, 1, 2]), (3, 4)),
    (3, torch.tensor([[0, 0], [1, 2]]), (3, 2, 2)),
    (3, torch.tensor([0, 1, 2]), (3, 5, 3)),
]


def run(library: Any, kind: str, gates: int, mask: Tensor | None, x: Tensor, options: dict[str, Any]) -> list[Tensor]:
    torch.manual_seed(1)
    layer = getattr(library, kind)(gates, mask, **options).double()
    found = [*layer(x)]
    found[0].sum().backward()
    found += [parameter.grad for parameter in layer.parameters()]
    layer.eval()
    found += [*layer(x), layer.get_gate_values(), layer.get_gate_values(clamp=False), layer.get_gate_active_probs()]
    return [each.detach() for each in (*found, *layer.state_dict().values(), torch.get_rng_state())]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_captum(kind: str) -> None:
    for gates, mask, shape in MASKS:
        x = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        for options in OPTIONS[kind]:
            result, expected = (run(library, kind, gates, mask, x, options) for library in (ours, theirs))
            for got, want in zip(result, expected, strict=True):
                torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_captums_documented_usage(kind: str) -> None:
    n_params = 5
    stg = getattr(ours, kind)(n_params, reg_weight=0.01)
    gated_inputs, reg = stg(torch.randn(3, n_params))
    assert gated_inputs.shape == (3, n_params)
    assert 0 < reg.item() < 0.05


def test_states_load_in_both_directions() -> None:
    mask = torch.tensor([0, 1, 1])
    for kind in KINDS:
        mine, captums = getattr(ours, kind)(2, mask), getattr(theirs, kind)(2, mask)
        mine.load_state_dict(captums.state_dict())
        captums.load_state_dict(mine.state_dict())


@pytest.mark.parametrize("kind", [BinaryConcreteStochasticGates, GaussianStochasticGates])
def test_the_penalty_is_the_share_of_draws_that_are_open(kind: type[StochasticGatesBase]) -> None:
    torch.manual_seed(0)
    gates = kind(4)
    with torch.no_grad():
        next(gates.parameters()).copy_(torch.tensor([-1.5, -0.5, 0.1, 1.0]))
    drawn = gates(torch.ones(20_000, 4))[0]
    assert ((drawn >= 0) & (drawn <= 1)).all()
    torch.testing.assert_close((drawn > 0).float().mean(0), gates.get_gate_active_probs(), rtol=0, atol=0.02)


def test_evaluation_draws_nothing() -> None:
    for kind in (BinaryConcreteStochasticGates, GaussianStochasticGates):
        gates, before = kind(3).eval(), torch.get_rng_state()
        x = torch.ones(2, 3)
        assert torch.equal(gates(x)[0], gates(x)[0])
        assert torch.equal(torch.get_rng_state(), before)
        assert not gates.get_gate_values().requires_grad
    probability = GaussianStochasticGates(1, std=0.5).get_gate_active_probs()
    assert probability.item() == pytest.approx(0.5 * (1 + math.erf(1 / math.sqrt(2))), abs=0.02)


@pytest.mark.parametrize("kind", [BinaryConcreteStochasticGates, GaussianStochasticGates])
def test_the_features_of_a_linear_model_are_found(kind: type[StochasticGatesBase]) -> None:
    """Three of eight groups carry the answer; the gates of the others close."""
    torch.manual_seed(0)
    mask = torch.arange(16) // 2
    weights = torch.zeros(16)
    weights[[0, 5, 11]] = torch.tensor([2.0, -1.5, 1.0])
    x = torch.randn(256, 16)
    y = x @ weights
    gates, head = kind(8, mask=mask, reg_weight=0.05), torch.nn.Linear(16, 1)
    learner = torch.optim.Adam([*gates.parameters(), *head.parameters()], lr=0.05)
    for _ in range(300):
        gated, penalty = gates(x)
        loss = (head(gated).squeeze(1) - y).square().mean() + penalty
        learner.zero_grad()
        loss.backward()
        learner.step()
    opened = gates.get_gate_active_probs() > 0.5
    assert opened.nonzero().flatten().tolist() == [0, 2, 5]


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "a mask with holes": ({"n_gates": 4, "mask": torch.tensor([0, 0, 1, 3])}, InvalidValue, r"without \[2\]"),
    "a mask of too many gates": ({"n_gates": 2, "mask": torch.tensor([0, 1, 2])}, InvalidValue, "up to 2"),
    "a negative gate": ({"n_gates": 2, "mask": torch.tensor([-1, 0, 1])}, InvalidValue, "0 to 1"),
    "a mask of fractions": ({"n_gates": 2, "mask": torch.tensor([0.0, 1.0])}, InvalidType, "whole numbers"),
    "a mask that is a list": ({"n_gates": 2, "mask": [0, 1]}, InvalidType, "list"),
    "no gates": ({"n_gates": 0}, InvalidValue, "n_gates"),
    "a reduction": ({"n_gates": 2, "reg_reduction": "max"}, UnknownName, "sum, mean, none"),
    "a temperature": ({"n_gates": 2, "temperature": 0.0}, InvalidValue, "temperature"),
    "a lower bound": ({"n_gates": 2, "lower_bound": 0.1}, InvalidValue, "below 0"),
    "an upper bound": ({"n_gates": 2, "upper_bound": 0.9}, InvalidValue, "above 1"),
    "an epsilon": ({"n_gates": 2, "eps": 0.7}, InvalidValue, "eps"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_gates_have_their_own_error(case: str) -> None:
    made, error, message = BAD[case]
    with pytest.raises(error, match=message):
        BinaryConcreteStochasticGates(**made)


def test_bad_inputs_have_their_own_error() -> None:
    with pytest.raises(InvalidValue, match="std"):
        GaussianStochasticGates(2, std=0)
    with pytest.raises(InvalidShape, match="batch"):
        GaussianStochasticGates(2)(torch.ones(2))
    with pytest.raises(InvalidShape, match="one element for each of the 2 gates"):
        GaussianStochasticGates(2)(torch.ones(1, 3))
    with pytest.raises(InvalidShape, match="broadcast"):
        GaussianStochasticGates(2, mask=torch.tensor([0, 1]))(torch.ones(1, 3))
