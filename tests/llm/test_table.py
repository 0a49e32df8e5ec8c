"""What results are computed from, and the data frames made of them."""

from __future__ import annotations

import random
import sys
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import llm_attr
from llm_attr import LanguageModel, LLMAttributionResult, Prompt
from llm_attr.attr import FeatureAblation, LLMAttribution, ProductBaselines, TextTemplateInput, TextTokenInput
from llm_attr.errors import (
    InvalidShape,
    InvalidType,
    InvalidValue,
    MissingExtra,
    UnknownKeyword,
    UnknownName,
    UnsupportedMethod,
)
from llm_attr.llm.results.table import Table
from tests.reference.scoring import text_log_probs
from tests.zoo import tiny

TEMPLATE = "{} lives in {}, {} and is a {}."
VALUES = ["Dave", "Palm Coast", "FL", "lawyer"]
TARGET = " He likes fishing."


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


def explained(lm: LanguageModel, inp: Any, **options: Any) -> LLMAttributionResult:
    return llm_attr.explain(lm, inp, target=TARGET, **options)


def both(result: LLMAttributionResult) -> Tensor:
    return torch.cat([result.seq_attr[None], result.token_attr])


@pytest.mark.parametrize("attr_target", ["log_prob", "prob"])
@pytest.mark.parametrize(
    ("inp", "options", "owner"),
    [
        (TextTemplateInput(TEMPLATE, VALUES), {}, [0, 1, 2, 3]),
        (TextTemplateInput(TEMPLATE, VALUES, mask=[7, 2, 7, 2]), {}, [1, 0, 1, 0]),
        (TextTemplateInput(TEMPLATE, VALUES), {"feature_mask": torch.tensor([[3, 3, 0, 1]])}, [2, 2, 0, 1]),
        (
            TextTemplateInput(TEMPLATE, VALUES, mask=[0, 1, 0, 2]),
            {"feature_mask": torch.tensor([[5, 4, 5]])},
            [1, 0, 1, 1],
        ),
        (Prompt("Dave is old. He likes it. It is white."), {}, [0, 1, 2]),
    ],
)
def test_the_result_is_what_the_table_says(
    lm: LanguageModel, inp: Any, options: dict[str, Any], owner: list[int], attr_target: str
) -> None:
    result = explained(lm, inp, attr_target=attr_target, **options)
    table = result.table
    assert table.owner.tolist() == owner
    features = max(owner) + 1
    assert torch.equal(table.coalitions, torch.cat([torch.ones(1, features), 1 - torch.eye(features)]).bool())
    assert table.values.shape == (1, features + 1, len(result.output_tokens))
    assert torch.equal(table.values[0, 0], table.whole)
    assert torch.equal(result.output_probs, table.whole.exp())
    assert torch.equal(both(result), table.attributions().values)
    made_anew = replace(table, estimator=None)
    assert torch.equal(made_anew.attributions().values, table.attributions().values)
    assert (table.method, table.options, table.attr_target) == ("feature_ablation", {}, attr_target)


def test_the_trials_of_a_table(lm: LanguageModel) -> None:
    random.seed(4)
    inp = TextTemplateInput(TEMPLATE, VALUES, ProductBaselines([["He", "Someone"], ["it"], ["USA", "FL"], ["keeper"]]))
    result = explained(lm, inp, num_trials=3)
    assert result.table.values.shape[0] == 3
    each = [replace(result.table, values=rows[None]).attributions().values for rows in result.table.values]
    assert (torch.stack(each).mean(0) - both(result)).abs().max() < 1e-5
    answer = lm.tokenizer.encode(TARGET, add_special_tokens=False)
    assert (result.table.whole - text_log_probs(lm, TEMPLATE.format(*VALUES), answer)).abs().max() < 1e-4


class Doubled(TextTemplateInput):
    """Shows attributions in a way of its own."""

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        return 2 * super().format_attr(itp_attr)


class Copied(TextTemplateInput):
    """Overrides the method as Captum's users must, and copies the attributions."""

    def format_attr(self, itp_attr: Tensor) -> Tensor:
        return itp_attr.clone()


def test_an_input_with_a_way_of_its_own(lm: LanguageModel) -> None:
    plain = explained(lm, TextTemplateInput(TEMPLATE, VALUES))
    doubled = explained(lm, Doubled(TEMPLATE, VALUES))
    assert doubled.table is None
    assert torch.equal(both(doubled), 2 * both(plain))
    assert torch.allclose(doubled.for_output("likes").seq_attr, 2 * plain.for_output("likes").seq_attr)


def test_the_feature_of_each_value(lm: LanguageModel) -> None:
    masked, tokens = TextTemplateInput("{}{}{}", list("abc"), mask=[2, 0, 2]), TextTokenInput("Dave is", lm.tokenizer)
    assert masked.feature_of_value().tolist() == [1, 0, 1]
    assert tokens.feature_of_value().tolist() == [*range(len(tokens.values))]
    assert Doubled("{}{}", ["a", "b"]).feature_of_value() is None
    assert Copied("{}{}", ["a", "b"]).feature_of_value().tolist() == [0, 1]
    assert explained(lm, Copied(TEMPLATE, VALUES)).table is not None


class Unregistered(FeatureAblation):
    """A method that nobody knows by name."""


def test_a_method_without_a_name(lm: LanguageModel) -> None:
    wrapper = LLMAttribution(Unregistered(lm.model), lm.tokenizer)
    result = wrapper.attribute(TextTemplateInput(TEMPLATE, VALUES), TARGET)
    assert result.for_output("likes").seq_attr.shape == (4,)
    with pytest.raises(UnknownName, match=r"unknown method 'unregistered'.*feature_ablation"):
        replace(result.table, estimator=None).attributions()


