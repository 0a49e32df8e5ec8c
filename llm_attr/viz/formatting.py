"""Formatting of text and numbers for display: control characters become visible, long lines are cut.

Prompts may hold anything: escape sequences, control characters, characters that change the reading direction. Each is
replaced by a visible symbol (ESC by "␛", U+202E by "<U+202E>"), so the reader sees what the model was given and no
terminal or page acts on it.
"""

from __future__ import annotations

import math
import unicodedata

# Invisible characters that only shape their neighbours: joiners (emoji, Indic, Arabic) and direction marks.
_SHAPING = frozenset("\u200c\u200d\u200e\u200f\u061c")


class _Symbols(dict[int, str]):
    """A translation table that fills itself with the symbol of each character on first use."""

    def __missing__(self, code: int) -> str:
        self[code] = symbol = _symbol(chr(code))
        return symbol


def _symbol(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    hidden = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in _SHAPING
    return f"<U+{code:04X}>" if hidden else character


_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_TEXT = _Symbols({ord("\n"): "\n", ord("\t"): "\t", 0x2028: "\n", 0x2029: "\n"})
_LINE = _Symbols({ord("\n"): "↵", ord("\t"): "⇥", 0x2028: "↵", 0x2029: "↵"})


def escape_text(text: str) -> str:
    """The text with control characters other than line breaks and tabs as visible symbols."""
    return text.replace("\r\n", "\n").translate(_TEXT)


def escape_line(text: str) -> str:
    """The text as one line, with line breaks, tabs and surrounding white space as visible symbols ("↵", "⇥", "·")."""
    line = text.replace("\r\n", "\n").translate(_LINE)
    body = line.strip(" ")
    start = len(line) - len(line.lstrip(" ")) if body else len(line)
    return "·" * start + body + "·" * (len(line) - start - len(body))


def direction(text: str) -> str:
    """The direction of a text: "rtl" if its first letter is of a right-to-left script, otherwise "ltr".

    Browsers would find out by `dir="auto"`, again for each element of the text.
    """
    for character in text:
        strong = unicodedata.bidirectional(character)
        if strong in {"L", "R", "AL"}:
            return "ltr" if strong == "L" else "rtl"
    return "ltr"


def unit_label(unit: str) -> str:
    """A unit's text as a label for lists, tables and axes: one line, never empty."""
    return escape_line(unit.strip("\r\n") or unit) or "(empty)"


def superscript(digits: str) -> str:
    """Digits raised: "¹⁴"; other characters stay."""
    return digits.translate(_RAISED)


def truncate(line: str, cells: int) -> str:
    """The line, cut to a width in terminal cells (two for CJK and emoji) with "…" at the end."""
    from rich.cells import cell_len, set_cell_size

    if cell_len(line) <= cells:
        return line
    return set_cell_size(line, cells - 1).rstrip() + "…" if cells > 0 else ""


def elide(text: str, characters: int) -> str:
    """The text, with its middle replaced by "…" if it has more characters than this."""
    half = max(characters // 2, 1)
    return text if len(text) <= max(characters, 3) else f"{text[:half].rstrip()} … {text[-half:].lstrip()}"


def format_ascii(value: float, limit: float) -> str:
    """The value with its sign, to three significant digits of the largest value shown ("+3.21", "-0.04", "nan")."""
    if not math.isfinite(value):
        return f"{value:+}" if math.isinf(value) else "nan"
    if limit and not 1e-3 <= limit < 1e5:
        return f"{value:+.2e}"
    decimals = min(max(2 - math.floor(math.log10(limit)), 0), 5) if limit else 0
    rounded = round(value, decimals)
    return f"{rounded:+.{decimals}f}" if rounded else f"{0.0:.{decimals}f}"


def format_number(value: float, limit: float) -> str:
    """`format_ascii` with a typographic minus sign."""
    return format_ascii(value, limit).replace("-", "−")


def format_percent(probability: float) -> str:
    """A probability as a percentage: "98%", "<1%" rather than "0%", ">99%" rather than "100%"."""
    if math.isnan(probability):
        return "–"
    if 0 < probability < 0.01:
        return "<1%"
    return ">99%" if 0.99 < probability < 1 else f"{probability:.0%}"
