"""Paths between word vectors that stay close to words of the vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.tensors import exact_device
from llm_attr.errors import InvalidValue, UnknownName

STRATEGIES = ("greedy", "maxcount")
"""How the next word of a path is chosen from the neighbours."""

MAX_ENTRIES = 1 << 22
"""The approximate maximum size of intermediate tensors."""

_NEAR = 1e-5
"""The squared distance, relative to the squared lengths, below which vectors are compared entry by entry."""


@dataclass(frozen=True)
class WordPaths:
    """Paths from baselines to words that pass close to words of the vocabulary, with every coordinate monotone.

    A path is built backwards from its word `w`. The next word, the anchor, is chosen from the nearest neighbours
    (Euclidean) of the last one, except words already on the path and those with the vector of the last word or of the
    baseline `b`. A coordinate of a neighbour is monotone if it lies between the path's last point `p` and `b`; every
    other coordinate j is replaced by `p_j - (p_j - b_j) / steps`. The path goes through the anchor with its coordinates
    replaced, and the search continues from the anchor itself. If no neighbour is left, the path goes to `b`.

    Attributes:
        steps: The number of points between the ends.
        neighbours: The number of neighbours to choose from.
        strategy: `greedy` takes the neighbour that is moved least when its coordinates are replaced, `maxcount` the one
            with the most monotone coordinates; ties go to the nearest.

    Source: S. Sanyal and X. Ren, Discretized Integrated Gradients for Explaining Language Models, EMNLP 2021,
    section 3.3.
    """

    steps: int
    neighbours: int
    strategy: str

    def __post_init__(self) -> None:
        for name, value in (("n_steps", self.steps), ("n_neighbors", self.neighbours)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InvalidValue(f"{name} must be a whole number of at least 1; got {value!r}")
        if self.strategy not in STRATEGIES:
            raise UnknownName("strategy", self.strategy, STRATEGIES)

    @torch.no_grad()
    def between(self, low: Tensor, high: Tensor, vocabulary: Tensor) -> Tensor:
        """The path of each row; equal rows are searched once.

        Args:
            low: The starts of the paths, `(rows, features)`.
            high: The ends, `(rows, features)`; words of the vocabulary or any other vectors.
            vocabulary: The word vectors, `(words, features)`.

        Returns:
            `(steps + 2, rows, features)`.
        """
        device = high.device
        low, high, vocabulary = (tensor.to(exact_device(device)) for tensor in (low, high, vocabulary))
        path = torch.empty(self.steps + 2, *high.shape, dtype=high.dtype, device=high.device)
        pairs, pair_of = torch.unique(torch.stack([low, high], 1), dim=0, return_inverse=True)
        words = _Words.of(vocabulary)
        size = max(1, MAX_ENTRIES // max(vocabulary.shape))
        for start in range(0, len(pairs), size):
            rows = ((pair_of >= start) & (pair_of < start + size)).nonzero().flatten()
            here = pair_of[rows] - start
            first, last = pairs[start : start + size].unbind(1)
            for k, points in enumerate(self._backwards(first, last, words)):
                path[-1 - k, rows] = points[here]
        return path.to(device)

    def _backwards(self, low: Tensor, high: Tensor, words: _Words) -> Iterator[Tensor]:
        """The points from `high` to `low`, `(rows, features)` each."""
        yield high
        used = words.equal(low, words.distances(low))
        last, point = high, high
        for _ in range(self.steps):
            near, own = words.nearest(last, self.neighbours)
            used |= own
            passed = used.gather(1, near)
            moves = _Moves(point, low, point.lerp(low, 1 / self.steps))
            # argmin takes the first of equal costs, which belongs to the nearest word
            best = self._costs(moves, near, words).masked_fill_(passed, torch.inf).argmin(1, keepdim=True)
            available, anchor = ~passed.all(1, keepdim=True), near.gather(1, best).squeeze(1)
            last = torch.where(available, words.vectors[anchor], last)
            point = torch.where(available, moves.applied(last), low)
            yield point
        yield low

    def _costs(self, moves: _Moves, near: Tensor, words: _Words) -> Tensor:
        """The cost of each neighbour as an anchor, `(rows, neighbours)`; `near` holds their numbers."""
        features = words.vectors.shape[1]
        columns = min(near.shape[1], _size(words.vectors))
        size = max(1, MAX_ENTRIES // max(1, columns * features))
        costs = torch.empty(near.shape, dtype=torch.float64, device=near.device)
        for row in range(0, len(near), size):
            part = moves.of(slice(row, row + size))
            cost = part.distances if self.strategy == "greedy" else part.misses
            for column in range(0, near.shape[1], columns):
                where = (slice(row, row + size), slice(column, column + columns))
                costs[where] = cost(words.vectors[near[where]])
        return costs


@dataclass(frozen=True)
class _Moves:
    """Makes words monotone with respect to the last points of some paths.

    Attributes:
        point: The last points, `(rows, features)`.
        low: The baselines, of the same shape.
        instead: The replacements of coordinates that are not monotone.
    """

    point: Tensor
    low: Tensor
    instead: Tensor

    def of(self, rows: slice) -> _Moves:
        return _Moves(self.point[rows], self.low[rows], self.instead[rows])

    def applied(self, words: Tensor) -> Tensor:
        """One word per path, `(rows, features)`, made monotone."""
        return torch.where(self._between(words[:, None])[:, 0], words, self.instead)

    def distances(self, words: Tensor) -> Tensor:
        """The squared distance by which words `(rows, words, features)` are moved when made monotone."""
        change = (words - self.instead[:, None]).masked_fill_(self._between(words), 0)
        return change.square_().sum(2, dtype=torch.float64)

    def misses(self, words: Tensor) -> Tensor:
        """The number of coordinates of words `(rows, words, features)` that are not monotone."""
        return (~self._between(words)).sum(2)

    def _between(self, words: Tensor) -> Tensor:
        least, most = torch.minimum(self.point, self.low), torch.maximum(self.point, self.low)
        return (words >= least[:, None]) & (words <= most[:, None])


@dataclass(frozen=True)
class _Words:
    """The vocabulary.

    Attributes:
        vectors: `(words, features)`.
        squares: The squared length of each, in double precision.
    """

    vectors: Tensor
    squares: Tensor

    @classmethod
    def of(cls, vectors: Tensor) -> _Words:
        parts = vectors.split(_size(vectors))
        return cls(vectors, torch.cat([part.double().square().sum(1) for part in parts]))

    def distances(self, vectors: Tensor) -> Tensor:
        """The squared distances of vectors `(rows, features)` from each word, `(rows, words)`.

        They are computed in double precision, because their terms are much larger than the distance of close words.
        """
        exact, start = vectors.double(), 0
        distances = torch.empty(len(vectors), len(self.vectors), dtype=torch.float64, device=vectors.device)
        for part in self.vectors.split(_size(self.vectors)):
            torch.mm(exact, part.double().T, out=distances[:, start : start + len(part)])
            start += len(part)
        return distances.mul_(-2).add_(self.squares).add_(exact.square().sum(1, keepdim=True)).clamp_min_(0)

    def equal(self, vectors: Tensor, distances: Tensor) -> Tensor:
        """Which words are equal to the vector of a row, `(rows, words)`."""
        scale = vectors.double().square().sum(1, keepdim=True)
        same = distances <= (scale + self.squares).mul_(_NEAR)
        for row, word in (pairs.unbind(1) for pairs in same.nonzero().split(_size(vectors))):
            same[row, word] = (vectors[row] == self.vectors[word]).all(1)
        return same

    def nearest(self, vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The words nearest to vectors `(rows, features)`; words equal to the vector come last.

        Returns:
            `(rows, count)` numbers of words, nearest first and ties in the order of the vocabulary; fewer if the
            vocabulary is smaller. And `(rows, words)`, see `equal`.
        """
        distances = self.distances(vectors)
        own = self.equal(vectors, distances)
        return distances.masked_fill_(own, torch.inf).sort(dim=1, stable=True).indices[:, :count], own


def _size(vectors: Tensor) -> int:
    """The number of vectors of this length in a tensor of `MAX_ENTRIES`."""
    return max(1, MAX_ENTRIES // max(1, vectors.shape[1]))
