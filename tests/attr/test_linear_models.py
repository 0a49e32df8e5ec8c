from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet, LinearRegression, Ridge
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from llm_attr.attr import (
    Model,
    SGDLasso,
    SGDLinearRegression,
    SGDRidge,
    SkLearnLasso,
    SkLearnLinearModel,
    SkLearnLinearRegression,
    SkLearnRidge,
)
from llm_attr.errors import InvalidShape, InvalidValue, UnknownKeyword

MODELS = [
    SkLearnLasso(alpha=0.01), SkLearnRidge(alpha=2.0), SkLearnLinearRegression(), SGDLasso(alpha=0.01), SGDRidge(),
    SkLearnLinearModel("linear_model.ElasticNet", alpha=0.1), SkLearnLinearModel("svm.LinearSVR"),
    SGDLinearRegression(), SkLearnRidge(alpha=2.0, solver="svd"),
]  # fmt: skip


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    rows = torch.rand(80, 4, generator=draws).round()
    values = rows @ torch.tensor([1.0, -2.0, 0.5, 0.05]) + 3 + 0.1 * torch.randn(80, generator=draws)
    return rows.to(dtype), values.to(dtype), torch.rand(80, generator=draws).to(dtype)


def loader(*parts: Tensor, size: int = 80) -> DataLoader:
    return DataLoader(TensorDataset(*parts), batch_size=size)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_trained_and_asked(model: Any) -> None:
    rows, values, weights = tensors(torch.float32)
    told = model.fit(loader(rows, values, weights, size=30))
    assert told["train_time"] > 0
    assert model.representation().shape == (1, 4)
    assert model.bias().shape == (1,)
    assert model.classes() is None
    assert model.representation().dtype == torch.float32
    want = rows @ model.representation().T + model.bias()
    torch.testing.assert_close(model(rows), want)
    assert isinstance(model, Model)
    many = model.fitted(rows.double(), torch.stack([values, -values], 1).double(), weights[:, None].double())
    torch.testing.assert_close(many.coefficients[:, 0], -many.coefficients[:, 1], atol=1e-3, rtol=0)


def test_those_of_scikit_learn() -> None:
    rows, values, weights = tensors()
    pairs = [
        (SkLearnRidge(alpha=2.0), Ridge(2.0)),
        (SkLearnRidge(), Ridge()),
        (SkLearnRidge(alpha=2.0, fit_intercept=False), Ridge(2.0, fit_intercept=False)),
        (SkLearnLinearRegression(), LinearRegression()),
        (SkLearnLinearModel("linear_model.ElasticNet", alpha=0.1), ElasticNet(alpha=0.1)),
    ]
    for ours, theirs in pairs:
        ours.fit(loader(rows, values, weights))
        theirs.fit(rows.numpy(), values.numpy(), weights.numpy())
        np.testing.assert_allclose(ours.representation()[0], theirs.coef_, atol=1e-10)
        assert abs(ours.bias().item() - theirs.intercept_) < 1e-10


@pytest.mark.parametrize("make", [lambda: SkLearnRidge(alpha=0.1), lambda: SGDLasso(max_epoch=3)])
def test_they_are_modules(make: Any) -> None:
    model, state = make().eval(), torch.get_rng_state()
    assert (model.linear, list(model.parameters())) == (None, [])
    model.fit([tensors(torch.float32)])
    assert isinstance(model.linear, nn.Linear)
    assert not model.linear.training
    assert torch.equal(state, torch.get_rng_state())
    assert [name for name, _ in model.named_parameters()] == ["linear.weight", "linear.bias"]
    first, rows = model.representation(), tensors()[0]
    assert model.double()(rows).dtype == model.representation().dtype == torch.float64
    again = make()
    again.linear = nn.Linear(4, 1)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(rows), model(rows).float())
    model.fit(loader(rows, rows[:, 0], rows[:, 0] + 1))
    assert not torch.equal(first, model.representation())
    assert torch.equal(first, copy.deepcopy(again).representation())


def test_a_classifier_knows_its_classes() -> None:
    rows, values, _ = tensors()
    model = SkLearnLinearModel("linear_model.LogisticRegression")
    model.fit(loader(rows, (values > 3).long()))
    assert model.classes().tolist() == [0, 1]
    assert model.representation()[0, 1] < 0 < model.representation()[0, 0]


def test_descent_tells_how_it_went() -> None:
    model = SGDLinearRegression(max_epoch=4)
    told = model.fit(loader(*tensors(), size=20), reduce_lr=False)
    assert (told["train_iter"], told["train_epoch"]) == (16, 4)
    assert told["train_loss"] < 10
    flat = SGDRidge(bias=False)
    flat.fit(loader(*tensors()))
    assert flat.bias() == 0
    with pytest.raises(UnknownKeyword, match="did you mean 'alpha'"):
        SGDLasso(alpa=0.1)
    with pytest.raises(UnknownKeyword, match="max_epochs"):
        model.fit(loader(*tensors()), max_epochs=3)


def test_bad_use() -> None:
    with pytest.raises(InvalidValue, match="SkLearnLasso has not been trained"):
        SkLearnLasso().representation()
    with pytest.raises(InvalidShape, match="at least one batch"):
        SkLearnRidge().fit([])
    with pytest.raises(InvalidShape, match=r"got shapes \[\(3, 2\)\]"):
        SkLearnRidge().fit([(torch.ones(3, 2),)])
    with pytest.raises(InvalidValue, match=r"sklearn.linear_model.Lars takes no sample weights"):
        SkLearnLinearModel("linear_model.Lars").fit(loader(*tensors()))

    class Silent(Model):
        def fit(self, train_data: Any, **kwargs: Any) -> None:
            pass

        def representation(self) -> Tensor:
            return torch.zeros(1)

    with pytest.raises(NotImplementedError, match="Silent does not predict"):
        Silent()(torch.ones(1, 1))
