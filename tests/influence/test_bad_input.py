"""Bad input gets an error that says what is wrong, what was given and what is accepted."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import llm_attr
from llm_attr.errors import Cancelled, InvalidShape, InvalidType, InvalidValue, LlmAttrError, UnsupportedMethod
from llm_attr.influence import (
    ArnoldiInfluenceFunction,
    NaiveInfluenceFunction,
    TracInCP,
    TracInCPFast,
    TracInCPFastRandProj,
)
from tests.influence.models import cases, load

pytestmark = pytest.mark.usefixtures("one_thread")
CASE = cases()["mlp"]


def tracin(**changed: Any) -> TracInCP:
    options: dict[str, Any] = {
        "model": CASE.model,
        "train_dataset": CASE.train,
        "checkpoints": CASE.checkpoints,
        "checkpoints_load_func": load,
        "loss_fn": nn.CrossEntropyLoss(reduction="none"),
        "batch_size": 4,
    }
    return TracInCP(**{**options, **changed})


SHAPES = [{"0.weight": torch.zeros(2, 2)}]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": lambda x: x}, InvalidType, "model must be a torch.nn.Module; got function"),
        ({"checkpoints": []}, InvalidValue, "at least one"),
        ({"checkpoints": "/does/not/exist"}, InvalidValue, "does not exist"),
        ({"checkpoints": 3}, InvalidType, "checkpoints must be a folder"),
        ({"checkpoints_load_func": "load"}, InvalidType, r"\(model, checkpoint\) -> learning rate"),
        ({"layers": ["1"]}, InvalidValue, "layer '1' has no parameters"),
        ({"layers": ["9"]}, InvalidValue, "no layer '9'; its layers: 0, 1, 2"),
        ({"layers": "0"}, InvalidType, "list of names"),
        ({"loss_fn": nn.CrossEntropyLoss()}, InvalidValue, "reduction='none' with .*batch=False; got reduction='mean'"),
        ({"test_loss_fn": nn.CrossEntropyLoss()}, InvalidValue, "test_loss_fn must have reduction='none'"),
        ({"sample_wise_grads_per_batch": True}, InvalidValue, "'sum' or reduction='mean' with .*=True; got .*'none'"),
        ({"loss_fn": 3}, InvalidType, "loss_fn must be a callable"),
        ({"train_dataset": 3}, InvalidType, "train_dataset must be a Dataset, a DataLoader"),
        ({"train_dataset": DataLoader(CASE.train, shuffle=True)}, InvalidValue, "train_dataset shuffles"),
        ({"batch_size": 0}, InvalidValue, "batch_size must be a whole number of at least 1"),
    ],
)
def test_construction(changed: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        tracin(**changed)
    assert isinstance(caught.value, LlmAttrError)


@pytest.mark.parametrize(
    ("changed", "inputs", "options", "error", "message"),
    [
        ({"checkpoints": SHAPES}, CASE.tests, {}, InvalidValue, "does not fit the model"),
        ({"checkpoints_load_func": lambda m, c: None}, CASE.tests, {}, InvalidType, "must return the learning rate"),
        ({}, CASE.tests[:1], {}, InvalidValue, "and then the labels"),
        ({}, CASE.tests[0], {}, InvalidType, "inputs must be a Dataset, a DataLoader or a tuple"),
        ({}, (CASE.tests[0], CASE.tests[1][:2]), {}, InvalidValue, r"got lengths \[5, 2\]"),
        ({}, [], {}, InvalidValue, "inputs has no examples"),
        ({}, CASE.tests, {"k": -1}, InvalidValue, "k must be a whole number"),
        ({"loss_fn": lambda o, y: o.sum()}, CASE.tests, {}, InvalidShape, "one entry for each of the 5 examples"),
    ],
)
def test_queries(changed: Any, inputs: Any, options: Any, error: type[Exception], message: str) -> None:
    before = {name: value.clone() for name, value in CASE.model.state_dict().items()}
    with pytest.raises(error, match=message):
        tracin(**changed).influence(inputs, **options)
    assert all(value.equal(before[name]) for name, value in CASE.model.state_dict().items())


def test_modes_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    with pytest.raises(InvalidValue, match=r"call model.eval\(\)"):
        tracin(model=model, checkpoints=[model.state_dict()]).influence(CASE.tests)
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)).double()
    before = torch.get_rng_state()
    with pytest.warns(RuntimeWarning, match="at random"):
        tracin(model=model, checkpoints=[model.state_dict()]).influence(CASE.tests)
    assert torch.get_rng_state().equal(before)
    assert model.training


@pytest.mark.parametrize("method", [TracInCPFast, TracInCPFastRandProj])
def test_the_last_layer(method: Any) -> None:
    place = (CASE.train, CASE.checkpoints, load)
    with pytest.raises(InvalidType, match=r"Linear of the model or the name of one \(0, 2\); got Tanh"):
        method(CASE.model, CASE.model[1], *place, loss_fn=nn.CrossEntropyLoss())
    with pytest.raises(InvalidType, match="needs a loss_fn"):
        method(CASE.model, "2", *place)
    with pytest.raises(InvalidValue, match="'sum' or reduction='mean'; got reduction='none'"):
        method(CASE.model, "2", *place, loss_fn=nn.CrossEntropyLoss(reduction="none"))
    used = cases()["used elsewhere"]
    with pytest.raises(UnsupportedMethod, match="used nowhere else"):
        method(
            used.model, "inner", *used.arguments()[1:], loss_fn=used.loss("sum"), batch_size=4, **extra(method)
        ).influence(used.tests)


def extra(method: Any) -> dict[str, Any]:
    return {"projection_dim": 3} if method is TracInCPFastRandProj else {}


@pytest.mark.parametrize("method", [NaiveInfluenceFunction, ArnoldiInfluenceFunction])
def test_curvature(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = (CASE.model, CASE.train, CASE.checkpoints[0], load)
    loss = nn.CrossEntropyLoss(reduction="none")
    with pytest.raises(InvalidValue, match=r"hessian_inverse_tol=1000000\.0"):
        method(*place, loss_fn=loss, batch_size=11, hessian_inverse_tol=1e6)
    with pytest.raises(InvalidValue, match="projection_dim"):
        method(*place, loss_fn=loss, projection_dim=0)
    if method is NaiveInfluenceFunction:
        monkeypatch.setattr("llm_attr.influence.hessian.free_bytes", lambda device: 10)
        with pytest.raises(InvalidValue, match="Hessian of 48 parameters needs"):
            method(*place, loss_fn=loss)


def test_progress_and_cancellation() -> None:
    seen, stop = [], threading.Event()

    def see(part: llm_attr.Progress) -> None:
        seen.append(part)
        if part.done >= 20:
            stop.set()

    before = {name: value.clone() for name, value in CASE.model.state_dict().items()}
    with pytest.raises(Cancelled), llm_attr.watching(see, stop):
        tracin().influence(CASE.tests)
    assert all(value.equal(before[name]) for name, value in CASE.model.state_dict().items())
    seen.clear()
    with llm_attr.watching(seen.append):
        tracin().influence(CASE.tests)
    assert (seen[-1].done, seen[-1].total) == (32, 32)
    assert seen[-1].description == "TracInCP influence"


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tracin()
    of = mine._gradients.of

    def small(batch: Any, loss: Any) -> Any:
        if batch.count > 2:
            raise torch.OutOfMemoryError("out of memory")
        return of(batch, loss)

    monkeypatch.setattr(mine._gradients, "of", small)
    with pytest.warns(RuntimeWarning, match="did not fit"):
        torch.testing.assert_close(mine.influence(CASE.tests), CASE.tracin())


def test_losses_without_a_reduction_and_without_a_function() -> None:
    summed = lambda o, y: nn.functional.cross_entropy(o, y, reduction="sum")  # noqa: E731
    with pytest.warns(UserWarning, match="taken for the sum"):
        mine = tracin(loss_fn=summed, sample_wise_grads_per_batch=True)
    torch.testing.assert_close(mine.influence(CASE.tests), CASE.tracin())
    of_output = TracInCP(
        nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)).double(),
        TensorDataset(*CASE.train.tensors),
        [0],
        lambda model, number: 1.0,
    )
    assert of_output.influence(CASE.tests).shape == (5, 11)
