from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student
from sklearn.linear_model import Lasso as SkLasso
from sklearn.linear_model import LinearRegression, Ridge
from torch import Tensor

from llm_attr.core.estimators.descent import Descent
from llm_attr.core.estimators.similarity import ExponentialKernel
from llm_attr.core.estimators.surrogate import Lasso, LeastSquares, OneByOne, bootstrap, sklearn_model
from llm_attr.core.game.estimate import t_quantile
from llm_attr.errors import InvalidShape, InvalidValue, MissingExtra, UnknownKeyword, UnknownName
from tests.reference.surrogates import weighted_least_squares


def data(samples: int = 60, features: int = 5, outputs: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    rows = torch.rand(samples, features, generator=draws, dtype=torch.float64).round()
    values = torch.randn(samples, outputs, generator=draws, dtype=torch.float64) + rows.sum(1, keepdim=True)
    return rows, values, torch.rand(samples, outputs, generator=draws, dtype=torch.float64) + 0.01


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.7]), st.integers(2, 40))
def test_least_squares_of_all_outputs_at_once_are_those_of_each(seed: int, ridge: float, samples: int) -> None:
    rows, values, weights = data(samples, 4, 3, seed)
    found = LeastSquares(ridge).fitted(rows, values, weights)
    for i in range(3):
        model = Ridge(ridge, solver="svd") if ridge else LinearRegression()
        model.fit(rows.numpy(), values[:, i].numpy(), weights[:, i].numpy())
        np.testing.assert_allclose(found.coefficients[:, i], model.coef_, atol=1e-8)
        np.testing.assert_allclose(found.intercepts[i], model.intercept_, atol=1e-8)


@pytest.mark.parametrize("ridge", [0.0, 2.0])
def test_least_squares_are_those_of_the_definition(ridge: float) -> None:
    rows, values, weights = data()
    found = LeastSquares(ridge).fitted(rows, values, weights)
    for i in range(3):
        want, intercept = weighted_least_squares(rows.numpy(), values[:, i].numpy(), weights[:, i].numpy(), ridge)
        np.testing.assert_allclose(found.coefficients[:, i], want, atol=1e-10)
        np.testing.assert_allclose(found.intercepts[i], intercept, atol=1e-10)


@pytest.mark.parametrize("surrogate", [LeastSquares(), LeastSquares(0.5), LeastSquares(0.5, False), Lasso(0.02)])
def test_shared_weights_are_equal_weights(surrogate: LeastSquares | Lasso) -> None:
    rows, values, weights = data()
    together = surrogate.fitted(rows, values, weights[:, :1])
    each = surrogate.fitted(rows, values, weights[:, :1].expand(-1, 3))
    torch.testing.assert_close(together.coefficients, each.coefficients, atol=1e-10, rtol=0)
    torch.testing.assert_close(together.intercepts, each.intercepts, atol=1e-10, rtol=0)


def test_lasso_is_that_of_scikit_learn_and_draws_nothing() -> None:
    rows, values, weights = data()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[2]
    found = Lasso(0.2).fitted(rows, values, weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[2] == numpy_before
    for i in range(3):
        model = SkLasso(0.2).fit(rows.numpy(), values[:, i].numpy(), weights[:, i].numpy())
        np.testing.assert_allclose(found.coefficients[:, i], model.coef_, atol=1e-10)
    assert (found.coefficients == 0).any()
    plain = Lasso(0.0).fitted(rows, values, weights)
    torch.testing.assert_close(plain.coefficients, LeastSquares().fitted(rows, values, weights).coefficients)


def test_the_shortest_of_several_solutions() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    found = LeastSquares().fitted(rows, torch.tensor([[0.0], [2.0]], dtype=torch.float64), torch.ones(2, 1).double())
    torch.testing.assert_close(found.coefficients, torch.ones(2, 1, dtype=torch.float64))


def test_a_model_is_trained_for_one_output_at_a_time() -> None:
    class Mean:
        def fit(self, train_data: object) -> None:
            ((rows, values, weights),) = list(train_data)  # type: ignore[call-overload]
            self.found = (rows * (weights * values)[:, None]).mean(0)

        def representation(self) -> Tensor:
            return self.found[None]

    rows, values, weights = data()
    before = torch.get_rng_state()
    found = OneByOne(Mean()).fitted(rows, values, weights)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found.coefficients, rows.T @ (weights * values) / len(rows), atol=1e-6, rtol=0)
    wide = Mean()
    wide.representation = lambda: torch.zeros(7)  # type: ignore[method-assign]
    with pytest.raises(InvalidShape, match="one number for each of the 5 features; Mean gave 7"):
        OneByOne(wide).fitted(rows, values, weights)


