"""What a type checker knows of results: mypy checks this file with the package, and the calls run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import assert_type

from llm_attr.attr import (
    DeepLift,
    IntegratedGradients,
    LayerIntegratedGradients,
    NeuronGradient,
    NeuronIntegratedGradients,
    Saliency,
)

MODEL = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
X = torch.ones(1, 2)


def test_a_tensor_gives_a_tensor() -> None:
    assert_type(Saliency(MODEL).attribute(X), Tensor)
    assert_type(IntegratedGradients(MODEL).attribute(X, 0.0, n_steps=3), Tensor)
    assert_type(NeuronGradient(MODEL, MODEL[0]).attribute(X, 1), Tensor)


def test_a_tuple_gives_a_tuple() -> None:
    assert_type(Saliency(MODEL).attribute((X,)), tuple[Tensor])
    assert_type(IntegratedGradients(lambda x, y: MODEL(x) * MODEL(y)).attribute((X, 2 * X)), tuple[Tensor, Tensor])


def test_a_delta_makes_a_pair() -> None:
    assert_type(IntegratedGradients(MODEL).attribute(X, return_convergence_delta=True), tuple[Tensor, Tensor])
    attributions, delta = DeepLift(MODEL).attribute((X,), return_convergence_delta=True)
    assert_type(attributions, tuple[Tensor])
    assert_type(delta, Tensor)


def test_more_is_a_tuple() -> None:
    found = IntegratedGradients(MODEL).attribute(X, return_convergence_delta=True, return_info=True)
    assert_type(found, tuple[Any, ...])
    assert len(found) == 3
    neuron = NeuronIntegratedGradients(MODEL, MODEL[0])
    assert_type(neuron.attribute(X, 1, return_info=True), tuple[Any, ...])


def test_a_layer_decides_the_form() -> None:
    assert_type(LayerIntegratedGradients(MODEL, MODEL[0]).attribute(X), Any)


def test_unknown_arguments_are_seen() -> None:
    with pytest.raises(TypeError, match="steps"):
        IntegratedGradients(MODEL).attribute(X, steps=3)  # type: ignore[call-overload]