def table(**parts: Any) -> Table:
    given: dict[str, Any] = {
        "coalitions": torch.tensor([[1, 1], [0, 1], [1, 0]]).bool(),
        "values": torch.tensor([[[-1.0, -2.0], [-3.0, -2.5], [-1.5, -4.0]]]),
        "owner": torch.tensor([0, 1, 0]),
        "whole": torch.tensor([-1.0, -2.0]),
        "method": "feature_ablation",
    }
    return Table(**given | parts)


def test_a_table_by_hand() -> None:
    assert table().attributions().values.tolist() == [[2.5, 2.5, 2.5], [2.0, 0.5, 2.0], [0.5, 2.0, 0.5]]
    second = table().restricted(slice(1, 2))
    assert second.attributions().values.tolist() == [[0.5, 2.0, 0.5]] * 2
    probable = table(attr_target="prob").attributions().values[0]
    assert probable[0].item() == pytest.approx(torch.tensor(-3.0).exp() - torch.tensor(-5.5).exp())


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"coalitions": torch.ones(3, 2)}, InvalidType, "coalitions of the table must be torch.bool"),
        ({"values": torch.zeros(1, 3, 2, dtype=torch.float64)}, InvalidType, "values of the table"),
        ({"owner": torch.zeros(3)}, InvalidType, "owner"),
        ({"owner": torch.tensor([0, 2, 0])}, InvalidValue, "from 0 to 1"),
        ({"owner": torch.tensor([0, -1, 0])}, InvalidValue, "owner"),
        ({"whole": torch.zeros(2, 1)}, InvalidShape, "whole of the table must have 1 axes"),
        ({"whole": torch.zeros(3)}, InvalidShape, "values"),
        ({"values": torch.zeros(0, 3, 2)}, InvalidShape, "at least one"),
        ({"values": torch.full((1, 3, 2), torch.nan)}, InvalidValue, "NaN"),
        ({"attr_target": "logits"}, UnknownName, r"did you mean .logit.*log_prob, prob, logit"),
    ],
)
def test_tables_that_do_not_fit(wrong: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        table(**wrong)


def test_tables_whose_estimator_cannot_be_made() -> None:
    with pytest.raises(UnknownName, match=r"'feature_ablatoin' \(did you mean"):
        table(method="feature_ablatoin").attributions()
    with pytest.raises(UnknownKeyword, match="the estimator of feature_ablation takes no keyword 'samples'"):
        table(options={"samples": 3}).attributions()
    with pytest.raises(UnsupportedMethod, match="kernel of feature_ablation could not be stored"):
        table(missing=("kernel",)).attributions()
    more = {"coalitions": torch.ones(4, 2).bool(), "values": torch.zeros(1, 4, 2)}
    with pytest.raises(InvalidShape, match="gives 3 attributions from 4 coalitions of 2 features"):
        table(**more).attributions()


def test_a_table_must_fit_its_result(lm: LanguageModel) -> None:
    fitting: dict[str, Any] = {"input_tokens": ["a", "b"], "output_tokens": ["x"], "seq_attr": torch.zeros(2)}
    with pytest.raises(InvalidShape, match="owner of the table"):
        LLMAttributionResult(**fitting, table=table())
    with pytest.raises(InvalidShape, match="output_ids must be one for each of the 1 tokens"):
        LLMAttributionResult(**fitting, output_ids=[1, 2])
    with pytest.raises(InvalidShape, match="context must be one text more"):
        LLMAttributionResult(**fitting, context=["", ""])
    with pytest.raises(InvalidValue, match="apart and within the 2 units"):
        LLMAttributionResult(**fitting, groups=[{"label": "a", "kind": "document", "first": 1, "stop": 3}])


def test_data_frames(lm: LanguageModel) -> None:
    prompt = Prompt.from_documents(
        "What is it?", {"mill": "It is white. It is old.", "lake": "It is blue."}, chat=False
    )
    result = explained(lm, prompt)
    frame = result.to_pandas()
    count = len(result.output_tokens)
    assert list(frame.columns) == ["unit", "text", "group", "token", "token_text", "attribution"]
    assert len(frame) == len(result.input_tokens) * count
    assert list(frame.index) == list(range(len(frame)))
    row = frame.iloc[count + 2]
    assert (row.unit, row.text, row.token, row.token_text) == (1, result.input_tokens[1], 2, result.output_tokens[2])
    assert row.attribution == result.token_attr[2, 1].item()
    assert list(frame.group.unique())[:2] == ["mill", "lake"]
    assert frame.groupby("unit").attribution.sum().to_numpy() == pytest.approx(result.seq_attr.numpy(), abs=1e-3)
    units = result.to_pandas(tokens=False)
    assert list(units.columns) == ["unit", "text", "group", "attribution"]
    assert units.attribution.tolist() == result.seq_attr.tolist()
    assert isinstance(units, pd.DataFrame)


def test_data_frames_of_little(monkeypatch: pytest.MonkeyPatch) -> None:
    bare = LLMAttributionResult(input_tokens=["a"], output_tokens=["x"], seq_attr=torch.tensor([1.0]))
    assert bare.to_pandas(tokens=False).to_dict("list") == {
        "unit": [0],
        "text": ["a"],
        "group": [None],
        "attribution": [1],
    }
    with pytest.raises(UnsupportedMethod, match="tokens=False"):
        bare.to_pandas()
    empty = LLMAttributionResult(
        input_tokens=[], output_tokens=[], seq_attr=torch.zeros(0), token_attr=torch.zeros(0, 0)
    )
    assert len(empty.to_pandas()) == len(empty.to_pandas(tokens=False)) == 0
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pandas is needed.*llm_attr\[data\]"):
        bare.to_pandas()
