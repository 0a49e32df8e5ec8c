"""What a scoring server can do wrong, on purpose."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from llm_attr.errors import UnknownName

OF_SCORES = {
    "off_by_one": "each value belongs to the token before",
    "truncated": "values end after 16 tokens",
    "poisoned": "rows of prefixes that were seen before hold garbage",
    "none": "the first token of an answer has no value",
}
OF_REQUESTS = {
    "429": "every third request is answered with 429 and Retry-After",
    "500": "every third request is answered with 500",
    "timeout": "every third request is answered late",
    "half": "every third answer ends in the middle",
}
FAULTS = OF_SCORES | OF_REQUESTS
"""Every fault by name, and what it does."""

CUT = 16
EVERY = 3


@dataclass
class Faults:
    """Spoils the scores, or every third request.

    Args:
        name: One of `FAULTS`; None for a server without faults.

    Raises:
        UnknownName: there is no such fault.
    """

    name: str | None = None
    _requests: int = 0
    _seen: list[tuple[int, ...]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in FAULTS:
            raise UnknownName("fault", self.name, sorted(FAULTS))

    def strikes(self) -> str | None:
        """The fault of this request, if it is one that is spoiled."""
        if self.name not in OF_REQUESTS:
            return None
        with self._lock:
            self._requests += 1
            return self.name if self._requests % EVERY == 0 else None

    def spoiled(self, ids: Sequence[int], values: Sequence[float], start: int) -> list[float | None]:
        """The values of the tokens from `start` on, `(tokens,)`, after the fault."""
        if self.name == "off_by_one":
            return [values[0], *values[:-1]]
        if self.name == "truncated":
            return list(values[:CUT])
        if self.name == "none":
            return [None, *values[1:]]
        if self.name == "poisoned":
            cached = self._cached(tuple(ids))
            return [random.Random(place).uniform(-80, -20) if start + place < cached else value
                    for place, value in enumerate(values)]  # fmt: skip
        return list(values)

    def _cached(self, ids: tuple[int, ...]) -> int:
        """The length of the longest prefix that was seen before."""
        with self._lock:
            longest = max((_common(ids, before) for before in self._seen), default=0)
            self._seen.append(ids)
        return longest


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
