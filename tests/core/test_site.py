"""Sites: what passes a layer is read, differentiated by and replaced, and nothing stays behind."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPast

from llm_attr.core import site as site_module
from llm_attr.core.backward import keep_hooks_for_backward
from llm_attr.core.problem import Problem
from llm_attr.core.site import Site, differentiable, reading, replaced
from llm_attr.errors import (
    InvalidShape,
    InvalidType,
    InvalidValue,
    LayerNotReached,
    NoGradient,
    SeveralCalls,
    UnknownName,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = random(3, 4)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    torch.set_default_dtype(torch.float32)


class Model(nn.Module):
    """Runs what it is told between two layers."""

    def __init__(self, body: nn.Module, run: Callable[[nn.Module, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.body, self.last = nn.Linear(4, 4), body, nn.Linear(4, 1)
        self.run = run or (lambda body, h: body(h))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self.body, self.first(x))).squeeze(1)


class Keywords(nn.Module):
    def forward(self, *, mask: Tensor, hidden: Tensor, scale: float = 1.0) -> Tensor:
        return hidden * mask * scale


class Attention(nn.Module):
    """As in transformers: hidden states by keyword, a tuple with None."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, hidden_states: Tensor, cache: Any = None) -> tuple[Tensor, None]:
        return self.inner(hidden_states).tanh(), None


class Output(nn.Module):
    def forward(self, x: Tensor) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=x.sin(), hidden_states=(x, x * 2))


@dataclass
class Pair:
    left: Tensor
    right: list[Tensor]


class PairLayer(nn.Module):
    def forward(self, x: Tensor) -> Pair:
        return Pair(x.sin(), [x.cos()])


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def gradient_at(model: nn.Module, site: Site, x: Tensor = X) -> Any:
    return Problem.of(model, x).observed_at([site]).gradients((x,), 1)


def by_hand(model: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor = X) -> tuple[Tensor, Tensor]:
    """`(hidden, d sum(output) / d hidden)` of a Model whose body does `run`."""
    hidden = model.first(x).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.last(run(hidden)).sum(), hidden)
    return hidden.detach(), gradient


RUNS: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor]]] = {
    "plain": (lambda: nn.Tanh(), lambda body, h: body(h)),
    "keyword": (Keywords, lambda body, h: body(mask=torch.tensor([True, False, True, True]), hidden=h)),
    "tuple with None": (Attention, lambda body, h: body(hidden_states=h)[0]),
    "tuple, positional": (Attention, lambda body, h: body(h, None)[0]),
    "in place": (lambda: nn.ReLU(inplace=True), lambda body, h: body(h)),
    "in place after": (nn.Identity, lambda body, h: F.relu_(body(h))),
    "residual": (nn.Tanh, lambda body, h: h + body(h)),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_gradients_at_the_input_of_a_layer(name: str, frozen: bool, before: bool) -> None:
    body, run = RUNS[name]
    model = Model(body(), run).requires_grad_(not frozen)
    hidden, expected = by_hand(model, lambda h: run(model.body, h.clone()))
    site = Site(model.body, "input") if before else Site(model.first)
    found = gradient_at(model, site)
    torch.testing.assert_close(found.at, (hidden,))
    torch.testing.assert_close(found.gradients, (expected,))
    assert hooks(model) == 0
    assert not found.gradients[0].requires_grad


def test_gradients_behind_an_operation_in_place() -> None:
    model = Model(nn.Identity(), lambda body, h: body(F.elu_(h)))
    hidden = F.elu(model.first(X)).detach()
    for io in ("input", "output"):
        found = gradient_at(model, Site(model.body, io))  # type: ignore[arg-type]
        torch.testing.assert_close(found.at, (hidden,))
        torch.testing.assert_close(found.gradients, (model.last.weight.detach().expand(3, -1),))


@pytest.mark.parametrize("io", ["input", "output"])
@pytest.mark.parametrize("frozen", [False, True])
def test_the_users_tensor_is_unchanged_by_a_first_layer_in_place(io: str, frozen: bool) -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 1)).double().requires_grad_(not frozen)
    x = X.clone()
    site = Site(model[0], io)  # type: ignore[arg-type]
    problem = Problem.of(lambda x: model(x)[:, 0], x)
    found = problem.observed_at([site]).gradients(problem.inputs, 1)
    cut = problem.cut_at([site])
    problem.values(problem.inputs, 1)
    cut.values(cut.inputs, 1)
    assert torch.equal(x, X)
    weight = model[1].weight.detach().expand(3, -1)
    torch.testing.assert_close(found.gradients, (weight * (X > 0) if io == "input" else weight,))
    torch.testing.assert_close(cut.inputs, (X if io == "input" else X.relu(),))


