"""Attacks along gradients: the formula again, what Captum has wrong, bad input, and what is left as it was."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr
from llm_attr.core.random_state import Streams
from llm_attr.errors import (
    Cancelled,
    InvalidShape,
    InvalidType,
    InvalidValue,
    NoGradient,
    NonFiniteGradient,
    UnknownName,
)
from llm_attr.robust import FGSM, PGD
from tests.parity.cases import random
from tests.reference.attacks import pgd
from tests.robust.models import MODELS

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL, X = MODELS["mlp"]
STEPS: dict[str, Any] = {"radius": 0.13, "step_size": 0.05, "step_num": 4}


def loss(x: Tensor) -> Tensor:
    return -MODEL(x)[:, 1].log()


@pytest.mark.parametrize("norm", ["Linf", "L2"])
@pytest.mark.parametrize("direction", ["sign", "gradient"])
def test_the_formula(norm: str, direction: str) -> None:
    options = {"norm": norm, "direction": direction}
    mask = torch.tensor([1.0, 0.0, 0.5, 1.0])
    for targeted in (False, True):
        expected = pgd(lambda x, sign=-1 if targeted else 1: sign * loss(x), X, **STEPS, **options, mask=mask)
        result = PGD(MODEL).perturb(X, target=1, targeted=targeted, mask=mask, **STEPS, **options)
        torch.testing.assert_close(result, expected)
    bounds = (X.min().item(), X.max().item())
    result = PGD(MODEL, None, *bounds).perturb(X, target=1, **STEPS, **options)
    torch.testing.assert_close(result, pgd(loss, X, **STEPS, **options, bounds=bounds))


def test_a_start_in_a_sphere_is_of_each_example() -> None:
    """Of any batch and shape, where Captum fails or takes the radius of another example."""
    for shape in ((3, 4), (2, 2, 3, 3), (200, 6)):
        x = random(*shape)
        torch.manual_seed(5)
        moved = PGD(lambda x: x.flatten(1).sigmoid()).perturb(x, 0.5, 0.0, 1, 1, random_start=True, norm="L2") - x
        torch.manual_seed(5)
        draw = torch.randn_like(x).flatten(1)
        radii = torch.rand(len(x)).double() ** (1 / draw.shape[1]) * 0.5
        expected = draw / draw.norm(dim=1, keepdim=True) * radii[:, None]
        torch.testing.assert_close(moved.flatten(1), expected)


def test_negative_outputs_go_down_too() -> None:
    """The logarithm of a logit that is negative has its gradient the wrong way round."""

    def logits(x: Tensor) -> Tensor:
        return x - 5

    moved = FGSM(logits).perturb(X, 0.1, target=1)
    assert (moved[:, 1] < X[:, 1]).all()
    assert torch.equal(FGSM(logits).perturb(X, 0.1, target=1, targeted=True)[:, 1], X[:, 1] + 0.1)
    mixed = FGSM(lambda x: x).perturb(torch.tensor([[0.0], [1.0], [-1.0]]), 0.5, target=0)
    assert mixed.flatten().tolist() == [-0.5, 0.5, -1.5]


def test_probabilities_that_are_almost_zero() -> None:
    """Their gradients, whose squares are zero in single precision, still have a direction."""
    x = torch.tensor([[60.0, 0.0]])
    moved = PGD(nn.Softmax(1)).perturb(x, 1.0, 1.0, 1, target=1, norm="L2", direction="gradient", targeted=True)
    torch.testing.assert_close(moved - x, torch.tensor([[-(0.5**0.5), 0.5**0.5]]))


def test_a_loss_of_the_batch_is_one_number() -> None:
    classes = torch.tensor([0, 2, 1])
    found = [
        PGD(MODEL.model, nn.CrossEntropyLoss(reduction=kind)).perturb(X, **STEPS, target=classes)
        for kind in ("none", "mean", "sum")
    ]
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[0], found[2])
    soft = torch.full((3, 3), 1 / 3, dtype=torch.float64)
    assert FGSM(MODEL.model, nn.CrossEntropyLoss()).perturb(X, 0.1, target=soft).shape == X.shape


def test_nothing_of_the_caller_changes() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Softmax(1)).train()
    x = torch.rand(2, 4, requires_grad=True)
    before, streams = x.detach().clone(), Streams.now()
    with torch.no_grad():
        moved = FGSM(model[0]).perturb(x, 0.1, target=1)
    assert streams == Streams.now()
    assert not moved.requires_grad
    assert x.grad is None
    assert x.requires_grad
    assert torch.equal(x, before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert model.training
    with torch.inference_mode():
        assert torch.equal(FGSM(model[0]).perturb(before, 0.1, target=1), moved)
    for dtype in (torch.bfloat16, torch.float16):
        assert FGSM(nn.Softmax(1)).perturb(x.detach().to(dtype), 0.1, target=1).dtype == dtype


def test_attempts_are_those_of_single_calls() -> None:
    """With the same draws, whether they share passes or not, and whether the loss is of examples or of the batch."""
    calls = []

    class Counted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return MODEL(x)

    class Mixed(nn.Module):
        """Outputs that depend on the whole batch."""

        def forward(self, x: Tensor) -> Tensor:
            return MODEL(x + x.mean(0) * torch.linspace(0, 1, len(x), dtype=x.dtype)[:, None])

    options: dict[str, Any] = {**STEPS, "target": 1, "random_start": True}
    dropout = nn.Sequential(MODEL.model, nn.Dropout(0.2), nn.Softmax(1)).train()
    mean = PGD(MODEL, lambda out, target: out[:, target].mean())
    for attack in (PGD(Counted()), PGD(Mixed()), mean, PGD(dropout)):
        torch.manual_seed(8)
        expected = [attack.perturb(X, **options) for _ in range(5)]
        after = torch.get_rng_state()
        torch.manual_seed(8)
        calls.clear()
        result = list(attack.attempts(5, X, **options))
        assert torch.equal(torch.get_rng_state(), after)
        torch.testing.assert_close(result, expected)
        if attack.forward_func.__class__ is Counted:
            assert calls == [3] * 4 + [15] * 4
    calls.clear()
    assert len(list(FGSM(Counted()).attempts(20, X, epsilon=0.1, target=1))) == 20
    assert calls == [3]
    dropout[0].eval()
    assert len({tuple(x.flatten().tolist()) for x in FGSM(dropout).attempts(9, X, epsilon=0.1, target=1)}) > 1


def test_progress_and_cancelling() -> None:
    seen, stop = [], threading.Event()

    def observe(progress: Any) -> None:
        seen.append((progress.description, progress.done, progress.total))
        if len(seen) == 2:
            stop.set()

    with pytest.raises(Cancelled), llm_attr.watching(observe, stop):
        PGD(MODEL).perturb(X, **STEPS, target=1)
    assert seen == [("PGD", 1, 4), ("PGD", 2, 4)]


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = {
    "bounds that exclude the input": ({"upper_bound": 0.1}, {}, InvalidValue, "outside the bounds"),
    "bounds the wrong way round": ({"lower_bound": 1, "upper_bound": 0}, {}, InvalidValue, "at most upper_bound"),
    "whole numbers": ({}, {"inputs": torch.ones(3, 4).long()}, InvalidType, "MinimalEdit"),
    "complex numbers": ({}, {"inputs": torch.ones(3, 4).cfloat()}, InvalidType, "floating-point"),
    "a mask of another shape": ({}, {"mask": torch.ones(5)}, InvalidShape, "broadcast"),
    "two masks": ({}, {"mask": (torch.ones(4), None)}, InvalidShape, "one for each of the 1"),
    "a mask that is a number": ({}, {"mask": 1.0}, InvalidType, "tensor or None"),
    "a negative length": ({}, {"radius": -1.0}, InvalidValue, "radius"),
    "no length": ({}, {"step_size": "far"}, InvalidValue, "step_size"),
    "half a step": ({}, {"step_num": 1.5}, InvalidValue, "step_num"),
    "a norm": ({}, {"norm": "L1"}, UnknownName, "Linf, L2"),
    "a direction": ({}, {"direction": "up"}, UnknownName, "sign, gradient"),
    "a constant": ({"forward_func": lambda x: torch.ones(3, 2)}, {}, NoGradient, "does not depend"),
    "not a number": ({"forward_func": lambda x: (x - x).sqrt()}, {}, NonFiniteGradient, "NaN"),
    "no model": ({"forward_func": 3}, {}, InvalidType, "callable"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_own_error(case: str) -> None:
    made, given, error, message = BAD[case]
    with pytest.raises(error, match=message):
        PGD(**{"forward_func": MODEL, **made}).perturb(**{"inputs": X, **STEPS, "target": 1, **given})


def test_a_mask_for_one_of_two_inputs() -> None:
    model, inputs = MODELS["two inputs"]
    first, second = FGSM(model).perturb(inputs, 0.1, target=1, mask=(torch.zeros(4), None))
    assert torch.equal(first, inputs[0])
    assert not torch.equal(second, inputs[1])
