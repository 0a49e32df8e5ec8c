"""FeatureAblation equals the installed Captum's."""

from __future__ import annotations

import re
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.futures import Future

from llm_attr.attr import FeatureAblation
from llm_attr.core.problem import is_promise
from llm_attr.errors import InvalidShape, InvalidType
from tests.parity.cases import random, whole
from tests.parity.game_cases import ABLATION as CASES
from tests.parity.game_cases import AGGREGATES
from tests.parity.models import TwoInputs, made, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import FeatureAblation as CaptumFeatureAblation

PER_CALL = [1, 2, 7, None]


pytestmark = pytest.mark.usefixtures("one_thread")


def captum(forward: Callable[..., Any], inputs: Any, **options: Any) -> Any:
    """Captum's answer, by default with one coalition for each call: it takes fewer forms of masks with several."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CaptumFeatureAblation(forward).attribute(inputs, **options)


def assert_equal_to_captum(
    forward: Callable[..., Any], inputs: Any, per_calls: Sequence[int | None] = PER_CALL, **options: Any
) -> None:
    expected = captum(forward, inputs, **options)
    for per_call in per_calls:
        assert_equal(FeatureAblation(forward).attribute(inputs, perturbations_per_eval=per_call, **options), expected)


def assert_equal(result: Any, expected: Any) -> None:
    assert type(result) is type(expected)
    torch.testing.assert_close(result, expected, rtol=1e-8, atol=1e-8)


X, Y = random(3, 4), random(3, 2, 3, seed=1)


@pytest.mark.parametrize("name", AGGREGATES)
def test_several_coalitions_need_an_output_that_grows(name: str) -> None:
    forward, inputs, options = AGGREGATES[name]
    with pytest.raises(AssertionError):
        captum(forward, inputs, perturbations_per_eval=2, **options)
    with pytest.raises(InvalidShape, match=r"must grow with its batch.*perturbations_per_eval=1 or None"):
        FeatureAblation(forward).attribute(inputs, perturbations_per_eval=2, **options)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(0, 999),
    st.booleans(),
)
def test_equal_on_random_shapes_and_masks(batch: int, shape: list[int], seed: int, per_example: bool) -> None:
    x, y = random(batch, *shape, seed=seed), random(batch, *shape, seed=seed + 1)
    weights = random(*shape, seed=seed + 2)
    masks = tuple(whole(4, batch if per_example else 1, *shape, low=-2, seed=seed + i) for i in (3, 4))

    def forward(x: Tensor, y: Tensor) -> Tensor:
        return (weights * x * y.tanh()).reshape(len(x), -1).sum(1).exp()

    assert_equal_to_captum(forward, (x, y), feature_mask=masks, baselines=(0.5, y.flip(-1)))


def promised(forward: Callable[..., Tensor]) -> tuple[Callable[..., Future], Callable[[], None]]:
    """The forward function as one that gives promises, and what keeps them, from another thread."""
    pending: list[Callable[[], None]] = []

    def promise(*args: Any) -> Future:
        future: Future = Future()
        pending.append(lambda: future.set_result(forward(*args)))
        return future

    def keep() -> None:
        thread = threading.Thread(target=lambda: [one() for one in reversed(pending)])
        thread.start()
        thread.join()

    return promise, keep


@pytest.mark.parametrize("per_call", [1, 2, 7, None])
@pytest.mark.parametrize(
    "name", ["mlp", "mlp, one tuple", "mlp, all outputs", "encoder", "two inputs, shared features per example"]
)
def test_promises(name: str, per_call: int | None) -> None:
    forward, inputs, options = CASES[name]
    promise, keep = promised(forward)
    future = FeatureAblation(promise).attribute_future(inputs, perturbations_per_eval=per_call, **options)
    assert is_promise(future)
    assert not future.done()
    keep()
    assert_equal(future.wait(), captum(forward, inputs, **options))


def test_promises_of_one_answer_for_the_batch() -> None:
    promise, keep = promised(lambda x: x.square().sum(0))
    future = FeatureAblation(promise).attribute_future(X)
    all_refused = [FeatureAblation(promise).attribute_future(X, perturbations_per_eval=size) for size in (2, 3, 4)]
    keep()
    torch.testing.assert_close(future.wait(), captum(lambda x: x.square().sum(0), X))
    for refused in all_refused:
        with pytest.raises(RuntimeError, match=r"InvalidShape: .*does not grow with its batch"):
            refused.wait()


def test_promises_of_one_answer_are_refused_also_where_the_numbers_work_out() -> None:
    """Three features and the whole are two calls of two, and four numbers are two for each."""
    promise, keep = promised(lambda x: torch.cat([x.sum(0), x.sum().view(1)]))
    refused = FeatureAblation(promise).attribute_future(X[:, :3], perturbations_per_eval=2)
    keep()
    with pytest.raises(RuntimeError, match=r"InvalidShape: .*does not grow with its batch"):
        refused.wait()


def test_promises_show_progress_and_close_the_bar(capsys: pytest.CaptureFixture[str]) -> None:
    promise, keep = promised(made(mlp()))
    future = FeatureAblation(promise).attribute_future(X, target=1, show_progress=True)
    keep()
    future.wait()
    assert "Feature Ablation attribution: 100%" in capsys.readouterr().err


def test_promises_and_answers_are_not_mixed() -> None:
    with pytest.raises(InvalidType, match="use attribute_future"):
        FeatureAblation(promised(made(mlp()))[0]).attribute(X, target=1)
    with pytest.raises(InvalidType, match=r"use attribute$"):
        FeatureAblation(made(mlp())).attribute_future(X, target=1, show_progress=True)


@pytest.mark.parametrize("per_call", PER_CALL)
def test_progress(per_call: int | None, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"target": 1, "show_progress": True}
    captum(made(mlp()), X, **options)
    shown = re.findall(r"[\w ]+: 100%", capsys.readouterr().err)
    FeatureAblation(made(mlp())).attribute(X, perturbations_per_eval=per_call, **options)
    out, err = capsys.readouterr()
    assert shown[-1] in err
    assert "Feature Ablation attribution: 100%" in err
    assert out == ""
    FeatureAblation(made(mlp())).attribute(X, target=1)
    assert capsys.readouterr().err == ""


def test_the_same_calls_for_an_int() -> None:
    calls: dict[str, list[int]] = {"ours": [], "theirs": []}

    def counted(who: str) -> Callable[[Tensor, Tensor], Tensor]:
        def forward(x: Tensor, y: Tensor) -> Tensor:
            calls[who].append(len(x))
            return made(TwoInputs())(x, y)

        return forward

    for per_call in (1, 3, 4, 100):
        FeatureAblation(counted("ours")).attribute((X, Y), target=1, perturbations_per_eval=per_call)
        captum(counted("theirs"), (X, Y), target=1, perturbations_per_eval=per_call)
        assert calls["ours"] == calls["theirs"]