def test_what_is_read_stays_as_it_was_when_the_model_changes_it_in_place() -> None:
    model = Model(nn.ReLU(inplace=True))
    with reading(Site(model.first)) as found:
        model(X)
    torch.testing.assert_close(found.tensors[0], model.first(X))
    assert found.slot.single


def test_a_tensor_that_is_changed_in_place_beside_the_layer_is_refused() -> None:
    model = Model(nn.Tanh(), lambda body, h: h.add_(body(h)))
    with pytest.raises(InvalidValue, match="changes the input of layer Tanh in place"):
        gradient_at(model, Site(model.body, "input"))


@pytest.mark.parametrize(
    ("layer", "run", "count"),
    [
        (Output, lambda body, h: body(h).last_hidden_state + body.tail(body), 3),
        (PairLayer, lambda body, h: body(h), 2),
    ],
    ids=["model output", "dataclass"],
)
def test_outputs_with_several_tensors(layer: type, run: Any, count: int) -> None:
    body = layer()

    def forward(x: Tensor) -> Tensor:
        out = body(x)
        parts = (out.last_hidden_state, *out.hidden_states) if count == 3 else (out.left, *out.right)
        assert type(out) in (BaseModelOutputWithPast, Pair)
        return sum(((i + 1) * part).sum(1) for i, part in enumerate(parts))

    problem = Problem.of(forward, X)
    found = problem.observed_at([Site(body)]).gradients((X,), 1)
    assert [gradient.unique().tolist() for gradient in found.gradients] == [[i + 1.0] for i in range(count)]
    assert found.slots[0].count == count
    cut = problem.cut_at([Site(body)])
    points = tuple(random(3, 4, seed=i) for i in range(count))
    expected = sum(((i + 1) * point).sum(1) for i, point in enumerate(points))
    torch.testing.assert_close(cut.values(points, 1), expected)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 5, num_layers=2, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        steps, (hidden, cells) = self.lstm(x)
        return self.head(steps[:, -1] * hidden[0] + cells[1]).squeeze(1)


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_nested_tuples_of_a_recurrent_layer(batch: int) -> None:
    model, x = Recurrent(), random(batch, 6, 4)
    found = gradient_at(model, Site(model.lstm), x)
    steps, (hidden, cells) = model.lstm(x)
    leaves = [tensor.detach().requires_grad_() for tensor in (steps, hidden, cells)]
    score = model.head(leaves[0][:, -1] * leaves[1][0] + leaves[2][1])
    torch.testing.assert_close(found.gradients, torch.autograd.grad(score.sum(), leaves))
    torch.testing.assert_close(found.at, (steps, hidden, cells))
    cut = Problem.of(model, x).cut_at([Site(model.lstm)])
    torch.testing.assert_close(cut.gradients(cut.inputs, 1).gradients, found.gradients)


class Twice(nn.Module):
    """One layer at three places, or three layers of the same weights."""

    def __init__(self, shared: bool) -> None:
        super().__init__()
        layer = nn.Linear(4, 4)
        copies = [nn.Linear(4, 4) for _ in range(3)]
        for each in copies:
            each.load_state_dict(layer.state_dict())
        self.layers = nn.ModuleList([layer] * 3 if shared else copies)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x.sum(1)


@pytest.mark.parametrize("call", [0, 1, 2])
@pytest.mark.parametrize("io", ["input", "output"])
def test_each_call_of_a_layer_is_a_site_of_its_own(call: int, io: Any) -> None:
    shared, separate = Twice(shared=True), Twice(shared=False)
    separate.load_state_dict(shared.state_dict())
    one, other = Site(shared.layers[0], io, call), Site(separate.layers[call], io)
    got, want = gradient_at(shared, one), gradient_at(separate, other)
    torch.testing.assert_close((got.at, got.gradients), (want.at, want.gradients))
    points = (random(3, 4, seed=5),)
    got_cut, want_cut = Problem.of(shared, X).cut_at([one]), Problem.of(separate, X).cut_at([other])
    torch.testing.assert_close(got_cut.gradients(points, 1).gradients, want_cut.gradients(points, 1).gradients)


