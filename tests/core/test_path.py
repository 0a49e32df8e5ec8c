"""Paths: quadratures, walks in calls that fit, and sums in at least single precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm_attr.core import batching
from llm_attr.core.batching import copies_that_fit, uses_batch_statistics
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.path.walk import (
    QUADRATURES,
    Change,
    Quadrature,
    Walk,
    between,
    difference,
    line,
    per_example,
    quadrature,
)
from llm_attr.core.problem import Problem
from llm_attr.core.site import Site
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidValue, NonFiniteGradient, OutOfMemory, UnknownName


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = random(3, 4)


class Counted:
    """A function that notes how many rows each call had."""

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self.forward, self.rows = forward, list[int]()

    def __call__(self, x: Tensor, *more: Any) -> Tensor:
        self.rows.append(len(x))
        return self.forward(x, *more)


def smooth(x: Tensor) -> Tensor:
    return (x.sin() * x.exp()).prod(1)


def walk(forward: Callable[..., Any], x: Tensor = X, rows: int | None = None, **options: Any) -> Walk:
    return Walk(Problem.of(forward, x, **options), Evaluator("walk", 0), rows)


def integrals(rule: Quadrature, function: Callable[[np.ndarray], np.ndarray]) -> float:
    return float((rule.weights.numpy() * function(rule.alphas.numpy())).sum())


@pytest.mark.parametrize("method", QUADRATURES)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 301])
def test_rules(method: str, steps: int) -> None:
    if method == "riemann_trapezoid" and steps == 1:
        with pytest.raises(InvalidValue, match="at least 2 for riemann_trapezoid; got 1"):
            quadrature(method, steps)
        return
    rule = quadrature(method, steps)
    assert rule.alphas.dtype == rule.weights.dtype == torch.float64
    assert len(rule.alphas) == len(rule.weights) == steps
    assert torch.equal(rule.alphas, rule.alphas.sort().values)
    assert rule.alphas.min() >= 0
    assert rule.alphas.max() <= 1
    error = abs(integrals(rule, np.exp) - (np.e - 1))
    if method == "gausslegendre":
        exact = min(2 * steps - 1, 40)
        assert integrals(rule, lambda a: a**exact) == pytest.approx(1 / (exact + 1), rel=1e-12)
    elif method == "riemann_middle":
        assert error <= np.e / (24 * steps**2)
    else:
        assert error <= 2.72 / steps


def test_rules_are_those_of_numpy() -> None:
    alphas = np.arange(8) / 8
    for method, wanted in (
        ("riemann_left", alphas),
        ("riemann_middle", alphas + 1 / 16),
        ("riemann_right", alphas + 1 / 8),
    ):
        np.testing.assert_allclose(quadrature(method, 8).alphas, wanted, atol=1e-15)
        assert integrals(quadrature(method, 8), np.cos) == pytest.approx(np.cos(wanted).mean(), rel=1e-14)
    roots, weights = np.polynomial.legendre.leggauss(8)
    assert integrals(quadrature("gausslegendre", 8), np.cos) == pytest.approx(
        (weights * np.cos((roots + 1) / 2)).sum() / 2
    )
    rule = quadrature("riemann_trapezoid", 9)
    np.testing.assert_allclose(rule.alphas, np.linspace(0, 1, 9))


def test_a_rule_is_not_changed_by_who_had_it_before() -> None:
    quadrature("gausslegendre", 4).weights.zero_()
    assert quadrature("gausslegendre", 4).weights.sum() == pytest.approx(1)


def test_bad_rules() -> None:
    with pytest.raises(UnknownName, match=r"unknown method 'riemann_rigth' .*did you mean 'riemann_right'"):
        quadrature("riemann_rigth", 5)
    for steps in (0, -1, 2.0, True, "5", None):
        with pytest.raises(InvalidValue, match="n_steps must be a whole number of at least 1"):
            quadrature("gausslegendre", steps)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_points_of_a_line(dtype: torch.dtype) -> None:
    x, low = X.to(dtype), random(1, 4, seed=1).to(dtype)
    problem = Problem.of(smooth, x, low)
    alphas = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    (points,) = line(problem, alphas)
    assert points.dtype == dtype
    assert torch.equal(points[:3], low.expand(3, 4))
    assert torch.equal(points[-3:], x)
    exact = low.double() + 0.3 * (x.double() - low.double())
    torch.testing.assert_close(points[3:6].double(), exact, rtol=torch.finfo(dtype).eps, atol=torch.finfo(dtype).eps)
    (moved,) = difference(problem)
    assert moved.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(moved.double(), x.double() - low.double(), rtol=1e-6, atol=1e-7)


def test_the_ends_of_a_way_are_exact() -> None:
    low, high = random(50).float(), 1e-3 * random(50, seed=1).float()
    assert torch.equal(between(low, high, torch.tensor(1.0)), high)
    assert torch.equal(between(low, high, torch.tensor(0.0)), low)


@pytest.mark.parametrize("rows", [None, 1, 2, 3, 7, 12, 100])
def test_chunks_do_not_matter(rows: int | None) -> None:
    forward = Counted(smooth)
    found = walk(forward, rows=rows).mean(quadrature("gausslegendre", 10))
    whole = walk(smooth, rows=30).mean(quadrature("gausslegendre", 10))
    torch.testing.assert_close(found.tensors, whole.tensors, rtol=1e-12, atol=1e-12)
    assert sum(forward.rows) == 30
    assert max(forward.rows) == (30 if rows is None else max(3, min(30, rows // 3 * 3)))


@pytest.mark.parametrize("steps", [50, 500])
def test_memory_does_not_grow_with_the_steps(steps: int) -> None:
    forward = Counted(lambda x: x.sin().sum(1))
    x = random(4, 700)
    found = walk(forward, x).mean(quadrature("gausslegendre", steps))
    assert max(forward.rows) == batching.CPU_CALL_BYTES // (700 * 8 * 4) * 4
    assert sum(forward.rows) == 4 * steps
    torch.testing.assert_close(found.times((x,)).tensors[0], 1 * x.sin())


def test_arguments_that_go_along_take_room_too() -> None:
    forward = Counted(lambda x, image: x.sum(1) * image.sum(1))
    walk(forward, random(2, 4), additional_forward_args=random(2, 700)).mean(quadrature("riemann_left", 100))
    assert max(forward.rows) == batching.CPU_CALL_BYTES // (700 * 8 * 2) * 2
    assert copies_that_fit((torch.zeros(1, 512, dtype=torch.int64),)) == 1


def test_one_batch_at_a_time_where_more_do_not_work() -> None:
    """A model for one batch size, one number for the batch, rows that depend on each other."""
    expected = walk(smooth, rows=3).mean(quadrature("gausslegendre", 6)).tensors

    def fixed(x: Tensor) -> Tensor:
        return smooth(x.view(3, 4))

    def asserting(x: Tensor) -> Tensor:
        assert len(x) == 3
        return smooth(x)

    def total(x: Tensor) -> Tensor:
        return smooth(x).sum()

    def first(x: Tensor) -> Tensor:
        return smooth(x[:3])

    for function in (fixed, asserting, total, first):
        forward = Counted(function)
        torch.testing.assert_close(walk(forward).mean(quadrature("gausslegendre", 6)).tensors, expected)
        assert forward.rows == [18] + [3] * 6
    for function in (total, first):
        torch.testing.assert_close(walk(function, rows=9).mean(quadrature("gausslegendre", 6)).tensors, expected)
    with pytest.raises(RuntimeError, match="invalid for input"):
        walk(fixed, rows=9).mean(quadrature("gausslegendre", 6))


def test_a_model_that_fails_for_one_batch_too_fails_as_it_does() -> None:
    forward = Counted(lambda x: x @ x)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        walk(forward).mean(quadrature("gausslegendre", 6))
    assert forward.rows == [18, 3]


def test_too_little_memory() -> None:
    class Small(Counted):
        def __call__(self, x: Tensor, *more: Any) -> Tensor:
            self.rows.append(len(x))
            if len(x) > limit:
                raise MemoryError
            return self.forward(x)

    limit = 7
    forward = Small(smooth)
    with pytest.warns(RuntimeWarning, match="did not fit into memory"):
        found = walk(forward).mean(quadrature("gausslegendre", 8))
    torch.testing.assert_close(found.tensors, walk(smooth).mean(quadrature("gausslegendre", 8)).tensors)
    assert forward.rows == [24, 12, 6, 6, 6, 6]
    limit = 2
    with pytest.warns(RuntimeWarning), pytest.raises(OutOfMemory, match="not even one piece"):
        walk(Small(smooth)).mean(quadrature("gausslegendre", 8))


def test_batch_statistics_are_those_of_one_batch() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).double()
    rule = quadrature("gausslegendre", 5)
    expected = walk(model, rows=3, target=1).mean(rule).tensors
    bound = model.forward
    named = {"model": model, "of": lambda model, x: model(x)}
    for function in (model, bound, lambda x: model(x), partial(named["of"], model)):
        torch.testing.assert_close(walk(function, target=1).mean(rule).tensors, expected)
        assert uses_batch_statistics(function)
    model.eval()
    assert not uses_batch_statistics(lambda x: model(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [None, 3])
def test_sums_of_half_precision_are_wide(dtype: torch.dtype, rows: int | None) -> None:
    """Closer to the sum of the same gradients in double than a sum in half precision is."""
    x = random(3, 40).to(dtype)
    rule = quadrature("riemann_middle", 300)
    found = walk(lambda x: (x * x).sum(1), x, rows).mean(rule)
    assert found.tensors[0].dtype == torch.float32
    assert found.dtypes == (dtype,)
    (points,) = line(Problem.of(smooth, x), rule.alphas)
    gradients = (2 * points).view(300, 3, 40)
    exact = (rule.weights[:, None, None] * gradients.double()).sum(0)
    naive = torch.zeros(3, 40, dtype=dtype)
    for weight, gradient in zip(rule.weights.to(dtype), gradients, strict=True):
        naive += weight * gradient
    error = (found.tensors[0].double() - exact).abs().max()
    assert error < 1e-5
    assert error < 1e-2 * (naive.double() - exact).abs().max()
    (form,) = found.times(difference(Problem.of(smooth, x))).forms()
    assert form.dtype == dtype  # type: ignore[union-attr]


def test_sums_under_autocast_are_wide() -> None:
    x = random(3, 40).float()
    rule = quadrature("gausslegendre", 64)
    expected = walk(lambda x: x.pow(2).sum(1), x).mean(rule)
    with torch.autocast("cpu", torch.bfloat16):
        found = walk(lambda x: x.pow(2).sum(1), x).mean(rule)
        total = per_example(found.tensors, 3)
    torch.testing.assert_close(found.tensors, expected.tensors, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(total, per_example(expected.tensors, 3), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (0, 4), (3, 0), (0,), (3, 2, 0), (3, 2, 2)])
def test_shapes_of_all_kinds(shape: tuple[int, ...]) -> None:
    x = random(*shape)
    problem = walk(lambda x: (x**2).unsqueeze(-1).flatten(1).sum(1), x)
    found = problem.mean(quadrature("gausslegendre", 4)).times((x,))
    torch.testing.assert_close(found.forms()[0], x**2)
    torch.testing.assert_close(per_example(found.tensors, len(x)), (x**2).unsqueeze(-1).flatten(1).sum(1))
    assert Change.of(problem.problem).delta(per_example(found.tensors, len(x))).shape == (len(x),)


def test_gradients_that_are_no_numbers() -> None:
    x = torch.tensor([[1.0, 2.0], [0.0, 4.0], [1.0, -1.0]])
    message = r"the gradient by tensor 0 is NaN or infinite for the examples \[1, 2\]"
    with pytest.raises(NonFiniteGradient, match=message):
        walk(lambda x: x.sqrt().sum(1), x, baselines=x).mean(quadrature("riemann_right", 2)).forms()
    one = torch.tensor([torch.nan, 1.0])
    with pytest.raises(NonFiniteGradient, match=r"examples \[0\]"):
        walk(lambda x: x**2, one).mean(quadrature("riemann_right", 2)).forms()


def test_bad_rows() -> None:
    for rows in (0, -3, 2.5, True):
        with pytest.raises(InvalidValue, match="internal_batch_size must be a whole number of at least 1, or None"):
            walk(smooth, rows=rows).mean(quadrature("riemann_left", 2))  # type: ignore[arg-type]
    with pytest.raises(InvalidShape, match="a row for each of the 3 examples"):
        per_example((random(2, 3, 4),), 3)
    with pytest.raises(InvalidTarget, match="one output for each of the 3 examples"):
        Change.of(Problem.of(lambda x: smooth(x).sum(), X))


@pytest.mark.parametrize("layer", ["outputs", "states"])
def test_recurrent_layers(layer: str) -> None:
    """Layers with tensors of other first axes: one point for each call, also where the sizes agree by chance."""
    torch.manual_seed(0)
    lstm = nn.LSTM(2, 3, num_layers=2, batch_first=layer == "outputs").double()

    def forward(x: Tensor) -> Tensor:
        steps, (hidden, _) = lstm(x if lstm.batch_first else x.transpose(0, 1))
        return (steps * hidden[0].unsqueeze(1 if lstm.batch_first else 0)).sum(2).sum(1 if lstm.batch_first else 0)

    for batch, steps in ((1, 2), (2, 4), (2, 3), (1, 5)):
        x = random(batch, steps, 2)
        cut = Problem.of(forward, x).cut_at([Site(lstm)])
        found = Walk(cut, Evaluator("walk", 0)).mean(quadrature("gausslegendre", steps))
        singly = Walk(cut, Evaluator("walk", 0), rows=1).mean(quadrature("gausslegendre", steps))
        torch.testing.assert_close(found.tensors, singly.tensors)
        total = sum((part * moved).sum() for part, moved in zip(found.tensors, difference(cut), strict=True))
        change = Change.of(cut)
        torch.testing.assert_close(total, (change.high - change.low).sum(), rtol=1e-6, atol=1e-9)
        observed = Problem.of(forward, x).observed_at([Site(lstm)])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            chunked = Walk(observed, Evaluator("walk", 0)).mean(quadrature("riemann_left", steps))
        alone = Walk(observed, Evaluator("walk", 0), rows=1).mean(quadrature("riemann_left", steps))
        torch.testing.assert_close(chunked.tensors, alone.tensors)
