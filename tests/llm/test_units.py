"""Words and sentences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_attr.llm.units import SPLITTERS

unicode_text = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(
            list(" \n\r\t.!?\"'“”«»()[]。！？「」、…Dr3,;:-$€🙂👩🔬\u200d\ufe0f\u0301\x00\x0b\x0c\x1c\x85")
        ),
        st.sampled_from(list("\u2028\u2029\u00a0\u3000\u200b\ufeff\u202e\u0600אمक्षไทย日本語")),
    ),
    max_size=40,
)


def texts(split: str, text: str) -> list[str]:
    return [text[start:end] for start, end in SPLITTERS[split](text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.50. He left.", ["Dr. Smith paid $3.50.", "He left."]),
        ("Pi is 3.14159 or so. E is 2.718.", ["Pi is 3.14159 or so.", "E is 2.718."]),
        ("He works for the U.S. Army. She doesn't.", ["He works for the U.S. Army.", "She doesn't."]),
        ('He said "Go." Then he left.', ['He said "Go."', "Then he left."]),
        ("“Quoted text!” she cried. All heard.", ["“Quoted text!” she cried.", "All heard."]),
        ("他走了。她来了！真的吗？好。", ["他走了。", "她来了！", "真的吗？", "好。"]),
        ("今日は晴れです。明日は雨です。", ["今日は晴れです。", "明日は雨です。"]),
        ("مرحبا بك. كيف حالك؟", ["مرحبا بك.", "كيف حالك؟"]),
        ("A title\nand a line.\r\n\r\nThe end", ["A title", "and a line.", "The end"]),
        ("one", ["one"]),
        ("  a b.  ", ["a b."]),
        ("", []),
        (" \n\t\r\n", []),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert texts("sentence", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith paid $3.50, twice.", ["Dr.", "Smith", "paid", "$3.50,", "twice."]),
        ("don't stop (now), please", ["don't", "stop", "(now),", "please"]),
        ("“Quoted text!” she cried.", ["“Quoted", "text!”", "she", "cried."]),
        ('"Go," he said', ['"Go,"', "he", "said"]),
        ("今日は晴れです。", ["今日", "は", "晴れ", "です。"]),
        ("我们走吧。", ["我们", "走", "吧。"]),
        ("👩\u200d🔬 at work", ["👩\u200d🔬", "at", "work"]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("...", ["..."]),
        ("", []),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert texts("word", text) == expected


@pytest.mark.parametrize("split", SPLITTERS)
@settings(max_examples=300, deadline=None)
@given(text=unicode_text)
def test_units_hold_all_characters_that_are_no_space(split: str, text: str) -> None:
    place = 0
    for start, end in SPLITTERS[split](text):
        assert place <= start < end <= len(text)
        assert not text[place:start].strip()
        assert text[start:end] == text[start:end].strip()
        place = end
    assert not text[place:].strip()


@pytest.mark.parametrize("split", ["word", "sentence"])
def test_characters_of_many_bytes_do_not_shift_what_follows(split: str) -> None:
    assert texts(split, "🙂. Ab é. 日. x.")[-1] == "x."
    assert "".join("".join(texts(split, "🙂🙂 é日 x\U0001f468 y. z")).split()) == "🙂🙂é日x\U0001f468y.z"
