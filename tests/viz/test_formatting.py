import unicodedata

import pytest

from llm_attr.viz.formatting import (
    elide,
    escape_line,
    escape_text,
    format_ascii,
    format_number,
    format_percent,
    truncate,
)


def test_no_control_character_is_left() -> None:
    everything = "".join(map(chr, range(0x3000))) + "\ud800\U000e0041\ufeff"
    for text in (escape_text(everything), escape_line(everything)):
        left = {char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}}
        assert left <= set("\n\t\u200c\u200d\u200e\u200f\u061c")
    assert not set("\n\t") & set(escape_line(everything))


def test_signs() -> None:
    assert escape_text("a\x1b[0m\r\nb\tc\r") == "a␛[0m\nb\tc␍"
    assert escape_text("\u202e\u2028x\x9b") == "<U+202E>\nx<U+009B>"
    assert escape_line("  a b\n\t ") == "··a b↵⇥·"
    assert escape_line("   ") == "···"
    assert escape_text("👩‍🔬 日本") == "👩‍🔬 日本"


def test_shortened_counts_cells() -> None:
    from rich.cells import cell_len

    for text in ("日本語日本語", "hello world again", "👩‍🔬👩‍🔬👩‍🔬👩‍🔬👩‍🔬"):
        for cells in range(12):
            assert cell_len(truncate(text, cells)) <= cells
    assert truncate("hello world", 6) == "hello…"
    assert truncate("hello", 5) == "hello"


def test_elided_keeps_both_ends() -> None:
    assert elide("abcdef", 6) == "abcdef"
    assert elide("abcdefgh", 4) == "ab … gh"


@pytest.mark.parametrize(
    ("value", "limit", "text"),
    [
        (3.14159, 3.2, "+3.14"),
        (-0.004, 3.2, "0.00"),
        (-0.5, 12.0, "-0.5"),
        (1234.5, 1234.5, "+1234"),
        (0.0123, 0.05, "+0.0123"),
        (-1e-9, 1e-9, "-1.00e-09"),
        (0.0, 0.0, "0"),
        (float("nan"), 1.0, "nan"),
        (float("-inf"), 1.0, "-inf"),
    ],
)
def test_signed(value: float, limit: float, text: str) -> None:
    assert format_ascii(value, limit) == text


def test_printed_has_a_real_minus() -> None:
    assert format_number(-1.0, 1.0) == "−1.00"


def test_percent_never_rounds_to_certainty() -> None:
    values = (0.0, 0.004, 0.456, 0.999, 1.0, float("nan"))
    assert [format_percent(value) for value in values] == ["0%", "<1%", "46%", ">99%", "100%", "–"]
