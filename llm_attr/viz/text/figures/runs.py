"""Runs of neighbours that share a bar or cell if a figure has no room for each.

A run has the value of its strongest member, so a single strong unit in a long text stays as strong as it is; figures
say how many a run holds and name the strongest.
"""

from __future__ import annotations

import math

import numpy as np

from llm_attr.viz.figure import format_labels, join_label
from llm_attr.viz.scale import Floats

MAX_LABEL = 20
"""Cells of a label."""

_FINEST = 0.05  # inches of the narrowest bar or cell
_NAMED = 24  # labels of the strongest, if not all fit


def run_labels(texts: tuple[str, ...], named: list[int], size: int, *, exact: bool = False) -> dict[float, str]:
    """The labels of some places, with their numbers from 1, by the bar or cell that they are in."""
    labels = format_labels([texts[place] for place in named], MAX_LABEL, exact=exact)
    return {place // size: join_label(f"{place + 1:,}", label) for place, label in zip(named, labels, strict=True)}


def run_size(count: int, inches: float) -> int:
    """How many neighbours share a bar or cell of this many inches in total."""
    return math.ceil(count / max(int(inches / _FINEST), 1))


def strongest_of_runs(table: Floats, tall: int, wide: int) -> Floats:
    """The value of largest magnitude of each block of `tall` rows and `wide` columns; NaN if there is none."""
    rows, columns = -(-table.shape[0] // tall), -(-table.shape[1] // wide)
    padded = np.full((rows * tall, columns * wide), np.nan)
    padded[: table.shape[0], : table.shape[1]] = table
    blocks = padded.reshape(rows, tall, columns, wide).swapaxes(1, 2).reshape(rows, columns, tall * wide)
    places = np.where(np.isnan(blocks), -1.0, np.abs(blocks)).argmax(-1)
    return np.asarray(np.take_along_axis(blocks, places[..., None], -1)[..., 0])


def named_places(values: Floats, size: int, room: float) -> list[int]:
    """The strongest places, at most one in each run of `size` neighbours, as many as fit."""
    chosen: dict[int, int] = {}
    magnitudes = np.abs(np.nan_to_num(values, nan=0.0))
    for place in np.argsort(-magnitudes, kind="stable").tolist():
        if len(chosen) == min(_NAMED, max(int(room), 1)) or not magnitudes[place]:
            break
        chosen.setdefault(place // size, place)
    return sorted(chosen.values())
