"""The newer estimators on a prompt: every one by its name and options, stored and estimated anew."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_attr import LLMAttributionResult, Prompt, explain
from llm_attr.attr import Lime, LLMAttribution, SkLearnRidge, TextTemplateInput
from llm_attr.core.game.driver import play
from llm_attr.core.registry import METHODS
from llm_attr.errors import InvalidValue, UnknownKeyword, UnsupportedMethod
from llm_attr.llm.model.language_model import LanguageModel
from tests.core.games import TableGame, all_of
from tests.reference.scoring import answer_log_probs
from tests.zoo import tiny

TEXT = "Dave sails. Mira bakes bread. It rained. Who sails?"
TARGET = " Dave sails."

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("banzhaf", {"n_samples": None}),
    ("banzhaf", {"n_samples": 9, "seed": 1}),
    ("owen", {}),
    ("owen", {"hierarchy": [[0, 1], [2, 3]]}),
    ("owen", {"hierarchy": [[0, [1, 2]], 3], "n_samples": 3, "paired": False, "seed": 2}),
    ("local_shapley", {"radius": 1}),
    ("local_shapley", {"radius": 1, "others": "present"}),
    ("pairwise_interactions", {}),
    ("pairwise_interactions", {"index": "faith_banzhaf", "n_samples": 14}),
    ("group_ablation", {"groups": [[0, 1], [2, 3]]}),
]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama", "byte_bos")


@pytest.fixture(scope="module")
def by_hand(lm: LanguageModel) -> TableGame:
    """The log-probabilities of the answer and of its tokens after every variant of the prompt."""
    bound = Prompt(TEXT, unit="sentence").bind(lm)
    answer = lm.tokenizer(TARGET, add_special_tokens=False).input_ids
    rows = []
    for coalition in all_of(4).tolist():
        tokens = list(bound.variant(coalition).tokens) or [lm.tokenizer.bos_token_id]
        rows.append(answer_log_probs(lm.model, tokens, answer))
    worth = torch.stack(rows)
    return TableGame(torch.cat([worth.sum(1, keepdim=True), worth], 1))


@pytest.mark.parametrize(("method", "options"), OPTIONS)
def test_as_on_the_game_played_by_hand(
    lm: LanguageModel, by_hand: TableGame, method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    result = explain(lm, TEXT, method=method, target=TARGET, **options)
    estimator = METHODS[method].estimator(**options)  # type: ignore[attr-defined]
    found = play(by_hand, estimator, 4)
    expected = estimator.estimate(found.coalitions, found.values).values.T
    torch.testing.assert_close(result.seq_attr, expected[0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(result.token_attr, expected[1:], rtol=1e-3, atol=1e-3)
    result.save(tmp_path / "result.json")
    again = LLMAttributionResult.load(tmp_path / "result.json")
    torch.testing.assert_close(again.seq_attr, result.seq_attr)


def test_until_and_budget(lm: LanguageModel) -> None:
    result = explain(lm, TEXT, method="banzhaf", target=TARGET, n_samples=4, until=1e-9)
    exact = explain(lm, TEXT, method="banzhaf", target=TARGET, n_samples=None)
    torch.testing.assert_close(result.seq_attr, exact.seq_attr, rtol=1e-4, atol=1e-4)
    with pytest.raises(InvalidValue, match="a budget of 3 evaluations is too small"):
        explain(lm, TEXT, method="owen", target=TARGET, n_samples=4, budget=3)
    with pytest.raises(UnknownKeyword, match="until"):
        explain(lm, TEXT, method="owen", target=TARGET, until=0.1)


def test_a_hierarchy_of_other_units(lm: LanguageModel) -> None:
    with pytest.raises(InvalidValue, match=r"each of the 4 features, 0 to 3, .* missing: \[3\]"):
        explain(lm, TEXT, method="owen", target=TARGET, hierarchy=[[0, 1], [2]])


def test_pairs_of_units(lm: LanguageModel, by_hand: TableGame, tmp_path: Path) -> None:
    result = explain(lm, TEXT, method="pairwise_interactions", target=TARGET)
    estimator = METHODS["pairwise_interactions"].estimator()
    expected = estimator.interactions(all_of(4), by_hand(all_of(4))).values[..., 0]
    torch.testing.assert_close(result.interactions, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(result.interactions.diagonal(), result.seq_attr)
    result.save(tmp_path / "pairs")
    assert torch.equal(LLMAttributionResult.load(tmp_path / "pairs").interactions, result.interactions)
    assert result.for_output(slice(0, 1)).interactions.shape == (4, 4)
    plain = explain(lm, TEXT, target=TARGET)
    with pytest.raises(UnsupportedMethod, match="pairwise_interactions"):
        _ = plain.interactions
    assert plain.view().interactions is None
    with pytest.raises(UnsupportedMethod, match="pairwise_interactions"):
        plain.plot_interactions()


@pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="matplotlib is not installed")
def test_pictures_of_pairs(lm: LanguageModel) -> None:
    result = explain(lm, TEXT, method="pairwise_interactions", target=TARGET)
    assert result.view().interactions == tuple(map(tuple, result.interactions.tolist()))
    _, axes = result.plot_interactions()
    assert "beside each unit its own value" in axes.get_xlabel()
    assert "Strongest pairs" in result.to_html()


def test_a_surrogate_with_a_representation_of_its_own(lm: LanguageModel) -> None:
    class Negative(SkLearnRidge):
        def representation(self) -> torch.Tensor:
            return -super().representation()

    method = Lime(lm.model, SkLearnRidge(alpha=0.1))
    wrapper, inp = LLMAttribution(method, lm.tokenizer), TextTemplateInput("{} sails. {} bakes.", ["Dave", "Mira"])
    plain = wrapper.attribute(inp, TARGET, n_samples=12, seed=0)
    method.interpretable_model = Negative(alpha=0.1)
    turned = wrapper.attribute(inp, TARGET, n_samples=12, seed=0)
    assert plain.seq_attr.abs().max() > 1e-3
    torch.testing.assert_close(turned.seq_attr, -plain.seq_attr)
    torch.testing.assert_close(turned.token_attr, -plain.token_attr)
