"""Rules under autocast, offloading and batched gradients, of functions that are their own rule, and of ReLUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import cpu_offload
from torch import Tensor, nn
from torch.nn import functional as F

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.path.walk import Walk
from llm_attr.core.problem import Problem
from llm_attr.core.rules.deep_lift import ReferencePairs
from llm_attr.core.rules.engine import Rules, Tape
from llm_attr.core.rules.tables import DECONVOLUTION, DEEP_LIFT, GUIDED, LRP, deep_lift_rules
from llm_attr.errors import NoRule
from tests.core.test_rules import LOW, WrittenGelu, X, gap, gradients, linear, random, relevance


class Doubles(torch.autograd.Function):
    """Linear, which nothing but its author knows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


class SaysSo(Doubles):
    linear_in_input = True


def test_a_custom_function_may_say_that_it_is_linear() -> None:
    weight = random(6, seed=2)
    with pytest.raises(NoRule, match=r"DoublesBackward \(1\); .*TheFunction.linear_in_input = True"):
        relevance(lambda x: Doubles.apply(x).relu() @ weight)
    assert gap(lambda x: SaysSo.apply(x).relu() @ weight) < 1e-14
    torch.testing.assert_close(relevance(lambda x: SaysSo.apply(x).relu() @ weight), 2 * X.clamp(min=0) * weight)


@pytest.mark.parametrize("function", [F.relu, F.leaky_relu, torch.abs, lambda x: F.prelu(x, torch.full((1,), 0.3))])
def test_relevance_passes_a_function_through_the_origin_with_its_slope(function: Callable[[Tensor], Tensor]) -> None:
    x = X.float()
    x[0, :2] = 0
    lin = linear(6, 4).float()
    found = relevance(lambda x: function(lin(function(x))).sum(1), x)
    torch.testing.assert_close(found.sum(1), function(lin(function(x))).sum(1).detach())
    assert (found[0, :2] == 0).all()


def test_a_function_of_two_moved_tensors_is_refused() -> None:
    with pytest.raises(NoRule, match="prelu: a function of 2 tensors"):
        relevance(lambda x: F.prelu(x, x.abs().mean().reshape(1)).sum(1))


@pytest.mark.parametrize("eps", [1e-10, 0.2])
def test_small_changes_take_the_tangent(eps: float) -> None:
    """At entries that are equal, nearly equal and far apart; also where only some of them are near."""
    x, low = X.clone(), LOW.clone()
    low[0] = x[0]
    low[1, :3] = x[1, :3] + 1e-12
    problem = Problem.of(lambda x: x.tanh().sum(1), x, low)
    pairs = ReferencePairs(
        Walk(problem, Evaluator("", 1)), deep_lift_rules(eps), (problem.baselines[0][None],), lambda m, x, b: m
    )
    dx = x - low
    near = dx.abs() <= eps * (1 + x.abs())
    slope = torch.where(near, 1 - ((x + low) / 2).tanh() ** 2, (x.tanh() - low.tanh()) / dx)
    torch.testing.assert_close(pairs.mean().tensors[0], slope)
    empty = Problem.of(lambda x: x.tanh().sum(1) + x.tanh()[:, :0].exp().sum(1), x, low)
    ReferencePairs(Walk(empty, Evaluator("", 1)), DEEP_LIFT, (empty.baselines[0][None],)).mean()


def several_kinds(x: Tensor) -> Tensor:
    """Convolution, pooling, products, norms and attention: `(3, 6)` to `(3,)`."""
    pooled = F.max_pool1d(F.conv1d(x[:, None], random(4, 1, 3, seed=4).to(x), padding=1).relu(), 2)
    normed = F.layer_norm(pooled.transpose(1, 2), (4,))
    attended = F.scaled_dot_product_attention(normed, normed, normed)
    return ((attended @ random(4, 4, seed=5).to(x)).sigmoid() * attended * attended.softmax(-1)).sum((1, 2))


@pytest.mark.parametrize("rules", [LRP, DEEP_LIFT, GUIDED])
def test_rows_of_gradients_at_once(rules: Rules) -> None:
    directions = random(4, 3, seed=6)

    def multipliers(**grad_kwargs: Any) -> Tensor:
        problem = replace(Problem.of(several_kinds, X), grad_kwargs=grad_kwargs)
        tape = Tape() if rules.uses_reference else None
        if tape is not None:
            rules.on(problem, tape, recording=True).at((LOW,), 1)
        return rules.on(problem, tape).gradients((X,), 1).gradients[0]

    each = torch.stack([multipliers(grad_outputs=direction) for direction in directions])
    torch.testing.assert_close(multipliers(grad_outputs=directions, is_grads_batched=True), each)


@pytest.mark.parametrize("inner", [False, True])
def test_autocast(inner: bool) -> None:
    x, low = X.float(), LOW.float()

    def model(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=inner):
            return several_kinds(x).float()

    problem = Problem.of(model, x, low)
    pairs = ReferencePairs(Walk(problem, Evaluator("", 1)), DEEP_LIFT, (problem.baselines[0][None],))
    expected = relevance(several_kinds, x)
    with torch.autocast("cpu", torch.bfloat16, enabled=not inner):
        (found, gap), propagated = pairs.mean_and_delta(), relevance(model, x)
    assert {each.dtype for each in (found.tensors[0], propagated)} == {torch.float32}
    assert gap.abs().max() < 0.02
    assert (propagated - expected).norm() < 0.05 * expected.norm()


def test_a_model_that_accelerate_keeps_elsewhere() -> None:
    model = nn.Sequential(linear(6, 5), WrittenGelu(), nn.ReLU(True), linear(5, 1))
    model[0].rule = lambda call: call.native()
    expected = relevance(model)
    assert gap(model) < 1e-14
    cpu_offload(model, torch.device("cpu"), offload_buffers=True)
    torch.testing.assert_close(relevance(model), expected)
    assert gap(model) < 1e-14
    assert {weight.device.type for weight in model.parameters()} == {"meta"}


def test_guided_backpropagation_passes_a_relu6_where_it_rises() -> None:
    x = torch.tensor([[-1.0, 1.0, 7.0], [1.0, 2.0, 3.0]])
    signs = torch.tensor([1.0, 1.0, -1.0])
    found = gradients(lambda x: (F.relu6(x) * signs).sum(1), x, GUIDED).gradients[0]
    assert found.tolist() == [[0, 1, 0], [1, 1, 0]]
    assert (
        gradients(lambda x: (nn.ReLU6()(x) * signs).sum(1), x, DECONVOLUTION).gradients[0].tolist() == [[1, 1, 0]] * 2
    )


def test_a_model_without_any_relu_is_warned_of() -> None:
    with pytest.warns(UserWarning, match="no ReLU of the model depends on the input: the result is the plain gradient"):
        found = gradients(lambda x: x.tanh().sum(1), rules=GUIDED)
    torch.testing.assert_close(found.gradients[0], 1 - X.tanh() ** 2)


def test_attention_to_itself() -> None:
    """One tensor in three places."""
    weight = random(2, seed=2)

    def model(x: Tensor) -> Tensor:
        tokens = x.view(3, 3, 2)
        return (F.scaled_dot_product_attention(tokens, tokens, value=tokens) @ weight).sum(1)

    assert gap(model) < 1e-14


def test_a_hard_tanh_is_a_relu_only_from_zero_on() -> None:
    x = torch.tensor([[-0.5, 0.5, 2.0]], dtype=torch.float64)
    assert gradients(lambda x: -F.hardtanh(x).sum(1), x, GUIDED).gradients[0].tolist() == [[-1, -1, 0]]
