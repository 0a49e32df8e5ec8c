"""Layers that run again in a backward pass, in whatever thread autograd runs it: they meet the hooks of their own pass.

On a GPU all backward passes of a process share one thread; on a CPU autograd takes another thread than the caller's
where backward passes are nested 60 deep.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import current_thread
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from llm_attr.attr import LayerIntegratedGradients, NeuronGradient
from llm_attr.core.backward import derivatives, held_for_this_pass, keep_hooks_for_backward
from llm_attr.core.site import Site, replaced

DEPTH = 61
"""Autograd nests so many backward passes in one thread; the next one goes to another."""


class Nested(torch.autograd.Function):
    """Calls a function inside of so many nested backward passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, depth: int, call: Callable[[], None]) -> Tensor:
        ctx.depth, ctx.call = depth, call
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        if ctx.depth == 1:
            with torch.enable_grad():
                ctx.call()
        else:
            nested(ctx.depth - 1, ctx.call)
        return gradient, None, None


def nested(depth: int, call: Callable[[], None]) -> None:
    with torch.enable_grad():
        x = torch.ones(1, requires_grad=True)
        y = Nested.apply(x, depth, call)
    torch.autograd.grad(y, x)


def elsewhere(ask: Callable[[], Any]) -> Any:
    """What is answered where the backward passes of `ask` run in a thread of autograd's."""
    found: list[Any] = []
    nested(DEPTH, lambda: found.append(ask()))
    return found[0]


class Checkpointed(nn.Module):
    """Its body runs again in the backward pass."""

    def __init__(self, seed: int = 0, again: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.first, self.body, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.again, self.threads, self.meet = again, list[str](), lambda: None

    def inner(self, hidden: Tensor) -> Tensor:
        self.threads.append(current_thread().name)
        self.meet()
        return self.body(hidden.sin()).tanh()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        hidden = checkpoint(self.inner, hidden, use_reentrant=False) if self.again else self.inner(hidden)
        return self.last(hidden)


X = torch.linspace(-1, 1, 12).view(3, 4)


def of_body(model: Checkpointed, x: Tensor = X) -> Tensor:
    return LayerIntegratedGradients(model, model.body).attribute(x, target=1, n_steps=4)


def of_neuron(model: Checkpointed, x: Tensor = X) -> Tensor:
    return NeuronGradient(model, model.body).attribute(x, 2)


@pytest.mark.parametrize("ask", [of_body, of_neuron])
def test_a_backward_pass_in_a_thread_of_autograd(ask: Callable[[Checkpointed], Tensor]) -> None:
    model = Checkpointed()
    found = elsewhere(lambda: ask(model))
    assert any(name.startswith("Dummy-") for name in model.threads), "the point of the test: not in this thread"
    torch.testing.assert_close(found, ask(Checkpointed(again=False)))


def test_two_explanations_whose_backward_passes_meet() -> None:
    """Of one model, each recomputing while the other's hooks are held."""
    model, together = Checkpointed(), threading.Barrier(2, timeout=60)
    expected = [of_body(Checkpointed(again=False), X + k) for k in range(2)]

    def meet() -> None:
        if current_thread().name.startswith("Dummy-"):
            together.wait()

    model.meet = meet
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda k: elsewhere(lambda: of_body(model, X + k)), range(2)))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("name", ["Dummy-1", "Dummy-7", "any other"])
def test_a_thread_that_is_none_of_ours(name: str) -> None:
    """As C++ starts them: their forward passes are not those of an explanation that waits for its backward pass."""
    layer, seen = nn.Identity(), list[Tensor]()

    def run() -> None:
        current_thread().name = name
        seen.append(layer(torch.ones(1)))

    with keep_hooks_for_backward():
        with replaced(Site(layer), (torch.full((1,), 7.0),)):
            assert layer(torch.ones(1)) == 7
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert seen == [torch.ones(1)]


def test_a_backward_pass_of_the_caller_beside_ours() -> None:
    """A training step with the same checkpointed layers, in a thread of autograd's, while hooks are held."""
    model = Checkpointed()
    plain = Checkpointed(again=False)
    right = torch.autograd.grad(plain(X).sum(), plain.body.weight)[0]

    def step() -> Tensor:
        return torch.autograd.grad(model(X).sum(), model.body.weight)[0]

    with keep_hooks_for_backward():
        with replaced(Site(model.body), (torch.zeros(3, 4),)):
            model(X)
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(elsewhere, step).result()
    torch.testing.assert_close(found, right)


def test_derivatives_are_those_of_autograd_and_leave_nothing() -> None:
    x = torch.ones(3, requires_grad=True)
    with keep_hooks_for_backward():
        y = (x**2).sum()
        assert torch.equal(derivatives(y, [x])[0], 2 * x)
        assert held_for_this_pass() is None
    y = (x**3).sum()
    (first,) = derivatives(y, [x], create_graph=True)
    assert torch.equal(derivatives(first.sum(), [x])[0], 6 * x)
