from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llm_attr.attr import (
    KernelShap,
    Ledger,
    Lime,
    LimeBase,
    ShapleyValues,
    SkLearnLasso,
    SkLearnLinearRegression,
    SkLearnRidge,
    get_exp_kernel_similarity_function,
)
from llm_attr.core.evaluator import Progress, watching
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from tests.reference.surrogates import lime

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(1)).double()


def half(_: Any, **told: Any) -> Tensor:
    return torch.bernoulli(torch.full((1, told["num_interp_features"]), 0.5))


def test_equal_to_the_definition(model: nn.Module, x: Tensor) -> None:
    baseline, rows = torch.randn(4).double(), []

    def draw(_: Any, **told: Any) -> Tensor:
        rows.append(half(_, **told))
        return rows[-1]

    method = Lime(model, SkLearnLinearRegression(), perturb_func=draw)
    found = method.attribute(x[:1], baseline[None], target=1, n_samples=50)
    design = torch.cat(rows[:50]).double()
    want = lime(lambda x: model(x)[:, 1].detach(), x[:1], baseline, design)
    np.testing.assert_allclose(found, want, atol=1e-10)


def test_examples_share_their_ablations_and_not_their_fit(model: nn.Module, x: Tensor) -> None:
    for surrogate in (None, SkLearnLinearRegression(), SkLearnRidge(alpha=0.5)):
        method = Lime(model, surrogate)
        whole = method.attribute(x, target=[0, 1, 2], n_samples=40, seed=0)
        for i in range(3):
            one = method.attribute(x[i : i + 1], target=i, n_samples=40, seed=0)
            torch.testing.assert_close(whole[i : i + 1], one, atol=1e-10, rtol=0)
    calls: list[int] = []

    def counting(x: Tensor) -> Tensor:
        calls.append(len(x))
        return model(x)[:, 0]

    Lime(counting).attribute(x, n_samples=200, seed=0)
    assert sum(calls) <= 3 * 17


def test_forms(model: nn.Module, x: Tensor) -> None:
    method = Lime(model, SkLearnLinearRegression())
    mask = torch.tensor([[0, 0, 5, 5]])
    grouped = method.attribute(x, target=1, feature_mask=mask, n_samples=20, seed=0)
    assert torch.equal(grouped[:, 0], grouped[:, 1])
    flat = method.attribute(x, target=1, feature_mask=mask, n_samples=20, seed=0, return_input_shape=False)
    torch.testing.assert_close(flat, grouped[:, [0, 2]])
    pair = Lime(lambda x, y: (x * y).sum(1), SkLearnLinearRegression()).attribute((x, x), n_samples=30, seed=0)
    assert [part.shape for part in pair] == [(3, 4), (3, 4)]
    whole = Lime(lambda x: model(x).sum(), SkLearnLinearRegression()).attribute(x, n_samples=20, seed=0)
    assert whole.shape == (1, 4)
    several = method.attribute(x, n_samples=20, seed=0)
    assert several.shape == (3, 3, 4)
    torch.testing.assert_close(several[:, 1], method.attribute(x, target=1, n_samples=20, seed=0), atol=0.2, rtol=0)


def test_what_functions_of_the_callers_are_told(x: Tensor) -> None:
    seen: list[tuple[Any, ...]] = []

    def similarity(original: Any, perturbed: Any, row: Tensor, **told: Any) -> float:
        seen.append((original, perturbed, row, told))
        return 1.0

    def generator(original: Any, **told: Any) -> Iterator[Tensor]:
        assert [part.shape for part in original] == [(1, 4), (1, 2)]
        while True:
            yield half(original, **told)

    y, mask = torch.ones(3, 2).double(), (torch.tensor([[0, 1, 1, 2]]), torch.tensor([[3, 3]]))
    method = Lime(lambda x, y: x.sum(1) + y.sum(1), SkLearnLinearRegression(), similarity, generator)
    found = method.attribute((x, y), (0, y[:1] * 7), feature_mask=mask, n_samples=30)
    torch.testing.assert_close(found[0][:, 0], x[:, 0])
    torch.testing.assert_close(found[1], torch.full((3, 2), -12.0).double())
    assert len(seen) == 90
    original, perturbed, row, told = seen[30]
    assert torch.equal(original[0], x[1:2])
    assert torch.equal(perturbed[1], y[:1] * (1 if row[0, 3] else 7))
    assert (told["num_interp_features"], told["feature_mask"], told["baselines"][0]) == (4, mask, 0)


