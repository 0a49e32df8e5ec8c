"""Shapley values: the mean contribution of a feature when added to those before it, over all orders of features."""

from __future__ import annotations

from collections.abc import Iterator
from math import comb

import torch
from torch import Tensor

from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.game.coalitions import BLOCK_ENTRIES
from llm_attr.core.game.estimate import Estimate, widening
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import TooManyFeatures, positive
from llm_attr.typing import Coalitions, Values

MAX_FEATURES = 20
"""The largest number of features whose subsets are enumerated: about a million coalitions."""

ORDERS = 25
"""Default number of orders, or pairs of orders."""

MIN_SAMPLES = 5
"""The smallest number of independent samples whose spread gives a valid interval, even if it ends the sampling."""


class AllSubsets(BaseEstimator):
    """The Shapley values from all `2^f` coalitions.

    `phi_i = sum over S without i of |S|! (f - |S| - 1)! / f! (v(S with i) - v(S))`

    Source: L. S. Shapley, A Value for n-Person Games, 1953.
    """

    def size(self, features: int) -> int:
        return count_subsets(features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        return all_subsets(features)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        return Estimate(shapley_values(values))


class RandomOrders(BaseEstimator):
    """The Shapley values from random orders: the contribution of each feature to those before it.

    Args:
        n_samples: Number of orders, or pairs of orders. None: `ORDERS`; at least `MIN_SAMPLES` where the standard error
            ends the sampling.
        paired: Whether each order is followed by its reverse (antithetic sampling; cancels first-order error).
        seed: Seed of the orders; None: torch's global generator.

    Source: J. Castro, D. Gomez and J. Tejada, Polynomial calculation of the Shapley value based on sampling, 2009;
    R. Mitchell et al., Sampling Permutations for Shapley Value Estimation, JMLR 2022 (antithetic pairs).
    """

    fixed = False

    def __init__(self, n_samples: int | None = None, paired: bool = False, seed: int | None = None) -> None:
        self.n_samples = ORDERS if n_samples is None else positive("n_samples", n_samples)
        self._first_look = MIN_SAMPLES if n_samples is None else n_samples
        self._paired, self._seed = paired, seed

    @property
    def first_look(self) -> int:
        """The number of orders, or pairs, from which the standard errors are valid."""
        return self._first_look

    def size(self, features: int) -> int:
        """One coalition per prefix of each order; all orders share the empty and the full coalition."""
        orders = self.n_samples * (2 if self._paired else 1)
        return 2 + orders * (features - 1) if features else 1

    def least(self, features: int) -> int:
        """One order, or pair."""
        return min((2 * features if self._paired else features + 1), 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """One order each: the empty coalition, then one more feature per row; followed by the reverse order."""
        draws = generator(self._seed)
        while True:
            yield chains(torch.randperm(features, generator=draws, device="cpu"), self._paired)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """Means over the orders, with standard errors over orders (or pairs)."""
        return of_chains(coalitions, values, self._paired)


def count_subsets(features: int) -> int:
    """`2^features`.

    Raises:
        TooManyFeatures: there are too many to enumerate.
    """
    if features > MAX_FEATURES:
        raise TooManyFeatures(
            f"exact values over {features} features take 2^{features} = {shown(1 << features)} evaluations; at "
            f"most {MAX_FEATURES} features can be enumerated: sample them (n_samples, or another method: "
            "KernelShap, PermutationShapley), or group features with a feature_mask or a larger unit"
        )
    return 1 << features


def all_subsets(features: int) -> Iterator[Coalitions]:
    """All coalitions in blocks; bit i of a row's number is the presence of feature i."""
    count, rows = count_subsets(features), max(1, BLOCK_ENTRIES // max(1, features))
    for start in range(0, count, rows):
        yield numbered(torch.arange(start, min(count, start + rows), device="cpu"), features)


def random_subsets(features: int, seed: int | None) -> Iterator[Coalitions]:
    """Coalitions with each feature present with probability 1/2, one at a time.

    Without repetition up to `MAX_FEATURES`; of more features a coalition may be repeated.
    """
    draws = generator(seed)
    if features <= MAX_FEATURES:
        for number in torch.randperm(1 << features, generator=draws, device="cpu").split(1):
            yield numbered(number, features)
        return
    while True:
        yield torch.randint(2, (1, features), generator=draws, device="cpu").bool()


def numbered(numbers: Tensor, features: int) -> Coalitions:
    """`(numbers, features)`: bit i of a number is the presence of feature i."""
    return (numbers[:, None] >> torch.arange(features, device="cpu") & 1).bool()


def shapley_values(values: Values) -> Values:
    """`(features, outputs)` from the values of all subsets, `(2^features, outputs)` in the order of their numbers."""
    features = (len(values) - 1).bit_length()
    weights = at_least_fp32(subset_shares(features), values)
    rows = [weights @ gains(values, feature).to(weights.dtype) for feature in range(features)]
    return torch.stack(rows) if rows else values.new_zeros(0, *values.shape[1:])


def gains(values: Values, feature: int) -> Values:
    """What a feature adds to each subset of the others, `(2^features, outputs) -> (2^(features - 1), outputs)`."""
    pairs = values.unflatten(0, (-1, 2, 1 << feature))
    return (pairs[:, 1] - pairs[:, 0]).flatten(0, 1)


def subset_shares(features: int) -> Tensor:
    """`(2^(features - 1),)`: the fraction of orders in which exactly this subset of the others precedes a feature."""
    if not features:
        return torch.zeros(0, dtype=torch.float64, device="cpu")
    shares = [1 / (features * comb(features - 1, size)) for size in range(features)]
    return torch.tensor(shares, dtype=torch.float64, device="cpu")[subset_sizes(features - 1)]


def subset_sizes(features: int) -> Tensor:
    """`(2^features,)`: the number of features in each subset."""
    sizes = torch.zeros(1, dtype=torch.int64, device="cpu")
    for _ in range(features):
        sizes = torch.cat([sizes, sizes + 1])
    return sizes


def chains(order: Tensor, paired: bool) -> Coalitions:
    """`(orders * (features + 1), features)`: the empty coalition, one more feature per row; then the reverse."""
    steps = torch.arange(len(order) + 1, device="cpu")[:, None]
    return torch.cat([each.argsort()[None] < steps for each in ([order, order.flip(0)] if paired else [order])])


def of_chains(coalitions: Coalitions, values: Values, paired: bool) -> Estimate:
    """The mean contribution of each feature in chains of coalitions, and its standard error over chains (or pairs)."""
    features = coalitions.shape[1]
    shape = (-1, 2 if paired else 1, features + 1)
    order = orders(coalitions.unflatten(0, shape))
    along = values.unflatten(0, shape)
    steps = at_least_fp32(along[:, :, 1:] - along[:, :, :-1], values)
    added = torch.empty_like(steps).scatter_(2, order[..., None].expand_as(steps), steps)
    return mean_and_error(added.mean(1))


def orders(chain: Coalitions) -> Tensor:
    """The feature that each row adds to the previous row: `(..., f + 1, f) -> (..., f)`."""
    return (chain[..., 1:, :] ^ chain[..., :-1, :]).int().argmax(-1) if chain.shape[-1] else chain[..., 0, :].long()


def mean_and_error(samples: Tensor) -> Estimate:
    """The mean of `(samples, features, outputs)` and its standard error, scaled by Student's t."""
    count = len(samples)
    if count < 2 or not samples.numel():
        return Estimate(samples.mean(0), torch.full_like(samples[0], torch.inf))
    return Estimate(samples.mean(0), samples.std(0) * (widening(count - 1) / count**0.5))


def shown(count: int) -> str:
    """A count formatted for a message, of any size."""
    return f"{count:,}" if count < 10**15 else f"over 10^{int((count.bit_length() - 1) * 0.30102)}"
