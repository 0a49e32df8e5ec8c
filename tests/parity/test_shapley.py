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
from tests.parity.models import LSTM, Encoder, TwoInputs, cnn, made, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr as captum


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(high: int, *shape: int, low: int = 0, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


pytestmark = pytest.mark.usefixtures("one_thread")


X, Y, IMAGE, SERIES, IDS = random(3, 4), random(3, 2, 3, seed=1), random(2, 2, 5, 5), random(3, 4, 3), whole(11, 3, 5)
PADDING = torch.arange(5)[None] >= torch.tensor([[5], [3], [4]])
PATCHES = (torch.arange(5)[:, None] // 3 * 2 + torch.arange(5) // 3)[None, None]
PAIR_MASK = (torch.tensor([[0, 1, 1, 2]]), torch.tensor([[[2, 3, 3], [3, 1, 1]]]))

CASES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "mlp": (made(mlp()), X, {"target": 1}),
    "mlp, targets": (made(mlp()), X, {"target": torch.tensor([0, 2, 1])}),
    "mlp, list": (made(mlp()), X, {"target": [0, 2, 1]}),
    "mlp, tuple": (made(mlp()), (X,), {"target": 1}),
    "mlp, one example": (made(mlp()), X[:1], {"target": 1}),
    "mlp, all outputs": (made(mlp()), X, {}),
    "mlp, number as baseline": (made(mlp()), X, {"target": 1, "baselines": 0.3}),
    "mlp, baselines": (made(mlp()), X, {"target": 1, "baselines": random(3, 4, seed=5)}),
    "mlp, one baseline": (made(mlp()), X, {"target": 1, "baselines": random(1, 4, seed=5)}),
    "mlp, mask": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[0, 1, 1, 2]])}),
    "mlp, one feature": (made(mlp()), X, {"target": 1, "feature_mask": torch.zeros(1, 4).long()}),
    "cnn, patches": (made(cnn()), IMAGE, {"target": 2, "feature_mask": PATCHES}),
    "cnn, channels, all outputs": (made(cnn()), IMAGE, {"feature_mask": torch.arange(2).view(1, 2, 1, 1)}),
    "lstm, steps": (made(LSTM()), SERIES, {"target": 0, "feature_mask": torch.arange(4).view(1, 4, 1)}),
    "encoder": (made(Encoder()), IDS, {"target": (4, 1), "additional_forward_args": PADDING}),
    "encoder, more arguments": (
        made(Encoder()),
        IDS,
        {"target": (0, 2), "additional_forward_args": (PADDING, 0.5, random(3, 5, 8)), "baselines": 7},
    ),
    "encoder, all outputs": (made(Encoder()), IDS, {"additional_forward_args": PADDING}),
    "two inputs, shared features": (
        made(TwoInputs()),
        (X, Y),
        {"target": 3, "feature_mask": PAIR_MASK, "baselines": (1, -1)},
    ),
    "two inputs, one argument": (
        made(TwoInputs()),
        (X, Y),
        {"target": [3, 0, 1], "feature_mask": PAIR_MASK, "additional_forward_args": 3.0},
    ),
    "a number for the batch": (lambda x: (x**2).sum() + x.prod(), X, {}),
    "numbers for the batch": (lambda x: torch.stack([x.sum(), x.prod(), x.exp().sum()]), X, {}),
    "one column": (lambda x: x.prod(1, keepdim=True), X, {}),
}
each_case = pytest.mark.parametrize(("forward", "inputs", "options"), CASES.values(), ids=CASES)


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


@each_case
@pytest.mark.parametrize("per_call", [None, 1, 3])
def test_values(forward: Callable[..., Any], inputs: Any, options: dict[str, Any], per_call: int | None) -> None:
    if per_call == 3 and not isinstance(forward, torch.nn.Module):
        pytest.skip("gives numbers for the batch")
    expected = asked(captum.ShapleyValues, forward, inputs, **options)
    assert_equal(ShapleyValues(forward).attribute(inputs, perturbations_per_eval=per_call, **options), expected)


@each_case
@pytest.mark.parametrize("n_samples", [1, 4])
def test_sampling(forward: Callable[..., Any], inputs: Any, options: dict[str, Any], n_samples: int) -> None:
    torch.manual_seed(7)
    expected = asked(captum.ShapleyValueSampling, forward, inputs, n_samples=n_samples, **options)
    state = torch.get_rng_state()
    torch.manual_seed(7)
    assert_equal(ShapleyValueSampling(forward).attribute(inputs, n_samples=n_samples, **options), expected)
    assert torch.equal(torch.get_rng_state(), state)


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
