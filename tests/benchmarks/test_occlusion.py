"""Occlusion against Captum: the row of the general core.

Run: pytest tests/benchmarks/test_occlusion.py -m benchmark -s
"""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch

from llm_attr.attr import Occlusion
from tests.benchmarks.measure import Side, compare, report
from tests.benchmarks.test_feature_ablation import Cnn, relative_difference

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

JOBS = {
    "49 windows of 16x16": (4, (3, 16, 16), (3, 8, 8)),
    "225 windows of 8x8": (1, (3, 8, 8), (3, 4, 4)),
}


@pytest.mark.parametrize("name", JOBS)
def test_cnn(name: str) -> None:
    torch.manual_seed(0)
    batch, windows, strides = JOBS[name]
    model, inputs = Cnn().eval(), torch.randn(batch, 3, 64, 64)
    ours, theirs = Occlusion(model), captum.attr.Occlusion(model)
    sides = [Side("llm_attr", lambda: ours.attribute(inputs, windows, strides, target=1))]
    for count in (1, 2, 4, 8, 16):

        def run(count: int = count) -> Any:
            return theirs.attribute(inputs, windows, strides, target=1, perturbations_per_eval=count)

        sides.append(Side(f"captum, perturbations_per_eval={count}", run))
    compare(sides, 9)
    print(
        "\n" + report(f"Occlusion CNN {batch}x3x64x64, {name}, goal 1.5 x its default, no worse than its best", sides)
    )
    assert relative_difference(sides[0].result, sides[1].result) <= 1e-4
