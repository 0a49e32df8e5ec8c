"""Reading log-probabilities and scalars from logits, as passes deliver them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llm_attr.core.memory import sent
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.target.scalar import Scalar

ROWS_IN_CACHE = 8
"""Rows of logits that a CPU processes at once: few enough to stay in its cache."""

CHUNK_BYTES = 1 << 28
"""Bytes of logits in fp32 that an accelerator processes at once."""


@dataclass(frozen=True)
class Reading:
    """The log-probabilities and scalars of a query.

    Attributes:
        log_probs: fp32 `(answer tokens,)` in nats.
        scalars: For each scalar of the query fp32 `(answer tokens,)`, or `()` for a number for the full answer.
    """

    log_probs: Tensor
    scalars: tuple[Tensor, ...] = ()


class Readout:
    """Takes logits in any order and keeps only what the queries need.

    Pairs are the answer tokens of all queries, in order. Quantities of single tokens are read immediately, a few rows
    at a time; a function of a full answer waits for its last row, and only the rows of incomplete answers are held.
    """

    def __init__(self, queries: Sequence[Query]) -> None:
        self._queries = queries
        counts = torch.tensor([len(query.answer) for query in queries], device="cpu")
        self._stops = counts.cumsum(0)
        self._query = torch.arange(len(queries), device="cpu").repeat_interleave(counts)
        self._place = torch.arange(len(self._query), device="cpu") - (self._stops - counts)[self._query]
        self._tokens = torch.tensor([token for query in queries for token in query.answer], device="cpu")
        self._log_probs = _Collected(len(self._query))
        self._values: dict[Scalar, _Collected] = {}
        self._called: dict[tuple[int, Scalar], Tensor] = {}
        self._waiting: dict[int, dict[int, Tensor]] = {}
        self._reading = any(query.scalars for query in queries)

    def take(self, logits: Tensor, rows: Tensor, pairs: Tensor) -> None:
        """Reads `(rows, vocabulary)` logits for some pairs `(pairs,)`; pair i uses row `rows[i]`."""
        self._log_probs.put(pairs, log_probs(logits, rows, self._tokens[pairs]))
        if not self._reading:
            return
        numbers = self._query[pairs]
        for query in numbers.unique().tolist():
            own = (numbers == query).nonzero().flatten()
            self._read(query, logits, rows[own], self._place[pairs[own]])

    def readings(self) -> list[Reading]:
        """The readings of all queries."""
        readings = []
        for number, part in enumerate(self._parts(self._log_probs.all())):
            scalars = tuple(self._of(scalar, number) for scalar in self._queries[number].scalars)
            readings.append(Reading(part, scalars))
        return readings

    def _parts(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.tensor_split(self._stops[:-1])

    def _of(self, scalar: Scalar, query: int) -> Tensor:
        return self._called[query, scalar] if scalar.waits else self._parts(self._values[scalar].all())[query]

    def _read(self, query: int, logits: Tensor, rows: Tensor, places: Tensor) -> None:
        """Reads the logits of some tokens of one query."""
        scalars = self._queries[query].scalars
        start = int(self._stops[query]) - len(self._queries[query].answer)
        for scalar in scalars:
            if not scalar.waits:
                values, size = self._values.setdefault(scalar, _Collected(len(self._query))), rows_at_once(logits)
                for some, at in zip(rows.split(size), places.split(size), strict=True):
                    values.put(start + at, self._at(scalar, logits, some, start, at))
        if any(scalar.waits for scalar in scalars):
            self._wait(query, logits, rows, places)

    def _at(self, scalar: Scalar, logits: Tensor, rows: Tensor, start: int, places: Tensor) -> Tensor:
        chosen = logits[rows.to(logits.device)].float()[None]
        return scalar.read(chosen, self._tokens[start + places].to(logits.device), places)[0]

    def _wait(self, query: int, logits: Tensor, rows: Tensor, places: Tensor) -> None:
        """Holds the rows of an answer, and calls its functions once all rows are there."""
        answer, scalars = self._queries[query].answer, self._queries[query].scalars
        held = self._waiting.setdefault(query, {})
        held.update(zip(places.tolist(), logits[rows.to(logits.device)], strict=True))
        if len(held) == len(answer):
            ids = torch.tensor(answer, device=logits.device)
            for scalar in scalars:
                if scalar.waits:
                    full = torch.stack([held[place] for place in range(len(answer))]).float()
                    self._called[query, scalar] = scalar.read(full[None], ids)[0].cpu()
            del self._waiting[query]


class _Collected:
    """fp32 numbers on the CPU, put together from parts that stay on their device until all are asked for."""

    def __init__(self, count: int) -> None:
        self._values = torch.full((count,), torch.nan, dtype=torch.float32, device="cpu")
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def put(self, places: Tensor, values: Tensor) -> None:
        self._waiting.append((places, values.float()))

    def all(self) -> Tensor:
        """All of them, `(count,)`; each device is waited for once."""
        by_device: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        for places, values in self._waiting:
            by_device.setdefault(values.device, []).append((places, values))
        for parts in by_device.values():
            self._values[torch.cat([places for places, _ in parts])] = torch.cat([values for _, values in parts]).cpu()
        self._waiting = []
        return self._values


def rows_at_once(logits: Tensor) -> int:
    """How many rows of `(rows, vocabulary)` are processed at once."""
    if logits.device.type == "cpu":
        return ROWS_IN_CACHE
    return max(ROWS_IN_CACHE, CHUNK_BYTES // (4 * logits.shape[-1]))


def log_probs(logits: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """`(pairs,)` log-probabilities, fp32 on the device, of token i under row i of the logits `(rows, vocabulary)`."""
    rows, tokens = sent(rows, logits.device), sent(tokens, logits.device)
    normalisers = [part.float().logsumexp(-1) for part in logits.split(rows_at_once(logits))]
    chosen = logits[rows, tokens].float()
    return chosen - torch.cat(normalisers)[rows] if normalisers else chosen
