"""The rules engine: every way in which a model may call an operation, what is refused, and what is left as it was."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack
from torch.utils.checkpoint import checkpoint

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.path.walk import Walk
from llm_attr.core.problem import Gradients, Problem
from llm_attr.core.rules.call import family_of
from llm_attr.core.rules.deep_lift import ReferencePairs
from llm_attr.core.rules.elementwise import is_elementwise
from llm_attr.core.rules.engine import Rules, Tape
from llm_attr.core.rules.tables import DEEP_LIFT, GUIDED, LRP
from llm_attr.errors import NoGradient, NoRule

pytestmark = pytest.mark.usefixtures("one_thread")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, LOW = random(3, 6), random(3, 6, seed=1)


def gradients(model: Any, x: Tensor = X, rules: Rules = LRP) -> Gradients:
    return rules.of(model).on(Problem.of(model, x)).gradients((x,), 1)


def relevance(model: Any, x: Tensor = X) -> Tensor:
    return gradients(model, x).gradients[0] * x


def gap(model: Any, x: Tensor = X, low: Tensor = LOW) -> float:
    """How far DeepLIFT is from complete."""
    problem = Problem.of(model, x, low)
    pairs = ReferencePairs(Walk(problem, Evaluator("", 1)), DEEP_LIFT.of(model), (problem.baselines[0][None],))
    return pairs.mean_and_delta()[1].abs().max().item()


def linear(*sizes: int) -> nn.Linear:
    with torch.random.fork_rng([]):
        torch.manual_seed(sum(sizes))
        return nn.Linear(*sizes, bias=False).double()


SPELLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "relu_": lambda x: (x * 1).relu_(),
    "F.relu in place": lambda x: F.relu(x * 1, True),
    "module in place": lambda x: nn.ReLU(inplace=True)(x * 1),
    "aten": lambda x: torch.ops.aten.relu(x),
    "aten overload": lambda x: torch.ops.aten.relu.default(x),
    "clamp": lambda x: x.clamp(min=0),
    "hardtanh": lambda x: F.hardtanh(x, 0.0, 1e9),
    "threshold": lambda x: F.threshold(x, 0, 0),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_every_spelling_of_a_function(name: str) -> None:
    act, weight = SPELLINGS[name], random(6, seed=2)
    assert gap(lambda x: act(x) @ weight) < 1e-14
    assert gap(lambda x: act(act(x) - 0.3) @ weight) < 1e-14
    torch.testing.assert_close(relevance(lambda x: act(x) @ weight), X.clamp(min=0) * weight)


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "pow": lambda x: x**3,
    "base": lambda x: 2.0**x,
    "exp": torch.exp,
    "softplus": F.softplus,
    "softsign": F.softsign,
    "tanhshrink": F.tanhshrink,
    "logsigmoid": F.logsigmoid,
    "hardswish": F.hardswish,
    "mul_": lambda x: (x * 1).mul_(x.tanh()),
    "*=": lambda x: _times_equal(x),
    "div": lambda x: x / (x**2 + 1),
    "div_": lambda x: (x * 1).div_(x.sigmoid() + 1),
    "reciprocal": lambda x: (x**2 + 1).reciprocal(),
    "1 / x": lambda x: 1 / (x**2 + 1),
    "sqrt": lambda x: x / torch.sqrt(x.square().mean(-1, keepdim=True) + 1e-6),
    "rsqrt": lambda x: torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * x,
    "rsqrt behind a cast": lambda x: (
        x * torch.rsqrt(x.square().mean(-1) + 1e-6).to(x.dtype).unsqueeze(-1).expand(-1, 6)
    ),
    "softmax": lambda x: F.softmax(x, -1),
    "softmax of columns": lambda x: x.view(3, 2, 3).softmax(dim=1).flatten(1),
    "log_softmax": lambda x: torch.log_softmax(x, 1),
    "logsumexp": lambda x: torch.logsumexp(x, 1, keepdim=True) + x,
    "logsumexp of two axes": lambda x: x * torch.logsumexp(x.view(3, 2, 3), (1, 2))[:, None],
    "layer_norm": lambda x: F.layer_norm(x, (6,), torch.arange(6).double()),
    "layer_norm of two axes": lambda x: F.layer_norm(x.view(3, 2, 3), (2, 3), eps=0.1).flatten(1),
    "rms_norm": lambda x: F.rms_norm(x, (6,), eps=1e-3),
    "group_norm": lambda x: F.group_norm(x, 3, torch.arange(6).double()),
    "instance_norm": lambda x: F.instance_norm(x.view(3, 2, 3)).flatten(1),
    "einsum": lambda x: torch.einsum("bi,bj->bij", x, x.tanh()).sum(2),
    "bilinear": lambda x: F.bilinear(x, x.tanh(), random(6, 6, 6, seed=7)),
    "matmul": lambda x: (x[:, :, None] @ x.tanh()[:, None, :]).sum(2),
    "keywords": lambda x: torch.baddbmm(random(3, 6, 6), batch1=x[:, :, None], batch2=x.tanh()[:, None]).sum(2),
    "max_pool1d": lambda x: F.max_pool1d(x[:, None], 2).flatten(1).repeat(1, 2),
    "max_pool1d of columns": lambda x: F.adaptive_max_pool1d(x[:, None], 2).flatten(1).repeat(1, 3),
    "maximum": lambda x: torch.maximum(x, torch.tensor(0.2, dtype=torch.float64)),
}


def _times_equal(x: Tensor) -> Tensor:
    y = x + 1
    y *= x.sigmoid()
    return y


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_is_complete(name: str) -> None:
    function, weight = FUNCTIONS[name], random(6, seed=2)

    def model(x: Tensor) -> Tensor:
        return function(x) @ weight

    assert gap(model) < 1e-12
    assert gap(lambda x: model(function(x))) < 1e-10
    if name not in ("reciprocal", "1 / x"):
        assert gap(model, X, 0 * X) < 1e-10
    same = DEEP_LIFT.of(model).on(Problem.of(model, X))
    torch.testing.assert_close(same.values((X,), 1), model(X))


@pytest.mark.parametrize(
    "name", ["softmax", "layer_norm", "rms_norm", "group_norm", "rsqrt", "sqrt", "gelu", "matmul", "div", "log_softmax"]
)
def test_multipliers_next_to_the_baseline_are_the_gradient(name: str) -> None:
    function, weight = FUNCTIONS[name], random(6, seed=2)
    x = X.clone().requires_grad_()
    (function(x) @ weight).sum().backward()
    problem = Problem.of(lambda x: function(x) @ weight, X, X + 1e-5 * LOW)
    pairs = ReferencePairs(Walk(problem, Evaluator("", 1)), DEEP_LIFT, (problem.baselines[0][None],), lambda m, x, b: m)
    torch.testing.assert_close(pairs.mean().tensors[0], x.grad, rtol=1e-3, atol=1e-4)


def test_parameters_are_no_factors() -> None:
    """`w * x` keeps its gradient, whichever way a parameter comes into it; and its flag is not touched."""
    weight = nn.Parameter(random(6, seed=3))
    loose = random(6, seed=3).requires_grad_()
    for model in (
        lambda x: (weight * x).sum(1),
        lambda x: (x * weight[None].T[:, 0]).sum(1),
        lambda x: (loose.exp().log() * x).sum(1),
    ):
        torch.testing.assert_close(relevance(model), X * weight.detach())
    assert weight.requires_grad
    assert loose.requires_grad


def test_what_depends_on_other_leaves_is_refused() -> None:
    outside = random(6, seed=3).requires_grad_() * 2
    with pytest.raises(NoRule, match=r"a tensor of shape \(6,\) that requires gradients and is not the input"):
        relevance(lambda x: (outside * x).sum(1))


def test_composites_are_opened() -> None:
    weight = random(6, seed=2)
    assert gap(lambda x: F.tanhshrink(F.softsign(x)) @ weight) < 1e-14
    torch.testing.assert_close(
        relevance(lambda x: F.normalize(x, dim=1) @ weight).sum(1), F.normalize(X, dim=1) @ weight
    )
    with pytest.raises(NoRule, match="norm: DeepLift has no rule for it"):
        gap(lambda x: F.normalize(x, dim=1) @ weight)


def test_results_may_be_changed_in_place_later() -> None:
    weight, lin = random(6, seed=2), linear(6, 6)

    def model(x: Tensor) -> Tensor:
        hidden = lin(x)
        gate = hidden.clamp(max=3)
        kept = gate.exp()
        gate.relu_()
        gate += x
        return (kept + gate * 2) @ weight

    assert gap(model) < 1e-12


class SquareFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * gradient


class Square(nn.Module):
    """A function of each entry that no rule sees from outside."""

    def forward(self, x: Tensor) -> Tensor:
        return SquareFunction.apply(x)


class WrittenGelu(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.045 * torch.pow(x, 3.0))))


class CountsCalls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.tanh() * x


class Shifts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.roll(1, -1) ** 2


class Writes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


@pytest.mark.parametrize("kind", [Square, WrittenGelu, CountsCalls])
def test_a_module_of_its_own_that_acts_on_each_entry_is_one_function(kind: type[nn.Module]) -> None:
    act = kind()
    assert is_elementwise(act)
    model = nn.Sequential(linear(6, 5), act, linear(5, 1))
    assert gap(model) < 1e-14
    torch.testing.assert_close(relevance(model).sum(1, keepdim=True), model(X).detach())


@pytest.mark.parametrize("kind", [Shifts, Writes, nn.Identity, nn.GELU, nn.Flatten, nn.Module])
def test_other_modules_are_not(kind: type[nn.Module]) -> None:
    assert not is_elementwise(kind())


def test_probing_leaves_a_module_alone() -> None:
    act = CountsCalls()
    act.register_forward_hook(lambda *_: pytest.fail("a hook of the user"))
    before = torch.get_rng_state()
    is_elementwise(act)
    assert act.calls == 0
    assert torch.equal(torch.get_rng_state(), before)


REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "custom function": (lambda x: SquareFunction.apply(x).sum(1), "SquareFunctionBackward"),
    "lgamma": (lambda x: torch.lgamma(x.abs() + 1).sum(1), r"no rule covers, .*LgammaBackward0 \(1\)"),
    "three factors": (lambda x: torch.einsum("bi,bi,bi->b", x, x, x), "a product of 3 factors has no rule"),
    "prod": (lambda x: x.prod(1), "a product of several factors"),
    "power of two": (lambda x: (x.abs() ** x).sum(1), "a function of 2 tensors"),
    "lstm": (lambda x: LSTM(x[:, None])[0].sum((1, 2)), "recurrent kernels have no rule"),
    "dropout": (lambda x: F.dropout(x, 0.5).sum(1), "dropout is on"),
    "batch statistics": (lambda x: F.batch_norm(x, None, None, training=True).sum(1), "statistics from the batch"),
    "checkpoint": (lambda x: checkpoint(torch.tanh, x * 1, use_reentrant=True).sum(1), "switch gradient checkpointing"),
    "new checkpoint": (
        lambda x: checkpoint(tanh_twice, x * 1, use_reentrant=False).sum(1),
        "switch gradient checkpoint",
    ),
    "own gradient": (lambda x: torch.autograd.grad(x.tanh().sum(), x, create_graph=True)[0].sum(1), "differentiates"),
    "rounding": (lambda x: torch.div(x, x.exp(), rounding_mode="floor").sum(1), "a division that rounds"),
    "attention with dropout": (
        lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.1).sum(1),
        "dropout is on",
    ),
}
LSTM = nn.LSTM(6, 2, batch_first=True).double()


def tanh_twice(x: Tensor) -> Tensor:
    return F.linear(x, random(6, 6)).tanh().tanh()


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("method", [gap, relevance])
def test_what_no_rule_can_follow_is_refused_by_name(name: str, method: Any) -> None:
    model, cause = REFUSED[name]
    with torch.random.fork_rng([]), pytest.raises(NoRule, match=cause):
        method(model)


def test_hidden_relus_are_refused_by_guided_backpropagation() -> None:
    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return gradient * 2

    assert gradients(lambda x: Hidden.apply(x).relu().sum(1), rules=GUIDED).gradients[0].unique().tolist() == [0, 2]
    with pytest.warns(DeprecationWarning, match="torch.jit.trace"):
        scripted = torch.jit.trace(lambda x: torch.relu(x) * 2, X, check_trace=False)
    with pytest.raises(NoRule, match="ReluBackward0"):
        gradients(lambda x: scripted(x).sum(1), rules=GUIDED)


def test_runs_that_differ_are_refused() -> None:
    def longer(x: Tensor) -> Tensor:
        return (x.tanh().sin() if x[0, 0] > 0 else x.tanh()).sum(1)

    def other(x: Tensor) -> Tensor:
        return (x.sin() if x[0, 0] > 0 else x.tanh()).sum(1)

    def wider(x: Tensor) -> Tensor:
        return (x[:, :4] if x[0, 0] > 0 else x).tanh().sum(1)

    high, low = X.clone(), LOW.clone()
    high[0, 0], low[0, 0] = 1, -1
    with pytest.raises(NoRule, match="operation 2: with the baseline the model runs nothing"):
        gap(longer, high, low)
    with pytest.raises(NoRule, match="the model runs 2 operations, with the input 1"):
        gap(longer, low, high)
    with pytest.raises(NoRule, match=r"runs tanh \[\(3, 6\)\], with the input sin \[\(3, 6\)\]"):
        gap(other, high, low)
    with pytest.raises(NoRule, match=r"runs tanh \[\(3, 6\)\], with the input tanh \[\(3, 4\)\]"):
        gap(wider, high, low)


def test_an_output_that_does_not_depend_on_the_input() -> None:
    def model(x: Tensor) -> Tensor:
        with torch.no_grad():
            return x.tanh().sum(1)

    for method in (gap, relevance):
        with pytest.raises(NoGradient):
            method(model)


def test_a_run_of_the_baseline_copies_no_weights() -> None:
    model, tape = nn.Sequential(linear(6, 200), nn.ReLU(), linear(200, 1)), Tape()
    DEEP_LIFT.of(model).on(Problem.of(model, X), tape, recording=True).at((X,), 1)
    assert tape.size == 3 * 200


def state(model: nn.Module) -> dict[str, Any]:
    """What must be as it was."""
    return {
        "hooks": [
            (len(part._forward_hooks), len(part._forward_pre_hooks), len(part._backward_hooks), sorted(vars(part)))
            for part in model.modules()
        ],
        "flags": [parameter.requires_grad for parameter in model.parameters()],
        "grads": [parameter.grad for parameter in model.parameters()],
        "versions": [parameter._version for parameter in model.parameters()],
        "classes": [set(vars(kind)) for kind in (nn.Module, nn.ReLU, nn.Linear, Tensor, WrittenGelu)],
        "functions": (F.relu, torch.relu, Tensor.relu),
        "modes": len(_get_current_function_mode_stack()),
        "grad mode": torch.is_grad_enabled(),
    }


class Fails(nn.Module):
    """Raises in the middle of a forward pass, when told to."""

    error: type[BaseException] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if Fails.error is not None:
            raise Fails.error("stopped")
        return x


def whole_model() -> nn.Module:
    model = nn.Sequential(linear(6, 5), WrittenGelu(), Fails(), nn.ReLU(True), linear(5, 1))
    model[0].rule = lambda call: call.native()
    return model


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("rules", [LRP, DEEP_LIFT, GUIDED])
def test_everything_is_as_it_was(
    error: type[BaseException] | None, rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = whole_model()
    before = state(model)
    ruled = rules.of(model).on(Problem.of(model, X))
    run = (lambda: gap(model)) if rules is DEEP_LIFT else (lambda: ruled.gradients((X,), 1))
    monkeypatch.setattr(Fails, "error", error)
    if error is None:
        run()
    else:
        with pytest.raises(error, match="stopped"):
            run()
    assert state(model) == before


def test_another_thread_sees_the_model_as_it_is() -> None:
    seen: list[tuple[Tensor, list[bool]]] = []

    class Meanwhile(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if threading.current_thread() is threading.main_thread():
                thread = threading.Thread(target=other)
                thread.start()
                thread.join()
            return x * 1

    model = nn.Sequential(linear(6, 5), WrittenGelu(), Meanwhile(), nn.ReLU(True), linear(5, 1))
    model[0].rule = lambda call: call.native().detach()

    def other() -> None:
        x = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(x).sum(), x)
        seen.append((gradient, [parameter.requires_grad for parameter in model.parameters()]))

    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(nn.Sequential(*model[:2], *model[3:])(x).sum(), x)
    with pytest.raises(NoGradient):
        relevance(model)
    del model[0].rule
    gap(model)
    relevance(model)
    assert len(seen) >= 3
    for gradient, flags in seen:
        torch.testing.assert_close(gradient, expected)
        assert flags == [True, True]


@pytest.mark.parametrize(
    ("name", "family"),
    [("relu_", "relu"), ("__mul__", "mul"), ("__rmul__", "mul"), ("mul.Tensor", "mul"), ("conv_transpose2d", "linear")],
)
def test_families(name: str, family: str) -> None:
    assert family_of(name) == family
