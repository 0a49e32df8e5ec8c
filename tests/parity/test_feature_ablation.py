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
from tests.parity.models import LSTM, Encoder, TwoInputs, cnn, made, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from captum.attr import FeatureAblation as CaptumFeatureAblation

PER_CALL = [1, 2, 7, None]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whole(high: int, *shape: int, low: int = 0, seed: int = 0) -> Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


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
IMAGE, SERIES, IDS = random(2, 2, 5, 5), random(3, 4, 3), whole(11, 3, 5)
PADDING = torch.arange(5)[None] >= torch.tensor([[5], [3], [4]])

CASES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "mlp": (made(mlp()), X, {"target": 1}),
    "mlp, target tensor": (made(mlp()), X, {"target": torch.tensor([0, 2, 1])}),
    "mlp, target tensor of one": (made(mlp()), X, {"target": torch.tensor([2])}),
    "mlp, target tensor of no axes": (made(mlp()), X, {"target": torch.tensor(2)}),
    "mlp, target list": (made(mlp()), X, {"target": [0, 2, 1]}),
    "mlp, target tuple": (made(mlp()), X, {"target": (1,)}),
    "mlp, negative target": (made(mlp()), X, {"target": -1}),
    "mlp, one tuple": (made(mlp()), (X,), {"target": 1}),
    "mlp, one example": (made(mlp()), X[:1], {"target": 1}),
    "mlp, no example": (made(mlp()), X[:0], {"target": 1}),
    "mlp, no feature": (lambda x: x.sum(1), X[:, :0], {}),
    "mlp, requires grad": (made(mlp()), X.clone().requires_grad_(), {"target": 1}),
    "mlp, all outputs": (made(mlp()), X, {}),
    "mlp, baseline number": (made(mlp()), X, {"target": 1, "baselines": 0.3}),
    "mlp, baseline int": (made(mlp()), X, {"target": 1, "baselines": 2}),
    "mlp, baseline tensor": (made(mlp()), X, {"target": 1, "baselines": random(3, 4, seed=5)}),
    "mlp, baseline row": (made(mlp()), X, {"target": 1, "baselines": random(1, 4, seed=5)}),
    "mlp, mask": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[0, 1, 1, 0]])}),
    "mlp, mask with gaps": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[7, -3, 100, 7]])}),
    "mlp, mask without batch": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([0, 1, 1, 2])}),
    "mlp, mask of floats": (made(mlp()), X, {"target": 1, "feature_mask": torch.tensor([[0.0, 1.0, 1.0, 2.0]])}),
    "mlp, mask per example": (made(mlp()), X, {"target": 1, "feature_mask": whole(3, 3, 4, low=-1)}),
    "mlp, one column, mask per example": (lambda x: x.prod(1, keepdim=True), X, {"feature_mask": whole(3, 3, 4)}),
    "one axis": (lambda x: x**2, X[:, 0], {}),
    "cnn": (made(cnn()), IMAGE, {"target": 2}),
    "cnn, mask over channels": (made(cnn()), IMAGE, {"target": 2, "feature_mask": whole(6, 1, 1, 5, 5)}),
    "cnn, mask per example": (made(cnn()), IMAGE, {"target": [2, 0], "feature_mask": whole(4, 2, 2, 5, 5)}),
    "cnn, strided": (made(cnn()), IMAGE.transpose(2, 3), {"target": 0, "baselines": IMAGE[:1]}),
    "lstm": (made(LSTM()), SERIES, {"target": 0}),
    "lstm, steps": (made(LSTM()), SERIES, {"target": 0, "feature_mask": torch.arange(4).view(1, 4, 1)}),
    "encoder": (made(Encoder()), IDS, {"target": (4, 1), "additional_forward_args": PADDING}),
    "encoder, more arguments": (
        made(Encoder()),
        IDS,
        {"target": (0, 2), "additional_forward_args": (PADDING, 0.5, random(3, 5, 8)), "baselines": 7},
    ),
    "encoder, an argument is None": (
        made(Encoder()),
        IDS,
        {"target": (0, 2), "additional_forward_args": (PADDING, 2, None)},
    ),
    "encoder, list of tuples": (
        made(Encoder()),
        IDS,
        {"target": [(0, 1), (2, 2), (1, 0)], "additional_forward_args": PADDING, "baselines": IDS.flip(1)},
    ),
    "encoder, a row of outputs": (made(Encoder()), IDS, {"target": 1, "additional_forward_args": PADDING}),
    "two inputs": (made(TwoInputs()), (X, Y), {"target": 3}),
    "two inputs, all outputs": (made(TwoInputs()), (X, Y), {}),
    "two inputs, baselines": (made(TwoInputs()), (X, Y), {"target": 3, "baselines": (0.5, random(1, 2, 3))}),
    "two inputs, baselines of each kind": (made(TwoInputs()), (X, Y), {"target": 3, "baselines": (X.flip(0), 1)}),
    "two inputs, shared features": (
        made(TwoInputs()),
        (X, Y),
        {"target": 3, "feature_mask": (torch.tensor([[0, 5, 5, 9]]), whole(3, 1, 2, 3)), "baselines": (1, -1)},
    ),
    "two inputs, shared features per example": (
        made(TwoInputs()),
        (X, Y),
        {"target": [3, 0, 1], "feature_mask": (whole(4, 3, 4), whole(5, 3, 2, 3))},
    ),
    "two inputs, one argument": (made(TwoInputs()), (X, Y), {"target": 0, "additional_forward_args": 3.0}),
    "whole numbers": (lambda x: x.double() @ X[:2].T, whole(9, 3, 4), {"target": 1}),
    "whole numbers, whole baseline": (lambda x: x.double() @ X[:2].T, whole(9, 3, 4), {"target": 1, "baselines": 4}),
    "whole numbers, half as baseline": (
        lambda x: x.double() @ X[:2].T,
        whole(9, 3, 4),
        {"target": 1, "baselines": 0.5},
    ),
    "truth values": (lambda x: x.double() @ X[:2].T, X > 0, {"target": 1}),
    "truth values, True": (lambda x: x.double() @ X[:2].T, X > 0, {"target": 1, "baselines": True}),
    "half precision": (lambda x: x.double() @ X[:2].T, X.half(), {"target": 1}),
    "whole outputs": (lambda x: (x @ X[:2].T * 10).long(), X, {"target": 1}),
}

