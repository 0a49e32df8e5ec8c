"""`MinimalEdit`: searches over sets, and edits of prompts on tiny models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_attr import Prompt
from llm_attr.core.attacks.smallest_set import SetSearch
from llm_attr.errors import InvalidTarget, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.robust import MinimalEdit
from tests.zoo import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.lists(st.integers(0, 9), min_size=2, max_size=8), st.integers(1, 30), st.integers(1, 3))
def test_sums_need_the_largest_members(weights: list[int], threshold: int, width: int) -> None:
    """Where features add up, every search finds the smallest set, and scores each set once."""
    scored: list[Any] = []

    def values(sets: Sequence[tuple[int, ...]]) -> list[float]:
        scored.extend(filter(None, sets))
        return [threshold - 0.5 - sum(weights[i] for i in members) for members in sets]

    smallest = SetSearch(len(weights), values).exhaustive()
    for search in (SetSearch.greedy, lambda sets: sets.beam(width)):
        scored.clear()
        found = search(SetSearch(len(weights), values))
        assert len(scored) == len(set(scored)) == found.tried
        assert found.flips == smallest.flips == (sum(weights) >= threshold)
        if found.flips:
            assert len(found.members) == len(smallest.members)


def test_what_is_not_needed_is_put_back() -> None:
    """The first member that the greedy search takes is of no use later."""
    value = {(0,): 1.0, (1,): 2.0, (2,): 2.0, (0, 1): 0.5, (0, 2): 0.5, (1, 2): -0.1, (0, 1, 2): -1.0}
    found = SetSearch(3, lambda sets: [value[members] for members in sets]).beam(1)
    assert (found.members, found.flips) == ((1, 2), True)
    nearest = SetSearch(3, lambda sets: [value[members] for members in sets], most=1).beam(2)
    assert (nearest.members, nearest.flips) == ((0,), False)


def test_sets_are_scored_together() -> None:
    """Where features add up: each alone, the first 2, 3, ... of their order, and the set without each member."""
    rounds: list[int] = []

    def values(sets: Sequence[tuple[int, ...]]) -> list[float]:
        rounds.append(len(sets))
        return [9.5 - sum(members) for members in sets]

    found = SetSearch(6, values).greedy()
    assert (found.members, rounds) == ((3, 4, 5), [1, 6, 5, 2])


def test_a_greedy_search_goes_on_where_the_order_of_single_features_misleads() -> None:
    """The order puts a feature between two that flip the answer together, and which keeps them from it."""
    value = {(): 3.0, (0,): 2.0, (1,): 4.0, (2,): 2.5, (0, 2): 1.0, (0, 1): -0.5, (1, 2): 1.0, (0, 1, 2): 0.5}
    found = SetSearch(3, lambda sets: [value[members] for members in sets]).greedy()
    assert (found.members, found.flips) == ((0, 1), True)


def test_a_greedy_search_looks_for_less_than_features_that_do_nothing_alone() -> None:
    """Only all features in their order flip the answer, and none can be put back; two of them do as well."""

    def values(sets: Sequence[tuple[int, ...]]) -> list[float]:
        flips = {(0, 3), (0, 1, 2, 3)}
        alone = {(): 3.0, (0,): 2.0, (1,): 2.5, (2,): 2.6, (3,): 3.5}
        return [alone.get(members, -1.0 if members in flips else 1.0) for members in sets]

    found = SetSearch(4, values).greedy()
    assert (found.members, found.flips) == ((0, 3), True)


TEXT = "One two three. Four five six. Seven eight nine. Ten eleven."


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


@pytest.mark.parametrize("unit", ["token", "word", "sentence"])
@pytest.mark.parametrize("absence", ["delete", "replace", "mask"])
def test_every_unit_and_absence(lm: LanguageModel, unit: str, absence: Any) -> None:
    gen_args = {"max_new_tokens": 3, "do_sample": False}
    edit = MinimalEdit(lm).find(Prompt(TEXT, unit=unit, absence=absence), gen_args=gen_args, most=3)
    assert edit.found == (edit.margin < 0)
    assert edit.edited_answer != edit.answer if edit.found else edit.size
    assert len(edit.texts) == len(edit.units) == edit.size
    assert "".join(piece.text for piece in edit.pieces) == edit.prompt
    smallest = MinimalEdit(lm).find(
        Prompt(TEXT, unit=unit, absence=absence), gen_args=gen_args, most=1, search="exhaustive"
    )
    assert smallest.found == (edit.found and edit.size == 1)


def test_a_drop(lm: LanguageModel) -> None:
    start = MinimalEdit(lm).find(TEXT, target=" two", drop=1e-6, most=1)
    assert start.found == (start.edited_log_prob <= start.log_prob - 1e-6)
    far = MinimalEdit(lm).find(TEXT, target=" two", drop=1e6, most=2)
    assert not far.found
    assert 1 <= far.size <= 2
    assert "No edit found" in far.view().title


def test_the_whole_prompt_may_go(lm: LanguageModel) -> None:
    edit = MinimalEdit(lm).find("One two.", target=" two", drop=1e6)
    assert edit.units == (0,)
    assert edit.edited == ""


def test_the_plan_is_an_upper_bound(lm: LanguageModel) -> None:
    asked: dict[str, Any] = {"target": " two", "drop": 1e6, "most": 2, "unit": "sentence"}
    for search in ("greedy", "beam", "exhaustive"):
        plan = MinimalEdit(lm).plan(TEXT, search=search, measure=False, **asked)
        edit = MinimalEdit(lm).find(TEXT, search=search, **asked)
        assert edit.variants <= plan.evaluations
        assert edit.cost.positions <= plan.positions
    generated = MinimalEdit(lm).plan(TEXT, measure=False)
    assert generated.answer_tokens == 25
    assert not generated.exact


def test_pictures(lm: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "One <two>. Three\x1b[2J four."
    edit = MinimalEdit(lm).find(text, gen_args={"max_new_tokens": 2, "do_sample": False})
    edit.show(width=60)
    printed = capsys.readouterr().out
    assert "edited prompt" in printed
    assert "\x1b[2J" not in printed
    assert max(map(len, printed.splitlines())) <= 60
    assert "[-" in printed
    page = edit.to_html(tmp_path / "edit.html")
    assert (tmp_path / "edit.html").read_text(encoding="utf-8") == page
    assert "<del>" in page
    assert "<two>" not in page
    assert "default-src 'none'" in page
    assert edit._repr_html_().startswith('<div class="llm-attr">')


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "an answer that the model does not give": ({"target": " two two two"}, InvalidTarget, "nothing to change"),
    "a search": ({"search": "random"}, UnknownName, "greedy, beam, exhaustive"),
    "a drop": ({"drop": -1.0}, InvalidValue, "nats above 0"),
    "a sampled answer": ({"gen_args": {"do_sample": True, "seed": 0}}, InvalidValue, "decode greedily"),
    "beams": ({"gen_args": {"num_beams": 2, "max_new_tokens": 3}}, InvalidValue, "decode greedily"),
    "no units": ({"most": 0}, InvalidValue, "most"),
    "no width": ({"search": "beam", "width": 0}, InvalidValue, "width"),
    "a number": ({"prompt": 3}, InvalidType, "int"),
    "units twice": ({"prompt": Prompt(TEXT), "unit": "word"}, InvalidValue, "own units"),
    "a token id": ({"target": 3}, InvalidType, r"\[3\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_own_error(lm: LanguageModel, case: str) -> None:
    given, error, message = BAD[case]
    options = {"prompt": TEXT, **given}
    with pytest.raises(error, match=message):
        MinimalEdit(lm).find(options.pop("prompt"), **options)
