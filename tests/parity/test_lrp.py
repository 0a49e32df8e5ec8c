"""Relevance propagation equals the installed Captum's and slow sums; where Captum fails, conservation judges."""

from __future__ import annotations

import warnings
from typing import Any

import captum.attr
import captum.attr._utils.lrp_rules as theirs
import pytest
import torch
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn
from torch.nn import functional as F

import llm_attr.attr as ours
from llm_attr.attr import LRP, LayerLRP
from llm_attr.errors import InvalidShape, InvalidType, NoRule
from tests.parity.cases import assert_equal, captums, random
from tests.parity.models import Images, made
from tests.parity.models import lrp_mlp as mlp
from tests.parity.rule_rows import LRP_INPUTS
from tests.reference import lrp as sums

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_delta_of_given_attributions() -> None:
    model, x = mlp(), LRP_INPUTS["mlp"]
    call = lambda m: m.compute_convergence_delta(random(3, 4), model(x)[:, 1])  # noqa: E731
    torch.testing.assert_close(call(LRP(model)), captums("LRP", call, model))
    with pytest.raises(InvalidShape, match="one number for each of the 3"):
        LRP(model).compute_convergence_delta(x, model(x))


def test_the_delta_of_given_attributions_at_a_layer() -> None:
    model, x = mlp(), LRP_INPUTS["mlp"]
    found, delta = LayerLRP(model, model[2]).attribute(x, target=1, return_convergence_delta=True)
    own = LayerLRP(model, model[2]).compute_convergence_delta(found, model(x)[:, 1])
    assert_equal(own, captum.attr.LayerLRP(model, model[2]).compute_convergence_delta(found, model(x)[:, 1]), 1e-6)
    assert own.shape == delta.shape


SHARES = {
    ours.EpsilonRule(0.1): sums.epsilon(0.1),
    ours.GammaRule(0.4): sums.gamma(0.4),
    ours.GammaRule(0.4, set_bias_to_zero=True): sums.gamma(0.4, bias=False),
    ours.Alpha1_Beta0_Rule(): sums.positive_weights,
    ours.ZPlusRule(): sums.z_plus,
    ours.FlatRule(): sums.flat,
    ours.WSquareRule(): sums.w_square,
}


@pytest.mark.parametrize("rule", SHARES, ids=str)
@pytest.mark.parametrize("spelling", ["linear", "addmm", "conv", "matmul"])
def test_rules_against_sums_over_pairs(rule: Any, spelling: str) -> None:
    """At the first layer, of inputs of both signs and one zero; the second has the epsilon rule."""
    w, b, v, c = random(5, 4, seed=1), random(5, seed=2), random(3, 5, seed=3), random(3, seed=4)
    x = random(2, 4, seed=5)
    x[0, 2] = 0

    class First(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if spelling == "linear":
                return F.linear(x, w, bias=b)
            if spelling == "addmm":
                return torch.addmm(b, x, w.t())
            if spelling == "conv":
                return F.conv1d(x[:, :, None], w[:, :, None], b)[:, :, 0]
            return x @ w.t() + b

    first, bias = First(), torch.zeros_like(b) if spelling == "matmul" else b
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(5, 3).double())
    model[2].weight.data, model[2].bias.data = v.clone(), c.clone()
    found = LRP(model, rules={first: rule}).attribute(x, target=1)
    for row, got in zip(x, found, strict=True):
        hidden = (w @ row + b).clamp(min=0)
        output = v[1] @ hidden + c[1]
        relevance = v[1] * hidden / output * output
        z = w @ row + bias
        relevance = torch.where(w @ row + b > 0, relevance * z / (w @ row + b), 0.0)
        torch.testing.assert_close(got, sums.propagate(row, w, bias, relevance, SHARES[rule]), rtol=1e-10, atol=1e-10)


def test_relevance_is_conserved_without_biases_and_absorbed_by_them() -> None:
    x = LRP_INPUTS["mlp"]
    model = mlp(bias=False)
    found, delta = LRP(model).attribute(x, target=1, return_convergence_delta=True)
    torch.testing.assert_close(found.sum(1), model(x)[:, 1].detach(), rtol=1e-10, atol=1e-10)
    assert delta.abs().max() < 1e-12
    model = nn.Sequential(*mlp()[:2], mlp()[5])
    found, delta = LRP(model).attribute(x, target=1, return_convergence_delta=True)
    for row, absorbed in zip(x, delta, strict=True):
        w, b, v, c = (each.detach() for each in model.parameters())
        hidden = (w @ row + b).clamp(min=0)
        by_last = sums.absorbed_by_bias(hidden, v[1:2], c[1:2], v[1:2] @ hidden + c[1:2])
        by_first = sums.absorbed_by_bias(row, w, b, v[1] * hidden)
        torch.testing.assert_close(absorbed, by_first + by_last, rtol=1e-10, atol=1e-10)


