"""Groups of units: the documents or messages of a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llm_attr.errors import InvalidValue


@dataclass(frozen=True)
class Group:
    """Units that belong together in the prompt.

    Attributes:
        label: the name of the group: a document's name or id, a message's role.
        kind: what the group is, e.g. "document" or "message".
        first: the position of its first unit.
        stop: the position after its last unit.
    """

    label: str
    kind: str
    first: int
    stop: int


def check_groups(groups: Sequence[Group], units: int) -> None:
    """Checks that groups are ordered, disjoint and not empty.

    Raises:
        InvalidValue: a group is empty, overlaps the previous one or extends beyond the units.
    """
    free = 0
    for group in groups:
        if not free <= group.first < group.stop <= units:
            raise InvalidValue(
                f"groups must be in order, apart and within the {units} units; {group.kind} {group.label!r} holds "
                f"units {group.first} to {group.stop}, and {free} is free"
            )
        free = group.stop
