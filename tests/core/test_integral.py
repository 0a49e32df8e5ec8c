"""Integrals along a path: fixed rules, and steps that grow until the attributions are complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from llm_attr.attr import IntegratedGradients, LayerIntegratedGradients, NeuronIntegratedGradients, PathInfo
from llm_attr.core.evaluator import Evaluator, Progress, watching
from llm_attr.core.path import integral as integral_module
from llm_attr.core.path.integral import Integral
from llm_attr.core.path.walk import QUADRATURES, Walk
from llm_attr.core.problem import Problem
from llm_attr.errors import InvalidTarget, InvalidValue, NonFiniteGradient, UnknownName
from tests.reference.integrated import integrated_gradients


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, LOW = random(3, 4), random(1, 4, seed=1)


class Counted:
    """Notes every row that it was given."""

    def __init__(self, forward: Callable[[Tensor], Tensor]) -> None:
        self.forward, self.rows = forward, list[Tensor]()

    def __call__(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.rows += x.detach().unbind()
        return self.forward(x)


def smooth(x: Tensor) -> Tensor:
    return (x.sin() + 2).prod(1) + (0.3 * x).exp().sum(1)


def walk(forward: Callable[[Tensor], Tensor], rows: int | None = None) -> Walk:
    return Walk(Problem.of(forward, X, LOW), Evaluator("walk", 0), rows)


@pytest.mark.parametrize("method", QUADRATURES)
@pytest.mark.parametrize("steps", [2, 7])
def test_fixed_rules(method: str, steps: int) -> None:
    found, info = Integral(steps, method).mean(walk(smooth))
    assert info is None
    wanted = integrated_gradients(smooth, [X], [LOW.expand(3, 4)], steps, method)
    torch.testing.assert_close(found.times((X - LOW,)).tensors[0], wanted[0])


@pytest.mark.parametrize("until", [1e-1, 1e-2, 1e-4, 1e-8, 1e-11])
@pytest.mark.parametrize("least", [1, 2, 3, 20])
def test_steps_grow_until_the_gap_is_small(until: float, least: int) -> None:
    forward = Counted(smooth)
    result, delta, info = IntegratedGradients(forward).attribute(
        X, LOW, n_steps=least, until=until, return_convergence_delta=True, return_info=True
    )
    assert isinstance(info, PathInfo)
    assert info.gap.shape == delta.shape == (3,)
    assert info.gap.max() <= until
    change = smooth(X) - smooth(LOW.expand(3, 4))
    torch.testing.assert_close(delta, result.sum(1) - change)
    torch.testing.assert_close(info.gap, (delta / change).abs(), rtol=1e-3, atol=1e-12)
    assert len(forward.rows) == 3 * info.n_steps
    assert least <= info.n_steps <= 33
    exact = integrated_gradients(smooth, [X], [LOW.expand(3, 4)], 64, "gausslegendre")[0]
    torch.testing.assert_close(result, exact, rtol=max(30 * until, 1e-9), atol=max(3 * until, 1e-9))


def test_each_gradient_is_evaluated_once() -> None:
    forward = Counted(smooth)
    info = IntegratedGradients(forward).attribute(X, LOW, n_steps=30, until=1e-6, return_info=True)[1]
    assert info.n_steps == 33
    alphas = sorted(((row - LOW[0]) / (X[0] - LOW[0]))[0].item() for row in forward.rows[::3])
    assert len(alphas) == 33
    points = torch.cat([(LOW + a * (X - LOW)) for a in torch.linspace(0, 1, 33, dtype=torch.float64)])
    order = [row.tolist() for row in forward.rows]
    assert sorted(map(tuple, points.mul(1e9).round().tolist())) == sorted(
        map(tuple, torch.tensor(order, dtype=torch.float64).mul(1e9).round().tolist())
    )


@pytest.mark.parametrize("rows", [1, 3, 7, 12, None])
def test_chunks_do_not_matter(rows: int | None) -> None:
    found, info = Integral(9, until=1e-5).mean(walk(smooth, rows))
    whole, same = Integral(9, until=1e-5).mean(walk(smooth, 1000))
    torch.testing.assert_close(found.tensors, whole.tensors)
    assert info is not None
    assert same is not None
    assert info.n_steps == same.n_steps


def test_a_kink_needs_more_steps_than_a_smooth_function() -> None:
    def kinked(x: Tensor) -> Tensor:
        return (x - 0.1234).abs().sum(1)

    info = IntegratedGradients(kinked).attribute(X, LOW, n_steps=2, until=1e-3, return_info=True)[1]
    assert 33 < info.n_steps < 4097
    assert info.gap.max() <= 1e-3


def test_a_warning_where_no_steps_suffice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integral_module, "MAX_STEPS", 64)

    def jump(x: Tensor) -> Tensor:
        return x.sum(1) + (x.sum(1) > 0.2)

    with pytest.warns(RuntimeWarning, match=r"after 65 steps the completeness gap is still .*until=0.001") as caught:
        result, info = IntegratedGradients(jump).attribute(X, LOW, until=1e-3, return_info=True)
    assert caught[0].filename == __file__
    assert info.n_steps == 65
    assert info.gap.max() > 1e-3
    torch.testing.assert_close(result, X - LOW)


def test_the_least_number_of_steps_is_kept_above_the_most_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integral_module, "MAX_STEPS", 16)
    info = IntegratedGradients(smooth).attribute(X, LOW, n_steps=100, until=0.1, return_info=True)[1]
    assert info.n_steps == 129


def test_what_is_returned_comes_in_order() -> None:
    method = IntegratedGradients(smooth)
    alone = method.attribute(X, LOW)
    assert isinstance(alone, Tensor)
    attributions, delta = method.attribute(X, LOW, return_convergence_delta=True)
    torch.testing.assert_close(attributions, alone)
    attributions, info = method.attribute((X,), LOW, return_info=True)
    assert isinstance(attributions, tuple)
    assert info.n_steps == 50
    *_, same, info = method.attribute(X, LOW, return_convergence_delta=True, return_info=True)
    torch.testing.assert_close(same, delta)
    torch.testing.assert_close(info.gap, (delta / (smooth(X) - smooth(LOW.expand(3, 4)))).abs(), rtol=1e-3, atol=1e-13)


def test_a_gap_where_the_output_hardly_changes() -> None:
    """Relative to a thousandth of the output then."""
    x = torch.tensor([[1.0, -1.0], [2.0, 0.0]], dtype=torch.float64)
    info = IntegratedGradients(lambda x: x.sum(1) ** 3 + 5).attribute(
        x, n_steps=2, method="riemann_left", return_info=True
    )[1]
    torch.testing.assert_close(info.gap, torch.tensor([0.0, 5 / 8]).double())
    zero = IntegratedGradients(lambda x: 0 * x.sum(1)).attribute(x, until=1e-3, return_info=True)[1]
    assert zero.gap.tolist() == [0.0, 0.0]


def test_progress_counts_the_steps_that_are_needed() -> None:
    seen: list[Progress] = []
    with watching(seen.append):
        info = IntegratedGradients(smooth).attribute(X, LOW, n_steps=2, until=1e-8, return_info=True)[1]
    assert all(progress.done <= progress.total for progress in seen)
    assert seen[-1].done == seen[-1].total == info.n_steps
    seen.clear()
    with watching(seen.append):
        IntegratedGradients(smooth).attribute(X, LOW, n_steps=30, until=0.5)
    assert {progress.total for progress in seen} == {33}


@pytest.mark.parametrize("until", [0, -1e-3, True, "0.1", float("nan")])
def test_bad_tolerances(until: Any) -> None:
    with pytest.raises(InvalidValue, match="until must be a positive number"):
        Integral(5, until=until)


def test_bad_rules() -> None:
    with pytest.raises(InvalidValue, match=r"until uses a refined riemann_trapezoid rule; got method='riemann_left'"):
        Integral(5, "riemann_left", 0.1)
    with pytest.raises(UnknownName, match="unknown method 'simpson'"):
        Integral(5, "simpson")
    with pytest.raises(InvalidValue, match="n_steps must be a whole number"):
        Integral(0, until=0.1)


def test_one_number_for_the_batch_has_no_gap() -> None:
    method = IntegratedGradients(lambda x: smooth(x).sum())
    torch.testing.assert_close(method.attribute(X, LOW), IntegratedGradients(smooth).attribute(X, LOW))
    with pytest.raises(InvalidTarget, match="until needs one output for each of the 3 examples"):
        method.attribute(X, LOW, until=0.1)
    for wish in ("return_convergence_delta", "return_info"):
        with pytest.raises(InvalidTarget, match="one output for each of the 3 examples"):
            method.attribute(X, LOW, **{wish: True})
    alone = method.attribute(X[:1], LOW, until=0.1)
    torch.testing.assert_close(alone, IntegratedGradients(smooth).attribute(X[:1], LOW), rtol=0.1, atol=0.1)


def test_gradients_that_are_no_numbers_end_it_at_once() -> None:
    forward = Counted(lambda x: x.abs().sqrt().sum(1))
    with pytest.raises(NonFiniteGradient):
        IntegratedGradients(forward).attribute(X, n_steps=2, until=1e-3)
    assert len(forward.rows) == 6


def test_layers_and_neurons_too() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Sigmoid(), torch.nn.Linear(5, 2)).double()
    for result, delta, info in (
        LayerIntegratedGradients(model, model[0]).attribute(
            X, LOW, target=1, n_steps=1, until=1e-6, return_convergence_delta=True, return_info=True
        ),
    ):
        change = (model(X) - model(LOW))[:, 1].detach()
        torch.testing.assert_close(result.sum(1), change, rtol=1e-6, atol=1e-8)
        assert delta.abs().max() < 1e-5
        assert info.n_steps < 34
    result, info = NeuronIntegratedGradients(model, model[1]).attribute(
        X, 3, LOW, n_steps=1, until=1e-6, return_info=True
    )
    change = (model[:2](X) - model[:2](LOW))[:, 3].detach()
    torch.testing.assert_close(result.sum(1), change, rtol=1e-6, atol=1e-8)


def test_single_precision_reaches_what_it_can() -> None:
    x, low = X.float(), LOW.float()
    info = IntegratedGradients(smooth).attribute(x, low, until=1e-5, return_info=True)[1]
    assert info.n_steps == 65
    assert info.gap.dtype == torch.float64
