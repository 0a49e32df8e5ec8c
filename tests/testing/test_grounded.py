"""Assertions on the units that carry an answer."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from llm_attr import LLMAttributionResult
from llm_attr.errors import BrokenFile, ExplanationChanged, InvalidType, InvalidValue, NonFiniteValue, NotGrounded
from llm_attr.testing import assert_grounded, assert_not_grounded, assert_unchanged, share_of

UNITS = ["Aksel lives in Odense.", "He repairs violins.", "He has a dog.", "What?"]
GROUPS = [
    {"label": "a.txt", "kind": "document", "first": 0, "stop": 2},
    {"label": "b.txt", "kind": "document", "first": 2, "stop": 3},
    {"label": "user", "kind": "message", "first": 3, "stop": 4},
]


def result(*values: float, **parts: Any) -> LLMAttributionResult:
    given: dict[str, Any] = {"output_tokens": ["Violins"], "groups": GROUPS, "provenance": {"noise": 1e-4}}
    return LLMAttributionResult(input_tokens=UNITS, seq_attr=torch.tensor(values), **given | parts)


FOUND = result(1.0, 6.0, -2.0, 1.0)


@pytest.mark.parametrize(
    ("selection", "share"),
    [
        ({"unit": 1}, 0.75),
        ({"unit": -1}, 0.125),
        ({"unit": "repairs violins"}, 0.75),
        ({"unit": [0, "He repairs violins.", 1]}, 0.875),
        ({"document": "a.txt"}, 0.875),
        ({"document": ["a.txt", "b.txt"]}, 0.875),
        ({"document": "b.txt"}, 0.0),
        ({"message": "user"}, 0.125),
        ({"message": 0}, 0.125),
        ({"unit": 1, "absolute": True}, 0.6),
        ({"unit": 2, "absolute": True}, 0.2),
    ],
)
def test_shares(selection: dict[str, Any], share: float) -> None:
    assert share_of(FOUND, **selection) == pytest.approx(share)
    if share:
        assert assert_grounded(FOUND, **selection, min_share=share - 1e-6) == pytest.approx(share)
    assert assert_not_grounded(FOUND, **selection, max_share=share + 1e-6) == pytest.approx(share)


def test_what_a_failure_says() -> None:
    with pytest.raises(NotGrounded) as failure:
        assert_grounded(FOUND, document="b.txt", min_share=0.6)
    said = str(failure.value)
    assert "unit 2 'He has a dog.': 0.0% of what speaks for the answer, at least 60% wanted" in said
    assert "+6  75.0%  1 'He repairs violins.'" in said
    assert failure.value.explanation is FOUND
    assert isinstance(failure.value, AssertionError)
    assert str(pickle.loads(pickle.dumps(failure.value))) == said
    with pytest.raises(NotGrounded, match=r"75.0% .* at most 10% wanted"):
        assert_not_grounded(FOUND, 1)


def test_nothing_carries_an_answer_that_only_rounding_moves() -> None:
    faint = result(0.1, 0.3, 0.0, 0.0, provenance={"noise": 0.5})
    assert share_of(faint, 1) == 0.0
    with pytest.raises(NotGrounded, match="nothing in the prompt speaks for the answer"):
        assert_grounded(faint, 1)
    with pytest.raises(NotGrounded, match="nothing in the prompt"):
        assert_grounded(result(-1.0, -1.0, 0.0, 0.0), 1)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({}, InvalidType, "got none"),
        ({"unit": 1, "document": "a.txt"}, InvalidType, "got unit, document"),
        ({"unit": 4}, InvalidValue, "from -4 to 3"),
        ({"unit": True}, InvalidType, "position"),
        ({"unit": []}, InvalidType, "not empty"),
        ({"unit": "He"}, InvalidValue, "2 units have the text"),
        ({"unit": "cat"}, InvalidValue, "no unit has the text"),
        ({"unit": " "}, InvalidValue, "white space"),
        ({"document": "c.txt"}, InvalidValue, "no document is called 'c.txt'; the documents are 'a.txt', 'b.txt'"),
        ({"document": 1}, InvalidType, "document must be"),
        ({"message": 2}, InvalidValue, "from -1 to 0"),
        ({"unit": 1, "min_share": 0.0}, InvalidValue, "above 0"),
        ({"unit": 1, "min_share": "half"}, InvalidType, "a number"),
    ],
)
def test_bad_input(arguments: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        assert_grounded(FOUND, **arguments)


def test_other_bad_input() -> None:
    with pytest.raises(InvalidValue, match="no documents"):
        share_of(result(1.0, 1.0, 1.0, 1.0, groups=[]), document="a.txt")
    with pytest.raises(NonFiniteValue, match="NaN"):
        share_of(result(torch.nan, 1.0, 1.0, 1.0), 1)
    with pytest.raises(InvalidType, match="LLMAttributionResult"):
        share_of("result", 1)  # type: ignore[arg-type]
    with pytest.raises(InvalidValue, match="below 1"):
        assert_not_grounded(FOUND, 1, max_share=1.0)


def test_two_messages_of_one_role_need_a_position() -> None:
    several = [{"label": "user", "kind": "message", "first": place, "stop": place + 1} for place in (0, 1)]
    found = result(1.0, 1.0, 0.0, 0.0, groups=several)
    with pytest.raises(InvalidValue, match="2 messages are called 'user'; give its position"):
        share_of(found, message="user")
    assert share_of(found, message=1) == 0.5


def test_unchanged_since_it_was_saved(tmp_path: Path) -> None:
    FOUND.save(tmp_path / "saved")
    assert assert_unchanged(FOUND, tmp_path / "saved").changed == ()
    with pytest.raises(ExplanationChanged, match="1 of 4 units changed") as failure:
        assert_unchanged(result(1.0, 2.0, -2.0, 1.0), str(tmp_path / "saved"))
    assert failure.value.explanation.changed[0].text == "He repairs violins."
    assert_unchanged(result(1.0, 2.0, -2.0, 1.0), FOUND, least=5.0)
    with pytest.raises(BrokenFile):
        assert_unchanged(FOUND, tmp_path / "nowhere")
