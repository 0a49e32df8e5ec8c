"""FeatureAblation against Captum: the rows of language models and of the general core.

Run: pytest tests/benchmarks -m benchmark -s
"""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest
import torch
from torch import nn

import llm_attr
from llm_attr.attr import FeatureAblation, LLMAttribution
from tests.benchmarks.jobs import OURS, RAG12, TMPL10, TOKEN54, Job
from tests.benchmarks.measure import Side, compare, report

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def lm() -> llm_attr.LanguageModel:
    return llm_attr.load_model("smollm2-135m")


def relative_difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    return ((values - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(
    ("job", "goal"), [(TMPL10, 1.8), (TOKEN54, 2.2), (RAG12, 2.2)], ids=lambda x: getattr(x, "name", x)
)
def test_language_model(lm: llm_attr.LanguageModel, job: Job, goal: float) -> None:
    ours = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer)
    theirs = captum.attr.LLMAttribution(captum.attr.FeatureAblation(lm.model), lm.tokenizer)
    our_input, their_input = job.make_input(OURS, lm.tokenizer), job.make_input(captum.attr, lm.tokenizer)

    def captum_side(**options: Any) -> Any:
        return lambda: theirs.attribute(their_input, target=job.target, **options)

    sides = [
        Side("llm_attr", lambda: ours.attribute(our_input, target=job.target)),
        Side("captum S (forward_in_tokens=False)", captum_side(forward_in_tokens=False)),
    ]
    slow = Side("captum N (use_cached_outputs=False)", captum_side(use_cached_outputs=False))
    sides[0].run()
    compare(sides, 5, lm.model)
    compare([slow], 1)
    wrong = theirs.attribute(their_input, target=job.target)
    print("\n" + report(f"FeatureAblation {job.name}, goal {goal} x S", [*sides, slow]))
    whole, fast, naive = sides[0].result, sides[1].result, slow.result
    print(
        f"  relative difference to S {relative_difference(whole.seq_attr, fast.seq_attr):.1e}, "
        f"to N {relative_difference(whole.token_attr, naive.token_attr):.1e}; "
        f"Captum's default is off by {relative_difference(wrong.seq_attr, naive.seq_attr):.0%}"
    )
    assert relative_difference(whole.seq_attr, fast.seq_attr) <= 1e-4
    assert relative_difference(whole.token_attr, naive.token_attr) <= 1e-4


class Cnn(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
        )  # fmt: skip


def patches(size: int, side: int) -> torch.Tensor:
    row = torch.arange(size) // (size // side)
    return (row[:, None] * side + row[None])[None, None]


def core_jobs() -> dict[str, tuple[nn.Module, torch.Tensor, dict[str, Any], str]]:
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(30, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    return {
        "MLP 64x30": (mlp, torch.randn(64, 30), {}, "1.5 x its best"),
        "MLP 1x30": (mlp, torch.randn(1, 30), {}, "15 x its default"),
        "CNN 4x(64 patches)": (
            Cnn().eval(), torch.randn(4, 3, 64, 64), {"feature_mask": patches(64, 8)}, "no worse than its best"
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", core_jobs())
def test_core(name: str) -> None:
    model, inputs, options, goal = core_jobs()[name]
    ours, theirs = FeatureAblation(model), captum.attr.FeatureAblation(model)
    sides = [Side("llm_attr", lambda: ours.attribute(inputs, target=1, **options))]
    for count in (1, 2, 4, 8, 16, 31):

        def run(count: int = count) -> Any:
            return theirs.attribute(inputs, target=1, perturbations_per_eval=count, **options)

        sides.append(Side(f"captum, perturbations_per_eval={count}", run))
    compare(sides, 9 if "CNN" in name else 51)
    print("\n" + report(f"FeatureAblation {name}, goal {goal}", sides))
    assert relative_difference(sides[0].result, sides[1].result) <= 1e-4
