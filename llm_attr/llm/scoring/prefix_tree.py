"""A tree of token sequences in which every shared prefix is stored once.

Nodes are numbered in depth-first order, so the descendants of node n are n + 1 ... end[n] - 1, a run of consecutive
nodes needs only itself and the ancestors of its first node, and `a` is an ancestor of `b` if and only if
`a < b < end[a]`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llm_attr.core.memory import sent
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.target.scalar import Scalar

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Query:
    """An answer to score after a variant of a prompt.

    Attributes:
        variant: The prompt.
        answer: Token ids, at least one.
        scalars: What to read besides the log-probabilities of its tokens.
    """

    variant: Variant
    answer: tuple[int, ...]
    scalars: tuple[Scalar, ...] = ()

    @property
    def tokens(self) -> tuple[int, ...]:
        """The model's input: the variant, and the answer without its last token."""
        return self.variant.tokens + self.answer[:-1]

    @property
    def positions(self) -> tuple[int, ...]:
        """The positions of these tokens."""
        return (*self.variant.positions, *range(self.variant.end, self.length))

    @property
    def length(self) -> int:
        """The number of positions from the first to the last of these tokens, gaps included."""
        return self.variant.end + len(self.answer) - 1


@dataclass(frozen=True)
class PrefixTree:
    """The tree over `variant + answer[:-1]` of several queries, which may be about different prompts.

    Each token of an answer is a pair of the token and the node whose output predicts it; pairs are in the order of the
    queries and, within a query, of the answer.

    Attributes:
        tokens: `(nodes,)` token ids in depth-first order.
        positions: `(nodes,)` their positions.
        parent: `(nodes,)` the node before each; -1 at a root.
        end: `(nodes,)` one past the last descendant.
        predictors: `(pairs,)` the node of each pair.
        targets: `(pairs,)` the token of each pair.
        stops: `(queries,)` one past the last pair of each query.
    """

    tokens: Ints
    positions: Ints
    parent: Ints
    end: Ints
    predictors: Ints
    targets: Ints
    stops: Ints

    @classmethod
    def of(cls, queries: Sequence[Query]) -> PrefixTree:
        """Builds the tree; the queries must differ from each other."""
        rows = [np.array([query.positions, query.tokens], dtype=np.int64).T for query in queries]
        order = sorted(range(len(rows)), key=lambda i: rows[i].astype(">i8").tobytes())
        stops = np.cumsum([len(query.answer) for query in queries])
        targets = np.concatenate([np.array(query.answer, dtype=np.int64) for query in queries])
        predictors = np.empty(len(targets), dtype=np.int64)
        nodes = _Nodes()
        for i in order:
            count = len(queries[i].answer)
            predictors[stops[i] - count : stops[i]] = nodes.add(rows[i])[-count:]
        return cls(*nodes.finish(), predictors, targets, stops)

    def __len__(self) -> int:
        """The number of nodes."""
        return len(self.tokens)

    @property
    def last(self) -> Ints:
        """`(queries,)` the last node of each query."""
        return self.predictors[self.stops - 1]

    @property
    def root(self) -> Ints:
        """`(queries,)` the first node of each query."""
        roots = np.flatnonzero(self.parent < 0)
        return roots[np.searchsorted(roots, self.last, side="right") - 1]

    def ancestors(self, node: int) -> Ints:
        """The nodes before `node` on its path, first to last."""
        path = []
        while (node := int(self.parent[node])) >= 0:
            path.append(node)
        return np.array(path[::-1], dtype=np.int64)

    def visible(
        self, queries: Ints, keys: Ints, window: int | None = None, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Bool `(queries, keys)` on a device: which keys are the query node or its ancestors, within the window."""

        def there(values: Ints) -> Tensor:
            return sent(torch.from_numpy(values), torch.device(device))

        own, others = there(queries)[:, None], there(keys)[None]
        seen = (others <= own) & (own < there(self.end[keys])[None])
        if window is not None:
            seen &= there(self.positions[keys])[None] > there(self.positions[queries])[:, None] - window
        return seen


class _Nodes:
    """Builds a tree from sequences in sorted order; each row is a (position, token) pair."""

    def __init__(self) -> None:
        self.rows: list[Ints] = []
        self.parents: list[Ints] = []
        self.ends: dict[int, int] = {}
        self.last = np.empty((0, 2), dtype=np.int64)
        self.path = np.empty(0, dtype=np.int64)
        self.count = 0

    def add(self, row: Ints) -> Ints:
        shared = self._shared(row)
        self._close(shared)
        new = np.arange(self.count, self.count + len(row) - shared)
        before = self.path[shared - 1 : shared] if shared else np.array([-1])
        self.rows.append(row[shared:])
        self.parents.append(np.concatenate([before, new])[: len(new)])
        self.path = np.concatenate([self.path[:shared], new])
        self.last = row
        self.count += len(new)
        return self.path

    def finish(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Tokens, positions, parents and ends."""
        self._close(0)
        rows = np.concatenate(self.rows)
        end = np.array([self.ends[node] for node in range(self.count)])
        return rows[:, 1], rows[:, 0], np.concatenate(self.parents), end

    def _shared(self, row: Ints) -> int:
        length = min(len(row), len(self.last))
        same = (row[:length] == self.last[:length]).all(1)
        return length if same.all() else int(same.argmin())

    def _close(self, depth: int) -> None:
        self.ends.update((int(node), self.count) for node in self.path[depth:])
