"""What is lost when one feature, or one group of features, is taken away."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llm_attr.core.game.coalitions import each_left_out, full
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.hierarchy import Group, Nested
from llm_attr.typing import Coalitions, Values


class LeaveOneOut:
    """The loss of value when one feature is left out: `v(all) - v(all without i)`."""

    fixed = True
    n_samples = 1
    takes_any_value = True

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """One for each feature and one for all of them."""
        return features + 1

    def least(self, features: int) -> int:
        """All of them."""
        return features + 1

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The full coalition, then each feature left out; the full one shares the first block and so its prefixes."""
        first = full(features)
        for block in each_left_out(features):
            yield torch.cat([first, block])
            first = first[:0]
        if len(first):
            yield first

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)`."""
        return Estimate(values[:1] - values[1:])


class GroupsLeftOut:
    """The loss of value when a group of features is left out, for the groups on all levels of a hierarchy.

    Args:
        groups: Nested lists of feature numbers. Each list inside is a group, and so is each number beside a list; the
            numbers in a list without lists share its loss. None: each feature is left out alone.

    Source: F. Liu et al., AttriBoT, 2025 (hierarchical leave-one-out).
    """

    fixed = True
    n_samples = 1
    takes_any_value = True

    def __init__(self, groups: Nested | None = None) -> None:
        self._nested = groups

    def groups(self, features: int) -> list[tuple[int, ...]]:
        """The features of each group; coarse ones before those in them, each group once."""
        return list(dict.fromkeys(_left_out(Group.of(self._nested, features), top=True)))

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """One for each group and one for everything."""
        return len(self.groups(features)) + 1

    def least(self, features: int) -> int:
        """All of them."""
        return self.evaluations(features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The full coalition, then each group left out."""
        groups = self.groups(features)
        rows = full(features).repeat(len(groups) + 1, 1)
        for row, group in zip(rows[1:], groups, strict=True):
            row[list(group)] = False
        yield rows

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)`: the loss of each feature's finest group, divided evenly among its features."""
        groups = self.groups(coalitions.shape[1])
        finest = {feature: number for number, group in enumerate(groups) for feature in group}
        numbers = [finest[feature] for feature in range(coalitions.shape[1])]
        sizes = torch.tensor([len(groups[number]) for number in numbers], device=values.device)
        return Estimate(self.losses(values)[numbers] / sizes[:, None])

    def losses(self, values: Values) -> Values:
        """`(groups, outputs)`: the loss of each group as a whole."""
        return values[:1] - values[1:]


def _left_out(group: Group, top: bool = False) -> Iterator[tuple[int, ...]]:
    alone = top or any(group.groups)
    for member in group.members:
        if isinstance(member, Group):
            yield member.features
            yield from _left_out(member)
        elif alone:
            yield (member,)
