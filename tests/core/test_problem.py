"""Problems: what is moved, where gradients are read, and how the moves compose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload, disk_offload
from torch import Tensor, nn

from llm_attr.core.problem import DoesNotGrow, Problem
from llm_attr.core.site import Site
from llm_attr.errors import InvalidShape, InvalidTarget, InvalidType, NoGradient


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = random(3, 4), random(3, 2, 2, seed=1)
POINTS = random(6, 4, seed=2)


class Chain(nn.Module):
    """`(batch, 4)` -> `(batch, 3)` by three layers that are easy to run one by one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (nn.Linear(n, m).double() for n, m in ((4, 5), (5, 6), (6, 3)))

    def before_b(self, x: Tensor) -> Tensor:
        return self.a(x).tanh()

    def at_b(self, x: Tensor) -> Tensor:
        return self.b(self.before_b(x))

    def after_b(self, h: Tensor) -> Tensor:
        return self.c(h.sigmoid() * h)

    def forward(self, x: Tensor) -> Tensor:
        return self.after_b(self.at_b(x))


@pytest.fixture
def chain() -> Chain:
    return Chain()


def autograd(score: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(score(leaf).sum(), leaf)[0]


def test_a_neuron_by_an_earlier_layer(chain: Chain) -> None:
    """All three ways of asking for d b_2 / d a."""
    a, b = Site(chain.a), Site(chain.b)
    hidden = chain.a(X).detach()
    expected = autograd(lambda h: chain.b(h.tanh())[:, 2], hidden)
    whole = Problem.of(chain, X, target=1)
    cut = whole.cut_at([a]).of_neuron(b, 2)
    found = cut.gradients(cut.inputs, 1)
    torch.testing.assert_close((found.at, found.gradients), ((hidden,), (expected,)))
    torch.testing.assert_close(found.scores, chain.at_b(X)[:, 2].detach())
    found = whole.of_neuron(b, 2).observed_at([a]).gradients((X,), 1)
    torch.testing.assert_close((found.at, found.gradients), ((hidden,), (expected,)))
    found = whole.of_neuron(b, 2).cut_at([a])
    torch.testing.assert_close(found.gradients((hidden,), 1).gradients, (expected,))


def test_a_layer_moves_and_a_later_one_is_observed(chain: Chain) -> None:
    cut = Problem.of(chain, X, target=2).cut_at([Site(chain.a)])
    points = random(6, 5, seed=3)
    found = cut.observed_at([Site(chain.b)]).gradients(points.split(6), 2)
    at = chain.b(points.tanh()).detach()
    torch.testing.assert_close(found.at, (at,))
    torch.testing.assert_close(found.gradients, (autograd(lambda h: chain.after_b(h)[:, 2], at),))


def test_two_cuts(chain: Chain) -> None:
    both = Problem.of(chain, X, target=0).cut_at([Site(chain.a)]).cut_at([Site(chain.b)])
    torch.testing.assert_close(both.inputs, (chain.at_b(X).detach(),))
    points = random(3, 6, seed=3)
    torch.testing.assert_close(both.values((points,), 1), chain.after_b(points)[:, 0].detach())


@pytest.mark.parametrize("order", [1, -1])
def test_layers_inside_of_each_other_and_one_after_the_other(chain: Chain, order: int) -> None:
    """The later layer decides; the earlier one has no effect once it is replaced."""
    model = nn.Sequential(chain, nn.Softmax(-1))
    layers = [chain.b, chain.a, chain][::order]
    problem = Problem.of(model, X, target=1)
    cut = problem.cut_at([Site(layer) for layer in layers])
    found = cut.gradients(cut.inputs, 1)
    gradients = dict(zip(layers, found.gradients, strict=True))
    assert [slot.single for slot in found.slots] == [True] * 3
    torch.testing.assert_close(gradients[chain], autograd(lambda h: h.softmax(-1)[:, 1], chain(X)))
    assert not gradients[chain.a].any()
    assert not gradients[chain.b].any()
    observed = problem.observed_at([Site(layer) for layer in layers]).gradients((X,), 1)
    wanted = autograd(lambda h: chain.after_b(h).softmax(-1)[:, 1], chain.at_b(X))
    torch.testing.assert_close(dict(zip(layers, observed.gradients, strict=True))[chain.b], wanted)


@pytest.mark.parametrize(
    ("selector", "pick"),
    [
        (2, lambda h: h[:, 2]),
        (-1, lambda h: h[:, -1]),
        ((4,), lambda h: h[:, 4]),
        (slice(1, 4), lambda h: h[:, 1:4].sum(1)),
        ((slice(None, None, 2),), lambda h: h[:, ::2].sum(1)),
        (lambda h: h[:, 0] * h[:, 1], lambda h: h[:, 0] * h[:, 1]),
    ],
    ids=["int", "negative", "tuple", "slice", "tuple of slice", "function"],
)
def test_neurons(chain: Chain, selector: Any, pick: Callable[[Tensor], Tensor]) -> None:
    if isinstance(selector, slice):
        selector = (selector,)
    problem = Problem.of(chain, X, target=0).of_neuron(Site(chain.b), selector)
    found = problem.gradients((POINTS,), 2)
    torch.testing.assert_close(found.scores, pick(chain.at_b(POINTS)).detach())
    torch.testing.assert_close(found.gradients, (autograd(lambda x: pick(chain.at_b(x)), POINTS),))


def test_neurons_of_more_axes_and_of_several_tensors() -> None:
    class Split(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x.unflatten(1, (2, 2)) ** 2, x

    split = Split()
    problem = Problem.of(lambda x: split(x)[0].sum((1, 2)), X)
    with pytest.raises(InvalidTarget, match="the layer has 2 tensors; select the neuron with a function"):
        problem.of_neuron(Site(split), 0).values((X,), 1)
    both = problem.of_neuron(Site(split), lambda parts: parts[0][:, 1, 0] + parts[1][:, 3])
    torch.testing.assert_close(
        both.gradients((X,), 1).gradients, (torch.stack([0 * X[:, 0], X[:, 0] * 0, 2 * X[:, 2], X[:, 3] ** 0], 1),)
    )
    square = nn.Unflatten(1, (2, 2))
    for selector, kept in (((1, slice(None)), [0.0, 0.0, 1.0, 1.0]), ((slice(0, 2), 1), [0.0, 1.0, 0.0, 1.0])):
        picked = Problem.of(square, X).of_neuron(Site(square), selector)
        torch.testing.assert_close(picked.gradients((X,), 1).gradients, (torch.tensor(kept).double().expand(3, -1),))
    for selector in (0, (0,), (2, 0), (0, 0, 0)):
        with pytest.raises(InvalidTarget, match=r"of shape \('batch', 2, 2\) is selected by 2 indices"):
            Problem.of(square, X).of_neuron(Site(square), selector).values((X,), 1)
    for function, given in ((lambda h: h, r"\(3, 2, 2\)"), (lambda h: 1.0, "float")):
        with pytest.raises(InvalidTarget, match=f"one number for each of the 3 rows of the layer .* got {given}"):
            Problem.of(square, X).of_neuron(Site(square), function).values((X,), 1)
    whole = Problem.of(square, X).of_neuron(Site(square), lambda h: h.square().sum())
    torch.testing.assert_close(whole.gradients((X,), 1).gradients, (2 * X,))


EXTRAS: dict[str, tuple[Any, Callable[[Any, Tensor], Tensor]]] = {
    "tensor": (Y, lambda extra, x: x * extra.flatten(1)),
    "None": (None, lambda extra, x: x),
    "number": (2.5, lambda extra, x: x * extra),
    "nested tuple": ((Y, (X, 2.0)), lambda extra, x: x * extra[0].flatten(1) * extra[1][0] * extra[1][1]),
    "dict": ({"mask": X > 0, "scale": 3}, lambda extra, x: x * extra["mask"] * extra["scale"]),
    "list": ([X, "word"], lambda extra, x: x * extra[0]),
    "mask for all": (torch.tensor([1.0, 0.0, 2.0, 1.0]).double(), lambda extra, x: x * extra),
    "mask of one row": (random(1, 4), lambda extra, x: x * extra),
    "number tensor": (torch.tensor(3.0), lambda extra, x: x * extra),
    "whole numbers": (torch.tensor([0, 2, 1]), lambda extra, x: x * extra[:, None]),
}


@pytest.mark.parametrize("name", EXTRAS)
def test_additional_arguments_go_with_their_example(name: str) -> None:
    extra, forward = EXTRAS[name]
    problem = Problem.of(lambda x, extra: forward(extra, x.sin()), X, target=1, additional_forward_args=(extra,))
    points = POINTS.split(3)
    found = problem.gradients((POINTS,), 2)
    expected = torch.cat([autograd(lambda x: forward(extra, x.sin())[:, 1], part) for part in points])
    torch.testing.assert_close(found.gradients, (expected,))
    identity = nn.Identity()
    through = Problem.of(lambda x, extra: forward(extra, identity(x).sin()), X, None, 1, (extra,)).cut_at(
        [Site(identity)]
    )
    torch.testing.assert_close(through.gradients((POINTS,), 2).gradients, (expected,))


@pytest.mark.parametrize(
    ("target", "entries"),
    [
        (1, [1, 1, 1]),
        ((2,), [2, 2, 2]),
        (torch.tensor(0), [0, 0, 0]),
        (torch.tensor([2]), [2, 2, 2]),
        (torch.tensor([0, 2, 1]), [0, 2, 1]),
        ([2, 0, 1], [2, 0, 1]),
        ([(2,), (0,), (1,)], [2, 0, 1]),
    ],
    ids=str,
)
def test_targets_go_with_their_example(chain: Chain, target: Any, entries: list[int]) -> None:
    found = Problem.of(chain, X, target=target).gradients((POINTS,), 2)
    expected = autograd(lambda x: chain(x)[torch.arange(6), torch.tensor(entries * 2)], POINTS)
    torch.testing.assert_close(found.gradients, (expected,))


def test_several_inputs_and_one_that_is_not_used() -> None:
    problem = Problem.of(lambda x, y, z: x.prod(1) * y.sum((1, 2)), (X, Y, X))
    points = (POINTS, torch.cat([Y, 2 * Y]), POINTS)
    found = problem.gradients(points, 2)
    assert [part.shape for part in found.gradients] == [part.shape for part in points]
    torch.testing.assert_close(found.gradients[1], POINTS.prod(1)[:, None, None].expand(-1, 2, 2))
    assert not found.gradients[2].any()


@pytest.mark.parametrize("outside", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("way", ["inputs", "cut", "observed", "neuron"])
def test_modes_outside_do_not_matter(chain: Chain, outside: type, way: str) -> None:
    def ask(x: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
        problem = Problem.of(lambda x, scale: chain(x) * scale, x, None, 1, scale)
        moves = {
            "inputs": lambda: problem,
            "cut": lambda: problem.cut_at([Site(chain.a)]),
            "observed": lambda: problem.observed_at([Site(chain.b)]),
            "neuron": lambda: problem.of_neuron(Site(chain.b), 0),
        }
        moved = moves[way]()
        found = moved.gradients(moved.inputs, 1)
        assert not any(part.requires_grad for part in (*found.gradients, *found.at, found.scores))
        return found.gradients

    scale = random(3, 1)
    expected = ask(X, scale)
    with outside():
        torch.testing.assert_close(ask(X.clone(), scale.clone()), expected)
        assert torch.is_inference_mode_enabled() == (outside is torch.inference_mode)
    inference = outside is torch.inference_mode
    if inference:
        with torch.inference_mode():
            x, other = X.clone(), scale.clone()
        torch.testing.assert_close(ask(x, other), expected)


def test_inputs_with_gradients_get_none(chain: Chain) -> None:
    x = X.clone().requires_grad_()
    problem = Problem.of(chain, x, baselines=x * 0.1, target=0)
    found = problem.gradients(problem.inputs, 1)
    assert x.grad is None
    assert not any(part.requires_grad for part in (*found.gradients, *problem.inputs, *problem.baselines))


def test_arguments_of_autograd(chain: Chain) -> None:
    problem = Problem.of(chain, X, target=0).observed_at([Site(chain.a)])
    plain = problem.gradients((X,), 1)
    for more in ({"retain_graph": True}, {"create_graph": True}, {"materialize_grads": True}):
        found = replace(problem, grad_kwargs=more).gradients((X,), 1)
        torch.testing.assert_close(found.gradients, plain.gradients)
        assert not found.gradients[0].requires_grad
    weights = random(3)
    weighted = replace(problem, grad_kwargs={"grad_outputs": weights}).gradients((X,), 1)
    torch.testing.assert_close(weighted.gradients[0], plain.gradients[0] * weights[:, None])


def test_outputs_of_the_wrong_size(chain: Chain) -> None:
    whole = Problem.of(chain, X)
    with pytest.raises(InvalidTarget, match=r"one output for each of the 3 examples.*\(3, 3\): name a target"):
        whole.gradients((X,), 1)
    with pytest.raises(DoesNotGrow, match=r"2 batches of 3 examples gave scores of shape \(6, 3\)"):
        whole.gradients((POINTS,), 2)
    total = Problem.of(lambda x: chain(x).sum(), X)
    torch.testing.assert_close(total.gradients((X,), 1).gradients, (autograd(lambda x: chain(x).sum(), X),))
    with pytest.raises(DoesNotGrow):
        total.gradients((POINTS,), 2)
    with pytest.raises(InvalidTarget, match=r"one output for each of the 3 examples; got \(\)"):
        total.number_each((X,))
    sideways = Problem.of(lambda x: chain(x).sum(1)[None], X)
    with pytest.raises(InvalidTarget, match=r"\(1, 3\)"):
        sideways.gradients((X,), 1)
    with pytest.raises(InvalidType, match="must give a tensor or a number; got tuple"):
        Problem.of(lambda x: (chain(x),), X).gradients((X,), 1)
    with pytest.raises(InvalidType, match=r"got a torch.futures.Future"):
        Problem.of(future, X).gradients((X,), 1)


def future(x: Tensor) -> torch.futures.Future:
    promise: torch.futures.Future = torch.futures.Future()
    promise.set_result(x.sum(1))
    return promise


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: torch.ones(len(x)),
        lambda x: x.detach().sum(1),
        lambda x: x.argmax(1).double(),
        lambda x: x.round().sum(1) * 0,
    ],
)
def test_outputs_that_do_not_depend_on_the_inputs(forward: Callable[[Tensor], Tensor]) -> None:
    if forward(X.clone().requires_grad_()).requires_grad:
        assert not Problem.of(forward, X).gradients((X,), 1).gradients[0].any()
        return
    with pytest.raises(NoGradient, match="does not depend on the inputs"):
        Problem.of(forward, X).gradients((X,), 1)


def test_whole_numbers_cannot_be_moved() -> None:
    with pytest.raises(InvalidType, match=r"input 0 holds torch.int64, .*LayerIntegratedGradients\(model, embedding\)"):
        Problem.of(lambda ids: ids.double().sum(1), torch.ones(2, 3, dtype=torch.int64)).gradients(
            (torch.ones(2, 3, dtype=torch.int64),), 1
        )


class Sideways(nn.Module):
    """Works on `(time, batch, features)` inside, as many encoders do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Linear(2, 2).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(0, 1)).tanh().prod(0).sum(1)


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
@pytest.mark.parametrize("copies", [1, 2, 4])
def test_layers_whose_first_axis_is_not_the_batch_are_not_stacked(batch: int, copies: int) -> None:
    model, x = Sideways(), random(batch, 4, 2)
    points = random(copies * batch, 4, 2, seed=3)
    problem = Problem.of(model, x)
    site = Site(model.inner)
    cut = problem.cut_at([site])
    assert cut.batch == batch
    stacked = tuple(torch.cat([hidden] * copies) for hidden in cut.inputs)
    if copies == 1:
        at = model.inner(points.transpose(0, 1)).detach()
        expected = autograd(lambda h: h.tanh().prod(0).sum(1), at)
        torch.testing.assert_close(problem.observed_at([site]).gradients((points,), 1).gradients, (expected,))
        torch.testing.assert_close(cut.gradients((at,), 1).gradients, (expected,))
    else:
        with pytest.raises(DoesNotGrow):
            problem.observed_at([site]).gradients((points,), copies)
        with pytest.raises(InvalidShape):
            cut.gradients(stacked, copies)


def test_autocast() -> None:
    """In bf16 inside, results of the inputs' type, the same as plain autograd under autocast."""
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    x = X.float()
    with torch.autocast("cpu", torch.bfloat16):
        expected = autograd(lambda x: model(x)[:, 1], x)
        problem = Problem.of(model, x, target=1)
        for _ in range(2):
            found = problem.gradients((x,), 1)
            torch.testing.assert_close(found.gradients, (expected,))
        cut = problem.cut_at([Site(model[0])])
        assert cut.inputs[0].dtype == torch.bfloat16
        assert cut.gradients(cut.inputs, 1).gradients[0].dtype == torch.bfloat16
        assert problem.number_each((x,)).dtype == torch.float32


def test_one_pass_through_a_neuron(chain: Chain) -> None:
    """`through`: d out / d n times d n / d x."""
    problem = Problem.of(chain, X, target=1).through(Site(chain.b), 2)
    h = chain.at_b(POINTS).detach()
    outer = autograd(lambda h: chain.after_b(h)[:, 1], h)[:, 2]
    inner = autograd(lambda x: chain.at_b(x)[:, 2], POINTS)
    torch.testing.assert_close(problem.gradients((POINTS,), 2).gradients, (outer[:, None] * inner,))


@pytest.fixture
def offloaded(tmp_path: Path) -> Callable[[nn.Module, str], None]:
    def offload(model: nn.Module, where: str) -> None:
        if where == "cpu":
            cpu_offload(model, torch.device("cpu"), offload_buffers=True)
        else:
            disk_offload(model, str(tmp_path), torch.device("cpu"))

    return offload


@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_models_that_accelerate_keeps_elsewhere(chain: Chain, offloaded: Any, where: str) -> None:
    whole = Problem.of(chain, X, target=1)
    moves: list[Callable[[Problem], Problem]] = [
        lambda p: p,
        lambda p: p.cut_at([Site(chain.a)]),
        lambda p: p.cut_at([Site(chain.b, "input")]),
        lambda p: p.observed_at([Site(chain.b)]),
        lambda p: p.of_neuron(Site(chain.b), 3),
    ]
    expected = [(moved := move(whole)).gradients(moved.inputs, 1).gradients for move in moves]
    offloaded(chain, where)
    assert {weight.device.type for weight in chain.parameters()} == {"meta"}
    for move, want in zip(moves, expected, strict=True):
        moved = move(Problem.of(chain, X, target=1))
        torch.testing.assert_close(moved.gradients(moved.inputs, 1).gradients, want)
    assert {weight.device.type for weight in chain.parameters()} == {"meta"}
