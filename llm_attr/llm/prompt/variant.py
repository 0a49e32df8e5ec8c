"""The tokens of a prompt with some of its units absent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """A prompt with some of its units absent.

    Attributes:
        tokens: Token ids.
        positions: Their positions, increasing.
        length: The number of positions before the answer; None: up to the last token.
    """

    tokens: tuple[int, ...]
    positions: tuple[int, ...]
    length: int | None = None

    @classmethod
    def plain(cls, tokens: Sequence[int]) -> Variant:
        """Tokens without gaps between them."""
        return cls(tuple(tokens), tuple(range(len(tokens))))

    @property
    def end(self) -> int:
        """The position of the answer's first token."""
        return self.positions[-1] + 1 if self.length is None else self.length

    @property
    def has_gaps(self) -> bool:
        """Whether some position before the answer is unused."""
        return len(self.tokens) < self.end