def test_bootstrap_of_a_mean_is_its_standard_error() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = bootstrap(lambda chosen: values[chosen].mean()[None, None], 400, 400).item()
    assert found == pytest.approx(values.std().item() / 20, rel=0.1)
    assert found == bootstrap(lambda chosen: values[chosen].mean()[None, None], 400, 400).item()


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 30, 1000])
def test_quantiles_of_student(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(student.ppf(0.975, freedom), rel=0.01)


def test_bad_models_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, values, weights = data()
    with pytest.raises(InvalidValue, match="samples of positive weight"):
        LeastSquares().fitted(rows, values, 0 * weights)
    for make in (LeastSquares, Lasso):
        with pytest.raises(InvalidValue, match="at least 0; got -1"):
            make(-1)
    for name in ("linear_model.Lassoo", "no_such.Lasso", "Lasso"):
        with pytest.raises(InvalidValue, match=r"a class under sklearn, as 'linear_model.Lasso'; got"):
            sklearn_model(name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingExtra, match=r"pip install 'llm_attr\[surrogates\]'"):
        Lasso().fitted(rows, values, weights)


def test_descent_comes_near_the_minimum() -> None:
    rows, values, weights = data()
    batches = [(rows, values, weights)]
    found = Descent(reg_term=None, max_epoch=20_000, initial_lr=0.5, threshold=1e-9).trained(batches)
    want = LeastSquares().fitted(rows, values, weights)
    torch.testing.assert_close(found.linear.coefficients, want.coefficients, atol=0.01, rtol=0)
    assert found.steps == found.epochs < 20_000
    short = Descent(alpha=0.0, max_epoch=3).trained([tuple(part[:30] for part in batches[0])] * 2)  # type: ignore[misc]
    assert (short.steps, short.epochs) == (6, 3)


@pytest.mark.parametrize("term", [1, 2])
def test_descent_follows_the_gradient_of_its_loss(term: int) -> None:
    rows, values, weights = data(outputs=1)
    start = Descent(reg_term=term, alpha=0.3, max_epoch=2, initial_lr=0.1, reduce_lr=False)
    coefficients, intercept = torch.zeros(5, 1).double().requires_grad_(), torch.zeros(1).double().requires_grad_()
    for _ in range(2):
        loss = (weights * (rows @ coefficients + intercept - values) ** 2).mean() / 2
        loss = loss + 0.3 * coefficients.norm(term)
        slopes = torch.autograd.grad(loss, [coefficients, intercept])
        coefficients = (coefficients - 0.1 * slopes[0]).detach().requires_grad_()
        intercept = (intercept - 0.1 * slopes[1]).detach().requires_grad_()
    found = start.trained([(rows, values, weights)]).linear
    torch.testing.assert_close(found.coefficients, coefficients.detach())
    torch.testing.assert_close(found.intercepts, intercept.detach())


def test_bad_descents_are_refused() -> None:
    with pytest.raises(UnknownKeyword, match="did you mean 'max_epoch'"):
        Descent.of({"max_epochs": 3})
    with pytest.raises(UnknownName, match="unknown init_scheme 'ones'"):
        Descent(init_scheme="ones")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="reg_term must be 1, 2 or None; got 3"):
        Descent(reg_term=3)
    with pytest.raises(InvalidValue, match="initial_lr positive; got 100 and 0"):
        Descent(initial_lr=0)


def test_bad_kernels_are_refused() -> None:
    with pytest.raises(UnknownName, match="unknown distance_mode 'manhattan'"):
        ExponentialKernel("manhattan")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="kernel_width must be positive; got 0"):
        ExponentialKernel("cosine", 0)
