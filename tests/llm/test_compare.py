"""Explanations beside each other: names, common units, agreement, what differs, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import Comparison, LanguageModel, LLMAttributionResult, compare
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from tests.zoo import tiny

TEXT = "Dave lives in Oslo. He sails a boat. It is red."
SENTENCES = ["Dave lives in Oslo.", "He sails a boat.", "It is red."]

Result = LLMAttributionResult


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def by_unit(lm: LanguageModel) -> dict[str, Result]:
    units = ("token", "word", "sentence")
    return {unit: llm_attr.explain(lm, TEXT, unit=unit, target=" He likes it.") for unit in units}


def by_hand(units: list[str], values: list[float], **parts: Any) -> Result:
    given: dict[str, Any] = {"output_tokens": ["x"], "provenance": {"method": "feature_ablation"}}
    return Result(input_tokens=units, seq_attr=torch.tensor(values), **given | parts)


def about(**provenance: Any) -> Result:
    return by_hand(["a", "b"], [1.0, 2.0], provenance={"method": "lime"} | provenance)


def test_methods_on_the_same_units(lm: LanguageModel, by_unit: dict[str, Result]) -> None:
    other = llm_attr.explain(lm, TEXT, target=" He likes it.", method="shapley_values")
    found = compare([by_unit["sentence"], other])
    assert isinstance(found, Comparison)
    assert found.names == ("feature ablation", "shapley values")
    assert list(found.units.texts) == SENTENCES
    torch.testing.assert_close(found.values, torch.stack([by_unit["sentence"].seq_attr, other.seq_attr]).double())
    assert found.differences == {}
    assert found.agreement.shape == (2, 2)
    assert "log-probability (nats)" in json.loads(found.to_json())["value_names"]


def test_words_and_tokens_are_summed_to_sentences(by_unit: dict[str, Result]) -> None:
    found = compare([by_unit["token"], by_unit["sentence"], by_unit["word"]])
    assert list(found.units.texts) == SENTENCES
    assert found.names == ("feature ablation, by token", "feature ablation, by sentence", "feature ablation, by word")
    assert torch.equal(found.values[1], by_unit["sentence"].seq_attr.double())
    expected = [by_unit["word"].seq_attr.double()[part].sum() for part in (slice(0, 4), slice(4, 8), slice(8, 11))]
    torch.testing.assert_close(found.values[2], torch.stack(expected))
    assert found.values[0].sum() == pytest.approx(float(by_unit["token"].seq_attr.double().sum()))
    tokens = len(by_unit["token"].input_tokens)
    said = [f"{tokens} tokens, summed to 3", "3 sentences", "11 words, summed to 3"]
    assert found.differences == {"units": said}
    assert "different units" in dict(found.view().notes)
    assert "".join(a + b for a, b in zip(found.units.context, (*found.units.texts, ""), strict=True)) == TEXT


def test_units_that_cross_are_joined_where_all_have_an_edge() -> None:
    one = by_hand(["ab c", "d", "ef"], [1.0, 2.0, 4.0], context=["", " ", " ", "."])
    other = by_hand(["ab", "c d", "e", "f"], [1.0, 2.0, 4.0, 8.0])
    found = compare([one, other])
    assert found.units.texts == ("ab c d", "ef")
    assert found.units.context == ("", " ", ".")
    assert found.values.tolist() == [[3, 4], [3, 12]]


def test_white_space_goes_with_the_unit_before_it() -> None:
    found = compare([by_hand(["\n", "a", " b", "\n", "c"], [1.0, 2, 4, 8, 16]), by_hand(["a b", "c"], [0.0, 0])])
    assert found.values.tolist() == [[15, 16], [0, 0]]


def test_the_same_units_are_kept_as_they_are() -> None:
    units = ["", "a", "\n", "a", " "]
    found = compare([by_hand(units, [1.0, 2, 3, 4, 5])] * 2)
    assert list(found.units.texts) == units
    assert found.values[0].tolist() == [1, 2, 3, 4, 5]


def test_groups_stay_where_their_edges_do() -> None:
    groups = [
        {"label": "x", "kind": "document", "first": 0, "stop": 1},
        {"label": "y", "kind": "document", "first": 1, "stop": 3},
    ]
    one = by_hand(["a b", "c", "d"], [1.0, 2, 3], groups=groups)
    found = compare([one, by_hand(["a", "b", "c", "d"], [1.0, 2, 3, 4])])
    assert [(group.label, group.first, group.stop) for group in found.units.groups] == [("x", 0, 1), ("y", 1, 3)]
    crossing = compare([one, by_hand(["a", "b c", "d", "\n"], [1.0, 2, 3, 4])])
    assert crossing.units.texts == ("a b c", "d")
    assert crossing.units.groups == ()


def test_errors_stay_where_nothing_is_summed() -> None:
    one = by_hand(["a", "b", "c"], [1.0, 2, 3], stderr=torch.tensor([0.1, 0.2, 0.3]))
    found = compare([one, by_hand(["a", "b c"], [1.0, 2])])
    assert found.stderr[0, 0] == pytest.approx(0.1)
    assert found.stderr.isnan().tolist() == [[False, True], [True, True]]
    assert found.view().columns[1].unit_errors is None
    assert json.loads(found.to_json())["stderr"][1] == [None, None]


@pytest.mark.parametrize(
    ("results", "names"),
    [
        ([about(), about(foil="no")], ["lime", "lime, against 'no'"]),
        ([about(), about(attr_target="prob")], ["lime", "lime, prob"]),
        ([about(model="a"), about(model="b")], ["lime, a", "lime, b"]),
        ([about(model="a"), about(model="a"), about(model="b")], ["lime (1)", "lime (2)", "lime, b"]),
        ([about(variants=5), about(variants=9)], ["lime, 5 variants", "lime, 9 variants"]),
        ([about(), about()], ["lime (1)", "lime (2)"]),
        ([about(), about(method="saliency", model="b")], ["lime", "saliency"]),
        ([by_hand(["a"], [1.0]), by_hand(["a"], [1.0], output_tokens=["y"])],
         ["feature ablation, 'x'", "feature ablation, 'y'"]),
        ([by_hand(["a"], [1.0], provenance={}), about()], None),
    ],
)  # fmt: skip
def test_names_tell_results_apart(results: list[Result], names: list[str] | None) -> None:
    if names is None:
        with pytest.raises(InvalidValue, match="differ from character 1 on"):
            compare(results)
    else:
        assert list(compare(results).names) == names


def test_options_are_told_where_they_differ(lm: LanguageModel) -> None:
    found = [llm_attr.explain(lm, TEXT, target=" x", method="lime", n_samples=count, seed=0) for count in (8, 12)]
    assert compare(found).names == ("lime, n_samples 8", "lime, n_samples 12")


def test_what_differs_is_said() -> None:
    one, other = about(model="a", dtype="float32"), about(model="b", dtype="float32", foil="no")
    found = compare([one, other])
    assert found.differences == {"model": ["a", "b"], "foil": ["none", "no"]}
    assert dict(found.view().notes)["different foil"] == "1: none; 2: no"
    around = [by_hand(["a"], [1.0], context=[text, ""]) for text in ("Q: ", " Q:\n", "R: ")]
    assert compare(around[:2]).differences == {}
    assert compare(around).differences == {"text around the units": ["Q:", "Q:", "R:"]}


def test_one_scale_for_one_unit() -> None:
    nats = [about(), about(attr_target="contrast"), about(attr_target="entropy")]
    view = compare(nats).view()
    assert view.shared_scale is not None
    assert view.scale_description == "ends of the scale: ±2.00 (the largest |value|, shared by 3)"
    for mixed in ([*nats, about(attr_target="prob")], [about(), about(per_input=True)]):
        view = compare(mixed).view()
        assert len({column.scale.rule for column in view.columns}) == 1
        assert view.columns[0].given_scale is not None
        assert "each on its own scale" in view.scale_description or view.shared_scale is not None
        assert all("shared" not in column.scale.rule for column in view.columns)
    assert compare(nats, share_scale=False).view().columns[0].scale.rule == "the largest |value|"
    assert compare([about(), about(attr_target="prob")], share_scale=True).view().columns[1].limit == 2.0


def test_agreement_and_overlap() -> None:
    units = ["a", "b", "c", "d"]
    found = compare([by_hand(units, values) for values in ([1.0, 2, 3, 4], [4.0, -9, 2, 1], [5.0, 5, 5, 5])])
    assert found.agreement[0].tolist()[:2] == pytest.approx([1, -0.4])
    assert found.agreement[2].isnan().all()
    assert found.top_agreement(1).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert found.top_agreement(2)[0].tolist() == [1, 0, 0]
    assert found.top_agreement(4).eq(1).all()
    assert json.loads(found.to_json())["agreement"][2] == [None] * 3


def test_a_table_for_pandas(by_unit: dict[str, Result]) -> None:
    pytest.importorskip("pandas")
    found = compare([by_unit["word"], by_unit["sentence"]], names=["unit", "text"])
    frame = found.to_pandas()
    assert list(frame.columns) == ["unit", "text"]
    assert list(frame.index.get_level_values("text")) == SENTENCES
    torch.testing.assert_close(torch.tensor(frame.to_numpy().T), found.values)
    assert frame.corr(method="spearman").to_numpy() == pytest.approx(found.agreement.numpy())


def test_everything_in_plain_types(by_unit: dict[str, Result], tmp_path: Path) -> None:
    found = compare(by_unit.values())
    text = found.to_json(tmp_path / "c.json")
    read = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert read == json.loads(text) == json.loads(json.dumps(found.to_dict()))
    assert read["values"][2] == by_unit["sentence"].seq_attr.tolist()
    assert read["input_tokens"] == SENTENCES
    assert read["summed_units"][1] == [4, 4, 3]
    assert [one["method"] for one in read["provenance"]] == ["feature_ablation"] * 3


def test_pictures(by_unit: dict[str, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = compare([by_unit["word"], by_unit["sentence"]])
    assert found.to_html(tmp_path / "c.html").startswith("<!doctype html>")
    assert (tmp_path / "c.html").read_text(encoding="utf-8") == found.to_html()
    assert found._repr_html_().startswith('<div class="llm-attr">')
    found.show(width=100)
    assert "Rank agreement" in capsys.readouterr().out
    pytest.importorskip("matplotlib")
    figure, axes = found.plot()
    assert len(axes) == 3
    assert figure.axes == axes


def test_results_are_as_before_and_models_are_not_needed(by_unit: dict[str, Result], tmp_path: Path) -> None:
    by_unit["word"].save(tmp_path / "run")
    before = Result.load(tmp_path / "run")
    compare([by_unit["word"], by_unit["sentence"]]).to_html()
    assert by_unit["word"] == before
    assert torch.equal(compare([before, before]).values[0], before.seq_attr.double())


@pytest.mark.parametrize("results", [[], [about()]])
def test_two_at_least(results: list[Result]) -> None:
    with pytest.raises(InvalidValue, match="two or more results"):
        compare(results)


@pytest.mark.parametrize(
    "results", [about(), 3, None, [about(), "run1"], ["run1", "run2"], {"a": about(), "b": about()}]
)
def test_only_results(results: Any) -> None:
    with pytest.raises(InvalidType, match="LLMAttributionResult"):
        compare(results)


def test_other_texts(by_unit: dict[str, Result], lm: LanguageModel) -> None:
    other = llm_attr.explain(lm, TEXT.replace("Oslo", "Odense"), target=" x")
    with pytest.raises(
        InvalidValue, match=r"same text.*feature ablation, 'He likes.*from character 12 on: .*Oslo.*Odense"
    ):
        compare([by_unit["sentence"], other])
    with pytest.raises(InvalidValue, match="more than white space"):
        compare([by_hand([" "], [1.0]), by_hand(["\n"], [1.0])])


@pytest.mark.parametrize(
    ("names", "error", "said"),
    [
        (["a"], InvalidShape, "one for each of the 2 results; got 1"),
        (["a", "b", "c"], InvalidShape, "got 3"),
        (["a", "a"], InvalidValue, "differ from each other"),
        (["a", " "], InvalidValue, "more than white space"),
        (["a", 2], InvalidType, "every name must be a text; got 2"),
        ("ab", InvalidType, "a sequence of texts"),
        (7, InvalidType, "a sequence of texts"),
    ],
)
def test_names_that_do_not_fit(names: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        compare([about(), about(method="b")], names)


@pytest.mark.parametrize(
    ("k", "error"), [(0, InvalidValue), (3, InvalidValue), (1.5, InvalidType), (True, InvalidType)]
)
def test_how_many_are_strongest(k: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="k must be"):
        compare([about(), about()]).top_agreement(k)


def test_scales_are_shared_or_not() -> None:
    with pytest.raises(InvalidType, match="share_scale must be True, False or None"):
        compare([about(), about()], share_scale="yes")  # type: ignore[arg-type]


def test_results_without_units_are_refused() -> None:
    bare = LLMAttributionResult(input_tokens=[], output_tokens=["a"], seq_attr=torch.zeros(0))
    with pytest.raises(InvalidValue, match="results without units"):
        compare([bare, bare])


def test_levels_are_results() -> None:
    with pytest.raises(InvalidType, match="levels must be LLMAttributionResults; given int"):
        about().to_html(levels=[3])
