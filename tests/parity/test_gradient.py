"""The gradients of one point equal the installed Captum's."""

from __future__ import annotations

import pytest

from llm_attr.attr import (
    LayerGradientXActivation,
)
from tests.parity.cases import MOVED, assert_equal, captums, random

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("multiply", [True, False])
def test_multiply_gradient_acts(multiply: bool) -> None:
    tensors = (random(2, 3), random(2, 4)), (random(2, 3, seed=1), random(2, 4, seed=1))
    model = MOVED["mlp, int"].model
    expected = captums(
        "LayerGradientXActivation", lambda m: m.multiply_gradient_acts(*tensors), model, model[0], None, multiply
    )
    mine = LayerGradientXActivation(model, model[0], None, multiply).multiply_gradient_acts(*tensors)
    assert_equal(mine, expected)
