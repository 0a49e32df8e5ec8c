"""Matrices of coalitions: which features are present, one coalition per row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from llm_attr.typing import Coalitions

BLOCK_ENTRIES = 1 << 24
"""Maximum number of entries of a design in memory; larger designs are generated in blocks of rows."""


def full(features: int) -> Coalitions:
    """`(1, features)`: all features present."""
    return torch.ones(1, features, dtype=torch.bool, device="cpu")


def each_left_out(features: int) -> Iterator[Coalitions]:
    """`(features, features)` in blocks of rows: row i lacks only feature i."""
    rows = max(1, BLOCK_ENTRIES // max(1, features))
    for start in range(0, features, rows):
        stop = min(features, start + rows)
        block = torch.ones(stop - start, features, dtype=torch.bool, device="cpu")
        block[torch.arange(stop - start, device="cpu"), torch.arange(start, stop, device="cpu")] = False
        yield block


def keys(coalitions: Coalitions) -> list[bytes]:
    """A short hashable key for each row."""
    return [row.tobytes() for row in np.packbits(coalitions.numpy(), axis=1)]


def distinct(coalitions: Coalitions) -> tuple[Coalitions, Tensor]:
    """The distinct rows in the order in which they first occur, and `(coalitions,)`: which of them each row is."""
    first: dict[bytes, int] = {}
    numbers = [first.setdefault(name, len(first)) for name in keys(coalitions)]
    index = torch.tensor(numbers, dtype=torch.int64, device="cpu")
    if len(first) == len(index):
        return coalitions, index
    places = {number: row for row, number in reversed(list(enumerate(numbers)))}
    return coalitions[[places[number] for number in range(len(first))]], index
