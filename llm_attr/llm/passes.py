"""Passes through a language model that score variants of a prompt: over a prefix tree, or whole sequences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.memory import free_bytes
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.prefix_tree import Ints, PrefixTree, Variant
from llm_attr.llm.ways import Way, kernel

CPU_POSITIONS = 256
CUDA_POSITIONS = 8192
"""New token positions of one pass: beyond these a larger pass is no faster."""

ROWS_IN_CACHE = 8
"""Rows of logits normalised together: few enough that they stay in the cache of a CPU."""

HALVES = (torch.bfloat16, torch.float16)

MEMORY_SHARE = 4
"""One pass may take a quarter of the free memory."""


@dataclass
class Counter:
    """What scoring has cost; none of it depends on the machine.

    Attributes:
        passes: Calls of the model.
        positions: Token positions that went through the body of the model, padding included.
        head_rows: Positions that went on through the output head.
        check_positions: Positions of the comparisons of a new model's first tree with a whole sequence.
    """

    passes: int = 0
    positions: int = 0
    head_rows: int = 0
    check_positions: int = 0

    def add(self, positions: int, head_rows: int) -> None:
        """Counts one pass."""
        self.passes += 1
        self.positions += positions
        self.head_rows += head_rows


class TreePass:
    """Scores the variants of a prefix tree, each node once, in packs of consecutive nodes.

    A pack is one row of tokens with explicit positions and a mask by which each sees its ancestors; the keys and
    values of the ancestors of its first node come from the packs before.
    """

    def __init__(
        self, language_model: LanguageModel, answer: Sequence[int], tree: PrefixTree, way: Way, counter: Counter
    ) -> None:
        self._lm, self._tree, self._way, self._counter = language_model, tree, way, counter
        self._answer = torch.tensor(list(answer))
        self._scores = torch.full(tree.predictors.shape, torch.nan)
        flat = tree.predictors.ravel()
        self._order = np.argsort(flat, kind="stable")
        self._sorted = flat[self._order]
        self._held: Ints = np.empty(0, dtype=np.int64)
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._finished = np.sort(tree.predictors[:, -1])
        self.packs = 0

    def run(self, evaluator: Evaluator) -> Tensor:
        """`(variants, answer tokens)` log-probabilities."""

        def evaluate(start: int, stop: int) -> None:
            self._pack(start, stop)
            done = np.searchsorted(self._finished, [start, stop])
            evaluator.advance(int(done[1] - done[0]))

        packs = ceil(len(self._tree) / positions_that_fit(self._lm))
        for _ in evaluator.run(len(self._tree), ceil(len(self._tree) / packs), evaluate):
            self.packs += 1
        return self._scores

    @property
    def witness(self) -> int:
        """The variant that stands last in the tree, and so leans most on what others share with it."""
        return int(self._tree.predictors[:, -1].argmax())

    @property
    def shape(self) -> frozenset[str]:
        """What the tree asked of the model: a `sequence`, `branches`, and `context` from an earlier pack."""
        found = {"sequence": True, "branches": len(self._tree.predictors) > 1, "context": self.packs > 1}
        return frozenset(name for name, holds in found.items() if holds)

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model computed: under autocast its values have fewer digits than their type."""
        values = self._layers[0][1]
        halves = (half for half in HALVES if torch.equal(values, values.to(half).to(values.dtype)))
        return next(halves, values.dtype)

    def _pack(self, start: int, stop: int) -> None:
        nodes, context = np.arange(start, stop), self._tree.ancestors(start)
        seen = np.concatenate([context, nodes])
        first, last = np.searchsorted(self._sorted, [start, stop])
        rows, which = np.unique(self._sorted[first:last], return_inverse=True)
        cache = self._cache(context)
        logits = forward_logits(
            self._lm,
            torch.from_numpy(rows - start),
            input_ids=self._on_device(self._tree.tokens[nodes]),
            position_ids=self._on_device(self._tree.positions[nodes]),
            attention_mask=self._masks(nodes, seen),
            past_key_values=cache,
            use_cache=True,
        )
        pairs = torch.from_numpy(self._order[first:last])
        tokens = self._answer[pairs % len(self._answer)]
        self._scores.view(-1)[pairs] = log_probs(logits[0], torch.from_numpy(which), tokens)
        self._counter.add(len(nodes), len(rows))
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
        dtype = self._lm.model.dtype
        masks: dict[str | None, Tensor] = {}
        for kind, window in self._way.windows:
            mask = self._tree.visible(nodes, seen, window)
            if kernel(self._lm) == "eager":
                mask = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
            masks[kind] = mask[None, None].to(self._lm.device)
        return masks.get(None, masks)

    def _on_device(self, values: Ints) -> Tensor:
        return torch.from_numpy(values)[None].to(self._lm.device)


