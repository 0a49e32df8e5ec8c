"""DeepLIFT equals the installed Captum's where that is complete; elsewhere completeness and slow formulas judge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llm_attr.attr import DeepLift, DeepLiftShap, LayerDeepLift
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.path.walk import Walk
from llm_attr.core.problem import Problem
from llm_attr.core.rules.deep_lift import ReferencePairs
from llm_attr.core.rules.tables import DEEP_LIFT_OF_CAPTUM
from llm_attr.errors import InvalidShape, InvalidType, NoRule
from tests.parity.cases import DEEP_LIFT, Case, assert_equal, captums, random
from tests.parity.models import made, net
from tests.parity.rule_rows import states
from tests.reference.deep_lift import product_of_two, rescale, softmax_multipliers

pytestmark = pytest.mark.usefixtures("one_thread")


X, Y = random(3, 4), random(3, 3, seed=1)


def options(case: Case, **more: Any) -> dict[str, Any]:
    return {"baselines": case.baselines, **case.options, **more}


def test_own_attributions_that_do_not_fit_are_refused() -> None:
    method = DeepLift(DEEP_LIFT["relu"].model)
    for function in (lambda: 1, lambda m, x, b, more: m, 3):
        with pytest.raises(InvalidType, match="custom_attribution_func must"):
            method.attribute(X, target=0, custom_attribution_func=function)
    with pytest.raises(InvalidShape, match="custom_attribution_func must return"):
        method.attribute(X, target=0, custom_attribution_func=lambda m: m[0].sum(1))


@pytest.mark.parametrize("act", [torch.tanh, torch.relu, torch.sigmoid, F.softplus, F.gelu, F.silu])
def test_rescale_rule_on_matrices(act: Any) -> None:
    sizes = [(5, 4), (5, 5), (1, 5)]
    weights = [random(*size, seed=i) for i, size in enumerate(sizes)]
    biases = [random(size[0], seed=9 + i) for i, size in enumerate(sizes)]

    def model(x: Tensor) -> Tensor:
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            x = act(F.linear(x, weight, bias))
        return F.linear(x, weights[-1], biases[-1])[:, 0]

    x, b = random(3, 4, seed=20), random(3, 4, seed=21)
    expected = torch.stack([rescale(weights, biases, act, *pair) for pair in zip(x, b, strict=True)])
    torch.testing.assert_close(DeepLift(model).attribute(x, b), expected, rtol=1e-10, atol=1e-10)


def test_products_and_softmax_on_numbers() -> None:
    x, b = random(1, 2, seed=2), random(1, 2, seed=3)
    found = DeepLift(lambda x: x[:, 0] * x[:, 1]).attribute(x, b)
    torch.testing.assert_close(found[0].tolist(), list(product_of_two(*x[0].tolist(), *b[0].tolist())))
    x, b, weight = random(1, 5, seed=4), random(1, 5, seed=5), random(5, seed=6)
    for spelled in (F.softmax, torch.softmax, Tensor.softmax):
        method = DeepLift(lambda x, soft=spelled: soft(x, -1) @ weight, multiply_by_inputs=False)
        expected = softmax_multipliers(x[0], b[0], weight)
        torch.testing.assert_close(method.attribute(x, b)[0], expected, rtol=1e-10, atol=1e-12)


def test_captums_softmax_has_a_table_of_its_own() -> None:
    model = nn.Sequential(*net(nn.ReLU()), nn.Softmax(1))
    problem = Problem.of(model, X, random(3, 4, seed=8), 1)
    low = tuple(baseline[None] for baseline in problem.baselines)
    walk = Walk(problem, Evaluator("", 1))
    found = ReferencePairs(walk, DEEP_LIFT_OF_CAPTUM.of(model), low).mean().tensors[0]
    expected = captums("DeepLift", lambda m: m.attribute(X, random(3, 4, seed=8), target=1), model)
    assert_equal(found, expected)
    _, delta = DeepLift(model).attribute(X, random(3, 4, seed=8), target=1, return_convergence_delta=True)
    assert delta.abs().max() < 1e-12


class Reused(nn.Module):
    """`(batch, 2, 8, 8)` -> `(batch, 3)`: residual blocks with one in-place ReLU for all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(2 if i == 0 else 4, 4, 3, padding=1) for i in range(5))
        self.norms = nn.ModuleList(nn.BatchNorm2d(4) for _ in range(5))
        self.relu, self.pool, self.head = nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.norms[0](self.convs[0](x))))
        for i in (1, 3):
            inner = self.relu(self.norms[i](self.convs[i](x)))
            x = x + self.norms[i + 1](self.convs[i + 1](inner))
            x = self.relu(x)
        return self.head(x.mean((2, 3)))


