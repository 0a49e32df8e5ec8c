"""Gradients of generations against Captum, which runs each token of the answer by itself.

Run: pytest tests/benchmarks -m benchmark -s
"""

from __future__ import annotations

from typing import Any

import captum.attr
import pytest

import llm_attr
from llm_attr import Prompt
from llm_attr.attr import LayerGradientXActivation, LayerIntegratedGradients, TextTokenInput
from llm_attr.attr import LLMGradientAttribution as Ours
from tests.benchmarks.jobs import INTERESTS, KEEPER, LIGHTHOUSE, TOKEN54
from tests.benchmarks.measure import Side, compare, report
from tests.benchmarks.test_feature_ablation import relative_difference

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

LONG = "".join(f" {sentence}" for sentence in LIGHTHOUSE[:8])
"""An answer of about 200 tokens."""


@pytest.fixture(scope="module")
def lm() -> llm_attr.LanguageModel:
    return llm_attr.load_model("smollm2-135m")


def sides_of(lm: llm_attr.LanguageModel, method: str, target: str, **options: Any) -> list[Side]:
    """Rows for each token by both; and the whole answer alone, which Captum has no way to ask for."""
    embedding = lm.model.get_input_embeddings()
    ours = Ours(getattr(llm_attr.attr, method)(lm.model, embedding), lm.tokenizer)
    theirs = captum.attr.LLMGradientAttribution(getattr(captum.attr, method)(lm.model, embedding), lm.tokenizer)
    inp, their_inp = TOKEN54.make_input(llm_attr.attr, lm.tokenizer), TOKEN54.make_input(captum.attr, lm.tokenizer)
    return [
        Side("llm_attr, each token", lambda: ours.attribute(inp, target=target, **options)),
        Side("llm_attr, whole answer", lambda: ours.attribute(inp, target=target, token_rows=False, **options)),
        Side("captum, each token", lambda: theirs.attribute(their_inp, target=target, **options)),
    ]


def show(title: str, sides: list[Side]) -> None:
    """Captum is the last side."""
    print("\n" + report(title, sides))
    for side in sides[:-1]:
        found = side.result.provenance
        print(
            f"  {side.name}: {found['passes']} forward passes, {found['backward']} backward, {found['forward_mode']} "
            f"rows of forward mode; Captum takes {sides[-1].median / side.median:.1f} x"
        )


@pytest.mark.parametrize(
    ("method", "options", "goal"),
    [
        ("LayerGradientXActivation", {}, "whole 20, tokens 3"),
        ("LayerIntegratedGradients", {"n_steps": 5}, "tokens 3"),
        ("LayerIntegratedGradients", {"n_steps": 50}, "whole 45"),
    ],
)
def test_interests(lm: llm_attr.LanguageModel, method: str, options: dict[str, Any], goal: str) -> None:
    many_points = options.get("n_steps") == 50
    sides = sides_of(lm, method, INTERESTS, **options)[many_points:]
    compare(sides, 1 if many_points else 3, lm.model)
    show(f"{method} {options}, goal x Captum: {goal}", sides)
    assert relative_difference(sides[0].result.seq_attr, sides[-1].result.seq_attr) <= 1e-3


def test_documents_and_a_long_answer(lm: llm_attr.LanguageModel) -> None:
    """Twelve documents and 200 tokens: a row of forward mode for each document, not a backward pass for each token."""
    documents = {str(number): text for number, text in enumerate(LIGHTHOUSE)}
    prompt = Prompt.from_documents("Tell all about the lighthouse.", documents)
    embedding = lm.model.get_input_embeddings()
    ours = Ours(LayerGradientXActivation(lm.model, embedding), lm.tokenizer)
    method = captum.attr.LayerGradientXActivation(lm.model, embedding)
    theirs = captum.attr.LLMGradientAttribution(method, lm.tokenizer)
    inp = prompt.bind(lm)
    text = captum.attr.TextTokenInput(inp.text, lm.tokenizer)
    sides = [
        Side("llm_attr, each token", lambda: ours.attribute(prompt, target=LONG)),
        Side("llm_attr, whole answer", lambda: ours.attribute(prompt, target=LONG, token_rows=False)),
        Side("captum, each token", lambda: theirs.attribute(text, target=LONG)),
    ]
    compare(sides, 1, lm.model)
    tokens = len(sides[0].result.output_ids)
    show(f"12 documents x {tokens} tokens, gradient x activation, goal 10 x Captum", sides)
    assert sides[0].result.provenance["forward_mode"] == 12
    assert sides[0].result.provenance["backward"] == 0
    assert tokens > 150


def test_the_keeper(lm: llm_attr.LanguageModel) -> None:
    """Integrated gradients of a span: one backward pass for each point."""
    embedding = lm.model.get_input_embeddings()
    ours = Ours(LayerIntegratedGradients(lm.model, embedding), lm.tokenizer)
    inp = TextTokenInput(" ".join(LIGHTHOUSE), lm.tokenizer)
    sides = [Side("20 points", lambda: ours.attribute(inp, target=KEEPER, n_steps=20, token_rows=False))]
    compare(sides, 1, lm.model)
    print("\n" + report("IntegratedGradients of the whole answer, rag12", sides))
    assert sides[0].result.provenance["backward"] == 20