def test_a_layer_that_runs_several_times_needs_the_call() -> None:
    model = Twice(shared=True)
    site = Site(model.layers[0])
    message = r"passed 3 times .* Site\(layer, call=0\) to Site\(layer, call=2\)"
    problem = Problem.of(model, X)
    for ask in (
        lambda: problem.read([site]),
        lambda: gradient_at(model, site),
        lambda: problem.cut_at([site]),
        lambda: problem.of_neuron(site, 0).values((X,), 1),
    ):
        with pytest.raises(SeveralCalls, match=message):
            ask()
    with pytest.raises(SeveralCalls, match="more than once"), replaced(site, (X,)):
        model(X)
    assert hooks(model) == 0


@pytest.mark.parametrize("call", [None, 3])
def test_a_layer_that_is_not_reached(call: int | None) -> None:
    model = Twice(shared=True)
    site = Site(nn.Linear(4, 4) if call is None else model.layers[0], call=call)
    for way in (lambda: reading(site), lambda: differentiable(site)):
        with way() as found:
            model(X)
        with pytest.raises(LayerNotReached, match="not reached" if call is None else "not reached by call=3"):
            _ = found.parts
    with pytest.raises(LayerNotReached), replaced(site, (X,)):
        model(X)
    assert hooks(model) == 0


def test_bad_sites() -> None:
    with pytest.raises(UnknownName, match=r"'out'.*accepted: input, output"):
        Site(nn.Tanh(), "out")  # type: ignore[arg-type]
    for call in (-1, 1.0, True):
        with pytest.raises(InvalidValue, match="call must be a whole number"):
            Site(nn.Tanh(), call=call)  # type: ignore[arg-type]
    with pytest.raises(InvalidType, match="layer must be a module of the model, or a Site; got str"):
        Site.of("layer")  # type: ignore[arg-type]


def test_layers_without_what_is_needed() -> None:
    embedding = nn.Embedding(5, 4)
    ids = torch.tensor([[1, 2]])
    problem = Problem.of(lambda ids: embedding(input=ids).sum((1, 2)), ids)
    for ask in (
        lambda: problem.cut_at([Site(embedding, "input")]),
        lambda: problem.observed_at([Site(embedding, "input")]).gradients((ids,), 1),
    ):
        with pytest.raises(InvalidType, match=r"is torch.int64, .* use the output of the embedding layer"):
            ask()
    assert problem.read([Site(embedding, "input")])[0][0] is not ids
    torch.testing.assert_close(problem.read([Site(embedding, "input")])[0], (ids,))

    class Constant(nn.Module):
        def forward(self, flag: bool = True) -> Tensor:
            return torch.ones(3)

    constant = Constant()
    with pytest.raises(InvalidType, match="has no tensor among its positional or keyword"):
        Problem.of(lambda x: constant(flag=False) * x.sum(1), X).read([Site(constant, "input")])


def test_what_replaces_must_have_the_shapes() -> None:
    model = Model(nn.Tanh())
    message = r"has tensors of shapes \[\(3, 4\)\]; cannot replace them by shapes \[\(3, 5\)\]"
    with pytest.raises(InvalidShape, match=message), replaced(Site(model.body), (random(3, 5),)):
        model(X)
    assert hooks(model) == 0


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("io", ["input", "output"])
def test_hooks_are_gone_after_errors(error: type[BaseException], io: Any) -> None:
    def fail(body: nn.Module, h: Tensor) -> Tensor:
        body(h)
        raise error("stop")

    model = Model(nn.Tanh(), fail)
    site = Site(model.body, io)
    for way in (reading(site), differentiable(site), replaced(site, (X,))):
        with pytest.raises(error, match="stop"), keep_hooks_for_backward(), way:
            model(X)
        assert hooks(model) == 0


@pytest.mark.parametrize("frozen", [False, True])
def test_token_ids_of_a_frozen_model(frozen: bool) -> None:
    embedding, head = nn.Embedding(7, 4), nn.Linear(4, 1)
    model = nn.Sequential(embedding, nn.ReLU(inplace=True), head).requires_grad_(not frozen)
    ids = torch.tensor([[1, 2, 3], [0, 0, 6]])
    problem = Problem.of(lambda ids: model(ids).sum((1, 2)), ids)
    for site, at in ((Site(embedding), embedding(ids)), (Site(model[1]), embedding(ids).relu())):
        found = problem.observed_at([site]).gradients((ids,), 1)
        torch.testing.assert_close(found.at, (at.detach(),))
        mask = at > 0 if site.layer is embedding else torch.ones_like(at)
        torch.testing.assert_close(found.gradients, (head.weight.detach() * mask,))
    assert {parameter.requires_grad for parameter in model.parameters()} == {not frozen}