AGGREGATES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "scalar": (lambda x: made(mlp())(x).sum(), X, {}),
    "vector": (lambda x: made(mlp())(x).sum(0), X, {}),
    "vector of one": (lambda x: made(mlp())(x).sum()[None], X, {}),
    "float": (lambda x: made(mlp())(x).sum().item(), X, {}),
    "int": (lambda x: int(made(mlp())(x).sum() * 100), X, {}),
    "scalar of two inputs": (
        lambda x, y: made(TwoInputs())(x, y).prod(),
        (X, Y),
        {"feature_mask": (torch.tensor([[1, 1, 2, 0]]), torch.tensor([2, 3, 3])), "baselines": (1, 2.5)},
    ),
    "matrix": (lambda x: x.T @ x, X[:, :2], {}),
}


@pytest.mark.parametrize("name", CASES)
def test_equal(name: str) -> None:
    forward, inputs, options = CASES[name]
    assert_equal_to_captum(forward, inputs, **options)


@pytest.mark.parametrize("name", AGGREGATES)
def test_one_answer_for_the_batch(name: str) -> None:
    forward, inputs, options = AGGREGATES[name]
    assert_equal_to_captum(forward, inputs, [1, None], **options)


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


def test_what_it_says_of_itself() -> None:
    ours, theirs = FeatureAblation(mlp()), CaptumFeatureAblation(mlp())
    assert ours.get_name() == theirs.get_name() == "Feature Ablation"
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()


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
