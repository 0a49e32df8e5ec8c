"""ShapleyValues and ShapleyValueSampling equal the installed Captum's."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.futures import Future

from llm_attr.attr import ShapleyValues, ShapleyValueSampling
from llm_attr.core.game.ledger import Ledger
from tests.parity.cases import random
from tests.parity.game_cases import SHAPLEY as CASES

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr as captum


pytestmark = pytest.mark.usefixtures("one_thread")


def asked(method: Any, forward: Callable[..., Any], inputs: Any, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method(forward).attribute(inputs, **options)


def assert_equal(result: Any, expected: Any) -> None:
    """Captum answers in fp32 where there are several outputs."""
    assert type(result) is type(expected)
    if isinstance(expected, Tensor) and expected.dtype == torch.float32:
        torch.testing.assert_close(result.float(), expected, rtol=1e-4, atol=2e-6)
        return
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-9, check_dtype=False)


def promised(forward: Callable[..., Tensor]) -> Callable[..., Future[Tensor]]:
    def answer(*args: Any) -> Future[Tensor]:
        promise: Future[Tensor] = Future()
        promise.set_result(forward(*args))
        return promise

    return answer


@pytest.mark.parametrize(
    "name", ["mlp", "mlp, all outputs", "mlp, mask", "cnn, patches", "two inputs, shared features"]
)
@pytest.mark.parametrize("per_call", [None, 3])
def test_promises(name: str, per_call: int | None) -> None:
    forward, inputs, options = CASES[name]
    later = ShapleyValues(promised(forward)).attribute_future(inputs, perturbations_per_eval=per_call, **options)
    assert_equal(later.wait(), ShapleyValues(forward).attribute(inputs, **options))
    torch.manual_seed(3)
    now = ShapleyValueSampling(forward).attribute(inputs, n_samples=4, **options)
    state = torch.get_rng_state()
    torch.manual_seed(3)
    later = ShapleyValueSampling(promised(forward)).attribute_future(
        inputs, n_samples=4, perturbations_per_eval=per_call, **options
    )
    assert_equal(later.wait(), now)
    assert torch.equal(torch.get_rng_state(), state)


class Counted:
    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.rows += len(x)
        return x.tanh().prod(1)


def test_evaluations() -> None:
    x, model, ledger = random(1, 6), Counted(), Ledger()
    ShapleyValues(model).attribute(x, perturbations_per_eval=8)
    assert model.rows == 64
    ShapleyValues(model).attribute(x, ledger=ledger)
    assert ledger.evaluated == 64
    assert model.rows == 64 + 65
    model.rows = 0
    torch.manual_seed(0)
    orders = [torch.randperm(6).tolist() for _ in range(10)]
    visited = {frozenset(order[:k]) for order in orders for k in range(7)}
    torch.manual_seed(0)
    ShapleyValueSampling(model).attribute(x, n_samples=10, perturbations_per_eval=5)
    assert model.rows == len(visited)
    torch.manual_seed(0)
    captums = Counted()
    asked(captum.ShapleyValueSampling, captums, x, n_samples=10)
    assert captums.rows == 61


def test_no_features() -> None:
    x = torch.zeros(3, 0)
    for found in (
        ShapleyValues(lambda x: x.sum(1)).attribute(x),
        ShapleyValueSampling(lambda x: x.sum(1)).attribute(x),
    ):
        assert found.shape == (3, 0)
