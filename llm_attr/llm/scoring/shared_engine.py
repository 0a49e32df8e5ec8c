"""`SharedEngine`: new queries are shared out over the processes of a team."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.parallel.sharing import announcing, cuts
from llm_attr.core.parallel.team import Team, joined
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.scoring.engine import Result, ScoreEngine
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.readout import Reading


class SharedEngine(ScoreEngine):
    """Scores a part of the new queries in each process of a team, by the engine of that process.

    The parts are runs of queries in the depth-first order of their prefix tree, so that little of it is computed twice,
    with about the same number of positions each.

    Args:
        make_engine: Makes the engine of this process.
        team: The processes.

    Attributes:
        cost: The cost of all processes together.
    """

    def __init__(self, make_engine: Callable[[], ScoreEngine], team: Team) -> None:
        self._engine, self._team = make_engine(), team
        super().__init__(self._engine.language_model, self._engine.most, self._engine.stored)
        self._positions, self._hosts = [0] * team.size, [socket.gethostname()] * team.size
        self._how: str | None = None

    @property
    def how(self) -> str | None:
        """How the first process that had queries scored them."""
        return self._how

    @property
    def processes(self) -> list[dict[str, Any]]:
        """See `ScoreEngine`."""
        pairs = zip(self._hosts, self._positions, strict=True)
        return [{"host": host, "positions": positions} for host, positions in pairs]

    def score_new(self, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """See `ScoreEngine`."""
        order, parts = shares(queries, self._team.size, self._engine.shares_prefixes(queries))
        own = order[parts[self._team.rank] : parts[self._team.rank + 1]]
        before = evaluator.done
        with announcing(self._team), joined(self._team.own):
            self._engine.cost = Cost()
            found = self._engine.score_new([queries[i] for i in own], evaluator) if own else []
        done = evaluator.done - before
        sent = found, self._engine.cost, done, self._engine.how, socket.gethostname()
        same = hash(tuple((query.variant.tokens, query.variant.positions, query.answer) for query in queries))
        replies = self._team.exchange(f"{len(queries)} variants {same}", sent)
        evaluator.advance(sum(reply[2] for reply in replies) - done)
        self._how = self._how or next((reply[3] for reply in replies if reply[3]), None)
        self._hosts = [reply[4] for reply in replies]
        for rank, (_, cost, *_) in enumerate(replies):
            self.cost += cost
            self._positions[rank] += cost.positions
        readings = [reading for found, *_ in replies for reading in found]
        return [reading for _, reading in sorted(zip(order, readings, strict=True), key=lambda pair: pair[0])]

    def on_ledger(self, act: Callable[[], Result]) -> Result:
        """See `ScoreEngine`; the first process does, and tells the others what it found."""
        with announcing(self._team):
            own = act() if self._team.process == 0 else None
        return self._team.agreed("ledger", cast(Result, own))

    def price_new(self, queries: list[Query]) -> Cost:
        """The cost in one process, as the first one sees it."""
        return self._team.agreed("price", self._engine.price_new(queries))

    def distributions(self, query: Query, evaluator: Evaluator) -> Tensor:
        """See `ScoreEngine`; computed by the first process."""
        found = torch.empty(0, dtype=torch.float32, device="cpu")
        self.check_lengths([query])
        with announcing(self._team), joined(self._team.own):
            self._engine.cost = Cost()
            if self._team.rank == 0:
                found = self._engine.distributions(query, evaluator)
        found, cost = self._team.exchange("reference", (found, self._engine.cost))[0]
        self.cost += cost
        self._positions[0] += cost.positions
        return found.to(self.language_model.device)

    def price_distributions(self, query: Query) -> Cost:
        """See `ScoreEngine`."""
        return self._engine.price_distributions(query)


def shares(queries: Sequence[Query], parts: int, by_prefix: bool) -> tuple[list[int], list[int]]:
    """The order of the queries, and where to cut it into parts of about the same cost.

    Args:
        queries: Different queries.
        parts: How many parts.
        by_prefix: Whether queries that are scored together share their prefixes.
    """
    rows = [torch.tensor([query.positions, query.tokens], device="cpu").t() for query in queries]
    order = sorted(range(len(rows)), key=lambda i: [tuple(pair) for pair in rows[i].tolist()])
    alone = [len(rows[i]) for i in order]
    if not by_prefix:
        return order, cuts(alone, alone, parts)
    common = [0, *(_common(rows[a], rows[b]) for a, b in pairwise(order))]
    return order, cuts([length - known for length, known in zip(alone, common, strict=True)], alone, parts)


def _common(one: Tensor, other: Tensor) -> int:
    """The length of the common prefix."""
    length = min(len(one), len(other))
    same = (one[:length] == other[:length]).all(1)
    return length if bool(same.all()) else int(same.int().argmin())
