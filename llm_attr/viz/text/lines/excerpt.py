"""Excerpts of long prompts: the text around the strongest units, with the size of each gap."""

from __future__ import annotations

from collections.abc import Iterator

from llm_attr.viz.formatting import elide
from llm_attr.viz.text.folded import folded_pieces
from llm_attr.viz.text.view import AttributionView, Piece

_BESIDE, _GAP = 30, 20  # cells: of text shown on each side of a strong unit; of the mark for a gap


def excerpt(view: AttributionView, cells: int) -> list[Piece]:
    """The prompt's pieces; if they take more cells, those around the strongest units and the end of the prompt.

    Each gap says how many units it holds.
    """
    pieces = folded_pieces(view)
    if sum(_cost(text) for text, _ in pieces) <= cells:
        return pieces
    pieces = [(elide(text, max(cells // 4, 8)), unit) for text, unit in pieces]
    kept = _kept(view, pieces, cells)
    shown: list[Piece] = []
    gap: list[Piece] = []
    for place, piece in enumerate([*pieces, ("", None)]):
        if place < len(pieces) and place not in kept:
            gap.append(piece)
            continue
        shown += _marked(gap)
        gap = []
        shown.append(piece)
    return shown


def _marked(gap: list[Piece]) -> list[Piece]:
    """The mark for pieces that are left out; white space alone stays."""
    missing = sum(unit is not None for _, unit in gap)
    if missing:
        return [(f" [… {missing:,} unit{'s' * (missing > 1)} …] ".replace(" ", "\u00a0"), None)]
    return [("\u00a0[…]\u00a0", None)] if any(text.strip() for text, _ in gap) else gap


def _kept(view: AttributionView, pieces: list[Piece], cells: int) -> set[int]:
    """The places of the strongest units and their neighbours, as far as the space allows."""
    places = {unit: place for place, (_, unit) in enumerate(pieces) if unit is not None}
    last = max((place for place, (text, unit) in enumerate(pieces) if text.strip() and unit is None), default=None)
    kept = set() if last is None or any(unit is not None for _, unit in pieces[last:]) else {last}
    cells -= sum(_cost(pieces[place][0]) for place in kept)
    for unit in view.ranking:
        added = {places[unit], *_beside(pieces, places[unit], 1), *_beside(pieces, places[unit], -1)} - kept
        cells -= _GAP + sum(_cost(pieces[place][0]) for place in added)
        if cells < 0 and len(kept) > 1:
            break
        kept |= added
    return kept


def _beside(pieces: list[Piece], place: int, step: int) -> Iterator[int]:
    """The places after (`step` 1) or before (-1) a place, over about `_BESIDE` cells of text."""
    room = _BESIDE
    while 0 <= (place := place + step) < len(pieces) and (room := room - _cost(pieces[place][0])) >= 0:
        yield place


def _cost(text: str) -> int:
    """Roughly the cells that a piece takes: a line break costs a quarter of a line."""
    return len(text) + 20 * text.count("\n")
