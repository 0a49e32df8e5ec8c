"""What an explanation asks of a model, counted: passes, positions, rows of the output head, backward passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Call(NamedTuple):
    """What goes through the model in one call.

    Attributes:
        positions: Token positions, padding included.
        head_rows: Positions that go on through the output head.
    """

    positions: int
    head_rows: int

    def widened(self, other: Call) -> Call:
        """The larger of each number."""
        return Call(max(self.positions, other.positions), max(self.head_rows, other.head_rows))


NOTHING = Call(0, 0)


@dataclass
class Load:
    """Several calls taken together.

    Attributes:
        calls: How many there are.
        positions: Their token positions.
        head_rows: Their rows of the output head.
        largest: The most positions, and the most rows, of any one of them.
    """

    calls: int = 0
    positions: int = 0
    head_rows: int = 0
    largest: Call = NOTHING

    def add(self, call: Call, times: int = 1) -> None:
        """Counts a call."""
        self.calls, self.positions = self.calls + times, self.positions + times * call.positions
        self.head_rows += times * call.head_rows
        self.largest = self.largest.widened(call)

    def __add__(self, other: Load) -> Load:
        """One after the other."""
        calls, positions = self.calls + other.calls, self.positions + other.positions
        return Load(calls, positions, self.head_rows + other.head_rows, self.largest.widened(other.largest))

    def __or__(self, other: Load) -> Load:
        """The larger of each number: enough for either."""
        calls, positions = max(self.calls, other.calls), max(self.positions, other.positions)
        return Load(calls, positions, max(self.head_rows, other.head_rows), self.largest.widened(other.largest))


@dataclass
class Cost:
    """What has been asked of a model, or would be; none of it depends on the machine.

    Attributes:
        forward: Calls of the model's forward.
        check_positions: Positions of comparisons of a new model's prefix trees and batches with whole sequences.
        backward: Backward passes over a graph.
        forward_mode: Rows that go through the model with their derivative in one direction.
        context: The most positions whose keys and values a call finds cached.
        backward_load: For each backward pass the call whose graph it goes over, where costs are estimated.
        forward_mode_load: The calls that take derivatives along, where costs are estimated.
    """

    forward: Load = field(default_factory=Load)
    check_positions: int = 0
    backward: int = 0
    forward_mode: int = 0
    context: int = 0
    backward_load: Load = field(default_factory=Load)
    forward_mode_load: Load = field(default_factory=Load)

    @property
    def passes(self) -> int:
        """Calls of the model."""
        return self.forward.calls

    @property
    def positions(self) -> int:
        """Token positions that went through the body of the model, padding included."""
        return self.forward.positions

    @property
    def head_rows(self) -> int:
        """Positions that went on through the output head."""
        return self.forward.head_rows

    def add(self, positions: int, head_rows: int) -> None:
        """Counts one pass."""
        self.forward.add(Call(positions, head_rows))

    def count(self, calls: Iterable[Call]) -> None:
        """Counts passes."""
        for call in calls:
            self.forward.add(call)

    def __add__(self, other: Cost) -> Cost:
        """One after the other."""
        return Cost(
            self.forward + other.forward,
            self.check_positions + other.check_positions,
            self.backward + other.backward,
            self.forward_mode + other.forward_mode,
            max(self.context, other.context),
            self.backward_load + other.backward_load,
            self.forward_mode_load + other.forward_mode_load,
        )

    def __or__(self, other: Cost) -> Cost:
        """The larger of each number: enough for either."""
        return Cost(
            self.forward | other.forward,
            max(self.check_positions, other.check_positions),
            max(self.backward, other.backward),
            max(self.forward_mode, other.forward_mode),
            max(self.context, other.context),
            self.backward_load | other.backward_load,
            self.forward_mode_load | other.forward_mode_load,
        )

    def to_dict(self) -> dict[str, Any]:
        """The counters in a result's provenance."""
        names = ("passes", "positions", "head_rows", "check_positions", "backward", "forward_mode")
        return {name: getattr(self, name) for name in names}