def test_each_example_keeps_its_own_arguments(model: nn.Module, x: Tensor) -> None:
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return model(x) * weight

    weight, baselines = torch.tensor([[1.0], [2.0], [3.0]]).double(), torch.randn(3, 4).double()
    own = Lime(forward, SkLearnLinearRegression(), lambda *_, **__: 1.0, half)
    torch.manual_seed(0)
    found = own.attribute(x, baselines, torch.tensor([0, 1, 2]), weight, n_samples=2000)
    plain = Lime(forward, SkLearnLinearRegression(), get_exp_kernel_similarity_function("cosine", 1e6))
    want = plain.attribute(x, baselines, [0, 1, 2], weight, n_samples=2000, seed=0)
    torch.testing.assert_close(found, want, atol=0.05, rtol=0.05)


def test_the_kernel_by_itself_is_that_of_all_features_at_once(model: nn.Module, x: Tensor) -> None:
    for mode in ("cosine", "euclidean"):
        kernel = get_exp_kernel_similarity_function(mode, 0.7)  # type: ignore[arg-type]
        fast = Lime(model, SkLearnLinearRegression(), kernel)
        slow = Lime(model, SkLearnLinearRegression(), lambda *args, kernel=kernel, **told: kernel(*args, **told))
        results = [each.attribute(x[:1], 0.5, target=0, n_samples=40, seed=0) for each in (fast, slow)]
        torch.testing.assert_close(*results)


def test_kernel_shap_is_a_lime(model: nn.Module, x: Tensor) -> None:
    shap = KernelShap(model)
    kernel, draw = shap.kernel_shap_similarity_kernel, shap.kernel_shap_perturb_generator
    torch.manual_seed(0)
    found = Lime(model, SkLearnLinearRegression(), kernel, draw).attribute(x, target=1, n_samples=3000)
    torch.testing.assert_close(found, ShapleyValues(model).attribute(x, target=1), atol=0.01, rtol=0)
    samples = draw(x, num_interp_features=4)
    first, second, third = (next(samples) for _ in range(3))
    assert first.shape == (1, 4)
    assert first.all()
    assert not second.any()
    assert 0 < third.sum() < 4
    assert [kernel(x, x, row).item() for row in (first, second, third)] == [1e6, 1e6, 1]


def test_errors_are_a_bootstrap(model: nn.Module, x: Tensor) -> None:
    method = Lime(model, SkLearnRidge(alpha=0.1))
    values, errors = method.attribute(x, target=1, n_samples=60, seed=0, return_stderr=True)
    many = torch.stack([method.attribute(x, target=1, n_samples=60, seed=seed) for seed in range(20)])
    assert errors.shape == values.shape == x.shape
    assert 0.4 < (errors.mean() / many.std(0).mean()).item() < 2
    lasso = Lime(model, SkLearnLasso(alpha=0.01))
    assert lasso.estimator(refits=5).estimate(torch.eye(4).bool(), torch.randn(4, 1)).kind == "bootstrap"
    sure = lasso.attribute(x, target=1, n_samples=10, seed=0, until=0.05, budget=16)
    assert sure.shape == x.shape


def test_a_ledger_is_shared_and_progress_ends(model: nn.Module, x: Tensor) -> None:
    ledger = Ledger()
    for method in (Lime(model), KernelShap(model)):
        method.attribute(x, target=1, n_samples=100, seed=0, ledger=ledger)
    assert len(ledger) == 16
    seen: list[Progress] = []
    with watching(seen.append):
        Lime(model, perturb_func=half).attribute(x, target=1, n_samples=30)
    assert seen[-1].done == seen[-1].total
    assert {progress.description for progress in seen} == {"Lime attribution"}


