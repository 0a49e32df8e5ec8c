"""The cost of an explanation: passes, positions, rows of the output head, backward passes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Call(NamedTuple):
    """The size of one call of the model.

    Attributes:
        positions: Token positions, padding included.
        head_rows: Positions that also go through the output head.
    """

    positions: int
    head_rows: int

    def widened(self, other: Call) -> Call:
        """The larger of each number."""
        return Call(max(self.positions, other.positions), max(self.head_rows, other.head_rows))


NOTHING = Call(0, 0)


@dataclass
class Load:
    """The total of several calls.

    Attributes:
        calls: The number of calls.
        positions: Their token positions.
        head_rows: Their rows of the output head.
        largest: The most positions, and the most rows, of any call.
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
        """The cost of both, run sequentially."""
        calls, positions = self.calls + other.calls, self.positions + other.positions
        return Load(calls, positions, self.head_rows + other.head_rows, self.largest.widened(other.largest))

    def __or__(self, other: Load) -> Load:
        """The larger of each number: an upper bound for either."""
        calls, positions = max(self.calls, other.calls), max(self.positions, other.positions)
        return Load(calls, positions, max(self.head_rows, other.head_rows), self.largest.widened(other.largest))


@dataclass
class Cost:
    """Machine-independent cost, counted or estimated.

    Attributes:
        forward: Calls of the model's forward.
        check_positions: Positions spent on verifying prefix trees and batches against full sequences.
        backward: Backward passes.
        forward_mode: Rows that carry a forward-mode derivative.
        context: The most positions whose keys and values are cached for a call.
        backward_load: For each backward pass, the call that recorded its graph; only in estimates.
        forward_mode_load: The calls with forward-mode derivatives; only in estimates.
        reused: Positions that a server took from its prefix cache, as it says, or as expected in estimates.
    """

    forward: Load = field(default_factory=Load)
    check_positions: int = 0
    backward: int = 0
    forward_mode: int = 0
    context: int = 0
    backward_load: Load = field(default_factory=Load)
    forward_mode_load: Load = field(default_factory=Load)
    reused: int = 0

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
        """Positions that also went through the output head."""
        return self.forward.head_rows

    def add(self, positions: int, head_rows: int) -> None:
        """Counts one pass."""
        self.forward.add(Call(positions, head_rows))

    def count(self, calls: Iterable[Call]) -> None:
        """Counts passes."""
        for call in calls:
            self.forward.add(call)

    def __add__(self, other: Cost) -> Cost:
        """The cost of both, run sequentially."""
        return Cost(
            self.forward + other.forward,
            self.check_positions + other.check_positions,
            self.backward + other.backward,
            self.forward_mode + other.forward_mode,
            max(self.context, other.context),
            self.backward_load + other.backward_load,
            self.forward_mode_load + other.forward_mode_load,
            self.reused + other.reused,
        )

    def __or__(self, other: Cost) -> Cost:
        """The larger of each number: an upper bound for either."""
        return Cost(
            self.forward | other.forward,
            max(self.check_positions, other.check_positions),
            max(self.backward, other.backward),
            max(self.forward_mode, other.forward_mode),
            max(self.context, other.context),
            self.backward_load | other.backward_load,
            self.forward_mode_load | other.forward_mode_load,
            max(self.reused, other.reused),
        )

    def to_dict(self) -> dict[str, Any]:
        """The counters for a result's provenance."""
        names = ("passes", "positions", "head_rows", "check_positions", "backward", "forward_mode")
        return {name: getattr(self, name) for name in names}
