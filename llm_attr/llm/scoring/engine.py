"""`ScoreEngine`: the protocol between text games and whatever scores their answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any, TypeVar

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import NonFiniteScore
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.readout import Reading
from llm_attr.llm.scoring.stored import StoredReadings

Result = TypeVar("Result")


class ScoreEngine(ABC):
    """Scores answers after variants of prompts, with log-probabilities per token; equal queries are scored once.

    Subclasses implement how new queries are scored and what that costs.

    Args:
        language_model: Model and tokenizer.
        most: The most variants that are scored together; None for as many as fit.
        stored: The readings of this model in a ledger: what it has is not scored, and what is new is added.

    Attributes:
        cost: The cost so far.
        from_ledger: How many variants the ledger had, counted once per answer or foil.
    """

    def __init__(
        self, language_model: LanguageModel, most: int | None = None, stored: StoredReadings | None = None
    ) -> None:
        self.language_model, self.most, self.stored, self.cost = language_model, most, stored, Cost()
        self.from_ledger = 0
        self._known: dict[Query, Reading] = {}

    @abstractmethod
    def score_new(self, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """Scores queries that are not known yet."""

    @abstractmethod
    def price_new(self, queries: list[Query]) -> Cost:
        """What `score_new` would add to the cost; does not run the model."""

    @abstractmethod
    def distributions(self, query: Query, evaluator: Evaluator) -> Tensor:
        """fp32 `(answer tokens, vocabulary)` log-probabilities in nats.

        Raises:
            ContextTooLong: the variant and its answer do not fit into the model's context.
        """

    @abstractmethod
    def price_distributions(self, query: Query) -> Cost:
        """What `distributions` would add to the cost."""

    def shares_prefixes(self, queries: Sequence[Query]) -> bool:
        """Whether prefixes that these queries have in common are computed once."""
        return False

    @property
    def how(self) -> str | None:
        """How queries were scored, in words; None before the first one."""
        return None

    @property
    def processes(self) -> list[dict[str, Any]] | None:
        """The host and the positions of each process that shared the work; None if there was one."""
        return None

    @property
    def variants(self) -> int:
        """How many variants have been scored, counted once per answer or foil."""
        return len(self._known)

    def score(self, queries: Sequence[Query], evaluator: Evaluator) -> list[Tensor]:
        """`(answer tokens,)` log-probabilities in nats for each query, fp32 on the CPU; see `read`."""
        return [reading.log_probs for reading in self.read(queries, evaluator)]

    def read(self, queries: Sequence[Query], evaluator: Evaluator) -> list[Reading]:
        """Log-probabilities and the scalars of each query, fp32 on the CPU.

        Raises:
            ContextTooLong: a variant and its answer do not fit into the model's context.
            NonFiniteScore: the model's output is NaN or infinite.
        """
        self.learn(queries, evaluator)
        readings = [self._known[query] for query in queries]
        self._refuse_non_finite(queries, readings)
        return readings

    def learn(self, queries: Sequence[Query], evaluator: Evaluator) -> None:
        """Scores the queries that are not known yet, without checking the scores.

        Raises:
            ContextTooLong: a variant and its answer do not fit into the model's context.
        """
        self.check_lengths(queries)
        self._recall(queries)
        for part in self._parts(queries):
            self.keep(part, self.score_new(part, evaluator))

    def keep(self, queries: Sequence[Query], readings: Sequence[Reading]) -> None:
        """Remembers readings, and adds those that are new to the ledger."""
        new = {query: reading for query, reading in zip(queries, readings, strict=True) if query not in self._known}
        self._store(list(new), list(new.values()))
        self._known.update(new)

    def price(self, queries: Sequence[Query]) -> Cost:
        """What scoring these queries together would add to the cost.

        Raises:
            ContextTooLong: a variant and its answer do not fit into the model's context.
        """
        self.check_lengths(queries)
        self._recall(queries)
        return reduce(add, map(self.price_new, self._parts(queries)), Cost())

    def check_lengths(self, queries: Sequence[Query]) -> None:
        """Checks that all queries fit into the model's context.

        Raises:
            ContextTooLong: a variant and its answer do not fit.
        """
        for query in queries:
            self.language_model.check_length(query.variant.end, len(query.answer))

    def reference(self, query: Query, evaluator: Evaluator) -> Tensor:
        """`distributions`, from the ledger if it has them."""
        self.check_lengths([query])
        stored = self.stored
        known = None if stored is None else self.on_ledger(lambda: stored.read_distributions(query))
        if known is not None:
            return known.to(self.language_model.device)
        found = self.distributions(query, evaluator)
        if stored is not None:
            self.on_ledger(lambda: stored.write_distributions(query, found))
        return found

    def on_ledger(self, act: Callable[[], Result]) -> Result:
        """Reads the ledger or writes to it; an engine of several processes has one of them do so."""
        return act()

    def _recall(self, queries: Sequence[Query]) -> None:
        """Takes from the ledger what is not known yet."""
        stored = self.stored
        if stored is None:
            return
        unknown = [query for query in dict.fromkeys(queries) if query not in self._known]
        found = self.on_ledger(lambda: stored.read(unknown)) if unknown else []
        readings = {query: reading for query, reading in zip(unknown, found, strict=True) if reading is not None}
        self.from_ledger += len(readings)
        self._known.update(readings)

    def _store(self, queries: list[Query], readings: list[Reading]) -> None:
        """Adds new readings to the ledger."""
        stored = self.stored
        if stored is not None:
            self.on_ledger(lambda: stored.write(queries, readings))

    def _parts(self, queries: Sequence[Query]) -> Iterator[list[Query]]:
        """The unknown queries, in parts of at most `most` variants."""
        of_variant: dict[Variant, list[Query]] = {}
        for query in dict.fromkeys(queries):
            if query not in self._known:
                of_variant.setdefault(query.variant, []).append(query)
        variants = list(of_variant.values())
        size = self.most or max(1, len(variants))
        for start in range(0, len(variants), size):
            yield [query for part in variants[start : start + size] for query in part]

    def _refuse_non_finite(self, queries: Sequence[Query], readings: Sequence[Reading]) -> None:
        for query, reading in zip(queries, readings, strict=True):
            names = ["log-probabilities", *(scalar.label for scalar in query.scalars)]
            for name, values in zip(names, (reading.log_probs, *reading.scalars), strict=True):
                if not torch.isfinite(values).all():
                    text = self.language_model.decode(list(query.variant.tokens))
                    raise NonFiniteScore(
                        f"{self.language_model.name} ({self.language_model.dtype}) gave NaN or infinite {name} "
                        f"for one of {len(queries)} variants, {text[:80]!r}; check the weights, or load the model in "
                        "bf16 or fp32"
                    )


class CountingEngine(ScoreEngine):
    """Counts what another engine would cost without running the model; scores are 0, except those of its ledger.

    Args:
        engine: The engine whose cost is counted; its own state does not change.
    """

    def __init__(self, engine: ScoreEngine) -> None:
        super().__init__(engine.language_model, engine.most, engine.stored and engine.stored.reading_only())
        self._engine = engine

    def score_new(self, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """Returns zeros."""
        self.cost += self.price_new(queries)
        zeros = [torch.zeros(len(query.answer), dtype=torch.float32, device="cpu") for query in queries]
        return [Reading(zero, (zero,) * len(query.scalars)) for zero, query in zip(zeros, queries, strict=True)]

    def price_new(self, queries: list[Query]) -> Cost:
        """The cost of the other engine."""
        return self._engine.price_new(queries)

    def distributions(self, query: Query, evaluator: Evaluator) -> Tensor:
        """Returns zeros, over a vocabulary of one."""
        self.check_lengths([query])
        self.cost += self.price_distributions(query)
        return torch.zeros(len(query.answer), 1, dtype=torch.float32, device="cpu")

    def on_ledger(self, act: Callable[[], Result]) -> Result:
        """As the other engine does."""
        return self._engine.on_ledger(act)

    def price_distributions(self, query: Query) -> Cost:
        """The cost of the other engine."""
        return self._engine.price_distributions(query)
