"""Shapley values: the mean of what a feature adds to those that came before it, over all orders of the features."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import torch
from torch import Tensor

from llm_attr.core.game.coalitions import BLOCK_ENTRIES
from llm_attr.core.game.estimate import Estimate, widening
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import precise
from llm_attr.errors import TooManyFeatures, positive
from llm_attr.typing import Coalitions, Values

MOST_FEATURES = 20
"""Features whose subsets can be enumerated: about a million coalitions."""

ORDERS = 25
"""Orders, or pairs of them, that are drawn by default."""

INDEPENDENT = 5
"""Independent samples whose spread is enough for an interval, also where the sampling ends because it is small."""


class AllSubsets:
    """The Shapley values from all `2^f` coalitions.

    `phi_i = sum over S without i of |S|! (f - |S| - 1)! / f! (v(S with i) - v(S))`

    Source: L. S. Shapley, A Value for n-Person Games, 1953.
    """

    fixed = True
    n_samples = 1

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """All coalitions.

        Raises:
            TooManyFeatures: they cannot be enumerated.
        """
        if features > MOST_FEATURES:
            raise TooManyFeatures(
                f"exact values over {features} features take 2^{features} = {shown(1 << features)} evaluations; at "
                f"most {MOST_FEATURES} features can be enumerated: sample them (n_samples, or another method: "
                "KernelShap, PermutationShapley), or join features by a feature_mask or a larger unit"
            )
        return 1 << features

    def least(self, features: int) -> int:
        """All coalitions."""
        return self.evaluations(features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """All coalitions; bit i of a row's number says whether feature i is present."""
        count, rows = self.evaluations(features), max(1, BLOCK_ENTRIES // max(1, features))
        for start in range(0, count, rows):
            yield numbered(torch.arange(start, min(count, start + rows), device="cpu"), features)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, outputs)`, exactly."""
        return Estimate(shapley_values(values))


class RandomOrders:
    """The Shapley values from random orders: what each feature adds to those before it.

    Args:
        n_samples: How many orders, or pairs of orders. None: `ORDERS`; where their error ends the sampling, as few as
            `INDEPENDENT`.
        paired: Whether each order is followed by its reverse, which takes away the error of first order.
        seed: Of the orders; None: torch's global stream.

    Source: J. Castro, D. Gomez and J. Tejada, Polynomial calculation of the Shapley value based on sampling, 2009;
    R. Mitchell et al., Sampling Permutations for Shapley Value Estimation, JMLR 2022 (antithetic pairs).
    """

    fixed = False

    def __init__(self, n_samples: int | None = None, paired: bool = False, seed: int | None = None) -> None:
        self.n_samples = ORDERS if n_samples is None else positive("n_samples", n_samples)
        self.first_look = INDEPENDENT if n_samples is None else n_samples
        self._paired, self._seed = paired, seed

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """For each order one for each prefix; all orders share the empty and the full one."""
        orders = self.n_samples * (2 if self._paired else 1)
        most = 2 + orders * (features - 1) if features else 1
        return min(most if budget is None else budget, 1 << features)

    def least(self, features: int) -> int:
        """One order, or pair."""
        return min((2 * features if self._paired else features + 1), 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """An order each: the empty coalition, then one feature more in each row; behind it the reversed order."""
        draws = generator(self._seed)
        while True:
            yield chains(torch.randperm(features, generator=draws, device="cpu"), self._paired)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """Means over the orders, and their standard errors over orders (or pairs)."""
        return of_chains(coalitions, values, self._paired)


def numbered(numbers: Tensor, features: int) -> Coalitions:
    """`(numbers, features)`: bit i of a number says whether feature i is present."""
    return (numbers[:, None] >> torch.arange(features, device="cpu") & 1).bool()


def shapley_values(values: Values) -> Values:
    """From the values of all subsets, `(2^features, outputs)` in the order of their numbers: `(features, outputs)`."""
    features = (len(values) - 1).bit_length()
    weights = precise(subset_shares(features), values)
    found = [weights @ gains(values, feature).to(weights.dtype) for feature in range(features)]
    return torch.stack(found) if found else values.new_zeros(0, *values.shape[1:])


def gains(values: Values, feature: int) -> Values:
    """What a feature adds to each subset of the others: `(2^features, outputs)` -> `(2^(features - 1), outputs)`."""
    pairs = values.unflatten(0, (-1, 2, 1 << feature))
    return (pairs[:, 1] - pairs[:, 0]).flatten(0, 1)


def subset_shares(features: int) -> Tensor:
    """`(2^(features - 1),)`: the share of the orders in which just this subset of the others is before a feature."""
    if not features:
        return torch.zeros(0, dtype=torch.float64, device="cpu")
    shares = [1 / (features * comb(features - 1, size)) for size in range(features)]
    return torch.tensor(shares, dtype=torch.float64, device="cpu")[subset_sizes(features - 1)]


def subset_sizes(features: int) -> Tensor:
    """`(2^features,)`: how many features each subset has."""
    sizes = torch.zeros(1, dtype=torch.int64, device="cpu")
    for _ in range(features):
        sizes = torch.cat([sizes, sizes + 1])
    return sizes


def chains(order: Tensor, paired: bool) -> Coalitions:
    """`(orders * (features + 1), features)`: nothing, then one feature more in each row; then the same in reverse."""
    steps = torch.arange(len(order) + 1, device="cpu")[:, None]
    return torch.cat([each.argsort()[None] < steps for each in ([order, order.flip(0)] if paired else [order])])


def of_chains(coalitions: Coalitions, values: Values, paired: bool) -> Estimate:
    """The mean of what each feature adds in chains of coalitions, and its standard error over chains (or pairs)."""
    features = coalitions.shape[1]
    shape = (-1, 2 if paired else 1, features + 1)
    order = orders(coalitions.unflatten(0, shape))
    worth = values.unflatten(0, shape)
    steps = precise(worth[:, :, 1:] - worth[:, :, :-1], values)
    added = torch.empty_like(steps).scatter_(2, order[..., None].expand_as(steps), steps)
    return mean_and_error(added.mean(1))


def orders(chain: Coalitions) -> Tensor:
    """The feature that each row has and the row before has not: `(..., f + 1, f)` -> `(..., f)`."""
    return (chain[..., 1:, :] ^ chain[..., :-1, :]).int().argmax(-1) if chain.shape[-1] else chain[..., 0, :].long()


def mean_and_error(samples: Tensor) -> Estimate:
    """`(samples, features, outputs)` -> their mean and its standard error, scaled to Student's t of the samples."""
    count = len(samples)
    if count < 2 or not samples.numel():
        return Estimate(samples.mean(0), torch.full_like(samples[0], torch.inf))
    return Estimate(samples.mean(0), samples.std(0) * (widening(count - 1) / count**0.5))


def shown(count: int) -> str:
    """A count for a message, however large."""
    return f"{count:,}" if count < 10**15 else f"over 10^{int((count.bit_length() - 1) * 0.30102)}"