def test_bad_functions_are_refused(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(InvalidType, match="must have the methods fit and representation"):
        Lime(model, nn.Linear(3, 3))
    wrong: list[tuple[Any, type[Exception], str]] = [
        (lambda *_, **__: torch.ones(1, 5), InvalidShape, r"shape \(1, 4\); got \(1, 5\)"),
        (lambda *_, **__: torch.full((1, 4), 0.5), InvalidValue, "zeros .* and ones .* only"),
        (lambda *_, **__: [[1, 0, 1, 0]], InvalidType, r"must give tensors \(1, 4\)"),
    ]
    for draw, error, message in wrong:
        with pytest.raises(error, match=message):
            Lime(model, perturb_func=draw).attribute(x, target=1)
    with pytest.raises(InvalidValue, match="at least 0; got -1"):
        Lime(model, similarity_func=lambda *_, **__: -1).attribute(x, target=1)
    with pytest.raises(InvalidValue, match="samples of positive weight"):
        Lime(model, SkLearnRidge(), similarity_func=lambda *_, **__: 0).attribute(x, target=1)


def base(forward: Any, **changed: Any) -> LimeBase:
    parts: dict[str, Any] = {
        "interpretable_model": SkLearnLinearRegression(),
        "similarity_func": lambda original, perturbed, row, **kwargs: kwargs.get("weight", 1.0),
        "perturb_func": lambda original, **kwargs: original + torch.randn_like(original),
        "perturb_interpretable_space": False,
        "from_interp_rep_transform": None,
        "to_interp_rep_transform": lambda sample, original, **kwargs: sample,
    }
    return LimeBase(forward, **(parts | changed))


def test_lime_base_in_the_space_of_the_input(x: Tensor) -> None:
    slopes = torch.tensor([1.0, -2.0, 3.0, 0.0]).double()
    method = base(lambda x: x @ slopes)
    found = method.attribute(x[:1], n_samples=20, perturbations_per_eval=7, weight=2.0)
    torch.testing.assert_close(found, slopes[None], atol=1e-8, rtol=0)
    assert method.interpretable_model.bias().abs() < 1e-8


def test_lime_base_in_the_interpretable_space(x: Tensor) -> None:
    def rows(original: Any, **kwargs: Any) -> Iterator[Tensor]:
        while True:
            yield torch.bernoulli(torch.full((1, 2), 0.5)).double()

    def as_input(row: Tensor, original: tuple[Tensor, Tensor], **kwargs: Any) -> tuple[Tensor, Tensor]:
        return original[0] * row[0, 0], original[1] * row[0, 1]

    method = base(
        lambda x, y: x.sum() + 2 * y.sum(),
        perturb_func=rows,
        perturb_interpretable_space=True,
        from_interp_rep_transform=as_input,
        to_interp_rep_transform=None,
    )
    found = method.attribute((x, x), n_samples=20)
    torch.testing.assert_close(found, torch.stack([x.sum(), 2 * x.sum()])[None], atol=1e-8, rtol=0)
    short = base(lambda x: x.sum(1), perturb_func=lambda x, **_: iter([x, 2 * x, 3 * x]))
    assert short.attribute(x[:1], n_samples=50).shape == (1, 4)


def test_bad_use_of_lime_base(model: nn.Module, x: Tensor) -> None:
    with pytest.raises(InvalidType, match="to_interp_rep_transform is needed"):
        base(model, to_interp_rep_transform=None)
    with pytest.raises(InvalidType, match="from_interp_rep_transform is needed"):
        base(model, perturb_interpretable_space=True)
    with pytest.raises(InvalidShape, match=r"one number for each of 1 samples; got \(3,\)"):
        base(model).attribute(x, target=1)
    with pytest.raises(InvalidValue, match="no samples"):
        base(model, perturb_func=lambda x, **_: iter([])).attribute(x[:1], target=1)
    with pytest.raises(NotImplementedError):
        base(model).attribute_future(x)
