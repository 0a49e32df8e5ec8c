"""Hierarchies: nested groups of features."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import torch

from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.typing import Coalitions

Nested: TypeAlias = "Sequence[int | Nested]"
"""Nested lists of feature numbers: `[[0, 1], [2, [3, 4]]]`."""


@dataclass(frozen=True)
class Group:
    """A group of features or smaller groups.

    Attributes:
        members: The group's direct members.
    """

    members: tuple[Group | int, ...]

    @classmethod
    def of(cls, nested: Nested | None, features: int) -> Group:
        """The group of all features, as described by nested lists; None: the features without levels.

        Raises:
            InvalidType: the lists contain anything but feature numbers and lists.
            InvalidValue: a feature is missing or repeated, a number does not belong to a feature, or a list is empty.
        """
        if nested is None:
            return cls(tuple(range(features)))
        group = _group(nested)
        counts = Counter(group.features)
        missing = [i for i in range(features) if i not in counts]
        unknown = sorted(i for i in counts if not 0 <= i < features)
        repeated = sorted(i for i, count in counts.items() if count > 1)
        if missing or unknown or repeated:
            raise InvalidValue(
                f"each of the {features} features, 0 to {features - 1}, must be named once in the nested lists; "
                f"missing: {missing or 'none'}; named twice: {repeated or 'none'}; no features: {unknown or 'none'}"
            )
        return group

    @cached_property
    def features(self) -> tuple[int, ...]:
        """All features of the group, in order."""
        return tuple(
            feature
            for member in self.members
            for feature in (member.features if isinstance(member, Group) else (member,))
        )

    @property
    def groups(self) -> Iterator[Group]:
        """The members that are groups."""
        return (member for member in self.members if isinstance(member, Group))

    def memberships(self, features: int) -> Coalitions:
        """`(members, features)`: the features of each member."""
        rows = torch.zeros(len(self.members), features, dtype=torch.bool, device="cpu")
        for row, member in zip(rows, self.members, strict=True):
            row[list(member.features) if isinstance(member, Group) else member] = True
        return rows


def _group(nested: object) -> Group:
    if isinstance(nested, str) or not isinstance(nested, Sequence):
        raise InvalidType(
            f"groups must be nested lists of feature numbers, such as [[0, 1], [2, 3]]; got {nested!r} of type "
            f"{type(nested).__name__}"
        )
    if not nested:
        raise InvalidValue("a group must have at least one feature; got an empty list")
    return Group(tuple(member if _is_number(member) else _group(member) for member in nested))


def _is_number(member: object) -> bool:
    return isinstance(member, int) and not isinstance(member, bool)
