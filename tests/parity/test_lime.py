"""Lime and LimeBase equal the installed Captum's: with the same draws for one example, by convergence for several."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_attr.attr as ours
from tests.parity.models import LSTM, TwoInputs, cnn, made, mlp

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr as theirs
    from captum._utils.models import linear_model as their_models
    from captum.attr._core.lime import get_exp_kernel_similarity_function as their_kernel

SURROGATES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "default": (lambda: None, lambda: None),
    "least squares": (ours.SkLearnLinearRegression, their_models.SkLearnLinearRegression),
    "ridge": (lambda: ours.SkLearnRidge(alpha=0.5), lambda: their_models.SkLearnRidge(alpha=0.5)),
    "elastic net": (
        lambda: ours.SkLearnLinearModel("linear_model.ElasticNet", alpha=0.02),
        lambda: their_models.SkLearnLinearModel("linear_model.ElasticNet", alpha=0.02),
    ),
}
FORWARDS: dict[str, tuple[Callable[..., Tensor], Any, dict[str, Any]]] = {}


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quadrants() -> Tensor:
    row = torch.arange(5) // 3
    return (row[:, None] * 2 + row)[None, None]


FORWARDS = {
    "mlp": (made(mlp()), random(1, 4), {"target": 1}),
    "mlp with baselines": (made(mlp()), random(1, 4), {"target": 2, "baselines": random(1, 4, seed=3)}),
    "cnn": (made(cnn()), random(1, 2, 5, 5), {"target": 0, "feature_mask": quadrants()}),
    "lstm": (made(LSTM()), random(1, 4, 3), {"target": 1, "feature_mask": torch.arange(4)[None, :, None]}),
    "two inputs": (
        made(TwoInputs()),
        (random(1, 4), random(1, 2, 3, seed=1)),
        {"target": 3, "baselines": (0.5, random(1, 2, 3, seed=2)), "additional_forward_args": (2.0,)},
    ),
}


pytestmark = pytest.mark.usefixtures("one_thread")


def quietly(call: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def assert_close(found: Any, want: Any, tolerance: float = 1e-5) -> None:
    pairs = zip(found, want, strict=True) if isinstance(want, tuple) else [(found, want)]
    for one, other in pairs:
        torch.testing.assert_close(one.to(other), other, atol=tolerance * max(1, other.abs().max().item()), rtol=0)


@pytest.mark.parametrize("surrogate", SURROGATES)
@pytest.mark.parametrize("case", FORWARDS)
def test_one_example_with_the_same_draws(case: str, surrogate: str) -> None:
    forward, inputs, options = FORWARDS[case]
    own, other = (make() for make in SURROGATES[surrogate])
    want = quietly(lambda: theirs.Lime(forward, other).attribute(inputs, n_samples=60, **options))
    found = quietly(lambda: ours.Lime(forward, own).attribute(inputs, n_samples=60, **options))
    assert_close(found, want)


def test_several_examples_come_to_the_same() -> None:
    forward, inputs = made(mlp()), random(3, 4)
    options: dict[str, Any] = {"target": [0, 1, 2], "baselines": 0.5, "n_samples": 4000}
    want = quietly(lambda: theirs.Lime(forward).attribute(inputs, perturbations_per_eval=500, **options))
    assert_close(quietly(lambda: ours.Lime(forward).attribute(inputs, **options)), want, 0.02)


def test_one_number_for_the_batch() -> None:
    forward, inputs = made(mlp()), random(3, 4)
    options: dict[str, Any] = {"n_samples": 50}
    for other, own in ((their_models.SkLearnRidge(), ours.SkLearnRidge()),):
        want = quietly(lambda other=other: theirs.Lime(lambda x: forward(x).sum(), other).attribute(inputs, **options))
        found = quietly(lambda own=own: ours.Lime(lambda x: forward(x).sum(), own).attribute(inputs, **options))
        assert_close(found, want)


@pytest.mark.parametrize("flat", [True, False])
def test_without_the_shape_of_the_input(flat: bool) -> None:
    forward, inputs, options = FORWARDS["cnn"]
    options = {**options, "return_input_shape": not flat, "n_samples": 40}
    want = quietly(lambda: theirs.Lime(forward).attribute(inputs, **options))
    assert_close(quietly(lambda: ours.Lime(forward).attribute(inputs, **options)), want)


def test_captums_models_and_functions_work_here() -> None:
    forward, inputs, options = FORWARDS["mlp"]

    def similarity(original: Tensor, perturbed: Tensor, row: Tensor, **told: Any) -> float:
        return float((-(original - perturbed).norm()).exp()) * told["num_interp_features"]

    def draw(original: Tensor, **told: Any) -> Tensor:
        return torch.bernoulli(torch.full((1, told["num_interp_features"]), 0.3))

    parts = (similarity, draw)
    model = their_models.SkLearnLinearRegression
    want = quietly(lambda: theirs.Lime(forward, model(), *parts).attribute(inputs, n_samples=50, **options))
    for surrogate in (model(), ours.SkLearnLinearRegression()):
        found = quietly(
            lambda surrogate=surrogate: ours.Lime(forward, surrogate, *parts).attribute(inputs, n_samples=50, **options)
        )
        assert_close(found, want)


@pytest.mark.parametrize("mode", ["cosine", "euclidean"])
@pytest.mark.parametrize("width", [0.3, 1.0, 4.0])
def test_kernels(mode: Any, width: float) -> None:
    own, other = ours.get_exp_kernel_similarity_function(mode, width), their_kernel(mode, width)
    x, y = random(2, 3), random(2, 2, 2, seed=1)
    for original, perturbed in ((x, x * random(2, 3, seed=2)), ((x, y), (x * 0, y * 2)), (x, 0 * x)):
        assert own(original, perturbed, None) == pytest.approx(other(original, perturbed, None), abs=1e-6)


def test_lime_base() -> None:
    forward, inputs = made(mlp()), random(1, 4)

    def similarity(original: Tensor, perturbed: Tensor, row: Tensor, **kwargs: Any) -> Tensor:
        return torch.exp(-((original - perturbed) ** 2).sum() / kwargs["width"])

    def draw(original: Tensor, **kwargs: Any) -> Tensor:
        return original + torch.randn_like(original)

    def same(sample: Tensor, original: Tensor, **kwargs: Any) -> Tensor:
        return sample

    def explained(package: Any, model: Any) -> Any:
        method = package.LimeBase(forward, model, similarity, draw, False, None, same)
        return method.attribute(inputs, target=1, n_samples=60, width=5.0)

    want = quietly(lambda: explained(theirs, their_models.SkLearnLinearRegression()))
    assert_close(quietly(lambda: explained(ours, ours.SkLearnLinearRegression())), want)


def with_its_own(kind: str, base: type) -> Any:
    """A model of a package with training or reading of the caller's own, by subclass or on the instance."""
    if kind == "fit":

        class Doubled(base):  # type: ignore[misc]
            def fit(self, train_data: Any, **kwargs: Any) -> Any:
                batches = [(rows, 2 * values, weights) for rows, values, weights in train_data]
                return super().fit(batches, **kwargs)

        return Doubled(alpha=0.1)
    if kind == "representation":

        class Positive(base):  # type: ignore[misc]
            def representation(self) -> Tensor:
                return super().representation().relu()

        return Positive(alpha=0.1)
    model = base(alpha=0.1)
    trained = model.representation
    model.representation = lambda: 3 - trained()
    return model


