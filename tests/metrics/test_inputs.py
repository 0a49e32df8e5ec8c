"""Metrics of tensors and images: each example is judged by its own coalitions, on models and in every form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr import attr, metrics
from llm_attr.errors import (
    InvalidShape,
    InvalidTarget,
    InvalidType,
    InvalidValue,
    NonFiniteValue,
    UnknownName,
    UnsupportedMethod,
)
from tests.parity.models import TwoInputs, cnn, made, mlp
from tests.reference import faithfulness as plain


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = random(3, 4)


def test_each_example_is_judged_as_if_alone() -> None:
    model = made(mlp())
    attributions = attr.IntegratedGradients(model).attribute(X, target=[0, 2, 1])
    together = metrics.InputGame(model, X, target=[0, 2, 1])
    for metric in (metrics.deletion, metrics.insertion, metrics.comprehensiveness, metrics.sufficiency):
        found = metric(attributions, together).values
        for i, target in enumerate([0, 2, 1]):
            alone = metrics.InputGame(model, X[i : i + 1], target=target)
            assert float(metric(attributions[i : i + 1], alone).values) == pytest.approx(float(found[i]))


def test_deletion_by_hand() -> None:
    model, baselines = made(mlp()), random(1, 4, seed=2)
    attributions = attr.FeatureAblation(model).attribute(X, target=1, baselines=baselines)
    found = metrics.deletion(attributions, metrics.InputGame(model, X, baselines, target=1)).values
    for i, row in enumerate(X):

        def value(present: set[int], row: Tensor = row) -> float:
            kept = torch.tensor([j in present for j in range(4)])
            return float(model(torch.where(kept, row, baselines[0])[None]).detach()[0, 1])

        order = plain.ranked(attributions[i].tolist())
        assert float(found[i]) == pytest.approx(plain.area(plain.curve(value, order, True)))


def test_two_inputs_and_groups_of_features() -> None:
    model, inputs = made(TwoInputs()), (random(2, 4), random(2, 2, 3, seed=1))
    mask = (torch.tensor([[0, 0, 1, 2]]), torch.tensor([[[1, 1, 3], [3, 3, 3]]]))
    game = metrics.InputGame(model, inputs, feature_mask=mask, target=3)
    assert game.features == 4
    spread = attr.FeatureAblation(model).attribute(inputs, feature_mask=mask, target=3)
    rows = game.rows(spread)
    assert torch.equal(rows[:, 0], spread[0][:, 0])
    assert torch.equal(rows[:, 3], spread[1][:, 0, 2])
    gradients = attr.InputXGradient(model).attribute(inputs, target=3)
    summed = game.rows(gradients)
    assert torch.allclose(summed.sum(1), gradients[0].sum(1) + gradients[1].sum((1, 2)))
    same = metrics.deletion(rows, game)
    assert torch.equal(same.values, metrics.deletion(spread, game).values)
    assert metrics.chance(metrics.deletion, spread, game, permutations=3).mean.shape == (2,)


def test_an_image_by_many_pixels() -> None:
    model, images = made(cnn()), random(2, 2, 5, 5)
    attributions = random(2, 2, 5, 5, seed=1)
    game = metrics.InputGame(model, images, target=1, perturbations_per_eval=7)
    score = metrics.deletion(attributions, game, steps=10)
    assert score.curve is not None
    assert score.curve.shape == (2, 11)
    assert score.evaluations == 11
    assert torch.allclose(score.curve[:, 0], model(images)[:, 1])
    again = metrics.InputGame(model, images, target=1)
    assert torch.allclose(metrics.deletion(attributions, again, steps=10).values, score.values)


def test_sparseness_and_agreement_of_attributions_of_inputs() -> None:
    model, inputs = made(TwoInputs()), (random(2, 4), random(2, 2, 3, seed=1))
    first = attr.Saliency(model).attribute(inputs, target=0)
    second = attr.InputXGradient(model).attribute(inputs, target=0)
    assert metrics.sparseness(first).values.shape == (2,)
    assert metrics.rank_agreement(first, second).spearman.shape == (2, 2)
    assert float(metrics.rank_agreement(first, first).kendall[0, 1]) == pytest.approx(1)


@pytest.mark.parametrize("mode", ["cascading", "independent"])
def test_model_randomisation_restores_the_model(mode: str) -> None:
    model = made(cnn())
    images = random(2, 2, 5, 5)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    found = metrics.model_randomisation(model, lambda: attr.Saliency(model).attribute(images, target=1), mode)
    assert found.layers == ["5", "1", "0"]
    assert found.spearman.shape == found.spearman_abs.shape == (3, 2)
    assert found.spearman.abs().max() < 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    constant = metrics.model_randomisation(model, lambda: images, mode, layers=["0"])
    assert torch.allclose(constant.spearman, torch.ones(1, 2).double())


def test_model_randomisation_restores_the_model_after_an_error() -> None:
    model = made(mlp())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    calls: list[int] = []

    def fails() -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise KeyError("stop")
        return X

    with pytest.raises(KeyError):
        metrics.model_randomisation(model, fails)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_cascading_keeps_layers_random() -> None:
    model = made(mlp())
    seen = []

    def watched() -> Tensor:
        seen.append(
            [not torch.equal(part.weight, kept) for part, kept in zip((model[0], model[2]), weights, strict=True)]
        )
        return X

    weights = [part.weight.detach().clone() for part in (model[0], model[2])]
    metrics.model_randomisation(model, watched)
    metrics.model_randomisation(model, watched, "independent")
    assert seen == [[False, False], [False, True], [True, True], [False, False], [False, True], [True, False]]


def test_infidelity_leaves_what_a_model_writes_into_its_inputs() -> None:
    x, attribution = X.clone(), torch.ones_like(X)

    def writes(inputs: Tensor) -> Tensor:
        return inputs.mul_(2).sum(1)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        half = inputs / 2
        return half, half

    for most in (None, 3):
        options: dict[str, Any] = {"n_perturb_samples": 4, "max_examples_per_batch": most}
        found = metrics.infidelity(writes, perturb, x, attribution, **options)
        expected = metrics.infidelity(lambda z: 2 * z.sum(1), perturb, x, attribution, **options)
        assert torch.allclose(found, expected)
        assert torch.equal(x, X)


def test_a_batch_that_does_not_fit_is_halved() -> None:
    sizes: list[int] = []

    def small(inputs: Tensor) -> Tensor:
        sizes.append(len(inputs))
        if len(inputs) > 12:
            raise MemoryError("out of memory")
        return inputs.sum(1)

    def perturb(inputs: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(inputs), inputs - 1

    with pytest.warns(RuntimeWarning, match="half as many"):
        found = metrics.infidelity(small, perturb, X, torch.ones_like(X), n_perturb_samples=40)
    assert found.abs().max() < 1e-12
    assert max(sizes[2:]) <= 60


def perturb_of(*answer: Any) -> Any:
    return lambda inputs: answer if len(answer) > 1 else answer[0]


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (
            {"perturb_func": perturb_of(torch.ones(2, 2), X)},
            InvalidShape,
            r"perturbations 0 must have the shape \(3, 4\)",
        ),
        ({"perturb_func": perturb_of(X, X[:2])}, InvalidShape, "perturbed inputs 0 must have the shape"),
        ({"perturb_func": perturb_of(X)}, InvalidType, "infidelity_perturb_func_decorator"),
        ({"perturb_func": perturb_of((X, X), (X, X))}, InvalidShape, "one for each of the 1 inputs; got 2"),
        ({"perturb_func": perturb_of("a", X)}, InvalidType, "must be a tensor"),
        ({"perturb_func": None}, InvalidType, "perturb_func must be a function"),
        ({"forward_func": 3}, InvalidType, "forward_func must be a function"),
        ({"attributions": X[:2]}, InvalidShape, "attributions 0 must have the shape"),
        ({"n_perturb_samples": 0}, InvalidValue, "at least 1"),
        ({"max_examples_per_batch": 0}, InvalidValue, "at least 1"),
        ({"target": 7}, InvalidTarget, "out of range"),
        ({"target": None}, InvalidTarget, "one output for each"),
    ],
)
def test_bad_infidelity(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given: dict[str, Any] = {
        "forward_func": made(mlp()),
        "perturb_func": lambda inputs: (torch.ones_like(inputs), inputs - 1),
        "inputs": X,
        "attributions": X,
        "target": 1,
        "n_perturb_samples": 1,
    }
    with pytest.raises(error, match=text):
        metrics.infidelity(**(given | change))


def test_an_empty_batch_is_refused() -> None:
    empty = X[:0]
    with pytest.raises(InvalidShape, match="batch is empty"):
        metrics.infidelity(made(mlp()), lambda x: (x, x), empty, empty, target=1)
    with pytest.raises(InvalidShape, match="batch is empty"):
        metrics.sensitivity_max(torch.sin, empty)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"perturb_func": lambda inputs: inputs[:, :2]}, InvalidShape, "perturbed inputs 0 must have the shape"),
        ({"perturb_radius": -1.0}, InvalidValue, "perturb_radius"),
        ({"perturb_radius": "0.1"}, InvalidValue, "perturb_radius"),
        ({"perturb_func": 3}, InvalidType, "perturb_func must be a function"),
        ({"explanation_func": None}, InvalidType, "explanation_func must be a function"),
        ({"explanation_func": lambda inputs: inputs.sum()}, InvalidShape, "a row for each of the 3 examples"),
        ({"explanation_func": lambda inputs: "x"}, InvalidType, "must give a tensor"),
        ({"norm_ord": "max"}, InvalidValue, "norm_ord"),
        ({"norm_ord": float("nan")}, InvalidValue, "norm_ord"),
        ({"n_perturb_samples": -1}, InvalidValue, "at least 1"),
    ],
)
def test_bad_sensitivity(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        metrics.sensitivity_max(**({"explanation_func": torch.sin, "inputs": X} | change))


def test_bad_judges_and_attributions() -> None:
    model = made(mlp())
    game = metrics.InputGame(model, X, target=1)
    for attributions, error, text in (
        (X[:, :2], InvalidShape, "attributions 0 must have the shape"),
        (X * float("nan"), NonFiniteValue, "cannot be ranked"),
        ("x", InvalidType, "must be a tensor"),
    ):
        with pytest.raises(error, match=text):
            metrics.deletion(attributions, game)
    with pytest.raises(InvalidType, match="judged by"):
        metrics.deletion(X[0], 3)
    for attributions in ([1.0, 2.0], X[0, 0], None):
        with pytest.raises(InvalidType, match="attributions that a function judges"):
            metrics.deletion(attributions, lambda present: present.double().sum(1))
    with pytest.raises(InvalidShape, match="one output for each"):
        metrics.deletion(X, metrics.InputGame(model, X))
    with pytest.raises(NonFiniteValue, match="the output is nan"):
        metrics.deletion(X, metrics.InputGame(lambda x: x.sum(1).log(), X))
    with pytest.raises(InvalidShape, match="explain 2 outputs, but the game has 1"):
        metrics.deletion(X[:2], lambda present: present.double().sum(1))
    with pytest.raises(InvalidShape, match="a value for each of the"):
        metrics.deletion(X[0], lambda present: present.double().sum())
    with pytest.raises(UnsupportedMethod, match="no model to ask"):
        metrics.deletion(X[0], type("Loaded", (), {"seq_attr": X[0]})())


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda g: metrics.rise(X, g, "removal"), UnknownName, "mode"),
        (lambda g: metrics.top_k_drop(X, g, 9), InvalidValue, "at most the 4 features"),
        (lambda g: metrics.top_k_drop(X, g, 1.5), InvalidValue, "whole number"),
        (lambda g: metrics.top_k_drop(X, g, []), InvalidValue, "at least one"),
        (lambda g: metrics.comprehensiveness(X, g, 0.5), InvalidValue, "at least one"),
        (lambda g: metrics.recovery_at_k(X[0], [0.5]), InvalidType, "indices of features"),
        (lambda g: metrics.recovery_at_k(X[0], "first"), InvalidType, "indices of features"),
        (lambda g: metrics.sparseness(X / 0), NonFiniteValue, "NaN or infinity"),
        (lambda g: metrics.sparseness([1.0, 2.0]), InvalidType, "attributions must be a tensor"),
        (lambda g: metrics.rank_agreement(X, X * float("nan")), NonFiniteValue, "NaN or infinity"),
        (lambda g: metrics.rank_agreement(X, X.T), InvalidShape, "same features"),
        (lambda g: metrics.deletion(X, g, steps=0), InvalidValue, "at least 1"),
        (lambda g: metrics.deletion(X, g, seed=0.5), InvalidType, "seed"),
        (lambda g: metrics.comprehensiveness(X, g, [1.5]), InvalidValue, "between 0 and 1"),
        (lambda g: metrics.comprehensiveness(X, g, []), InvalidValue, "at least one"),
        (lambda g: metrics.linear_datamodelling_score(X, g, 2), InvalidValue, "at least 3"),
        (lambda g: metrics.linear_datamodelling_score(X, g, keep=1), InvalidValue, "keep"),
        (lambda g: metrics.soft_sufficiency(X, g, 1.5), InvalidValue, "retained"),
        (lambda g: metrics.recovery_at_k(X[0], [9]), InvalidValue, "from 0 to 3"),
        (lambda g: metrics.recovery_at_k(X[0], []), InvalidValue, "no feature is relevant"),
        (lambda g: metrics.recovery_at_k(X[0], [1], 5), InvalidValue, "at most the 4 features"),
        (lambda g: metrics.rank_agreement(X), InvalidValue, "two attributions or more"),
        (lambda g: metrics.rank_agreement(X[0], X[0, :2]), InvalidShape, "same features"),
        (lambda g: metrics.chance(metrics.deletion, X, g, 1), InvalidValue, "at least 2"),
        (lambda g: metrics.model_randomisation(nn.ReLU(), lambda: X), InvalidValue, "no parameters"),
        (lambda g: metrics.model_randomisation(made(mlp()), lambda: X, "top"), UnknownName, "mode"),
        (lambda g: metrics.model_randomisation(made(mlp()), lambda: X, layers=["9"]), UnknownName, "layer"),
    ],
)
def test_bad_options(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call(metrics.InputGame(made(mlp()), X, target=1))