class Functional(nn.Module):
    """`(batch, 2, 8, 8)` -> `(batch, 3)` with functions only."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.up = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 2), nn.ConvTranspose2d(4, 2, 2)
        self.head, self.scale = nn.Linear(18, 3), nn.GroupNorm(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.relu_(self.scale(x) * torch.sigmoid(x))
        x = torch.cat([self.up(F.relu(self.b(x)))], 1)
        return self.head(F.adaptive_max_pool2d(F.instance_norm(x), 3).flatten(1)).log_softmax(1)


@pytest.mark.parametrize("kind", [Reused, Functional])
@pytest.mark.parametrize("low", ["zero", "random"])
def test_completeness_where_captum_fails(kind: type[nn.Module], low: str) -> None:
    model, x = made(kind(), seed=2), random(3, 2, 8, 8)
    baseline = torch.zeros_like(x) if low == "zero" else random(3, 2, 8, 8, seed=4)
    for method in (
        DeepLift(model),
        LayerDeepLift(model, next(model.children()) if kind is Functional else model.convs[0]),
    ):
        found, delta = method.attribute(x, baseline, target=1, return_convergence_delta=True)
        change = (model(x) - model(baseline))[:, 1]
        torch.testing.assert_close(found.flatten(1).sum(1), change.detach(), rtol=0, atol=1e-10)
        assert delta.abs().max() < 1e-10
        assert change.abs().max() > 1e-3


def test_the_input_of_a_relu_is_complete_unlike_captums() -> None:
    case = DEEP_LIFT["relu"]
    given = options(case, return_convergence_delta=True, attribute_to_layer_input=True)
    assert LayerDeepLift(case.model, case.model[3]).attribute(X, **given)[1].abs().max() < 1e-12
    assert captums("LayerDeepLift", lambda m: m.attribute(X, **given), case.model, case.model[3])[1].abs().max() > 0.5


def test_pairs_are_averaged_in_any_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_attr.core.path import walk as path

    case = DEEP_LIFT["images"]
    given = {**options(case, return_convergence_delta=True), "baselines": states(case)}
    alone = [
        DeepLift(case.model).attribute(case.inputs, **{**given, "baselines": low}) for low in states(case).split(1)
    ]
    for room in (1, 3, 100):
        monkeypatch.setattr(path, "copies_that_fit", lambda tensors, *_, room=room: room)
        found, delta = DeepLiftShap(case.model).attribute(case.inputs, **given)
        torch.testing.assert_close(found, torch.stack([each for each, _ in alone]).mean(0))
        torch.testing.assert_close(delta, torch.stack([each for _, each in alone], 1).flatten())


def test_numbers_of_states_must_agree() -> None:
    case = replace(DEEP_LIFT["two"])
    with pytest.raises(InvalidShape, match="as many states for every input"):
        DeepLiftShap(case.model).attribute(case.inputs, (random(2, 4), random(3, 3)), **case.options)


def test_what_deep_lift_cannot_follow() -> None:
    x = random(2, 4)
    for model, cause in (
        (lambda x: x.max(1).values, "max: DeepLift has no rule for it"),
        (lambda x: x.cumprod(1).sum(1), "cumprod: a product of several factors"),
        (lambda x: torch.lgamma(x.abs() + 1).sum(1), "LgammaBackward0"),
    ):
        with pytest.raises(NoRule, match=cause):
            DeepLift(model).attribute(x)
