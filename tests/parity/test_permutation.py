"""FeaturePermutation and LayerFeaturePermutation equal the installed Captum's, with the same draws."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.futures import Future

from llm_attr.attr import FeaturePermutation, LayerFeaturePermutation
from llm_attr.errors import InvalidShape, InvalidType
from tests.parity.cases import MOVED, assert_equal, captums, random
from tests.parity.game_cases import PERMUTATION as CASES
from tests.parity.models import made, mlp

pytestmark = pytest.mark.usefixtures("one_thread")


MLP = made(mlp())
X, Y = random(3, 4), random(3, 2, 3, seed=1)


def seeded(ask: Callable[[], Any]) -> tuple[Any, Tensor]:
    """The answer after a seed, and what the global stream gives next."""
    torch.manual_seed(3)
    return ask(), torch.rand(1)


def test_a_seed_leaves_the_global_stream_alone() -> None:
    method = FeaturePermutation(made(mlp()))
    first, after_first = seeded(lambda: method.attribute(X, target=1, seed=1))
    again, after_again = seeded(lambda: method.attribute(X, target=1, seed=1))
    other = method.attribute(X, target=1, seed=2)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    torch.manual_seed(3)
    assert after_first == after_again == torch.rand(1)


@pytest.mark.parametrize("name", ["mlp", "mlp, mask per example", "two inputs, shared features"])
def test_a_shuffle_of_ones_own(name: str) -> None:
    forward, inputs, options = CASES[name]
    calls: list[list[Any]] = [[], []]

    def rolled(number: int) -> Callable[[Tensor, Tensor], Tensor]:
        def shuffle(x: Tensor, mask: Tensor) -> Tensor:
            calls[number].append((x.tolist(), mask.tolist(), mask.dtype))
            return torch.where(mask, x.roll(1, 0), x)

        return shuffle

    expected = captums("FeaturePermutation", lambda m: m.attribute(inputs, **options), forward, perm_func=rolled(0))
    result = FeaturePermutation(forward, perm_func=rolled(1)).attribute(inputs, **options)
    assert_equal(result, expected, 1e-8)
    assert calls[0] == calls[1]


def test_only_the_feature_itself_is_taken_from_a_shuffle_of_ones_own() -> None:
    """Captum takes all that the function changes, the other features too."""
    whole_rows = FeaturePermutation(made(mlp()), lambda x, mask: x.flip(0)).attribute(X, target=1)
    only_it = FeaturePermutation(made(mlp()), lambda x, mask: torch.where(mask, x.flip(0), x)).attribute(X, target=1)
    torch.testing.assert_close(whole_rows, only_it)


def test_promises() -> None:
    pending: list[Callable[[], None]] = []

    def promise(x: Tensor) -> Future:
        future: Future = Future()
        pending.append(lambda: future.set_result(MLP(x).detach()))
        return future

    expected, _ = seeded(lambda: FeaturePermutation(MLP).attribute(X, target=1))
    future, _ = seeded(lambda: FeaturePermutation(promise).attribute_future(X, target=1))
    thread = threading.Thread(target=lambda: [keep() for keep in pending])
    thread.start()
    thread.join()
    assert_equal(future.wait(), expected, 1e-8)


@pytest.mark.parametrize(
    ("perm_func", "inputs", "error", "message"),
    [
        (None, X[:1], InvalidShape, r"at least 2 of them; got the shapes \[\(1, 4\)\]; FeatureAblation explains"),
        (lambda x, mask: x[:1], X, InvalidShape, r"must keep the shape \(3, 4\) of its input; got \(1, 4\)"),
        (lambda x, mask: None, X, InvalidType, "perm_func must give a tensor; got NoneType"),
    ],
)
def test_refused(perm_func: Any, inputs: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FeaturePermutation(made(mlp()), perm_func).attribute(inputs, target=1)


def test_layer_mask() -> None:
    case = MOVED["cnn"]
    module, _ = case.at("0")
    mask = torch.arange(3).view(1, 3, 1, 1)

    def selected(x: Tensor) -> Tensor:
        return case.model(x)[:, 2]

    expected, _ = seeded(
        lambda: captums(
            "LayerFeaturePermutation", lambda m: m.attribute(case.inputs, layer_mask=mask), selected, module
        )
    )
    method = LayerFeaturePermutation(case.model, module)
    result, _ = seeded(lambda: method.attribute(case.inputs, layer_mask=mask, target=2))
    assert_equal(result, expected, 1e-8)
    with pytest.raises(InvalidShape, match=r"layer_mask 0 must broadcast to its input of shape \(2, 3, .*got \(1, 7"):
        method.attribute(case.inputs, layer_mask=torch.zeros(1, 7, 1, 1), target=2)


def test_attributor() -> None:
    assert LayerFeaturePermutation(made(mlp()), torch.nn.Identity()).attributor is FeaturePermutation