class Blocks(nn.Module):
    """`(batch, 4)` -> `(batch, 3)`: one ReLU for all, functions, a nested block, a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 6, False), nn.Sequential(nn.ReLU(), nn.Linear(6, 6, False)))
        self.gate, self.head = nn.Linear(6, 6, False), nn.Linear(6, 3, False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x)
        hidden = F.silu(self.gate(hidden)) * hidden + F.relu(hidden)
        return self.head(self.body[1][0](hidden))


def test_the_nearest_module_wins_and_blocks_have_rules() -> None:
    x = random(3, 4)
    whole, single = made(Blocks()), made(Blocks())
    whole.body.rule = ours.GammaRule(0.5)
    single.body[0].rule = single.body[1][1].rule = ours.GammaRule(0.5)
    torch.testing.assert_close(LRP(whole).attribute(x, target=0), LRP(single).attribute(x, target=0))
    whole.body[1].rule = ours.ZPlusRule()
    single.body[1][1].rule = ours.ZPlusRule()
    found = LRP(whole).attribute(x, target=0)
    torch.testing.assert_close(found, LRP(single).attribute(x, target=0))
    named = made(Blocks())
    rules = {named.body: ours.GammaRule(0.5), named.body[1]: ours.ZPlusRule()}
    torch.testing.assert_close(LRP(named, rules=rules).attribute(x, target=0), found)
    assert (LRP(made(Blocks())).attribute(x, target=0) - found).abs().max() > 1e-3
    assert not any(hasattr(part, "rule") for part in named.modules())


def test_conservation_with_gates_and_reused_modules() -> None:
    model, x = made(Blocks()), random(3, 4)
    found, delta = LRP(model).attribute(x, target=2, return_convergence_delta=True)
    torch.testing.assert_close(found.sum(1) + delta, model(x)[:, 2].detach())
    assert delta.abs().max() < 1e-12


def test_identity_passes_relevance_through() -> None:
    model = made(Images())
    model[1].rule = ours.IdentityRule()
    found = LRP(model).attribute(LRP_INPUTS["images"], target=1)
    other = made(Images())
    other[1].rule = theirs.IdentityRule()
    assert_equal(found, captums("LRP", lambda m: m.attribute(LRP_INPUTS["images"], target=1), other))
    model[0].rule = ours.IdentityRule()
    with pytest.raises(NoRule, match="IdentityRule needs a result of the same shape"):
        LRP(model).attribute(LRP_INPUTS["images"], target=1)


class Sum(Addition_Module):
    """Captum's module for additions."""


class Branches(nn.Module):
    """`(batch, 4)` -> `(batch, 3)`, with an addition and what is between layers."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.left, self.right, self.last = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)
        self.sum, self.between = Sum(), between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.sum(self.left(x), self.right(x))))


@pytest.mark.parametrize("rule", ["EpsilonRule", "GammaRule", "Alpha1_Beta0_Rule"])
@pytest.mark.parametrize("kind", [nn.ReLU, nn.Tanh, nn.Dropout, nn.Identity, nn.Flatten])
def test_a_rule_where_nothing_is_linear_is_accepted(kind: type[nn.Module], rule: str) -> None:
    model = made(Branches(kind()))
    model.between.rule, model.sum.rule = (getattr(theirs, rule)() for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        want = captum.attr.LRP(model).attribute(LRP_INPUTS["mlp"], target=1)
    model.between.rule, model.sum.rule = (getattr(ours, rule)() for _ in range(2))
    with pytest.warns(UserWarning, match="the rules set on .*Sum.* change nothing") as seen:
        found = LRP(model).attribute(LRP_INPUTS["mlp"], target=1)
    assert kind.__name__ in str(seen[0].message)
    assert_equal(found, want, 1e-6)


@pytest.mark.parametrize("between", [nn.Sigmoid(), nn.GELU(), nn.LayerNorm(6)], ids=lambda m: type(m).__name__)
def test_other_modules_keep_their_own_rule(between: nn.Module) -> None:
    model = made(Branches(between))
    want = LRP(model).attribute(LRP_INPUTS["mlp"], target=1)
    model.between.rule = ours.EpsilonRule()
    with pytest.warns(UserWarning, match=f"the rules set on {type(between).__name__} change nothing"):
        found = LRP(model).attribute(LRP_INPUTS["mlp"], target=1)
    assert_equal(found, want, 0)


def test_rules_that_cannot_be_used() -> None:
    model, x = mlp(), LRP_INPUTS["mlp"]
    model[1].rule = theirs.EpsilonRule()
    with pytest.raises(NoRule, match=r"the rule of ReLU is a EpsilonRule; take one of llm_attr\.attr"):
        LRP(model).attribute(x, target=0)
    with pytest.raises(InvalidType, match="rules must be a mapping from modules"):
        LRP(model, rules={"0": ours.EpsilonRule()})  # type: ignore[dict-item]


def test_verbose_tells_which_rule_is_where(capsys: pytest.CaptureFixture[str]) -> None:
    model = mlp()
    model[0].rule = ours.GammaRule()
    LRP(model).attribute(LRP_INPUTS["mlp"], target=0, verbose=True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Applied GammaRule(gamma=0.25, set_bias_to_zero=False) on layer Linear(in_features=4")
    assert lines[1].startswith("Applied the rule x w / y on layer Linear(in_features=6")
