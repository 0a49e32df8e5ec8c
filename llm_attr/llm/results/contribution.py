"""A unit of the prompt and what it gave."""

from __future__ import annotations

from typing import NamedTuple


class Contribution(NamedTuple):
    """A unit of the prompt and what it gave to the answer."""

    position: int
    text: str
    attribution: float
    stderr: float | None = None
