"""Occlusion equals the installed Captum's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_attr.attr import Ledger, Occlusion
from llm_attr.errors import InvalidShape, InvalidValue
from tests.parity.cases import assert_equal, captums, random
from tests.parity.game_cases import IMAGE, X
from tests.parity.models import made, mlp

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_same(result: Any, expected: Any) -> None:
    """Captum's answer is in single precision, whatever the output is."""
    single = tuple(part.float() for part in result) if isinstance(result, tuple) else result.float()
    assert_equal(single, expected)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_equal_on_random_windows(data: st.DataObject) -> None:
    inputs, windows, strides = [], [], []
    for seed in range(data.draw(st.integers(1, 2))):
        shape = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
        window = [data.draw(st.integers(1, size)) for size in shape]
        windows.append(tuple(window))
        strides.append(tuple(data.draw(st.integers(1, size)) for size in window))
        inputs.append(random(2, *shape, seed=seed))

    def forward(*parts: Tensor) -> Tensor:
        sums = [(torch.linspace(-1, 1, x[0].numel()) * x.flatten(1)).sum(1) for x in parts]
        return torch.stack(sums).sum(0).exp()

    options = {"strides": tuple(strides)}
    expected = captums("Occlusion", lambda m: m.attribute(tuple(inputs), tuple(windows), **options), forward)
    assert_same(Occlusion(forward).attribute(tuple(inputs), tuple(windows), **options), expected)


def test_the_windows_come_in_the_same_order() -> None:
    seen: dict[str, list[Any]] = {"ours": [], "theirs": []}

    def watched(who: str) -> Callable[[Tensor, Tensor], Tensor]:
        def forward(x: Tensor, y: Tensor) -> Tensor:
            seen[who].append((x.tolist(), y.tolist()))
            return x.flatten(1).sum(1) + y.sum(1)

        return forward

    inputs, windows, strides = (IMAGE[:1], X[:1]), ((1, 2, 3), (2,)), ((1, 2, 1), 1)
    Occlusion(watched("ours")).attribute(inputs, windows, strides, perturbations_per_eval=1)
    captums("Occlusion", lambda m: m.attribute(inputs, windows, strides), watched("theirs"))
    assert seen["ours"] == seen["theirs"]


def test_inputs_without_axes_after_the_batch() -> None:
    """Captum fails on them, though it documents an empty window."""
    result = Occlusion(lambda x: x**2).attribute(X[:, 0], ())
    torch.testing.assert_close(result, X[:, 0] ** 2)


@pytest.mark.parametrize("per_call", [1, None])
def test_an_output_that_changes_its_shape(per_call: int | None) -> None:
    with pytest.raises(InvalidShape, match="must have the same shape whatever features are absent; got "):
        Occlusion(lambda x: x[x != 0]).attribute(X, (2,), perturbations_per_eval=per_call)


def test_a_ledger_is_of_one_game() -> None:
    calls: list[int] = []

    def forward(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.sum(1)

    ledger, method = Ledger(), Occlusion(forward)
    first = method.attribute(X, (2,), ledger=ledger)
    calls.clear()
    assert_equal(method.attribute(X, (2,), ledger=ledger), first)
    assert not calls
    for windows, strides in (((3,), None), ((2,), 2)):
        with pytest.raises(InvalidValue, match="holds the values of another game"):
            method.attribute(X, windows, strides, ledger=ledger)


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    Occlusion(made(mlp())).attribute(X, (2,), target=1, show_progress=True)
    assert "Occlusion attribution: 100%" in capsys.readouterr().err
