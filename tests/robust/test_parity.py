"""Every class and function of `captum.robust` beside ours: seeded, in double precision, over the documented options."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr.robust as ours
from llm_attr.core.tensors import leaves
from tests.robust.models import MODELS

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.robust as theirs

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::UserWarning:captum")]

PGD: dict[str, Any] = {"radius": 0.13, "step_size": 0.05, "step_num": 4}
TARGETS: list[Any] = [1, (1,), [0, 1, 1], torch.tensor([1, 0, 1]), [(1,), (0,), (1,)]]
BOUNDS: dict[str, Any] = {"lower_bound": -2.7, "upper_bound": 2.6}


def names(value: Any) -> list[str]:
    """The names in nested lists of pairs."""
    if isinstance(value, str):
        return [value]
    return [name for part in value for name in names(part)] if isinstance(value, list | tuple) else []


def close(result: Any, expected: Any) -> None:
    assert names(result) == names(expected)
    for got, want in zip(leaves(result), leaves(expected), strict=True):
        torch.testing.assert_close(got, want.detach(), rtol=1e-6, atol=1e-6)


def both(name: str, made: dict[str, Any], case: str, **options: Any) -> None:
    model, inputs = MODELS[case]
    found = []
    for library in (ours, theirs):
        torch.manual_seed(3)
        given = tuple(x.clone() for x in inputs) if isinstance(inputs, tuple) else inputs.clone()
        found.append(getattr(library, name)(model, **made).perturb(given, **options))
    assert type(found[0]) is type(found[1])
    close(*found)


def test_small_gradients_count() -> None:
    """Captum leaves entries where they are whose gradient is at most 1e-6."""
    weights = torch.tensor([1e-3, 1.1e-6, 1e-6, 1e-9], dtype=torch.float64)
    x = torch.zeros(1, 4, dtype=torch.float64)
    moved = [
        library.FGSM(lambda x: x @ weights, lambda out, _: out).perturb(x, 0.1, target=None)
        for library in (ours, theirs)
    ]
    assert moved[0].tolist() == [[0.1] * 4]
    assert moved[1].tolist() == [[0.1, 0.1, 0.0, 0.0]]


@pytest.mark.parametrize("case", MODELS)
def test_fgsm(case: str) -> None:
    for targeted in (False, True):
        both("FGSM", {}, case, epsilon=0.1, target=1, targeted=targeted)
    for target in TARGETS:
        both("FGSM", {}, case, epsilon=0.02, target=target)
    both("FGSM", BOUNDS, case, epsilon=0.6, target=0)


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_pgd(case: str, norm: str) -> None:
    for targeted in (False, True):
        both("PGD", {}, case, **PGD, target=1, targeted=targeted, norm=norm)
    both("PGD", BOUNDS, case, radius=0.6, step_size=0.2, step_num=5, target=[1, 0, 1], norm=norm)
    if norm == "Linf":
        both("PGD", BOUNDS, case, **PGD, target=0, norm=norm, random_start=True)


def test_random_start_in_a_sphere_of_one_example() -> None:
    """Captum's radii are of the examples only where there is one, or as many as the last axis has entries."""
    model, x = MODELS["cnn"]
    for masked in (None, torch.tensor([1.0, 0, 1, 1, 0])):
        torch.manual_seed(5)
        result = ours.PGD(model).perturb(x[:1], **PGD, target=1, random_start=True, norm="L2", mask=masked)
        torch.manual_seed(5)
        expected = theirs.PGD(model).perturb(x[:1].clone(), **PGD, target=1, random_start=True, norm="L2", mask=masked)
        close(result, expected)


@pytest.mark.parametrize("mask", [torch.tensor([1.0, 0, 1, 0]), torch.tensor([0.2, 0, 1, 0.5]), torch.rand(3, 4) > 0.5])
def test_masks(mask: Tensor) -> None:
    both("FGSM", {}, "mlp", epsilon=0.1, target=1, mask=mask)
    both("PGD", {}, "mlp", **PGD, target=1, mask=mask, random_start=True)
    both("PGD", {}, "two inputs", **PGD, target=1, mask=(mask, torch.ones(2, 3)))


def test_additional_arguments_and_losses() -> None:
    both("FGSM", {}, "two inputs", epsilon=0.1, target=2, additional_forward_args=(2.0,))
    losses = (
        lambda out, target: nn.functional.cross_entropy(out, torch.as_tensor(target).expand(3), reduction="none"),
        lambda out, target: (out[:, 1] - out[:, 0]) * 2,
    )
    for loss in losses:
        both("FGSM", {"loss_func": loss}, "lstm", epsilon=0.1, target=1)
        both("PGD", {"loss_func": loss}, "cnn", **PGD, target=1)


def noise(inputs: Any, std: float = 0.3) -> Any:
    if isinstance(inputs, tuple):
        return tuple(noise(x, std) for x in inputs)
    return inputs + std * torch.randn_like(inputs)


