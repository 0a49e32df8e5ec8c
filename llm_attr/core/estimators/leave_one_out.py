"""Leave-one-out: how much the value falls without one feature, or one group of features."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.game.coalitions import each_left_out, full
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.hierarchy import Group, Nested
from llm_attr.typing import Coalitions, Values


class LeaveOneOut(BaseEstimator):
    """The decrease of the value when one feature is left out: `v(all) - v(all without i)`."""

    takes_any_value = True

    def size(self, features: int) -> int:
        return features + 1

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The full coalition, then each feature left out; the full one is in the first block, to share its prefixes."""
        first = full(features)
        for block in each_left_out(features):
            yield torch.cat([first, block])
            first = first[:0]
        if len(first):
            yield first

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        return Estimate(values[:1] - values[1:])


class GroupsLeftOut(BaseEstimator):
    """The decrease of the value when a group of features is left out, for the groups on all levels of a hierarchy.

    Args:
        groups: Nested lists of feature numbers. Each inner list is a group, and so is each number next to a list; the
            numbers in a list without inner lists share its loss. None: each feature is a group.

    Source: F. Liu et al., AttriBoT, 2025 (hierarchical leave-one-out).
    """

    takes_any_value = True

    def __init__(self, groups: Nested | None = None) -> None:
        self._nested = groups

    def groups(self, features: int) -> list[tuple[int, ...]]:
        """The features of each group, without duplicates; a group precedes its subgroups."""
        return list(dict.fromkeys(_left_out(Group.of(self._nested, features), top=True)))

    def size(self, features: int) -> int:
        return len(self.groups(features)) + 1

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The full coalition, then each group left out."""
        groups = self.groups(features)
        rows = full(features).repeat(len(groups) + 1, 1)
        for row, group in zip(rows[1:], groups, strict=True):
            row[list(group)] = False
        yield rows

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """The loss of each feature's smallest group, divided equally among its features."""
        groups = self.groups(coalitions.shape[1])
        smallest = {feature: number for number, group in enumerate(groups) for feature in group}
        numbers = [smallest[feature] for feature in range(coalitions.shape[1])]
        sizes = torch.tensor([len(groups[number]) for number in numbers], device=values.device)
        return Estimate(self.losses(values)[numbers] / sizes[:, None])

    def losses(self, values: Values) -> Values:
        """`(groups, outputs)`: the loss of each group."""
        return values[:1] - values[1:]


def _left_out(group: Group, top: bool = False) -> Iterator[tuple[int, ...]]:
    alone = top or any(group.groups)
    for member in group.members:
        if isinstance(member, Group):
            yield member.features
            yield from _left_out(member)
        elif alone:
            yield (member,)
