"""Values of cooperative games from their definitions: one coalition, one order at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, combinations, permutations, product
from math import factorial
from typing import Any

import numpy as np

Value = Callable[[frozenset[int]], np.ndarray]
"""What a set of features is worth, one number for each output."""


def subsets(features: Sequence[int]) -> Iterator[frozenset[int]]:
    sizes = range(len(features) + 1)
    return (frozenset(one) for one in chain.from_iterable(combinations(features, size) for size in sizes))


def shapley_over_subsets(value: Value, features: Sequence[int]) -> dict[int, np.ndarray]:
    """Shapley 1953: the sum over all sets without i, weighted by the share of the orders in which they are before i."""
    count = len(features)
    found = {}
    for i in features:
        others = [j for j in features if j != i]
        found[i] = sum(
            factorial(len(s)) * factorial(count - len(s) - 1) / factorial(count) * (value(s | {i}) - value(s))
            for s in subsets(others)
        )
    return found


def over_orders(value: Value, orders: Sequence[Sequence[int]]) -> dict[int, np.ndarray]:
    """The mean over these orders of what a feature adds to those before it."""
    found: dict[int, Any] = dict.fromkeys(orders[0], 0)
    for order in orders:
        before: frozenset[int] = frozenset()
        for i in order:
            found[i] = found[i] + (value(before | {i}) - value(before)) / len(orders)
            before |= {i}
    return found


def shapley(value: Value, features: Sequence[int]) -> dict[int, np.ndarray]:
    """Over all orders."""
    return over_orders(value, list(permutations(features)))


def owen(value: Value, hierarchy: Any) -> dict[int, np.ndarray]:
    """Owen 1977, Winter 1989: over the orders in which each group of the hierarchy stays together."""
    return over_orders(value, list(orders_within(hierarchy)))


def orders_within(member: Any) -> Iterator[list[int]]:
    if isinstance(member, int):
        yield [member]
        return
    for order in permutations(member):
        for parts in product(*(list(orders_within(each)) for each in order)):
            yield [feature for part in parts for feature in part]


def banzhaf(value: Value, features: Sequence[int]) -> dict[int, np.ndarray]:
    """The mean over all sets of the others of what a feature adds."""
    found = {}
    for i in features:
        others = [j for j in features if j != i]
        found[i] = np.mean([value(s | {i}) - value(s) for s in subsets(others)], 0)
    return found


def local_shapley(value: Value, count: int, radius: int, others: str) -> dict[int, np.ndarray]:
    """Chen et al. 2019, definition 1: the Shapley value of i in the game of its neighbourhood."""
    found = {}
    for i in range(count):
        near = [j for j in range(count) if abs(i - j) <= radius]
        stay = frozenset(range(count)) - set(near) if others == "present" else frozenset()
        found[i] = shapley_over_subsets(lambda s, stay=stay: value(s | stay), near)[i]
    return found


def shapley_interaction(value: Value, features: Sequence[int], i: int, j: int) -> np.ndarray:
    """Grabisch and Roubens 1999."""
    count, rest = len(features), [k for k in features if k not in (i, j)]
    return sum(
        factorial(len(s)) * factorial(count - len(s) - 2) / factorial(count - 1) * _second(value, s, i, j)
        for s in subsets(rest)
    )


def faith_banzhaf(value: Value, features: Sequence[int]) -> tuple[dict[int, Any], dict[tuple[int, int], Any]]:
    """Tsai et al. 2023: least squares of order 2 over all sets alike; effects and interactions."""
    sets, pairs = list(subsets(features)), list(combinations(features, 2))
    rows = [[1, *(i in s for i in features), *(i in s and j in s for i, j in pairs)] for s in sets]
    fit = np.linalg.lstsq(np.array(rows, float), np.array([value(s) for s in sets]), rcond=None)[0]
    return dict(zip(features, fit[1:], strict=False)), dict(zip(pairs, fit[1 + len(features) :], strict=True))


def _second(value: Value, s: frozenset[int], i: int, j: int) -> np.ndarray:
    return value(s | {i, j}) - value(s | {i}) - value(s | {j}) + value(s)
