"""The items with planted truth: their number, their balance, and what the loader refuses."""

from __future__ import annotations

from collections import Counter

import pytest

from llm_attr.data import KINDS, items
from llm_attr.errors import InvalidType, InvalidValue, UnknownName
from tests.benchmarks.data_balance import GUESSES, chance, is_causal, is_paraphrased, losses, share


def test_there_are_enough_of_each_kind() -> None:
    counts = Counter(item.kind for item in items())
    assert set(counts) == set(KINDS)
    assert min(counts.values()) >= 10
    assert sum(counts.values()) >= 120
    assert len({item.id for item in items()}) == len(items())


def test_sources_are_causal_as_recorded() -> None:
    for item in items():
        assert is_causal(item, list(item.losses)), item.id
        assert len(item.sources) == (2 if item.kind in ("two_hops", "redundant_fact") else 1)
        assert len(set(item.units)) == len(item.units) >= 8


def test_a_third_is_paraphrased_and_says_so() -> None:
    assert all(item.paraphrased == is_paraphrased(item) for item in items())
    assert sum(item.paraphrased for item in items()) >= len(items()) / 3


@pytest.mark.parametrize("guess", GUESSES)
def test_position_length_and_shared_words_give_nothing_away(guess: str) -> None:
    assert share(GUESSES[guess], items()) <= chance(items()) + 0.06


def test_positions_are_spread() -> None:
    counts = Counter(source for item in items() for source in item.sources)
    assert min(counts[position] for position in range(8)) >= 0.4 * sum(counts.values()) / 8


def test_a_prompt_has_the_units_and_the_question() -> None:
    for kind in KINDS:
        item = items(kind)[0]
        text = item.text or " ".join(message["content"] for message in item.messages or ())
        assert all(text.count(unit) == 1 for unit in item.units)
        assert item.question in text
        assert item.prompt().spans == list(item.units)


def test_without_its_sources_an_item_has_the_other_units() -> None:
    item = items("redundant_fact")[0]
    assert item.removed().units == tuple(text for unit, text in enumerate(item.units) if unit not in item.sources)
    assert item.removed().sources == ()


def test_a_count_is_taken_in_turn_from_the_kinds() -> None:
    assert [item.kind for item in items(count=10)] == list(KINDS)
    assert [item.kind for item in items(("negation", "table_row"), 3)] == ["negation", "table_row", "negation"]


def test_bad_input() -> None:
    with pytest.raises(UnknownName, match="unknown kind 'riddle'"):
        items("riddle")
    with pytest.raises(InvalidValue, match="at least 1"):
        items(count=0)
    with pytest.raises(InvalidType, match="whole number"):
        items(count=True)


@pytest.mark.slow
def test_sources_are_causal_for_the_model(smollm: object) -> None:
    for item in items():
        assert is_causal(item, losses(smollm, item)), item.id