def test_a_constant_of_the_model_is_left_without_gradients() -> None:
    layer, constant = nn.Tanh(), random(3, 4)
    problem = Problem.of(lambda x: (layer(constant) * x).sum(1), X)
    found = problem.observed_at([Site(layer, "input")]).gradients((X,), 1)
    torch.testing.assert_close(found.gradients, ((1 - constant.tanh() ** 2) * X,))
    assert not constant.requires_grad


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("way", ["observed", "cut"])
def test_a_layer_where_the_model_switches_gradients_off(mode: type, way: str) -> None:
    def run(body: nn.Module, h: Tensor) -> Tensor:
        with mode():
            return body(h)

    model = Model(nn.Tanh(), run)
    site = Site(model.body)
    problem = Problem.of(model, X)
    if way == "cut":
        cut = problem.cut_at([site])
        found = cut.gradients(cut.inputs, 1)
    else:
        found = problem.observed_at([site]).gradients((X,), 1)
    torch.testing.assert_close(found.gradients, (model.last.weight.detach().expand(3, -1),))
    if mode is torch.no_grad:
        with pytest.raises(NoGradient, match="does not depend"):
            gradient_at(model, Site(model.first))


@pytest.mark.parametrize("way", ["observed", "cut", "observed outside"])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(way: str, frozen: bool, reentrant: bool) -> None:
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 4), nn.Tanh())

    def checked(body: nn.Module, h: Tensor) -> Tensor:
        return checkpoint(body, h, use_reentrant=reentrant)

    plain, model = Model(body), Model(body, checked)
    plain.load_state_dict(model.state_dict())
    model.requires_grad_(not frozen)
    site = "first" if way == "observed outside" else "body.0"

    def ask(model: nn.Module) -> tuple[Tensor, ...]:
        at = [Site(model.get_submodule(site))]
        problem = Problem.of(model, X)
        moved = problem.cut_at(at) if way == "cut" else problem.observed_at(at)
        return moved.gradients(tuple(x + 0.1 for x in moved.inputs), 1).gradients

    expected = ask(plain)
    if not reentrant:
        torch.testing.assert_close(ask(model), expected)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True", UserWarning)
            with pytest.raises((RuntimeError, NoGradient), match=r"use_reentrant=False|does not depend"):
                ask(model)
    assert hooks(model) == 0


def test_checkpointed_calls_of_one_layer_are_refused() -> None:
    layer = nn.Linear(4, 4)
    model = Model(layer, lambda body, h: checkpoint(lambda h: body(body(h).tanh()).tanh(), h, use_reentrant=False))
    with pytest.raises(SeveralCalls, match="disable checkpointing"):
        gradient_at(model, Site(layer, call=1))
    assert hooks(model) == 0


def test_threads_see_their_own_forward_pass() -> None:
    model = Model(nn.Tanh())
    together = threading.Barrier(4)

    def ask(k: int) -> tuple[Tensor, ...]:
        x = X + k
        problem = Problem.of(model, x)
        together.wait()
        observed = problem.observed_at([Site(model.body)]).gradients((x,), 1)
        cut = problem.cut_at([Site(model.first)])
        moved = cut.gradients(tuple(2 * h for h in cut.inputs), 1)
        return (*observed.at, *observed.gradients, *moved.at, *moved.gradients)

    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(ask, range(4)))
            together.reset()
            for k, got in enumerate(found):
                hidden = model.first(X + k).detach()
                weight = model.last.weight.detach()
                moved = weight * (1 - (2 * hidden).tanh() ** 2)
                torch.testing.assert_close(got, (hidden.tanh(), weight.expand(3, -1), 2 * hidden, moved))
    assert hooks(model) == 0