class WholePass:
    """Scores each variant as one whole sequence without cache, several of about one length at a time."""

    def __init__(self, language_model: LanguageModel, answer: Sequence[int], counter: Counter) -> None:
        self._lm, self._answer, self._counter = language_model, tuple(answer), counter

    def run(self, variants: Sequence[Variant], evaluator: Evaluator) -> Tensor:
        """`(variants, answer tokens)` log-probabilities."""
        scores = torch.empty(len(variants), len(self._answer))
        for group in self._groups(variants):

            def evaluate(start: int, stop: int, group: list[int] = group) -> None:
                part = group[start:stop]
                scores[part] = self.batch([variants[i] for i in part])
                evaluator.advance(len(part))

            for _ in evaluator.run(len(group), len(group), evaluate):
                pass
        return scores

    def batch(self, variants: Sequence[Variant]) -> Tensor:
        """`(variants, answer tokens)` of one call, padded on the right."""
        length = len(self._answer)
        starts = [variant.end for variant in variants]
        ids = torch.zeros(len(variants), max(starts) + length - 1, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (variant, start) in enumerate(zip(variants, starts, strict=True)):
            places = [*variant.positions, *range(start, start + length - 1)]
            ids[row, places] = torch.tensor([*variant.tokens, *self._answer[:-1]])
            mask[row, places] = 1
        rows = torch.tensor([[v.positions[-1], *range(v.end, v.end + length - 1)] for v in variants])
        kept = torch.arange(int(rows.min()), int(rows.max()) + 1)
        device = self._lm.device
        logits = forward_logits(
            self._lm, kept, input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
        )
        self._counter.add(ids.numel(), len(variants) * len(kept))
        flat = rows - rows.min() + torch.arange(len(variants))[:, None] * len(kept)
        tokens = torch.tensor(self._answer).repeat(len(variants))
        return log_probs(logits.flatten(0, 1), flat.flatten(), tokens).view(len(variants), length)

    def _groups(self, variants: Sequence[Variant]) -> list[list[int]]:
        room, spread = positions_that_fit(self._lm), len(self._answer) // 4
        groups: list[list[int]] = []
        shortest = 0
        for i in sorted(range(len(variants)), key=lambda i: variants[i].end):
            size = variants[i].end - 1 + len(self._answer)
            if groups and size - shortest <= spread and (len(groups[-1]) + 1) * size <= room:
                groups[-1].append(i)
            else:
                groups.append([i])
                shortest = size
        return groups


def forward_logits(language_model: LanguageModel, rows: Tensor, **inputs: Any) -> Tensor:
    """`(batch, rows, vocabulary)`: the model's own logits at these positions and at no others, where it can do that."""
    rows = rows.to(language_model.device)
    if "logits_to_keep" in language_model.forward_keywords:
        return language_model.model(**inputs, logits_to_keep=rows, return_dict=True).logits
    logits = language_model.model(**inputs, return_dict=True).logits
    from_end = rows - inputs["input_ids"].shape[1]  # an adapter may have put tokens in front
    return logits[:, from_end.to(logits.device)]


def log_probs(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """`(pairs,)` log-probabilities in fp32 on the CPU of token i under the logits of row i, `(rows, vocabulary)`."""
    rows, tokens = rows.to(logits.device), tokens.to(logits.device)
    normalisers = [part.float().logsumexp(-1) for part in logits.split(ROWS_IN_CACHE)]
    chosen = logits[rows, tokens].float()
    return (chosen - torch.cat(normalisers)[rows]).cpu() if normalisers else chosen.cpu()


def positions_that_fit(language_model: LanguageModel) -> int:
    """How many token positions one pass may have on this device with the memory that is free now."""
    config, device = language_model.text_config, language_model.device
    width = language_model.model.dtype.itemsize
    head = config.vocab_size * (width + 8)
    body = config.hidden_size * width * (2 * config.num_hidden_layers + 24)
    most = CUDA_POSITIONS if device.type == "cuda" else CPU_POSITIONS
    return max(16, min(most, free_bytes(device) // MEMORY_SHARE // (head + body)))
