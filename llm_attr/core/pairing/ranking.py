"""The k largest or smallest scores of each row, exact and in bounded memory."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class KMostInfluentialResults(NamedTuple):
    """The most influential training examples of each test example, the strongest first.

    Attributes:
        indices: `(test examples, k)`, their numbers in the training data.
        influence_scores: `(test examples, k)`, their influences.
    """

    indices: Tensor
    influence_scores: Tensor


class Ranking:
    """The k best columns of a matrix that arrives in pieces.

    Args:
        k: How many columns each row keeps, or all if there are fewer.
        largest: Whether the largest scores are the best, or the smallest.
    """

    def __init__(self, k: int, largest: bool) -> None:
        self._k, self._largest = k, largest
        self._best: KMostInfluentialResults | None = None

    def add(self, scores: Tensor, start: int) -> None:
        """Takes the columns `start`, `start + 1`, ...: `(rows, columns)`."""
        indices = torch.arange(start, start + scores.shape[1], device=scores.device).expand_as(scores)
        if self._best is not None:
            indices = torch.cat([self._best.indices, indices], 1)
            scores = torch.cat([self._best.influence_scores, scores], 1)
        best, place = scores.topk(min(self._k, scores.shape[1]), largest=self._largest)
        self._best = KMostInfluentialResults(indices.gather(1, place), best)

    @property
    def result(self) -> KMostInfluentialResults:
        """The best columns of all that was added."""
        return self._best or KMostInfluentialResults(
            torch.empty(0, 0, dtype=torch.int64, device="cpu"), torch.empty(0, 0, dtype=torch.float32, device="cpu")
        )
