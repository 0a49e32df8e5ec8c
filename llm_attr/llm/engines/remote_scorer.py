"""`RemoteScorer`: the engine for a model behind an endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from threading import Event
from typing import Any

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import InvalidValue, LlmAttrError
from llm_attr.llm.engines.endpoint import Endpoint, Scored
from llm_attr.llm.model.cost import Call, Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.readout import Reading
from llm_attr.llm.scoring.stored import StoredReadings

PULSE = 0.2
"""Seconds after which cancellation is looked at while requests are on their way."""


class RemoteScorer(ScoreEngine):
    """Scores by requests to an endpoint, several at a time; each answer is kept as soon as it is there.

    The longest query goes first and is waited for, so that a server has its prefix in the cache; the others follow in
    the depth-first order of their prefix tree.

    Args:
        language_model: The stand-in for the model, and its tokenizer.
        endpoint: What is asked.
        how: How the endpoint scores, in words.
        most: See `ScoreEngine`.
        stored: See `ScoreEngine`.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        endpoint: Endpoint,
        how: str,
        most: int | None = None,
        stored: StoredReadings | None = None,
    ) -> None:
        super().__init__(language_model, most, stored)
        self._endpoint, self._how = endpoint, how

    @property
    def how(self) -> str | None:
        """See `ScoreEngine`."""
        return self._how if self.cost.passes else None

    def shares_prefixes(self, queries: Sequence[Query]) -> bool:
        """See `ScoreEngine`."""
        return self._endpoint.capabilities.reuse_block > 0

    def check_lengths(self, queries: Sequence[Query]) -> None:
        """See `ScoreEngine`; also refuses what an endpoint cannot be asked.

        Raises:
            InvalidValue: a variant has gaps between its positions, or more than log-probabilities is to be read.
        """
        for query in queries:
            refuse_gaps(query.variant.has_gaps)
            for scalar in query.scalars:
                refuse_scalar(scalar.label)
        super().check_lengths(queries)

    def score_new(self, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """See `ScoreEngine`."""
        self.check_lengths(queries)
        first, *rest = self._requests(queries)
        self._take(first, self._endpoint.score(first), evaluator)
        if rest:
            self._send(rest, evaluator)
        return [self._known[query] for query in queries]

    def price_new(self, queries: list[Query]) -> Cost:
        """See `ScoreEngine`: passes are requests, positions tokens that are sent."""
        self.check_lengths(queries)
        cost = Cost()
        for request in self._requests(queries):
            cost.forward.add(_size(request))
        block = self._endpoint.capabilities.reuse_block
        if block:
            cost.reused = sum(known // block * block for known in _shared(queries))
        return cost

    def distributions(self, query: Query, evaluator: Evaluator) -> Tensor:
        """See `ScoreEngine`.

        Raises:
            InvalidValue: always; an endpoint gives the log-probabilities of the answer's tokens alone.
        """
        raise InvalidValue(_refusal("a scalar that needs distributions over the vocabulary"))

    def price_distributions(self, query: Query) -> Cost:
        """See `distributions`."""
        raise InvalidValue(_refusal("a scalar that needs distributions over the vocabulary"))

    def _requests(self, queries: Sequence[Query]) -> list[list[Query]]:
        ordered = sorted(queries, key=lambda query: (query.variant.tokens, query.answer))
        longest = max(ordered, key=lambda query: len(query.variant.tokens))
        rest, size = [query for query in ordered if query is not longest], self._endpoint.per_request
        return [[longest], *(rest[start : start + size] for start in range(0, len(rest), size))]

    def _send(self, requests: Sequence[list[Query]], evaluator: Evaluator) -> None:
        """Sends requests, several at a time; after an error, waits for those on their way and keeps their answers."""
        stop = Event()
        with ThreadPoolExecutor(self._endpoint.in_flight) as pool:
            waiting = {pool.submit(self._endpoint.score, request, stop): request for request in requests}
            try:
                while waiting:
                    evaluator.check()
                    done, _ = wait(waiting, PULSE, FIRST_COMPLETED)
                    for future in done:
                        self._take(waiting.pop(future), future.result(), evaluator)
            finally:
                if waiting:
                    stop.set()
                    self._rescue(waiting, evaluator)

    def _rescue(self, waiting: dict[Future[list[Scored]], list[Query]], evaluator: Evaluator) -> None:
        for future in waiting:
            future.cancel()
        for future, request in waiting.items():
            if not future.cancelled():
                try:
                    self._take(request, future.result(), evaluator)
                except LlmAttrError:
                    continue

    def _take(self, request: list[Query], scored: Sequence[Scored], evaluator: Evaluator) -> None:
        self.cost.forward.add(_size(request))
        self.cost.reused += sum(each.reused for each in scored)
        values = (torch.tensor(each.log_probs, dtype=torch.float32, device="cpu") for each in scored)
        self.keep(request, list(map(Reading, values)))
        evaluator.advance(len(request))


def refuse_gaps(gaps: bool) -> None:
    """Refuses variants whose absent tokens leave gaps.

    Raises:
        InvalidValue: there are gaps.
    """
    if gaps:
        raise InvalidValue(
            "absence='mask' hides tokens and keeps their positions, which no request to an engine can say; use "
            "absence='delete' or 'replace', or a model in this process"
        )


def refuse_scalar(label: Any) -> None:
    """Refuses a scalar that is read from logits.

    Raises:
        InvalidValue: always.
    """
    raise InvalidValue(_refusal(f"the scalar {label}"))


def _refusal(what: str) -> str:
    return (
        f"{what} is read from logits, and an engine gives only the log-probabilities of the answer's tokens; log_prob, "
        "prob and a contrast (foil=) work, and everything else with a model in this process"
    )


def _size(request: Sequence[Query]) -> Call:
    answers = sum(len(query.answer) for query in request)
    return Call(sum(len(query.variant.tokens) for query in request) + answers, answers)


def _shared(queries: Sequence[Query]) -> list[int]:
    """The positions that each query has in common with the one before it in depth-first order, or with the longest."""
    rows = sorted((*query.variant.tokens, *query.answer) for query in queries)
    full = max(rows, key=len)
    pairs = zip(rows[1:], rows, strict=False)
    return [max(_common(row, before), 0 if row is full else _common(row, full)) for row, before in pairs]


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
