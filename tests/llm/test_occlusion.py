"""Occlusion of texts: windows of consecutive units; and methods that a single prompt has no use for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult
from llm_attr.attr import FeatureAblation, FeaturePermutation, LayerFeatureAblation, LLMAttribution, TextTemplateInput
from llm_attr.errors import InvalidValue, UnknownKeyword, UnknownName, UnsupportedMethod
from tests.reference.scoring import text_log_probs
from tests.zoo import tiny

VALUES = ["Dave", "Palm", "lawyer", "fishing"]
INPUT = TextTemplateInput("{} lives in {}, is a {} and likes {}.", VALUES)
TARGET = " He does."


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


def occluded(lm: LanguageModel, **options: Any) -> LLMAttributionResult:
    return llm_attr.explain(lm, INPUT, method="occlusion", target=TARGET, **options)


def both(found: LLMAttributionResult) -> Tensor:
    assert found.token_attr is not None
    return torch.cat([found.seq_attr[None], found.token_attr])


def log_probs(lm: LanguageModel, *absent: int) -> Tensor:
    """Of the whole answer and each token, from a pass over the prompt without some values."""
    values = ["" if i in absent else value for i, value in enumerate(VALUES)]
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    scores = text_log_probs(lm, "{} lives in {}, is a {} and likes {}.".format(*values), answer)
    return torch.cat([scores.sum()[None], scores])


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({}, [(0, 1), (1, 2), (2, 3)]),
        ({"window": 1}, [(0,), (1,), (2,), (3,)]),
        ({"window": 3, "stride": 2}, [(0, 1, 2), (2, 3)]),
        ({"window": 9}, [(0, 1, 2, 3)]),
    ],
)
def test_each_unit_gets_the_mean_over_its_windows(
    lm: LanguageModel, options: dict[str, Any], windows: list[tuple[int, ...]]
) -> None:
    found = occluded(lm, **options)
    losses = [log_probs(lm) - log_probs(lm, *window) for window in windows]
    means = [torch.stack([loss for loss, w in zip(losses, windows, strict=True) if i in w]).mean(0) for i in range(4)]
    torch.testing.assert_close(both(found), torch.stack(means, 1), rtol=1e-4, atol=1e-4)


def test_windows_of_one_unit_are_feature_ablation(lm: LanguageModel) -> None:
    plain = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer).attribute(INPUT, target=TARGET)
    torch.testing.assert_close(both(occluded(lm, window=1)), both(plain))


def test_stored_results_are_estimated_anew(lm: LanguageModel, tmp_path: Path) -> None:
    found = occluded(lm, window=3, stride=2)
    found.save(tmp_path / "found.json")
    read = LLMAttributionResult.load(tmp_path / "found.json")
    torch.testing.assert_close(both(read), both(found))
    assert found.table is not None
    assert read.table is not None
    torch.testing.assert_close(read.table.attributions().values, found.table.attributions().values)


def test_words_of_a_prompt(lm: LanguageModel) -> None:
    found = llm_attr.explain(lm, "One two three.", unit="word", method="occlusion", target=TARGET)
    assert len(found.seq_attr) == 3
    single = llm_attr.explain(lm, "One", unit="word", method="occlusion", target=TARGET)
    assert len(single.seq_attr) == 1


def test_bad_options(lm: LanguageModel) -> None:
    with pytest.raises(InvalidValue, match="stride 3 is larger than the window 2"):
        occluded(lm, stride=3)
    with pytest.raises(UnknownKeyword, match=r"sliding_window_shapes.*stride, .*window"):
        occluded(lm, sliding_window_shapes=(2,))


def test_methods_that_need_more_than_a_prompt_are_refused(lm: LanguageModel) -> None:
    for method in (FeaturePermutation(lm.model), LayerFeatureAblation(lm.model, lm.model.lm_head)):
        name = type(method).__name__
        with pytest.raises(
            UnsupportedMethod,
            match=f"does not support {name}; supported: .* a single prompt, and .* need other examples",
        ):
            LLMAttribution(method, lm.tokenizer)
    assert "occlusion" in llm_attr.methods()
    for name in ("feature_permutation", "layer_feature_ablation", "neuron_feature_ablation"):
        assert name not in llm_attr.methods()
        with pytest.raises(UnknownName, match=f"unknown method '{name}'"):
            llm_attr.explain(lm, "One two.", method=name)
