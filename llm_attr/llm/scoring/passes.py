"""Passes through a language model that score variants of prompts: over a prefix tree, or full sequences."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.memory import is_out_of_memory, sent
from llm_attr.llm.model.attention import masked_kernel, with_masks
from llm_attr.llm.model.backend import forward_logits
from llm_attr.llm.model.cost import Call, Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import learning, positions_that_fit
from llm_attr.llm.scoring.prefix_tree import Ints, PrefixTree, Query
from llm_attr.llm.scoring.readout import Reading, Readout
from llm_attr.llm.scoring.strategy import Strategy

HALVES = (torch.bfloat16, torch.float16)


class TreeRefused(Exception):
    """The model's forward raised an error on a prefix tree."""

    def __init__(self, error: Exception) -> None:
        first = next(iter(str(error).strip().splitlines()), "")
        super().__init__(f"{type(error).__name__}: {first[:160]}")
        self.error = error


class TreePass:
    """Scores the queries of a prefix tree, each node once, in packs of consecutive nodes.

    A pack is one row of tokens with explicit positions and a mask that lets each attend to its ancestors; the keys and
    values of its first node's ancestors come from earlier packs.
    """

    def __init__(self, language_model: LanguageModel, queries: Sequence[Query], strategy: Strategy, cost: Cost) -> None:
        self._lm, self._strategy, self._cost = language_model, strategy, cost
        self._tree = tree = PrefixTree.of(queries)
        self._readout = Readout(queries)
        self._order = np.argsort(tree.predictors, kind="stable")
        self._sorted = tree.predictors[self._order]
        self._held: Ints = np.empty(0, dtype=np.int64)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._finished = np.sort(tree.last)
        self._starts: list[int] = []

    def run(self, evaluator: Evaluator) -> list[Reading]:
        """The readings of all queries."""

        def evaluate(start: int, stop: int) -> int:
            self._pack(start, stop)
            done = np.searchsorted(self._finished, [start, stop])
            evaluator.advance(int(done[1] - done[0]))
            return start

        self._starts += evaluator.run(len(self._tree), self._pack_size(), evaluate)
        return self._readout.readings()

    def calls(self) -> list[Call]:
        """The calls that `run` makes."""
        size, count = self._pack_size(), len(self._tree)
        self._starts += range(0, count, size)
        edges = [*self._starts, count]
        rows = np.searchsorted(np.unique(self._sorted), edges)
        return [Call(int(n), int(h)) for n, h in zip(np.diff(edges), np.diff(rows), strict=True)]

    def probe(self, queries: Sequence[Query]) -> int:
        """The query to verify: the one that depends most on what it shares with the others.

        It has gaps if any query has, else uses keys and values from an earlier pack if any does, else is among the
        longest; of several such queries the last.
        """
        gaps = np.array([query.variant.has_gaps for query in queries])
        lengths = np.array([query.length for query in queries])
        return int(np.lexsort((self._tree.last, lengths * 4 >= lengths.max() * 3, self._uses_cache, gaps))[-1])

    def shape(self, query: int) -> frozenset[str]:
        """What this query required of the model: a `sequence`, `branches`, and `context` from an earlier pack."""
        features = {"sequence": True, "branches": len(self._tree.stops) > 1, "context": self._uses_cache[query]}
        return frozenset(name for name, holds in features.items() if holds)

    @property
    def _uses_cache(self) -> NDArray[np.bool_]:
        """Bool `(queries,)`: whether a pack began between its first and last node."""
        first, last = (np.searchsorted(self._starts, ends, "right") for ends in (self._tree.root, self._tree.last))
        return first < last

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model computed; under autocast it is lower than the dtype of its values."""
        values = self._layers[0][1]
        halves = (half for half in HALVES if torch.equal(values, values.to(half).to(values.dtype)))
        return next(halves, values.dtype)

    def _pack_size(self) -> int:
        packs = ceil(len(self._tree) / positions_that_fit(self._lm))
        return ceil(len(self._tree) / packs)

    def _pack(self, start: int, stop: int) -> None:
        nodes, context = np.arange(start, stop), self._tree.ancestors(start)
        seen = np.concatenate([context, nodes])
        first, last = np.searchsorted(self._sorted, [start, stop])
        rows, which = np.unique(self._sorted[first:last], return_inverse=True)
        cache = self._cache(context)
        inputs = {
            "input_ids": self._on_device(self._tree.tokens[nodes]),
            "position_ids": self._on_device(self._tree.positions[nodes]),
            "attention_mask": self._masks(nodes, seen),
        }
        try:
            with with_masks(self._lm), learning(self._lm, Call(len(nodes), len(rows))):
                kept = (rows - start).tolist()
                logits = forward_logits(self._lm, kept, **inputs, past_key_values=cache, use_cache=True)
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
            if is_out_of_memory(error):
                raise
            raise TreeRefused(error) from error
        self._readout.take(logits[0], torch.from_numpy(which), torch.from_numpy(self._order[first:last]))
        self._cost.add(len(nodes), len(rows))
        self._held = seen
        self._layers = [(layer.keys, layer.values) for layer in cache.layers]

    def _cache(self, context: Ints) -> DynamicCache:
        cache = DynamicCache()
        index = torch.from_numpy(np.searchsorted(self._held, context))
        for number, (keys, values) in enumerate(self._layers if len(context) else ()):
            at = index.to(keys.device)
            cache.update(keys.index_select(-2, at), values.index_select(-2, at), number)
        return cache

    def _masks(self, nodes: Ints, seen: Ints) -> Any:
        dtype, device = self._lm.dtype, self._lm.device
        masks: dict[str | None, Tensor] = {}
        for kind, window in self._strategy.windows:
            mask = self._tree.visible(nodes, seen, window, device)
            if masked_kernel(self._lm) == "eager":
                mask = torch.zeros(mask.shape, dtype=dtype, device=device).masked_fill_(~mask, torch.finfo(dtype).min)
            masks[kind] = mask[None, None]
        return masks.get(None, masks)

    def _on_device(self, values: Ints) -> Tensor:
        return sent(torch.from_numpy(values)[None], self._lm.device)


class WholePass:
    """Scores each query as a full sequence without cache, in batches of similar length.

    Args:
        language_model: Model and tokenizer.
        cost: Counts passes and positions.
        plain: Whether to run each query alone, with logits at all positions, so that nothing else can affect it.
    """

    def __init__(self, language_model: LanguageModel, cost: Cost, plain: bool = False) -> None:
        self._lm, self._cost, self._plain = language_model, cost, plain

    def run(self, queries: Sequence[Query], evaluator: Evaluator) -> list[Reading]:
        """The readings of all queries."""
        readings: dict[int, Reading] = {}
        for group in self.groups(queries):

            def evaluate(start: int, stop: int, group: list[int] = group) -> None:
                part = group[start:stop]
                readings.update(zip(part, self.batch([queries[i] for i in part]), strict=True))
                evaluator.advance(len(part))

            for _ in evaluator.run(len(group), len(group), evaluate):
                pass
        return [readings[i] for i in range(len(queries))]

    def shapes(self, queries: Sequence[Query]) -> list[frozenset[str]]:
        """What each query requires: a `sequence`, a `first` or `last` row of a batch, `gaps` under the mask."""
        batches = [group for group in self.groups(queries) if len(group) > 1]
        first, last = {group[0] for group in batches}, {group[-1] for group in batches}
        asked = [
            {"sequence": True, "first": i in first, "last": i in last, "gaps": query.variant.has_gaps}
            for i, query in enumerate(queries)
        ]
        return [frozenset(name for name, holds in each.items() if holds) for each in asked]

    def calls(self, queries: Sequence[Query]) -> list[Call]:
        """The calls that `run` makes."""
        return [self.call([queries[i] for i in group]) for group in self.groups(queries)]

    def call(self, queries: Sequence[Query]) -> Call:
        """The one call that `batch` and `logits` make."""
        places = {place for query in queries for place in query.positions[-len(query.answer) :]}
        longest = max(query.length for query in queries)
        return Call(len(queries) * longest, len(queries) * (longest if self._plain else len(places)))

    def batch(self, queries: Sequence[Query], fill: int = 0) -> list[Reading]:
        """The readings of the queries in one call, padded on the right with the token `fill`."""
        readout = Readout(queries)
        logits, rows = self.logits(queries, fill)
        readout.take(logits, rows, torch.arange(len(rows), device="cpu"))
        return readout.readings()

    def ids(self, queries: Sequence[Query], fill: int = 0) -> Tensor:
        """`(queries, positions)` token ids of one call."""
        ids = torch.full((len(queries), max(query.length for query in queries)), fill, dtype=torch.int64, device="cpu")
        for row, query in enumerate(queries):
            ids[row, list(query.positions)] = torch.tensor(query.tokens, device="cpu")
        return ids

    def logits(self, queries: Sequence[Query], fill: int = 0) -> tuple[Tensor, Tensor]:
        """`(rows, vocabulary)` of one call, and the row that predicts each answer token, in order."""
        ids, device = self.ids(queries, fill), self._lm.device
        mask = torch.zeros_like(ids)
        for row, query in enumerate(queries):
            mask[row, list(query.positions)] = 1
        counts = torch.tensor([len(query.answer) for query in queries], device="cpu")
        places = [place for query in queries for place in query.positions[-len(query.answer) :]]
        kept, columns = torch.tensor(places, device="cpu").unique(return_inverse=True)
        inputs = {"input_ids": sent(ids, device), "attention_mask": sent(mask, device), "use_cache": False}
        if "position_ids" in self._lm.forward_keywords and any(query.variant.has_gaps for query in queries):
            inputs["position_ids"] = torch.arange(ids.shape[1], device=device).expand(len(ids), -1)
        logits = forward_logits(self._lm, kept.tolist(), self._plain, **inputs)
        self._cost.add(ids.numel(), ids.numel() if self._plain else len(queries) * len(kept))
        return logits.flatten(0, 1), torch.arange(len(queries), device="cpu").repeat_interleave(counts) * len(
            kept
        ) + columns

    def groups(self, queries: Sequence[Query]) -> list[list[int]]:
        """The queries of each call."""
        room = 0 if self._plain else positions_that_fit(self._lm)
        groups: list[list[int]] = []
        shortest = 0
        for i in sorted(range(len(queries)), key=lambda i: queries[i].length):
            size, spread = queries[i].length, len(queries[i].answer) // 4
            if groups and size - shortest <= spread and (len(groups[-1]) + 1) * size <= room:
                groups[-1].append(i)
            else:
                groups.append([i])
                shortest = size
        return groups