def compared(library: Any, case: str, per_call: int, preproc: bool, metric: Any) -> Any:
    model, inputs = MODELS[case]
    wrapped = (lambda pair: model(*pair)) if isinstance(inputs, tuple) else model
    twice = (lambda x: tuple(2 * part for part in x) if isinstance(x, tuple) else 2 * x) if preproc else None
    comparator = library.AttackComparator(wrapped, metric, twice)
    comparator.add_attack(noise, "noise", num_attempts=4)
    comparator.add_attack(noise, "after", apply_before_preproc=False, attack_kwargs={"std": 0.1})
    comparator.add_attack(
        library.FGSM(model), "fgsm", 2, attack_kwargs={"epsilon": 0.1}, additional_attack_arg_names=["target"]
    )
    comparator.add_attack(library.PGD(model), "pgd", 3, attack_kwargs={**PGD, "random_start": True, "target": 1})
    torch.manual_seed(4)
    found = [comparator.evaluate(inputs, perturbations_per_eval=per_call, target=1) for _ in range(2)]
    return [*found, comparator.summary()]


METRICS = {
    "rows": lambda out, target: out[:, target],
    "one": lambda out, target: out[:, target].mean(),
    "float": lambda out, target: out[:, target].mean().item(),
    "tuple": lambda out, target: (out[:, target], (out.argmax(1) == target).double().mean()),
}


@pytest.mark.parametrize("case", MODELS)
@pytest.mark.parametrize("preproc", [False, True])
def test_attack_comparator(case: str, preproc: bool) -> None:
    for metric in METRICS.values() if case == "mlp" else [METRICS["rows"]]:
        expected = compared(theirs, case, 1, preproc, metric)
        for per_call in (None, 1, 3):
            result = compared(ours, case, per_call, preproc, metric)
            for got, want in zip(result, expected, strict=True):
                close(in_order(got), in_order(want))


def in_order(found: Any) -> Any:
    """The numbers of a result by name, in double precision."""
    if isinstance(found, dict):
        return [(name, in_order(found[name])) for name in sorted(found)]
    return tuple(map(in_order, found)) if isinstance(found, tuple) else torch.as_tensor(found).double()


@pytest.mark.parametrize("mode", ["linear", "binary"])
@pytest.mark.parametrize("case", MODELS)
def test_min_param_perturbation(mode: str, case: str) -> None:
    model, inputs = MODELS[case]
    wrapped = (lambda pair: model(*pair)) if isinstance(inputs, tuple) else model
    target = wrapped(inputs).argmax(1)
    found = []
    for library in (ours, theirs):
        made = (wrapped, library.FGSM(model), "epsilon", 0.0, 3.0, 0.125)
        search = library.MinParamPerturbation(*made, mode=mode)
        found.append(search.evaluate(inputs, target=target, attack_kwargs={"target": target}))
    assert found[0][1] == found[1][1]
    if found[1][0] is not None:
        close(found[0][0], found[1][0])


@pytest.mark.parametrize("per_call", [1, 4])
def test_min_param_perturbation_of_attempts(per_call: int) -> None:
    """Draws come in the same order, so that the same attempt of the same value is the first one that succeeds."""
    model, x = MODELS["lstm"]
    target = model(x).argmax(1)
    for preproc, before in ((None, False), (lambda x: x * 1.5, False), (lambda x: x * 1.5, True)):
        found = []
        for library in (ours, theirs):
            search = library.MinParamPerturbation(
                model, noise, "std", 0.25, 9.0, 0.25, "linear", 3, preproc, apply_before_preproc=before
            )
            torch.manual_seed(6)
            found.append(search.evaluate(x, target=target, perturbations_per_eval=per_call))
        assert found[0][1] is not None
        assert found[0][1] == pytest.approx(found[1][1])
        close(found[0][0], found[1][0])


def test_the_judge_is_asked_the_same() -> None:
    model, x = MODELS["mlp"]

    def run(library: Any) -> tuple[Any, list[Any]]:
        asked: list[Any] = []

        def correct(out: Tensor, target: int, margin: float) -> bool:
            asked.append((tuple(out.shape), target, margin))
            return bool((out[:, target] > margin).all())

        search = library.MinParamPerturbation(model, library.FGSM(model), "epsilon", 0, 1.0, 0.25, correct_fn=correct)
        target = 1
        margin = model(x)[:, target].min().item() - 0.05
        options = {"attack_kwargs": {"target": target}, "correct_fn_kwargs": {"margin": margin}}
        return search.evaluate(x, target=target, **options), asked

    (mine, my_asked), (captums, asked) = run(ours), run(theirs)
    close(mine[0], captums[0])
    assert mine[1] == captums[1]
    assert my_asked[1:] == asked


def test_small_functions() -> None:
    from captum.robust._core.metrics.attack_comparator import agg_metric
    from captum.robust._core.metrics.min_param_perturbation import default_correct_fn, drange

    for start, stop, step in ((0, 5, 1), (0, 1, 0.25), (0.5, 2.0, 0.3)):
        assert list(ours.drange(start, stop, step)) == pytest.approx(list(drange(start, stop, step)))
    out = torch.tensor([[1.0, 0], [0, 1]])
    for target in (0, 1, torch.tensor([0, 1]), [0, 1]):
        assert ours.default_correct_fn(out, target) == default_correct_fn(out, target)
    for value in (out, 3.0, (out, 2.0), out.sum()):
        close(ours.agg_metric(value), agg_metric(value))
