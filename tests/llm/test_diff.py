"""Differences of explanations: pairs of units, noise, verdicts, exports, bad input."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import torch

import llm_attr
from llm_attr import LLMAttributionResult, diff
from llm_attr.errors import InvalidType, InvalidValue, NonFiniteValue
from llm_attr.llm.diff.noise import Error, p_value, t_tail
from tests.zoo import tiny

Result = LLMAttributionResult
HOSTILE = "<script>alert(1)</script>\x1b[2J"


def by_hand(units: list[str], values: list[float], errors: list[float] | None = None, **parts: Any) -> Result:
    given: dict[str, Any] = {"output_tokens": ["x"], "provenance": {"method": "lime", "noise": 1e-4}}
    stderr = None if errors is None else torch.tensor(errors)
    return Result(input_tokens=units, seq_attr=torch.tensor(values), stderr=stderr, **given | parts)


def test_a_change_within_the_errors_is_noise_and_one_beyond_is_not() -> None:
    one = by_hand(["a", "b", "c"], [1.0, 2.0, -1.0], [0.1, 0.1, 0.1])
    found = diff(one, by_hand(["a", "b", "c"], [1.1, 5.0, -1.0], [0.1, 0.1, 0.1]))
    assert [unit.significant for unit in found.units] == [False, True, False]
    assert found.changed == (found.units[1],)
    assert found.units[1].change == pytest.approx(3.0)
    assert found.units[1].error == pytest.approx(math.sqrt(0.02), rel=1e-3)
    first, second = found.units[1].first, found.units[1].second
    assert first is not None
    assert second is not None
    assert (first.share, first.rank, second.rank) == (pytest.approx(0.5), 1, 1)
    assert found.verdict.startswith("1 of 3 units changed by more than noise")
    assert "'b' from +2.00 to +5.00 nats" in found.verdict
    assert not diff(one, one).changed


def test_changes_up_to_the_least_do_not_matter() -> None:
    one, other = by_hand(["a", "b"], [1.0, 2.0]), by_hand(["a", "b"], [1.2, 4.0])
    assert len(diff(one, other).changed) == 2
    assert [unit.text for unit in diff(one, other, least=0.5).changed] == ["b"]
    assert diff(one, other, least=0.5).to_dict()["least"] == 0.5
    assert "1 of 2 units changed by more than 0.5 nats beyond noise" in diff(one, other, least=0.5).render(200)
    assert "not clearly more than 0.5" in diff(one, other, least=0.5).to_html()
    assert diff(one, other, least=3.0).verdict.startswith("No change that is clearly more than 3 nats")


def test_the_noise_of_the_precision_counts() -> None:
    noisy = {"provenance": {"noise": 0.5}}
    assert not diff(by_hand(["a"], [1.0], **noisy), by_hand(["a"], [1.5], **noisy)).changed
    assert diff(by_hand(["a"], [1.0]), by_hand(["a"], [1.5])).changed


def test_a_rewritten_unit_is_paired_with_its_old_version_and_others_come_and_go() -> None:
    one = by_hand(["He repairs violins.", "It rained.", "What?"], [3.0, 0.5, 1.0])
    other = by_hand(["He repairs clocks.", "What?", "Be brief and kind."], [0.5, 1.0, 2.0])
    found = diff(one, other, ("old", "new"))
    assert [unit.status for unit in found.units] == ["rewritten", "only_first", "same", "only_second"]
    assert [unit.change for unit in found.units] == [-2.5, -0.5, 0.0, 2.0]
    assert "'It rained.' went with +0.50 nats" in found.verdict
    assert "'Be brief and kind.' came with +2.00 nats" in found.verdict
    assert found.verdict.endswith("The strongest unit is now 'Be brief and kind.'.")
    shown = found.render(width=100)
    assert "was He repairs violins." in shown
    assert re.search(r"\*\+ Be brief", shown)


def test_other_units_of_the_same_text_are_summed_as_compare_does() -> None:
    found = diff(by_hand(["a b", "c"], [3.0, 1.0], [0.1, 0.1]), by_hand(["a", "b", "c"], [1.0, 2.0, 1.0], [0.1] * 3))
    side = found.units[0].second
    assert side is not None
    assert (side.units, side.value, found.units[0].change) == ((0, 1), 3.0, 0.0)
    assert side.error == pytest.approx(0.2, rel=1e-3)  # errors of one sample may all go one way


@pytest.mark.parametrize(
    ("freedom", "common", "rare"), [(1, 12.7062, 63.657), (2, 4.3027, 9.9248), (7, 2.3646, 3.4995)]
)
def test_p_values_of_students_t(freedom: int, common: float, rare: float) -> None:
    assert t_tail(common, freedom) == pytest.approx(0.05, rel=1e-3)
    assert t_tail(rare, freedom) == pytest.approx(0.01, rel=1e-3)
    assert t_tail(0.0, freedom) == 1.0
    assert p_value(-1.959964, Error(1.0, 0.0, freedom)) == pytest.approx(0.05, rel=5e-3)  # errors are scaled
    assert p_value(2.459964, Error(0.0, 1.0), 0.5) == pytest.approx(0.05, rel=1e-3)
    assert p_value(9.0, Error(math.inf, 0.0, freedom)) == 1.0


def test_the_error_of_a_difference() -> None:
    both = Error(3.0, 0.0, 10).beside(Error(4.0, 1.0, 20))
    assert (both.sampling, both.rounding) == (5.0, 1.0)
    assert both.freedom == int(25**2 / (81 / 10 + 256 / 20))
    assert Error(0.0, 1.0).beside(Error(0.0, 1.0)).freedom is None
    assert Error(math.inf, 1.0, 3).beside(Error(1.0, 1.0, 3)).total == math.inf


def test_a_tiny_model_with_other_seeds() -> None:
    text = "Dave lives in Oslo. He sails. It is red. He has a dog. It is old. It rained. Gulls sleep. Why?"
    lm = tiny("llama")
    one, other = (
        llm_attr.explain(lm, text, target=" He likes it.", method="kernel_shap", n_samples=40, seed=seed)
        for seed in (0, 1)
    )
    found = diff(one, other)
    assert found.differences == {}
    assert any(unit.change for unit in found.units)
    assert found.to_dict()["units"][0]["first"]["units"] == [0]


def test_hostile_text_stays_text() -> None:
    found = diff(by_hand([HOSTILE, "b"], [1.0, 0.0]), by_hand(["b", HOSTILE + " c"], [0.0, 2.0]), ("<b>", "\x1b[1m"))
    page = found.to_html()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "\x1b" not in page
    assert "\x1b" not in found.render(width=80, colour=False)
    assert found._repr_html_().startswith("<div")


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    found = diff(by_hand(["a" * 300, "b"], [1.0, 0.0]), by_hand(["a" * 300, "c"], [2.0, 0.0]))
    assert max(map(len, found.render(width=width, colour=False).splitlines())) <= width


def test_json_holds_everything() -> None:
    plain = json.loads(diff(by_hand(["a"], [1.0], [math.inf]), by_hand(["a"], [9.0], [0.1])).to_json())
    assert plain["schema"] == 1
    assert plain["units"][0]["error"] is None
    assert plain["units"][0]["significant"] is False


def test_bad_input() -> None:
    one = by_hand(["a"], [1.0])
    with pytest.raises(InvalidType, match="two LLMAttributionResults"):
        diff(one, "two")  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="no unit in common"):
        diff(one, by_hand(["z"], [1.0]))
    with pytest.raises(InvalidValue, match="without units"):
        diff(by_hand([], []), one)
    with pytest.raises(NonFiniteValue, match="NaN"):
        diff(one, by_hand(["a"], [math.nan]))
    with pytest.raises(InvalidValue, match="no difference"):
        diff(one, by_hand(["a"], [1.0], provenance={"attr_target": "entropy"}))
    for names in (("a", "a"), ("a",), ("a", " ")):
        with pytest.raises(InvalidValue, match="two different texts"):
            diff(one, one, names)
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(InvalidValue, match="alpha"):
            diff(one, one, alpha=alpha)
    with pytest.raises(InvalidValue, match="least"):
        diff(one, one, least=-1.0)
    with pytest.raises(InvalidType, match="alpha"):
        diff(one, one, alpha="low")  # type: ignore[arg-type]


@pytest.mark.real
@pytest.mark.slow
def test_smollm_in_another_precision_and_with_another_sentence(smollm: llm_attr.LanguageModel) -> None:
    text = "Aksel lives in Odense. He repairs violins. He has a dog. The bus is red. What does Aksel repair?"
    half = llm_attr.load_model("smollm2-135m", dtype="bfloat16")
    whole = llm_attr.explain(smollm, text, target=" Violins")
    assert not diff(whole, llm_attr.explain(half, text, target=" Violins")).changed
    other = llm_attr.explain(smollm, text.replace("violins", "clocks"), target=" Violins")
    strongest = diff(whole, other, least=0.5).changed[0]
    assert (strongest.status, strongest.text) == ("rewritten", "He repairs clocks.")
