"""The calls of a model that an explanation would make, counted instead of made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple


class Call(NamedTuple):
    """What goes through the model in one call.

    Attributes:
        positions: Token positions, padding included.
        head_rows: Positions that go on through the output head.
    """

    positions: int
    head_rows: int


NOTHING = Call(0, 0)


@dataclass
class Load:
    """What some calls are together.

    Attributes:
        calls: How many they are.
        positions: Their token positions.
        head_rows: Their rows of the output head.
        largest: The most positions, and the most rows, of one of them.
    """

    calls: int = 0
    positions: int = 0
    head_rows: int = 0
    largest: Call = NOTHING

    def add(self, call: Call, times: int = 1) -> None:
        """Counts a call."""
        self.calls, self.positions = self.calls + times, self.positions + times * call.positions
        self.head_rows += times * call.head_rows
        self.largest = Call(*map(max, self.largest, call))

    def joined(self, other: Load) -> Load:
        """Both, one after the other."""
        largest = Call(*map(max, self.largest, other.largest))
        return Load(
            self.calls + other.calls, self.positions + other.positions, self.head_rows + other.head_rows, largest
        )

    def either(self, other: Load) -> Load:
        """The larger of each number."""
        largest = Call(*map(max, self.largest, other.largest))
        calls, positions = max(self.calls, other.calls), max(self.positions, other.positions)
        return Load(calls, positions, max(self.head_rows, other.head_rows), largest)


@dataclass
class Forecast:
    """What a model would be asked.

    Attributes:
        forward: Its calls.
        backward: For each backward pass the call whose graph it goes over.
        forward_mode: Those of the calls that take a derivative along.
        context: The most positions whose keys and values a call finds made.
    """

    forward: Load = field(default_factory=Load)
    backward: Load = field(default_factory=Load)
    forward_mode: Load = field(default_factory=Load)
    context: int = 0

    def joined(self, other: Forecast) -> Forecast:
        """Both, one after the other."""
        forward, backward, forward_mode = (a.joined(b) for a, b in zip(self._loads, other._loads, strict=True))
        return Forecast(forward, backward, forward_mode, max(self.context, other.context))

    def either(self, other: Forecast) -> Forecast:
        """The larger of each number: what is enough for both."""
        forward, backward, forward_mode = (a.either(b) for a, b in zip(self._loads, other._loads, strict=True))
        return Forecast(forward, backward, forward_mode, max(self.context, other.context))

    def note(self, calls: Iterable[Call]) -> None:
        """Counts forward calls."""
        for call in calls:
            self.forward.add(call)

    @property
    def _loads(self) -> tuple[Load, Load, Load]:
        return self.forward, self.backward, self.forward_mode
