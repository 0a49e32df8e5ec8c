"""DeepLift and LRP against Captum.

Run: pytest tests/benchmarks/test_rules.py -m benchmark -s
"""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from torch import nn

import llm_attr
from llm_attr import attr
from tests.benchmarks.jobs import KEEPER, LIGHTHOUSE
from tests.benchmarks.measure import Side, compare, report
from tests.benchmarks.test_feature_ablation import Cnn, relative_difference

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


class Convolutions(nn.Module):
    """Without an nn.Flatten, for which Captum's LRP has no rule."""

    def __init__(self) -> None:
        super().__init__()
        *body, _, self.head = Cnn()
        self.body = nn.Sequential(*body)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


def jobs() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    return {"MLP 64x30": (mlp, torch.randn(64, 30)), "CNN 4x32x32": (Convolutions().eval(), torch.randn(4, 3, 32, 32))}


@pytest.mark.parametrize("name", jobs())
@pytest.mark.parametrize("method", ["DeepLift", "LRP"])
def test_against_captum(method: str, name: str) -> None:
    model, x = jobs()[name]

    def side(library: Any) -> Any:
        return lambda: getattr(library, method)(model).attribute(x, target=1)

    sides = [Side("llm_attr", side(attr)), Side("captum", side(captum.attr))]
    compare(sides, 25)
    print("\n" + report(f"{method} {name}, goal 2 x", sides))
    if name.startswith("MLP"):  # with max pooling Captum's DeepLift is incomplete
        assert relative_difference(sides[0].result, sides[1].result) <= 1e-4


@pytest.mark.real
@pytest.mark.parametrize("method", ["deep_lift", "lrp"])
def test_overhead_on_a_language_model(method: str) -> None:
    """Beside the gradient alone: one forward pass and one backward pass of the same prompt and answer."""
    lm = llm_attr.load_model("smollm2-135m")
    prompt = " ".join(LIGHTHOUSE[:3])

    def side(name: str, method: str) -> Side:
        return Side(
            name, lambda: llm_attr.explain(lm, prompt, method=method, target=KEEPER, unit="token", token_rows=False)
        )

    sides = [side("gradient alone", "input_x_gradient"), side(method, method)]
    compare(sides, 5, lm.model)
    print("\n" + report(f"{method} of an answer of SmolLM2", sides))
    assert sides[0].result.provenance["passes"] == sides[0].result.provenance["backward"] == 1
    assert sides[1].result.provenance["passes"] <= 3
