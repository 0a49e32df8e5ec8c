"""Pairwise interactions: the joint effect of two features minus their separate effects."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from math import comb
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from llm_attr.core.estimators.banzhaf import banzhaf_values
from llm_attr.core.estimators.base import BaseEstimator
from llm_attr.core.estimators.shapley import (
    all_subsets,
    chains,
    count_subsets,
    mean_and_error,
    orders,
    random_subsets,
    shapley_values,
    subset_sizes,
)
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.random_state import generator
from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import InvalidValue, UnknownName, positive
from llm_attr.typing import Coalitions, Values

Index: TypeAlias = Literal["shapley", "faith_banzhaf"]
"""The interaction index."""


class PairInteractions(BaseEstimator):
    """The interaction of each pair of features, and the main effect of each feature.

    `shapley`: `I_ij = sum over S without i and j of |S|! (f - |S| - 2)! / (f - 1)! d_ij(S)` with
    `d_ij(S) = v(S with i and j) - v(S with i) - v(S with j) + v(S)`; main effects are the Shapley values.

    `faith_banzhaf`: the coefficients of the least-squares fit over all coalitions, equally weighted,
    `v(S) ~ e + sum over i in S of e_i + sum over pairs i, j in S of e_ij`; main effects are the `e_i`.

    Args:
        index: `shapley` or `faith_banzhaf`.
        n_samples: None: all coalitions. `shapley`: number of rounds of orders in which every two features meet, about
            `f^2` evaluations each (`2 f^2` for an odd number of features). `faith_banzhaf`: number of random
            coalitions, more than there are coefficients.
        seed: Seed of the sample; None: torch's global generator.

    Source: M. Grabisch and M. Roubens, An axiomatic approach to the concept of interaction among players in
    cooperative games, 1999; C.-P. Tsai, C.-K. Yeh and P. Ravikumar, Faith-Shap, JMLR 2023, section 4 (faith-Banzhaf).
    """

    def __init__(self, index: Index = "shapley", n_samples: int | None = None, seed: int | None = 0) -> None:
        if index not in get_args(Index):
            raise UnknownName("index", index, get_args(Index))
        self.fixed = n_samples is None
        self.n_samples = 1 if n_samples is None else positive("n_samples", n_samples)
        self._index, self._seed = index, seed

    def size(self, features: int) -> int:
        """The number of coalitions in the design.

        Raises:
            TooManyFeatures: all coalitions are requested but there are too many to enumerate.
            InvalidValue: there are fewer samples than coefficients.
        """
        if self.fixed:
            return count_subsets(features)
        if self._index == "shapley":
            return 2 + self.n_samples * _in_round(features)
        if self.n_samples < self.least(features):
            raise InvalidValue(
                f"the fit over {features} features has {_coefficients(features)} coefficients and needs n_samples of "
                f"at least {self.least(features)}; got {self.n_samples}"
            )
        return self.n_samples

    def least(self, features: int) -> int:
        """All coalitions, one round, or one coalition more than there are coefficients."""
        if self.fixed:
            return count_subsets(features)
        needed = 2 + _in_round(features) if self._index == "shapley" else _coefficients(features) + 1
        return min(needed, 1 << features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        if self.fixed:
            return all_subsets(features)
        return (_meetings if self._index == "shapley" else random_subsets)(features, self._seed)

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """The main effects."""
        matrices = self.interactions(coalitions, values)
        return Estimate(_diagonal(matrices.values), None if matrices.stderr is None else _diagonal(matrices.stderr))

    def interactions(self, coalitions: Coalitions, values: Values) -> Estimate:
        """`(features, features, outputs)`: the interactions, symmetric, with the main effects on the diagonal."""
        if self.fixed:
            return Estimate(_exact(values, self._index))
        pairs = _of_meetings(coalitions, values) if self._index == "shapley" else _fitted(coalitions, values)
        shape = (coalitions.shape[1], coalitions.shape[1], values.shape[1])
        stderr = None if pairs.stderr is None else at_least_fp32(pairs.stderr.view(shape), values)
        return Estimate(at_least_fp32(pairs.values.view(shape), values), stderr)


def _meetings(features: int, seed: int | None) -> Iterator[Coalitions]:
    """Rounds of random orders in which every two features are neighbours once, or twice if their number is odd.

    An order gives a chain of growing coalitions, and for each two neighbours the coalition in which the second joins
    without the first.
    """
    draws = generator(seed)
    step = torch.arange(features, device="cpu")
    zigzag = torch.where(step % 2 == 0, -(step // 2), (step + 1) // 2)
    while True:
        names = torch.randperm(features, generator=draws, device="cpu")
        turned = ((zigzag + turn) % max(1, features) for turn in range(_orders(features)))
        yield torch.cat([_with_second_alone(names[order]) for order in turned])


def _in_round(features: int) -> int:
    """Coalitions of a round besides the empty and the full one."""
    return _orders(features) * 2 * max(0, features - 1)


def _orders(features: int) -> int:
    """Orders in a round: the rotations of a zigzag in which every two features are neighbours."""
    return features if features % 2 else max(1, features // 2)


def _with_second_alone(order: Tensor) -> Coalitions:
    """`(2 * features, features)`: the chain, then each row but the last two joined by the feature after next."""
    chain = chains(order, paired=False)
    return torch.cat([chain, chain[:-2] | (chain[2:] ^ chain[1:-1])])


def _of_meetings(coalitions: Coalitions, values: Values) -> Estimate:
    """`(features^2, outputs)`: means over rounds of `_meetings`."""
    features, outputs = coalitions.shape[1], values.shape[1]
    shape = (-1, _orders(features), max(1, 2 * features))
    order = orders(coalitions.unflatten(0, shape)[:, :, : features + 1])
    along = at_least_fp32(values.unflatten(0, shape), values)
    chain, alone = along[:, :, : features + 1], along[:, :, features + 1 :]
    together = chain[:, :, 2:] - chain[:, :, 1:-1] - alone + chain[:, :, :-2]
    added = chain[:, :, 1:] - chain[:, :, :-1]
    first, second = order[:, :, :-1], order[:, :, 1:]
    effects = along.new_zeros(len(along), features * features, outputs)
    for place, terms, times in (
        (_place(first, second, features), together, 2 * _orders(features) / max(1, features)),
        (_place(order, order, features), added, _orders(features)),
    ):
        index = place.flatten(1)[..., None].expand(-1, -1, outputs)
        effects.scatter_add_(1, index, terms.flatten(1, 2) / times)
    each = torch.arange(features, device="cpu")
    mirrored = _place(each[:, None], each, features).flatten()
    mean = mean_and_error(effects)
    return Estimate(mean.values[mirrored], None if mean.stderr is None else mean.stderr[mirrored])


def _place(i: Tensor, j: Tensor, features: int) -> Tensor:
    """The index of the pair of i and j, in either order."""
    return torch.minimum(i, j) * features + torch.maximum(i, j)


def _fitted(coalitions: Coalitions, values: Values) -> Estimate:
    """`(features^2, outputs)`: least squares over a sample without replacement.

    Standard errors are heteroscedasticity-consistent (HC3), since the misfit differs between coalitions; they are
    conservative where there are few more coalitions than coefficients.
    """
    features, rows = coalitions.shape[1], len(coalitions)
    present = coalitions.double()
    i, j = torch.triu_indices(features, features, 1, device="cpu")
    terms = torch.cat([torch.ones_like(present[:, :1]), present, present[:, i] * present[:, j]], 1)
    solve = torch.linalg.pinv(terms)
    fit = solve @ values.double()
    leverage = (terms * solve.T).sum(1, keepdim=True)
    residuals = (values.double() - terms @ fit) / (1 - leverage).clamp_min(torch.finfo(torch.float64).eps)
    errors = (solve**2 @ residuals**2 * (1 - rows / 2.0**features)).sqrt()
    if rows < 1 << features and leverage.sum().round() < terms.shape[1]:
        errors = torch.full_like(errors, torch.inf)
    place = torch.empty(features, features, dtype=torch.int64, device="cpu")
    each = torch.arange(features, device="cpu")
    place[each, each] = 1 + each
    place[i, j] = place[j, i] = 1 + features + torch.arange(len(i), device="cpu")
    return Estimate(fit[place.flatten()], errors[place.flatten()])


def _exact(values: Values, index: Index) -> Values:
    features = (len(values) - 1).bit_length()
    exact = at_least_fp32(values)
    matrix = exact.new_zeros(features, features, values.shape[1])
    if features > 1:
        sizes = subset_sizes(features - 2)
        weights = at_least_fp32((_shares(features) if index == "shapley" else _uniform(features))[sizes], values)
        for i, j in combinations(range(features), 2):
            matrix[i, j] = matrix[j, i] = weights @ _second_gains(exact, i, j)
    main = shapley_values(values) if index == "shapley" else banzhaf_values(values) - matrix.sum(1) / 2
    return matrix + torch.diag_embed(main.T).permute(1, 2, 0)


def _second_gains(values: Values, i: int, j: int) -> Values:
    """`(2^(features - 2), outputs)`: the joint contribution of i < j minus their separate ones, for each subset."""
    quads = values.unflatten(0, (-1, 2, 1 << (j - i - 1), 2, 1 << i))
    both, first, second, none = quads[:, 1, :, 1], quads[:, 0, :, 1], quads[:, 1, :, 0], quads[:, 0, :, 0]
    return (both - first - second + none).flatten(0, 2)


def _shares(features: int) -> Tensor:
    """The weight of a subset of the others, by its size."""
    shares = [1 / ((features - 1) * comb(features - 2, size)) for size in range(features - 1)]
    return torch.tensor(shares, dtype=torch.float64, device="cpu")


def _uniform(features: int) -> Tensor:
    return torch.full((features - 1,), 0.5 ** (features - 2), dtype=torch.float64, device="cpu")


def _coefficients(features: int) -> int:
    return 1 + features + comb(features, 2)


def _diagonal(matrix: Values) -> Values:
    return matrix.diagonal(dim1=0, dim2=1).T
