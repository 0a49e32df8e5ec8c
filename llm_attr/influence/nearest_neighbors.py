"""Search for the vectors with the largest inner products."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.pairing.ranking import Ranking
from llm_attr.errors import InvalidValue, MissingExtra, positive

CHUNK = 1 << 24
"""Inner products that are held at a time."""


class NearestNeighbors(ABC):
    """Finds, for each query, the stored vectors with the largest inner products."""

    @abstractmethod
    def setup(self, data: Tensor) -> None:
        """Stores the vectors.

        Args:
            data: `(vectors, entries)`.
        """

    @abstractmethod
    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The `k` stored vectors with the largest inner products with each query.

        Args:
            query: `(queries, entries)`.
            k: How many.

        Returns:
            Their numbers and the inner products, `(queries, k)` each, the largest first.
        """


class ExactNearestNeighbors(NearestNeighbors):
    """All inner products by torch, in pieces that fit into memory.

    Example:
        >>> import torch
        >>> from llm_attr.influence import ExactNearestNeighbors
        >>> neighbors = ExactNearestNeighbors()
        >>> neighbors.setup(torch.eye(3))
        >>> neighbors.get_nearest_neighbors(torch.tensor([[1.0, 3.0, 2.0]]), k=2)
        (tensor([[1, 2]]), tensor([[3., 2.]]))
    """

    def __init__(self) -> None:
        self._data: Tensor | None = None

    def setup(self, data: Tensor) -> None:
        self._data = data

    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        data = _stored(self._data)
        ranking, size = Ranking(positive("k", k), True), max(1, CHUNK // max(1, len(query)))
        for start in range(0, len(data), size):
            ranking.add(query @ data[start : start + size].T, start)
        return ranking.result.indices, ranking.result.influence_scores


class FaissNearestNeighbors(NearestNeighbors):
    """Faiss's index of inner products on a CPU; float32.

    With lists it is for millions of vectors. Without, it finds what `ExactNearestNeighbors` finds.

    Args:
        lists: Into how many lists the vectors are divided, of which each query searches a few, so that a neighbor may
            be missed; None: all vectors are searched.
        searched: How many lists a query searches; where these hold fewer than k vectors, it searches all.

    Raises:
        MissingExtra: faiss is not installed.
    """

    def __init__(self, lists: int | None = None, searched: int = 8) -> None:
        self._faiss = _imported("faiss", "faiss-cpu")
        self._lists = None if lists is None else positive("lists", lists)
        self._searched = positive("searched", searched)
        self._index: Any = None

    def setup(self, data: Tensor) -> None:
        faiss, vectors = self._faiss, data.detach().cpu().float().contiguous().numpy()
        self._index = faiss.IndexFlatIP(vectors.shape[1])
        if self._lists is not None:
            if self._lists > len(vectors):
                raise InvalidValue(f"lists={self._lists} is more than the {len(vectors)} vectors; give fewer or None")
            self._index = faiss.IndexIVFFlat(self._index, vectors.shape[1], self._lists, faiss.METRIC_INNER_PRODUCT)
            self._index.train(vectors)
            self._index.nprobe = self._searched
        self._index.add(vectors)

    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        index = _stored(self._index)
        rows, count = query.detach().cpu().float().contiguous().numpy(), min(positive("k", k), index.ntotal)
        scores, indices = index.search(rows, count)
        if (few := (indices < 0).any(1)).any():
            everywhere = self._faiss.SearchParametersIVF(nprobe=index.nlist)
            scores[few], indices[few] = index.search(rows[few], count, params=everywhere)
        return torch.from_numpy(indices).to(query.device), torch.from_numpy(scores).to(query)


class AnnoyNearestNeighbors(NearestNeighbors):
    """Annoy's forest of random trees; approximate, float32.

    Args:
        num_trees: More trees find more of the true neighbors.

    Raises:
        MissingExtra: annoy is not installed.
    """

    def __init__(self, num_trees: int = 10) -> None:
        self._annoy = _imported("annoy", "annoy")
        self.num_trees = positive("num_trees", num_trees)
        self._index: Any = None
        self._data: Tensor | None = None

    def setup(self, data: Tensor) -> None:
        self._data, self._index = data, self._annoy.AnnoyIndex(data.shape[1], "dot")
        self._index.set_seed(0)
        for number, row in enumerate(data.tolist()):
            self._index.add_item(number, row)
        self._index.build(self.num_trees)

    def get_nearest_neighbors(self, query: Tensor, k: int) -> tuple[Tensor, Tensor]:
        data, index = _stored(self._data), _stored(self._index)
        found = [index.get_nns_by_vector(row, positive("k", k)) for row in query.tolist()]
        indices = torch.tensor(found, device=query.device)
        return indices, (data[indices] @ query[:, :, None]).squeeze(2)


def _stored(value: Any) -> Any:
    if value is None:
        raise InvalidValue("no vectors are stored yet; call setup first")
    return value


def _imported(module: str, package: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtra(package, "neighbors") from error
