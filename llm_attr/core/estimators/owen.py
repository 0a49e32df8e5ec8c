"""Owen values: Shapley values over the orders that keep the groups of a hierarchy together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.estimators.shapley import (
    MAX_FEATURES,
    chains,
    numbered,
    of_chains,
    shapley_values,
    shown,
    subset_shares,
)
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.hierarchy import Group, Nested
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import TooManyFeatures, positive
from llm_attr.typing import Coalitions, Values


class HierarchicalOrders(BaseEstimator):
    """The mean contribution of a feature to those before it, over the orders in which every group is contiguous.

    Args:
        hierarchy: Nested lists of feature numbers, of any depth; None: no groups, which gives Shapley values.
        n_samples: Number of random orders, or pairs of them; None: all orders, enumerated level by level.
        paired: Whether each random order is followed by its reverse.
        seed: Seed of the orders; None: torch's global generator.

    Source: G. Owen, Values of Games with a Priori Unions, 1977; E. Winter, A Value for Cooperative Games with Levels
    Structure of Cooperation, 1989 (more levels).
    """

    def __init__(
        self,
        hierarchy: Nested | None = None,
        n_samples: int | None = None,
        paired: bool = True,
        seed: int | None = 0,
    ) -> None:
        self.fixed = n_samples is None
        self.n_samples = 1 if n_samples is None else positive("n_samples", n_samples)
        self._nested, self._paired, self._seed = hierarchy, paired, seed

    def reachable(self, features: int) -> int:
        """For each group the subsets of its members, combined with those of its surroundings."""
        return min(2, 1 << features) + sum(_sizes(Group.of(self._nested, features)))

    def size(self, features: int) -> int:
        """All reachable coalitions, or those of the random orders.

        Raises:
            TooManyFeatures: there are too many to enumerate.
        """
        if not self.fixed:
            return 2 + self.n_samples * (2 if self._paired else 1) * max(0, features - 1)
        count = self.reachable(features)
        if count > 1 << MAX_FEATURES:
            raise TooManyFeatures(
                f"exact Owen values over these {features} features take {shown(count)} evaluations; at most "
                f"{1 << MAX_FEATURES:,} can be enumerated: sample orders (n_samples=25), or give the hierarchy "
                "smaller groups"
            )
        return count

    def least(self, features: int) -> int:
        """All of them, or one order (or pair)."""
        one = 2 * features if self._paired else features + 1
        return self.size(features) if self.fixed else min(one, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The full enumeration without duplicates; or one random order each, as a chain of growing coalitions."""
        group = Group.of(self._nested, features)
        if self.fixed:
            self.size(features)
            yield _enumerated(group, features)
            return
        draws = generator(self._seed)
        while True:
            yield chains(torch.tensor(_order(group, draws), dtype=torch.int64, device="cpu"), self._paired)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """The Owen values; of random orders with standard errors over orders (or pairs)."""
        if not self.fixed:
            return of_chains(coalitions, values, self._paired)
        features = coalitions.shape[1]
        attributions = at_least_fp32(values).new_zeros(features, *values.shape[1:])
        for table in _tables(Group.of(self._nested, features), features):
            weights = at_least_fp32(table.weights, values)
            restricted = torch.einsum("c,cso->so", weights, at_least_fp32(values[table.rows], values))
            for member, value in zip(table.group.members, shapley_values(restricted), strict=True):
                if not isinstance(member, Group):
                    attributions[member] = value
        return Estimate(attributions)


@dataclass(frozen=True)
class _Table:
    """The game of a group's members, in each of its surroundings.

    Attributes:
        group: The group.
        rows: `(surroundings, 2^members)` the row of the enumeration for each subset of the members.
        weights: `(surroundings,)` the fraction of orders in which these surroundings precede the group.
    """

    group: Group
    rows: Tensor
    weights: Tensor


def _tables(root: Group, features: int) -> Iterator[_Table]:
    """The tables, a group before its subgroups.

    The enumeration is the empty and the full coalition, then the other subsets of each group in turn.
    """
    start = min(2, 1 << features)
    empty, full = torch.tensor([0, start - 1], device="cpu").split(1)
    pending = [(root, empty, full, torch.ones(1, dtype=torch.float64, device="cpu"))]
    while pending:
        group, without, joined, weights = pending.pop()
        count = len(group.members)
        numbers = start + torch.arange(len(without) * _proper(count), device="cpu")
        start += len(numbers)
        inner = numbers.view(len(without), _proper(count))
        rows = torch.cat([without[:, None], inner, joined[:, None]], 1) if count else without[:, None]
        yield _Table(group, rows, weights)
        for place, member in enumerate(group.members):
            if isinstance(member, Group):
                pairs = rows.unflatten(1, (-1, 2, 1 << place))
                outside = (weights[:, None] * subset_shares(count)).flatten()
                pending.append((member, pairs[:, :, 0].flatten(), pairs[:, :, 1].flatten(), outside))


def _enumerated(root: Group, features: int) -> Coalitions:
    rows = torch.zeros(min(2, 1 << features) + sum(_sizes(root)), features, dtype=torch.bool, device="cpu")
    rows[-1 if features == 0 else 1] = True
    for table in _tables(root, features):
        count = len(table.group.members)
        subsets = numbered(torch.arange(1, 1 + _proper(count), device="cpu"), count).float()
        members = (subsets @ table.group.memberships(features).float()).bool()
        outside = rows[table.rows[:, 0]]
        rows[table.rows[:, 1:-1].flatten()] = (outside[:, None] | members).flatten(0, 1)
    return rows


def _sizes(group: Group, surroundings: int = 1) -> Iterator[int]:
    """The number of coalitions that each group adds to the enumeration."""
    count = len(group.members)
    yield surroundings * _proper(count)
    for member in group.groups:
        yield from _sizes(member, surroundings << (count - 1))


def _proper(members: int) -> int:
    """The number of subsets that are neither empty nor full."""
    return max(0, (1 << members) - 2)


def _order(group: Group, draws: torch.Generator | None) -> list[int]:
    order: list[int] = []
    for place in torch.randperm(len(group.members), generator=draws, device="cpu").tolist():
        member = group.members[place]
        order += _order(member, draws) if isinstance(member, Group) else [member]
    return order
