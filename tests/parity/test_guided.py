"""Guided backpropagation and deconvolution equal the installed Captum's, and plain formulas where it fails."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr.attr
from tests.parity.cases import GUIDED, random
from tests.parity.models import made
from tests.reference.guided import deconvolution, guided_backprop

pytestmark = pytest.mark.usefixtures("one_thread")


def test_inputs_that_have_no_places_get_an_empty_tensor() -> None:
    case = GUIDED["deep"]
    model = nn.Sequential(case.model)

    def both(x: Tensor, y: Tensor) -> Tensor:
        return model(x) * y

    inputs = (case.inputs, random(2, 3).abs())
    with pytest.warns(UserWarning, match="cannot be resized"):
        found = llm_attr.attr.GuidedGradCam(both, case.model[0]).attribute(inputs, target=0)
    assert found[0].shape == (2, 2, 5, 5)
    assert found[1].shape == (0,)


class Functional(nn.Module):
    """Every way to call a ReLU, and one module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4, bias=False) for _ in range(5)])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e = self.layers
        x = self.relu(b(self.relu(a(x))))
        x = torch.relu(c(x))
        x = nn.functional.relu(d(x), True)
        return e(x).relu_()


@pytest.mark.parametrize(
    ("method", "reference"), [("GuidedBackprop", guided_backprop), ("Deconvolution", deconvolution)]
)
def test_every_spelling_of_a_relu(method: str, reference: Any) -> None:
    model, x = made(Functional()), random(3, 4)
    weights = [layer.weight.detach() for layer in model.layers]
    found = getattr(llm_attr.attr, method)(model).attribute(x, target=2)
    torch.testing.assert_close(found, reference(weights, x, 2), rtol=1e-12, atol=1e-12)
    assert found.abs().sum() > 0