@pytest.mark.parametrize("kind", ["fit", "representation", "instance"])
@pytest.mark.parametrize("name", ["SkLearnRidge", "SkLearnLasso"])
def test_a_fit_or_representation_of_the_callers_own(name: str, kind: str) -> None:
    forward, inputs, options = FORWARDS["mlp"]
    own, other = with_its_own(kind, getattr(ours, name)), with_its_own(kind, getattr(their_models, name))
    want = quietly(lambda: theirs.Lime(forward, other).attribute(inputs, n_samples=40, **options))
    method = ours.Lime(forward)
    method.interpretable_model = own
    assert_close(quietly(lambda: method.attribute(inputs, n_samples=40, **options)), want)
    plain = quietly(
        lambda: ours.Lime(forward, getattr(ours, name)(alpha=0.1)).attribute(inputs, n_samples=40, **options)
    )
    assert (plain - want).abs().max() > 0.3


def test_several_examples_and_a_model_of_the_callers_own() -> None:
    forward, inputs = made(mlp()), random(3, 4)
    plain, doubled = ours.SkLearnRidge(alpha=0.1), with_its_own("fit", ours.SkLearnRidge)
    found, twice = (ours.Lime(forward, m).attribute(inputs, target=1, seed=0) for m in (plain, doubled))
    assert_close(twice, 2 * found)
