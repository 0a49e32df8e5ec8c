"""Parts of a prompt that a chat template wrote, which pages fold to a glyph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from llm_attr.viz.text.view import AttributionView, Piece

_ROLE = re.compile(r"\b(system|developer|user|human|assistant|model|tool|ipython)\b")


@dataclass
class Folded:
    """Reads the pieces of a text in order and separates what the template wrote.

    Attributes:
        ranges: the characters that the template wrote, in order and apart.
        place: the character that the next piece begins with.
    """

    ranges: Sequence[tuple[int, int]]
    place: int = 0

    def past(self, text: str) -> None:
        """Steps over a piece that is not folded."""
        self.place += len(text)

    def parts(self, text: str) -> Iterator[tuple[str, str]]:
        """The parts of the next piece, each with its glyph: "" for what the template did not write."""
        start, stop = self.place, self.place + len(text)
        self.place = stop
        for first, last in self.ranges:
            first, last = max(first, start), min(last, stop)
            if first >= last:
                continue
            if first > start:
                yield text[start - stop : first - stop], ""
            own = text[first - stop : last - stop or None]
            yield own, _glyph(own) if own.strip() else ""
            start = last
        if start < stop:
            yield text[start - stop :], ""


def folded_pieces(view: AttributionView) -> list[Piece]:
    """The pieces of the prompt with a glyph for what the template wrote, for views that cannot unfold it.

    Before a message, whose heading says the role, the glyph is left out.
    """
    folded = Folded(view.template)
    pieces: list[Piece] = []
    for text, unit in view.pieces():
        if unit is not None:
            folded.past(text)
            pieces.append((text, unit))
            continue
        for part, glyph in folded.parts(text):
            before = " " if pieces and not pieces[-1][0].endswith("\n") else ""
            pieces.append((f"{before}{glyph}\n" if glyph else part, None))
    following = [*(unit for _, unit in pieces[1:]), None][: len(pieces)]
    grouped = [unit is not None and view.unit_groups[unit] is not None for unit in following]
    glyphs = [text.lstrip().startswith("⟨") and unit is None for text, unit in pieces]
    return [
        piece for piece, is_glyph, is_named in zip(pieces, glyphs, grouped, strict=True) if not (is_glyph and is_named)
    ]


def _glyph(text: str) -> str:
    """The role that the template opens here, or dots."""
    roles = _ROLE.findall(text)
    return f"⟨{roles[-1]}⟩" if roles else "⟨…⟩"
