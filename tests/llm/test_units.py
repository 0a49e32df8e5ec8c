"""Words and sentences."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from llm_attr.llm.prompt.units import SPLITTERS
from tests.llm.texts import unicode_text


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
        ("Rules:\n1. Answer briefly.\n2. Be kind.", ["Rules:", "1. Answer briefly.", "2. Be kind."]),
        ("1) Answer briefly.\n2) Be kind.", ["1) Answer briefly.", "2) Be kind."]),
        ("a. Answer. B. Be kind. IV. Cite. v. Go.", ["a. Answer.", "B. Be kind.", "IV. Cite.", "v. Go."]),
        ("Step 1. Open it. Step 2. Go in.", ["Step 1. Open it.", "Step 2. Go in."]),
        ("Q1. Who is it? Q2. Where is he?", ["Q1. Who is it?", "Q2. Where is he?"]),
        ("- 1. Answer.\n> 2. Be kind.", ["- 1. Answer.", "> 2. Be kind."]),
        ("**1.** Answer. **Step 2.** Be **kind.** Go.", ["**1.** Answer.", "**Step 2.** Be **kind.**", "Go."]),
        ("Section 3. Scope. 3.2. Boats. It covers all.", ["Section 3. Scope.", "3.2. Boats.", "It covers all."]),
        ("Chapter IV. Boats. Appendix B. Data.", ["Chapter IV. Boats.", "Appendix B. Data."]),
        ("Fig. 3. A boat. See Fig. 4. It is old.", ["Fig. 3. A boat.", "See Fig. 4.", "It is old."]),
        ("He wears No. 5. It fits. No. 6 is big.", ["He wears No. 5.", "It fits.", "No. 6 is big."]),
        ("12. März ist ein Tag. Am 3. Mai auch.", ["12. März ist ein Tag.", "Am 3. Mai auch."]),
        ("Montag, 3. August 2020. Vom 2. bis 5. Juni.", ["Montag, 3. August 2020.", "Vom 2. bis 5. Juni."]),
        ("Im 19. Jahrhundert lebte er. Gut.", ["Im 19. Jahrhundert lebte er.", "Gut."]),
        ("Han kom den 3. maj 2020. Det var godt.", ["Han kom den 3. maj 2020.", "Det var godt."]),
        (
            "Le 3 mai 2020. Il part le 1er juin. Art. 5. Rien.",
            ["Le 3 mai 2020.", "Il part le 1er juin.", "Art. 5. Rien."],
        ),
        ("El 3 de mayo. Paso 1. Abra. Núm. 5 no.", ["El 3 de mayo.", "Paso 1. Abra.", "Núm. 5 no."]),
        ("В 2020 г. в Москве. Рис. 3. Кот. Шаг 1. Иди.", ["В 2020 г. в Москве.", "Рис. 3. Кот.", "Шаг 1. Иди."]),
        ("I am 3. The dog is 4. It is big.", ["I am 3.", "The dog is 4.", "It is big."]),
        ("It happened in 1999. He left. Liv. She stayed.", ["It happened in 1999.", "He left.", "Liv.", "She stayed."]),
        ("They are\n1.\nHe said 2.", ["They are", "1.", "He said 2."]),
    ],
)
def test_a_number_belongs_to_the_sentence_that_it_numbers(text: str, expected: list[str]) -> None:
    assert texts("sentence", text) == expected


@pytest.mark.parametrize("mark", ["-", "*", "_", "- ", "1.", "a ", "(", "\u2014\t"])
def test_long_rows_of_marks_are_no_work(mark: str) -> None:
    """A pattern that tries every way to part them would not come back."""
    row = mark * 5000
    assert "".join("".join(texts("sentence", row)).split()) == "".join(row.split())


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
