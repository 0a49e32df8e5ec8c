"""Windows: which positions are absent, and what they get."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llm_attr.core.estimators.windows_left_out import WindowsLeftOut
from llm_attr.core.game.driver import play
from llm_attr.core.game.windows import Windows, covering
from llm_attr.errors import InvalidShape, InvalidValue

X, Y = torch.zeros(2, 5), torch.zeros(2, 3, 4)


def spans(size: int, window: int, stride: int) -> list[range]:
    """The definition: from 0 on, a stride apart, until the axis is covered."""
    found, start = [], 0
    while True:
        found.append(range(start, min(size, start + window)))
        if start + window >= size:
            return found
        start += stride


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.data())
def test_windows_along_an_axis(size: int, data: st.DataObject) -> None:
    window = data.draw(st.integers(1, size))
    stride = data.draw(st.integers(1, window))
    found = covering(size, window, stride)
    assert [[i for i in range(size) if over[i]] for over in found.T] == [list(s) for s in spans(size, window, stride)]
    assert found.any(1).all()


@st.composite
def drawn(draw: st.DrawFn) -> tuple[list[Tensor], list[list[Any]], list[list[Any]]]:
    inputs, shapes, strides = [], [], []
    for _ in range(draw(st.integers(1, 2))):
        sizes = draw(st.lists(st.integers(1, 5), max_size=3))
        shapes.append([draw(st.integers(1, size)) for size in sizes])
        strides.append([draw(st.integers(1, size)) for size in shapes[-1]])
        inputs.append(torch.zeros(2, *sizes))
    return inputs, shapes, strides


@settings(max_examples=60, deadline=None, derandomize=True)
@given(drawn(), st.integers(0, 9999))
def test_positions_are_absent_with_any_window_and_get_the_mean(case: Any, seed: int) -> None:
    inputs, shapes, strides = case
    windows = Windows.of(shapes, strides, tuple(inputs))
    boxes = []
    for which, (x, shape, stride) in enumerate(zip(inputs, shapes, strides, strict=True)):
        axes = [spans(*axis) for axis in zip(x.shape[1:], shape, stride, strict=True)]
        boxes += [(which, box[::-1]) for box in product(*reversed(axes))]
    assert windows.count == len(boxes)
    generator = torch.Generator().manual_seed(seed)
    coalitions = torch.rand(4, windows.count, generator=generator) < 0.7
    values = torch.randn(windows.count, 3, generator=generator, dtype=torch.float64)
    spread = windows.spread(values)
    for which, x in enumerate(inputs):
        present = windows.present(coalitions, which, x.device).expand(4, *x[:1].shape)[:, 0]
        for place in product(*map(range, x.shape[1:])):
            over = [
                number
                for number, (input_, box) in enumerate(boxes)
                if input_ == which and all(i in span for i, span in zip(place, box, strict=True))
            ]
            assert torch.equal(present[(slice(None), *place)], coalitions[:, over].all(1))
            torch.testing.assert_close(spread[which][(slice(None), *place)], values[over].mean(0))


def test_axes_of_one_window_are_not_spread_out() -> None:
    windows = Windows.of((3, 2), None, (Y,))
    assert windows.present(torch.ones(7, 3, dtype=torch.bool), 0, Y.device).shape == (7, 1, 1, 4)
    assert windows.spread(torch.zeros(3, 2))[0].shape == (2, 3, 4)


def test_a_value_that_is_no_number_stays_with_its_windows() -> None:
    values = torch.tensor([1.0, torch.nan, 2.0, torch.inf])
    (spread,) = Windows.of((2,), None, (X,)).spread(values[:, None])
    assert spread[0].isnan().tolist() == [False, True, True, False, False]
    assert spread[0, 0] == 1
    assert spread[0, 4] == torch.inf


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [(torch.float16, torch.float16), (torch.bfloat16, torch.bfloat16), (torch.int64, torch.float32)],
)
def test_types(dtype: torch.dtype, expected: torch.dtype) -> None:
    (spread,) = Windows.of((2,), None, (X,)).spread(torch.tensor([[1], [2], [4], [8]], dtype=dtype))
    assert spread.dtype == expected
    assert spread.tolist() == [[1, 1.5, 3, 6, 8]]


@pytest.mark.parametrize(
    ("shapes", "strides", "inputs", "expected"),
    [
        ((2,), None, (X,), [4]),
        (2, 2, (X,), [3]),
        (((2,),), ((2,),), (X,), [3]),
        ([2], [2], (X,), [3]),
        ((), None, (torch.zeros(4),), [1]),
        ((3, 4), 9, (Y,), [1]),
        ((2, 2), (1, 2), (Y,), [4]),
        (((5,), (3, 2)), None, (X, Y), [1, 3]),
        (((2,), (2, 2)), (2, (1, 2)), (X, Y), [3, 4]),
        (2, 1, (X, Y), [4, 6]),
        ((1, 2), None, (X, Y), [5, 6]),
    ],
)
def test_forms(shapes: Any, strides: Any, inputs: tuple[Tensor, ...], expected: list[int]) -> None:
    assert Windows.of(shapes, strides, inputs).count == sum(expected)


@pytest.mark.parametrize(
    ("shapes", "strides", "inputs", "error", "message"),
    [
        ((6,), None, (X,), InvalidValue, "a window of 6 does not fit into an axis of size 5"),
        ((0,), None, (X,), InvalidValue, r"the window of input 0 must be whole numbers of at least 1; got \(0,\)"),
        ((1.5,), None, (X,), InvalidValue, "whole numbers of at least 1"),
        ((True,), None, (X,), InvalidValue, "whole numbers of at least 1"),
        (None, None, (X,), InvalidValue, "whole numbers of at least 1; got None"),
        ((2, 2), None, (X,), InvalidShape, r"one number for each of its 1 axes after the batch, \(5,\); got \(2, 2\)"),
        ((), None, (X,), InvalidShape, "one number for each of its 1 axes"),
        ((2,), None, (X, Y), InvalidShape, r"sliding_window_shapes must have one entry for each of the 2 inputs"),
        (((2,), (2,)), None, (X, Y), InvalidShape, r"the window of input 1 must have one number for each of its 2 ax"),
        ((2,), 0, (X,), InvalidValue, "the stride of input 0 must be whole numbers of at least 1; got 0"),
        ((2,), (-1,), (X,), InvalidValue, "the stride of input 0 must be whole numbers"),
        ((2,), 3, (X,), InvalidValue, "stride 3 is larger than the window 2 and would leave positions out"),
        ((2,), (1, 1), (X,), InvalidShape, "the stride of input 0 must have one number"),
        (((2,), (2, 2)), (1, 1, 1), (X, Y), InvalidShape, "strides must have one entry for each of the 2 inputs"),
        ((1,), None, (X[:, :0],), InvalidValue, "a window of 1 does not fit into an axis of size 0"),
    ],
)
def test_windows_that_are_refused(
    shapes: Any, strides: Any, inputs: tuple[Tensor, ...], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Windows.of(shapes, strides, inputs)


def test_any_number_of_outputs() -> None:
    Windows.of((2,), None, (X,)).check_outputs(7)


def additive(coalitions: Tensor) -> Tensor:
    """The value of units 1, 2, 4, ... and a second output of the first unit alone."""
    weights = 2.0 ** torch.arange(coalitions.shape[1])
    return torch.stack([coalitions.float() @ weights, coalitions[:, 0].float()], 1)


@pytest.mark.parametrize("estimator", [WindowsLeftOut(), WindowsLeftOut(3, 2), WindowsLeftOut(window=9)])
@pytest.mark.parametrize("features", [1, 2, 5])
def test_windows_of_consecutive_features(estimator: WindowsLeftOut, features: int) -> None:
    """Each feature gets the mean loss of the windows that it is absent with."""
    played = play(additive, estimator, features, keep=True)
    found = estimator.estimate(played.coalitions, played.values)
    assert found.values.shape == (features, 2)
    assert found.stderr is None
    assert len(played.coalitions) == estimator.evaluations(features) == estimator.least(features)
    rerun = estimator.estimate(play(additive, estimator, features).coalitions, played.values)
    assert torch.equal(rerun.values, found.values)
    losses = (played.values[:1] - played.values[1:]).double()
    for feature in range(features):
        without = ~played.coalitions[1:, feature]
        torch.testing.assert_close(found.values[feature].double(), losses[without].mean(0))


def test_by_hand() -> None:
    played = play(additive, WindowsLeftOut(), 3, keep=True)
    assert played.coalitions.int().tolist() == [[1, 1, 1], [0, 0, 1], [1, 0, 0]]
    assert WindowsLeftOut().estimate(played.coalitions, played.values).values[:, 0].tolist() == [3, 4.5, 6]


@pytest.mark.parametrize("options", [{"window": 0}, {"stride": 0}, {"window": 1.5}, {"window": True}, {"stride": 3}])
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidValue, match=r"at least 1; got|larger than the window 2"):
        WindowsLeftOut(**options)


def test_values_of_another_design() -> None:
    with pytest.raises(InvalidShape, match="the design has 2 windows; got the values of 3"):
        WindowsLeftOut().estimate(torch.ones(4, 3, dtype=torch.bool), torch.zeros(4, 1))