class Replicated(nn.Module):
    """DataParallel on a CPU: copies of the module, each with its part of the batch, in threads of their own."""

    def __init__(self, module: nn.Module, device_ids: list[int], place: threading.local) -> None:
        super().__init__()
        self.module, self.device_ids, self._place = module, device_ids, place

    def forward(self, x: Tensor) -> Tensor:
        parts = x.chunk(len(self.device_ids))
        grad, together = torch.is_grad_enabled(), threading.Barrier(len(parts))

        def run(device: int, part: Tensor) -> Tensor:
            self._place.device = device
            together.wait()
            with torch.set_grad_enabled(grad):
                return self._replica(self.module)(part)

        with ThreadPoolExecutor(len(parts)) as pool:
            return torch.cat(list(pool.map(run, self.device_ids, parts)))

    def _replica(self, module: nn.Module) -> nn.Module:
        copy = module._replicate_for_data_parallel()
        for name, parameter in module._parameters.items():
            setattr(copy, name, parameter * 1 if parameter is not None else None)
        for name, child in module._modules.items():
            setattr(copy, name, self._replica(child))
        return copy


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """Where each thread's tensors are said to be."""
    here = threading.local()
    monkeypatch.setattr(site_module, "_device_of", lambda tensors: getattr(here, "device", None))
    return here


@pytest.mark.parametrize("devices", [[0, 1], [3, 1, 2], [2, 0, 1, 3]])
@pytest.mark.parametrize("io", ["input", "output"])
def test_replicas_have_their_part_of_the_batch(place: threading.local, devices: list[int], io: Any) -> None:
    whole = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 1), nn.Flatten(0))
    model = Replicated(whole, devices, place)
    x = random(7, 4)
    site, plain = Site(whole[2], io, devices=tuple(devices)), Site(whole[2], io)
    for _ in range(5):
        got, want = Problem.of(model, x), Problem.of(whole, x)
        torch.testing.assert_close(got.read([site])[0], want.read([plain])[0])
        one, other = (p.observed_at([s]).gradients((x,), 1) for p, s in ((got, site), (want, plain)))
        torch.testing.assert_close((one.at, one.gradients, one.scores), (other.at, other.gradients, other.scores))
        cut, expected = got.cut_at([site]), want.cut_at([plain])
        points = tuple(random(14, *h.shape[1:], seed=3) for h in cut.inputs)
        torch.testing.assert_close(cut.gradients(points, 2).gradients, expected.gradients(points, 2).gradients)
        neuron, same = got.of_neuron(site, 0), want.of_neuron(plain, 0)
        torch.testing.assert_close(neuron.gradients((x,), 1).gradients, same.gradients((x,), 1).gradients)
    assert hooks(whole) == 0


def test_replicas_in_an_unknown_order_are_refused(place: threading.local) -> None:
    whole = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
    model = Replicated(whole, [1, 0], place)
    for ask in (
        lambda p, s: p.read([s]),
        lambda p, s: p.cut_at([s]),
        lambda p, s: p.observed_at([s]).gradients((X,), 1),
    ):
        with pytest.raises(InvalidValue, match="pass device_ids"):
            ask(Problem.of(model, X), Site(whole[0]))
    assert hooks(whole) == 0


def test_moves_at_the_same_place() -> None:
    """What is put in place is what the other moves see there, in whichever order they were made."""
    model = Model(nn.Tanh())
    points = (random(3, 4, seed=8),)
    weight = model.last.weight.detach().expand(3, -1)
    for site in (Site(model.body), Site(model.last, "input")):
        cut = Problem.of(model, X).cut_at([site])
        found = cut.observed_at([site]).gradients(points, 1)
        torch.testing.assert_close((found.at, found.gradients), (points, (weight,)))
        torch.testing.assert_close(cut.read([site], points)[0], points)
        for neuron in (cut.of_neuron(site, 2), Problem.of(model, X).of_neuron(site, 2).cut_at([site])):
            torch.testing.assert_close(neuron.values(points, 1), points[0][:, 2])
            torch.testing.assert_close(neuron.gradients(points, 1).gradients[0].sum(0), torch.eye(4)[2] * 3)
        twice = cut.cut_at([site])
        torch.testing.assert_close(twice.values(points, 1), cut.values(points, 1))


def test_the_users_own_hooks_stay_and_are_seen() -> None:
    model = Model(nn.Tanh())
    model.body.register_forward_hook(lambda module, args, output: output * 2)
    problem = Problem.of(model, X)
    torch.testing.assert_close(problem.read([Site(model.body)])[0], (model.first(X).tanh() * 2,))
    cut = problem.cut_at([Site(model.body)])
    torch.testing.assert_close(cut.values(cut.inputs, 1), model(X).detach())
    assert hooks(model) == 1
