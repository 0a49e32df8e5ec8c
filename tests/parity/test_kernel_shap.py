"""KernelShap comes to what the installed Captum's converges to, with far fewer evaluations."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr.attr import KernelShap, ShapleyValues
from tests.parity.models import TwoInputs, cnn, made, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import KernelShap as CaptumKernelShap


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MLP = made(mlp())


def one_number(x: Tensor) -> Tensor:
    return MLP(x).sum()


CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "mlp": (made(mlp()), random(2, 4), {"target": 1}),
    "a target for each": (made(mlp()), random(2, 4), {"target": [0, 2], "baselines": random(1, 4, seed=3)}),
    "cnn": (made(cnn()), random(1, 2, 5, 5), {"target": 0, "feature_mask": torch.arange(5)[None, None, None]}),
    "two inputs": (
        made(TwoInputs()),
        (random(1, 4), random(1, 2, 3, seed=1)),
        {"target": 3, "feature_mask": (torch.tensor([[0, 1, 1, 2]]), torch.tensor([[[3, 3, 4]]]))},
    ),
    "one number for the batch": (one_number, random(2, 4), {}),
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case", CASES)
def test_captum_converges_to_it(case: str) -> None:
    forward, inputs, options = CASES[case]
    per_call = 1 if forward is one_number else 250
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = CaptumKernelShap(forward).attribute(inputs, n_samples=3000, perturbations_per_eval=per_call, **options)
    found = KernelShap(forward).attribute(inputs, n_samples=32, **options)
    exact = ShapleyValues(forward).attribute(inputs, **options)
    pairs = zip(found, want, exact, strict=True) if isinstance(found, tuple) else [(found, want, exact)]
    for ours, theirs, true in pairs:
        assert ours.shape == theirs.shape
        torch.testing.assert_close(ours, true, atol=1e-10, rtol=0)
        torch.testing.assert_close(ours, theirs.double(), atol=0.05 * true.abs().max().item(), rtol=0)


def test_the_coefficients_alone() -> None:
    forward, inputs, options = CASES["cnn"]
    found = KernelShap(forward).attribute(inputs, return_input_shape=False, n_samples=32, **options)
    theirs = CaptumKernelShap(forward).attribute(inputs, return_input_shape=False, n_samples=32, **options)
    assert found.shape == theirs.shape == (1, 5)


def test_errors_and_budgets() -> None:
    forward, inputs = MLP, random(2, 4)
    values, errors = KernelShap(forward).attribute(inputs, target=1, n_samples=12, seed=0, return_stderr=True)
    assert values.shape == errors.shape == inputs.shape
    assert errors.isfinite().all()
    assert (errors > 0).all()
    sure = KernelShap(forward).attribute(inputs, target=1, n_samples=8, seed=0, until=1e-9)
    torch.testing.assert_close(sure, ShapleyValues(forward).attribute(inputs, target=1))


@pytest.mark.parametrize("features", [13, 40])
def test_a_default_call_takes_any_number_of_features(features: int) -> None:
    inputs, weights = random(2, features), random(features, seed=1)
    with pytest.warns(UserWarning, match=f"25 evaluations are fewer than two for each of the {features} features"):
        found, errors = KernelShap(lambda x: x @ weights).attribute(inputs, seed=0, return_stderr=True)
    torch.testing.assert_close(found.sum(1), inputs @ weights)
    assert errors.isfinite().all()
    exact = inputs * weights
    equal = exact.mean(1, keepdim=True).expand_as(exact)
    assert (found - exact).norm() < (0.5 if features == 13 else 0.9) * (equal - exact).norm()
    assert ((found - exact).abs() <= 1.96 * errors).double().mean() > 0.9


def test_one_feature_and_a_seed_of_its_own() -> None:
    x = random(3, 1)
    torch.testing.assert_close(KernelShap(lambda x: x[:, 0] ** 2).attribute(x), x**2)
    before = torch.get_rng_state()
    first = KernelShap(MLP).attribute(random(2, 4), target=0, n_samples=12, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(KernelShap(MLP).attribute(random(2, 4), target=0, n_samples=12, seed=3), first)
    KernelShap(MLP).attribute(random(2, 4), target=0, n_samples=12)
    assert not torch.equal(torch.get_rng_state(), before)
