"""Several outputs of one forward pass: a backward pass for each, all in one, or forward mode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.jacobian import BatchedJacobian, Jacobian, directional, lacks_a_rule, math_attention
from llm_attr.core.path.walk import Change, Walk, quadrature
from llm_attr.core.problem import DoesNotGrow, Problem
from llm_attr.core.site import Site
from llm_attr.core.target import Several, one_or_several, select
from llm_attr.errors import InvalidTarget, NoGradient

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TARGETS = (2, 0, [1, 0, 2])


class Net(nn.Module):
    """`(batch, 4)` -> `(batch, 3)`, with the number of its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.passes = nn.Linear(4, 5).double(), nn.Linear(5, 3).double(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        return self.b(self.a(x).tanh())


def batched(refused: Callable[[], None] = lambda: None, **options: Any) -> BatchedJacobian:
    given = {"free": lambda: 1 << 30, "row_bytes": 1, "kept_bytes": 0} | options
    return BatchedJacobian(refused=refused, **given)


MOVES: dict[str, Callable[[Net, Problem], Problem]] = {
    "inputs": lambda net, p: p,
    "cut": lambda net, p: p.cut_at([Site(net.a)]),
    "observed": lambda net, p: p.observed_at([Site(net.a)]),
    "through": lambda net, p: p.through(Site(net.a), 2),
}


@pytest.mark.parametrize("way", MOVES)
@pytest.mark.parametrize("jacobian", [Jacobian(), batched(), batched(row_bytes=1 << 60)], ids=["one", "all", "parts"])
def test_several_outputs_are_what_each_is_alone(way: str, jacobian: Jacobian) -> None:
    net = Net()
    several = replace(MOVES[way](net, Problem.of(net, X, target=Several(TARGETS))), jacobian=jacobian)
    points = tuple(torch.cat([x, 2 * x]) for x in several.inputs)
    net.passes = 0
    found = several.gradients(points, 2)
    assert net.passes == 1
    assert found.axis == 1
    for k, target in enumerate(TARGETS):
        alone = MOVES[way](net, Problem.of(net, X, target=target)).gradients(points, 2)
        assert alone.axis == 0
        torch.testing.assert_close([g[k] for g in found.gradients], list(alone.gradients))
        torch.testing.assert_close(found.scores[k], alone.scores)
        torch.testing.assert_close(found.at, alone.at)


def test_the_mean_along_a_path_and_the_change() -> None:
    net = Net()
    problem, rule = Problem.of(net, X, target=Several(TARGETS)), quadrature("gausslegendre", 6)
    found, change = Walk(problem, Evaluator("walk", 0)).mean(rule), Change.of(problem)
    assert found.tensors[0].shape == (3, 3, 4)
    for k, target in enumerate(TARGETS):
        alone = Problem.of(net, X, target=target)
        torch.testing.assert_close(found.tensors[0][k], Walk(alone, Evaluator("walk", 0)).mean(rule).tensors[0])
        torch.testing.assert_close(change.high[k], Change.of(alone).high)


def test_outputs_are_counted() -> None:
    for make in (Jacobian, batched):
        counts: list[int] = []
        net = Net()
        jacobian = make(count=counts.append)  # type: ignore[operator]
        replace(Problem.of(net, X, target=Several(TARGETS)), jacobian=jacobian).gradients((X,), 1)
        assert sum(counts) == 3


class Read(torch.autograd.Function):
    """Its backward pass looks at a number, and so cannot be batched."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        return upstream[0] * (2 if upstream[0].isfinite().all() else 0)


def test_an_operation_that_cannot_be_batched_is_noted_once() -> None:
    net, noted = Net(), list[None]()
    jacobian = batched(lambda: noted.append(None))
    problem = Problem.of(lambda x: Read.apply(net(x)), X, target=Several(TARGETS))
    expected = problem.gradients((X,), 1).gradients
    for _ in range(2):
        torch.testing.assert_close(replace(problem, jacobian=jacobian).gradients((X,), 1).gradients, expected)
    assert noted == [None]
    assert not jacobian.works


def test_a_pass_that_keeps_too_much_or_has_one_output_is_not_batched() -> None:
    assert type(batched(kept_bytes=1 << 60).for_pass(2, 3)) is Jacobian
    assert type(batched().for_pass(2, 1)) is Jacobian
    assert type(batched().for_pass(2, 3)) is BatchedJacobian


def test_directions_of_forward_mode() -> None:
    net, directions = Net(), torch.randn(2, 3, 4, dtype=torch.float64)
    found = directional(lambda x: select(net(x), Several((0, 2))), (X,), (directions,))
    gradients = Problem.of(net, X, target=Several((0, 2))).gradients((X,), 1).gradients[0]
    torch.testing.assert_close(found, torch.einsum("orf,drf->dro", gradients, directions))
    with pytest.raises(RuntimeError) as caught:
        directional(lambda x: Read.apply(x), (X,), (directions,))
    assert lacks_a_rule(caught.value)


MASKS: dict[str, dict[str, Any]] = {
    "none": {},
    "causal": {"is_causal": True},
    "true": {"attn_mask": torch.arange(7)[:, None] + 2 > torch.arange(7)},
    "added": {"attn_mask": torch.linspace(-2, 2, 49).view(7, 7), "scale": 0.3},
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("half", [None, torch.bfloat16])
def test_attention_of_plain_operations_is_that_of_torch(mask: str, half: torch.dtype | None) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, heads, 7, 8, generator=generator) for heads in (4, 2, 2))
    with torch.autocast("cpu", half, enabled=half is not None):
        with sdpa_kernel(SDPBackend.MATH):
            expected = F.scaled_dot_product_attention(query, key, value, enable_gqa=True, **MASKS[mask])
        with math_attention():
            found = F.scaled_dot_product_attention(query, key, value, enable_gqa=True, **MASKS[mask])
    assert torch.equal(found, expected)


def test_other_threads_keep_their_kernels() -> None:
    """Inside the function that multi-head attention is in, torch's own switch takes the place of ours."""
    attention, x = nn.MultiheadAttention(4, 2, batch_first=True), X[None].float()
    before = torch.backends.cuda.flash_sdp_enabled()
    with math_attention():
        assert torch.backends.cuda.flash_sdp_enabled() == before
        found = directional(lambda x: attention(x, x, x, need_weights=False)[0][:, 0], (x,), (torch.ones(1, *x.shape),))
        assert torch.backends.cuda.flash_sdp_enabled() == before
    step = 1e-2
    numbers = [
        attention(x + way * step, x + way * step, x + way * step, need_weights=False)[0][:, 0] for way in (1, -1)
    ]
    torch.testing.assert_close(found[0], (numbers[0] - numbers[1]) / (2 * step), rtol=0, atol=1e-3)


def test_what_does_not_fit() -> None:
    net = Net()
    with pytest.raises(InvalidTarget, match="out of range"):
        Problem.of(net, X, target=Several((0, 3))).gradients((X,), 1)
    with pytest.raises(InvalidTarget, match=r"one output for each of the 3 examples.*\(3, 2, 2\)"):
        Problem.of(lambda x: net(x)[:, :2, None].repeat(1, 1, 2), X, target=Several((0, 1))).gradients((X,), 1)
    with pytest.raises(DoesNotGrow):
        Problem.of(lambda x: net(x)[:3], X, target=Several((0, 1))).gradients((torch.cat([X, X]),), 2)
    with pytest.raises(NoGradient):
        Problem.of(lambda x: net(x).detach(), X, target=Several((0, 1))).gradients((X,), 1)


def test_one_or_several() -> None:
    assert one_or_several(3, None) == 3
    assert one_or_several(None, [0, (1, 2)]) == Several((0, (1, 2)))
    assert one_or_several(None, range(3)) == one_or_several(None, torch.arange(3)) == Several((0, 1, 2))
    with pytest.raises(InvalidTarget, match="target or targets, not both"):
        one_or_several(0, [1])
    for bad in ([], 3, "ab", [0, None]):
        with pytest.raises(InvalidTarget, match="a list of at least one target"):
            one_or_several(None, bad)  # type: ignore[arg-type]
