"""A pickle holds what was found and no model; a copy shares the model; errors come through as they were."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt, compare, errors
from llm_attr.attr import FeatureAblation, LLMAttribution, TextTemplateInput, TextTokenInput
from llm_attr.errors import InvalidValue, LlmAttrError, UnsupportedMethod
from tests.zoo import quiet, tiny

TEXT = "Dave sails. Rex runs. It is."
SMALL = 6000
"""Bytes of a pickled result of this text; the tiny model alone has forty times as many."""


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama", "byte_bos")


def explained(lm: LanguageModel, method: str, **options: Any) -> LLMAttributionResult:
    with quiet():
        return llm_attr.explain(lm, TEXT, method=method, target=" Yes", **options)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("feature_ablation", {}),
        ("kernel_shap", {"n_samples": 20}),
        ("lime", {"n_samples": 20}),
        ("pairwise_interactions", {}),
        ("integrated_gradients", {"n_steps": 2, "token_rows": True}),
    ],
)
def test_a_result_comes_out_as_it_went_in_without_its_model(
    lm: LanguageModel, method: str, options: dict[str, Any]
) -> None:
    result = explained(lm, method, **options)
    data = pickle.dumps(result)
    assert len(data) < SMALL
    found = pickle.loads(data)
    assert found == result
    assert found.inp is None
    assert found.context == result.context
    assert found.for_output(" Y") == result.for_output(" Y")


def test_the_input_of_any_kind_stays_out(lm: LanguageModel) -> None:
    method = LLMAttribution(FeatureAblation(lm.model), lm.tokenizer)
    template = TextTemplateInput(lambda name: f"{name} sails.", ["Dave"])
    for inp in (template, TextTokenInput("Dave sails.", lm.tokenizer)):
        with quiet():
            result = method.attribute(inp, target=" Yes")
        data = pickle.dumps(result)
        assert len(data) < SMALL
        assert pickle.loads(data) == result


def test_a_comparison_comes_out_without_models(lm: LanguageModel) -> None:
    several = compare([explained(lm, "feature_ablation"), explained(lm, "kernel_shap", n_samples=8)])
    data = pickle.dumps(several)
    assert len(data) < 3 * SMALL
    assert pickle.loads(data).to_json() == several.to_json()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_copies_share_the_input_and_the_model(lm: LanguageModel, copied: Any) -> None:
    result = explained(lm, "lime", n_samples=20)
    found = copied(result)
    assert found == result
    assert found.inp is result.inp
    assert found.table.estimator is result.table.estimator
    assert (found.seq_attr is result.seq_attr) == (copied is copy.copy)
    bound = Prompt(TEXT).bind(lm)
    assert copied(bound).variant([True, False, True]) == bound.variant([True, False, True])


def test_options_that_cannot_be_pickled_are_missing_and_said_to_be(lm: LanguageModel) -> None:
    result = explained(lm, "lime", n_samples=20, similarity_func=lambda *_, **__: 1.0)
    found = pickle.loads(pickle.dumps(result))
    assert found == result
    assert found.table.missing == ("similarity_func",)
    with pytest.raises(UnsupportedMethod, match="similarity_func of lime could not be stored"):
        found.for_output(" Y")


def test_a_bound_prompt_asks_to_be_bound_again(lm: LanguageModel) -> None:
    bound = Prompt(TEXT).bind(lm)
    data = pickle.dumps(bound)
    assert len(data) < SMALL
    found = pickle.loads(data)
    assert (found.text, found.spans, found.context, found.groups) == (TEXT, bound.spans, bound.context, bound.groups)
    with pytest.raises(InvalidValue, match="bind it again"):
        found.variant([True, False, True])


def test_every_error_comes_through_as_it_was() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LlmAttrError)]
    given: dict[type, tuple[Any, ...]] = {
        errors.UnknownName: ("unit", "word", ["words"]),
        errors.UnknownKeyword: ("explain", ["unt"], ["unit"]),
        errors.MissingExtra: ("pandas", "data"),
    }
    assert len(kinds) > 20
    for kind in kinds:
        error = kind(*given.get(kind, ("what is wrong",)))
        error.where = 3
        found = pickle.loads(pickle.dumps(error))
        assert type(found) is kind
        assert (str(found), found.args, found.where) == (str(error), error.args, 3)
        assert str(copy.copy(error)) == str(error)
