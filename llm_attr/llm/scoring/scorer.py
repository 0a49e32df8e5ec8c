"""`Scorer`: the engine for a local model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.memory import is_out_of_memory
from llm_attr.core.parallel.team import current_team
from llm_attr.errors import LlmAttrError
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.passes import TreePass, TreeRefused, WholePass
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.readout import Reading
from llm_attr.llm.scoring.stored import StoredReadings
from llm_attr.llm.scoring.strategy import (
    BatchCheck,
    Strategy,
    batch_check_for,
    reason_against_masks,
    remember_batch_check,
    remember_strategy,
    strategy_for,
)
from llm_attr.llm.scoring.verification import Verification, probe, sees_what_is_masked


@runtime_checkable
class HasEngine(Protocol):
    """A language model that is scored by an engine of its own."""

    def score_engine(self, cached: bool, most: int | None, stored: StoredReadings | None) -> ScoreEngine:
        """The engine; the arguments are those of `Scorer`."""


def engine_for(
    language_model: LanguageModel,
    cached: bool = True,
    most: int | None = None,
    stored: StoredReadings | None = None,
) -> ScoreEngine:
    """The engine of a language model: its own, or a `Scorer`, which has the same arguments."""
    if isinstance(language_model, HasEngine):
        return language_model.score_engine(cached, most, stored)
    return Scorer(language_model, cached, most, stored)


class Scorer(ScoreEngine):
    """Scores with a model in this process, in as few token positions as possible.

    Where the model allows it, shared prefixes of (token, position) are computed once, across prompts: the new nodes of
    the prefix tree go through the model's own forward in packs, with a mask that lets each attend to its ancestors.
    Models for which that is not exact (recurrent, hybrid, ALiBi, other attention kernels) get full sequences without
    cache. The first tree of a model, and any deeper one, is verified against a full sequence; if they differ, or the
    model refuses the tree, full sequences are used from then on.

    Args:
        language_model: Model and tokenizer.
        cached: False scores every query in full, without cache.
        most: The most variants per pass; None for as many as fit.
        stored: See `ScoreEngine`.

    Attributes:
        strategy: How queries were scored, and why; None before the first one.
    """

    def __init__(
        self,
        language_model: LanguageModel,
        cached: bool = True,
        most: int | None = None,
        stored: StoredReadings | None = None,
    ) -> None:
        super().__init__(language_model, most, stored)
        self._cached = cached
        self.strategy: Strategy | None = None

    @property
    def how(self) -> str | None:
        """See `ScoreEngine`."""
        return None if self.strategy is None else f"{self.strategy.kind} ({self.strategy.reason})"

    def shares_prefixes(self, queries: Sequence[Query]) -> bool:
        """See `ScoreEngine`."""
        return self._strategy_for(queries).kind != "whole sequences"

    def score_new(self, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """See `ScoreEngine`."""
        with self.language_model.inference():
            self.strategy = self._strategy_for(queries)
            if self.strategy.kind == "whole sequences":
                return self._read_whole(self.strategy, queries, evaluator)
            return self._read_tree(self.strategy, queries, evaluator)

    def price_new(self, queries: list[Query]) -> Cost:
        """See `ScoreEngine`; includes pending verifications."""
        strategy, cost = self._strategy_for(queries), Cost()
        longest = max(query.length for query in queries)
        if strategy.kind == "whole sequences":
            known = batch_check_for(self.language_model, strategy.gaps)
            whole = WholePass(self.language_model, cost, plain=known.difference is not None)
            cost.count(whole.calls(queries))
            if known.difference is None:
                new = frozenset().union(*whole.shapes(queries)) - known.verified
                cost.check_positions += len(new) * longest
            return cost
        tree_pass = TreePass(self.language_model, queries, strategy, cost)
        cost.count(tree_pass.calls())
        chosen = tree_pass.probe(queries)
        if not strategy.is_verified_for(tree_pass.shape(chosen), queries[chosen].length):
            cost.check_positions += queries[chosen].length
        cost.context = longest
        return cost

    def distributions(self, query: Query, evaluator: Evaluator) -> Tensor:
        """See `ScoreEngine`; one pass over the full sequence."""
        self.check_lengths([query])
        whole = WholePass(self.language_model, self.cost)

        def evaluate(*_: int) -> Tensor:
            logits, rows = whole.logits([query])
            return logits[rows.to(logits.device)].float().log_softmax(-1)

        with self.language_model.inference():
            return next(iter(evaluator.run(1, 1, evaluate)))

    def price_distributions(self, query: Query) -> Cost:
        """See `ScoreEngine`."""
        cost = Cost()
        cost.count([WholePass(self.language_model, cost).call([query])])
        return cost

    def _strategy_for(self, queries: Sequence[Query]) -> Strategy:
        gaps = any(query.variant.has_gaps for query in queries)
        if gaps and (why := reason_against_masks(self.language_model)):
            raise sees_what_is_masked(self.language_model, why)
        if not self._cached:
            return Strategy("whole sequences", "asked for", gaps=gaps)
        return strategy_for(self.language_model, gaps)

    def _read_tree(self, strategy: Strategy, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """Scores by a prefix tree, or by full sequences if the model turns out not to support it."""
        tree_pass = TreePass(self.language_model, queries, strategy, self.cost)
        before, refusal = evaluator.done, None
        try:
            readings = tree_pass.run(evaluator)
        except TreeRefused as refused:
            team = current_team()
            in_step = team is not None and team.shards > 1  # the others may be inside the model
            if strategy.verified or in_step or isinstance(refused.error, LlmAttrError):
                raise refused.error from None
            refusal, reason = refused, f"the model's forward refused a prefix tree: {refused}"
        else:
            contradiction = self._contradiction(strategy, queries, readings, tree_pass)
            if contradiction is None:
                return readings
            reason = f"prefix tree and whole sequence differ by {contradiction:.2g} nats"
        evaluator.advance(before - evaluator.done)
        strategy = Strategy("whole sequences", reason, gaps=strategy.gaps)
        readings = self._read_whole(strategy, queries, evaluator)
        remember_strategy(self.language_model, strategy)
        if refusal is not None:
            warn_caller(f"{self.language_model.name}: {reason}; whole sequences take longer", UserWarning)
        return readings

    def _read_whole(self, strategy: Strategy, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """Scores full sequences; one at a time, with all logits, if batching changes the scores."""
        known, before = batch_check_for(self.language_model, strategy.gaps), evaluator.done
        self.strategy = known.explained(strategy)
        whole = WholePass(self.language_model, self.cost, plain=known.difference is not None)
        readings = whole.run(queries, evaluator)
        if known.difference is not None:
            return readings
        known = self._compared(known, queries, readings, whole)
        remember_batch_check(self.language_model, strategy.gaps, known)
        if known.difference is None:
            return readings
        self.strategy = known.explained(strategy)
        evaluator.advance(before - evaluator.done)
        return WholePass(self.language_model, self.cost, plain=True).run(queries, evaluator)

    def _compared(
        self, known: BatchCheck, queries: Sequence[Query], readings: Sequence[Reading], whole: WholePass
    ) -> BatchCheck:
        """The batch check after verifying what had not been verified."""
        shapes, verification = whole.shapes(queries), Verification(self.language_model)
        while (chosen := probe(shapes, known.verified)) is not None and known.difference is None:
            if not torch.isfinite(readings[chosen].log_probs).all():
                break
            try:
                difference = verification.of_batch(queries[chosen], readings[chosen].log_probs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            known = BatchCheck(known.verified | shapes[chosen], difference)
        self.cost.check_positions += verification.cost.positions
        return known

    def _contradiction(
        self, strategy: Strategy, queries: Sequence[Query], readings: Sequence[Reading], tree_pass: TreePass
    ) -> float | None:
        """The nats by which the tree's scores of a query differ from a full sequence's; None if verified."""
        chosen = tree_pass.probe(queries)
        query, log_probs, shape = queries[chosen], readings[chosen].log_probs, tree_pass.shape(chosen)
        if strategy.is_verified_for(shape, query.length):
            return None
        verification = Verification(self.language_model)
        try:
            difference = verification.of_tree(query, log_probs, tree_pass.dtype)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.strategy = replace(
                strategy, reason=f"{strategy.reason}; not compared with a whole sequence: no memory for it"
            )
            return None
        self.cost.check_positions += verification.cost.positions
        if difference is None and torch.isfinite(log_probs).all():
            self.strategy = remember_strategy(self.language_model, strategy.verified_for(shape, query.length))
        return difference
