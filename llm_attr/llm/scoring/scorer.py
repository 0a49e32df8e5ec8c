"""Scores of answers after many variants of prompts, in as few token positions as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.memory import is_out_of_memory
from llm_attr.errors import LlmAttrError, NonFiniteScore
from llm_attr.llm.model.backend import Counter
from llm_attr.llm.model.cost import Call, Forecast
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.passes import TreePass, TreeRefused, WholePass
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.readout import Reading
from llm_attr.llm.scoring.strategy import Way, Whole, against_masks, remember_way, remember_whole, way_for, whole_for
from llm_attr.llm.scoring.verification import Verification, sees_what_is_masked, witness


@dataclass
class Scorer:
    """Log-probabilities of the tokens of answers after variants of prompts.

    Equal queries are scored once, and shared prefixes of (token, position) once, whatever prompts they come from,
    where the model allows it: the new nodes of the prefix tree go through the model's own forward in packs, with a mask
    by which each sees its ancestors. Models for which that is not exact (recurrent, hybrid, ALiBi, other attention
    kernels) get whole sequences without cache. The first tree of a model, and any deeper one, is compared with a whole
    sequence; where they differ, or the model refuses the tree, whole sequences are used from then on.

    Attributes:
        language_model: Model and tokenizer.
        cached: False scores every query whole and without cache.
        most: The most variants of one pass; None for as many as fit.
        counter: Passes, positions and head rows so far.
        way: How queries were scored, and why; None before the first.
        forecast: Where calls of the model are noted that are not made, and count what they would; every score is 0
            then. None: they are made.
    """

    language_model: LanguageModel
    cached: bool = True
    most: int | None = None
    counter: Counter = field(default_factory=Counter)
    way: Way | None = None
    forecast: Forecast | None = None
    _known: dict[Query, Reading] = field(default_factory=dict)

    @property
    def variants(self) -> int:
        """How many variants have been scored, each with each answer or foil behind it."""
        return len(self._known)

    def score(self, queries: Sequence[Query], evaluator: Evaluator) -> list[Tensor]:
        """`(answer tokens,)` log-probabilities in nats for each query, fp32 on the CPU.

        Raises:
            ContextTooLong: a variant and its answer do not fit into the model's context.
            NonFiniteScore: the model answered NaN or infinity.
        """
        return [reading.log_probs for reading in self.read(queries, evaluator)]

    def read(self, queries: Sequence[Query], evaluator: Evaluator) -> list[Reading]:
        """Log-probabilities, and the scalars that each query asks for, fp32 on the CPU.

        Raises:
            ContextTooLong: a variant and its answer do not fit into the model's context.
            NonFiniteScore: the model answered NaN or infinity.
        """
        self.learn(queries, evaluator)
        readings = [self._known[query] for query in queries]
        self._refuse_non_finite(queries, readings)
        return readings

    def distributions(self, query: Query, evaluator: Evaluator) -> Tensor:
        """fp32 `(answer tokens, vocabulary)` log-probabilities in nats, from one pass over the whole sequence.

        Raises:
            ContextTooLong: the variant and its answer do not fit into the model's context.
        """
        self.check_lengths([query])
        whole = WholePass(self.language_model, self.counter)
        if self.forecast is not None:
            self._note(self.forecast, [whole.call([query])])
            return torch.zeros(len(query.answer), 1, dtype=torch.float32, device="cpu")

        def evaluate(*_: int) -> Tensor:
            logits, rows = whole.logits([query])
            return logits[rows.to(logits.device)].float().log_softmax(-1)

        with self.language_model.inference():
            return next(iter(evaluator.run(1, 1, evaluate)))

    def learn(self, queries: Sequence[Query], evaluator: Evaluator) -> None:
        """Scores what is not known yet; what the model answered is looked at where it is asked for.

        Raises:
            ContextTooLong: a variant and its answer do not fit into the model's context.
        """
        self.check_lengths(queries)
        new = [query for query in dict.fromkeys(queries) if query not in self._known]
        of_variant: dict[Variant, list[Query]] = {}
        for query in new:
            of_variant.setdefault(query.variant, []).append(query)
        variants = list(of_variant.values())
        size = self.most or max(1, len(variants))
        for i in range(0, len(variants), size):
            part = [query for queries in variants[i : i + size] for query in queries]
            with self.language_model.inference():
                readings = self._read_new(part, evaluator)
            self._known.update(zip(part, readings, strict=True))

    def price(self, queries: Sequence[Query], evaluator: Evaluator) -> Counter:
        """What scoring these together would add to the counter."""
        dry = replace(self, counter=Counter(), forecast=Forecast(), _known=dict(self._known))
        dry.learn(queries, evaluator)
        return dry.counter

    def check_lengths(self, queries: Sequence[Query]) -> None:
        """Refuses what does not fit into the model's context.

        Raises:
            ContextTooLong: a variant and its answer do not.
        """
        for query in queries:
            self.language_model.check_length(query.variant.end, len(query.answer))

    def _read_new(self, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        gaps = any(query.variant.has_gaps for query in queries)
        self.way = way_for(self.language_model, gaps) if self.cached else Way("whole sequences", "asked for", gaps=gaps)
        if gaps and (why := against_masks(self.language_model)):
            raise sees_what_is_masked(self.language_model, why)
        if self.forecast is not None:
            return self._foreseen(queries, self.way, self.forecast)
        if self.way.kind == "whole sequences":
            return self._read_whole(self.way, queries, evaluator)
        tree_pass = TreePass(self.language_model, queries, self.way, self.counter)
        before, refusal = evaluator.done, None
        try:
            readings = tree_pass.run(evaluator)
        except TreeRefused as refused:
            if self.way.proven or isinstance(refused.error, LlmAttrError):
                raise refused.error from None
            refusal, reason = refused, f"the model's forward refused a prefix tree: {refused}"
        else:
            contradiction = self._contradiction(self.way, queries, readings, tree_pass)
            if contradiction is None:
                return readings
            reason = f"prefix tree and whole sequence differ by {contradiction:.2g} nats"
        evaluator.advance(before - evaluator.done)
        way = Way("whole sequences", reason, gaps=gaps)
        readings = self._read_whole(way, queries, evaluator)
        remember_way(self.language_model, way)
        if refusal is not None:
            warn_caller(f"{self.language_model.name}: {reason}; whole sequences take longer", UserWarning)
        return readings

    def _read_whole(self, way: Way, queries: list[Query], evaluator: Evaluator) -> list[Reading]:
        """Whole sequences; one at a time and with all their logits where a batch of them is not what each is alone."""
        known, before = whole_for(self.language_model, way.gaps), evaluator.done
        self.way = known.explained(way)
        whole = WholePass(self.language_model, self.counter, plain=known.apart is not None)
        readings = whole.run(queries, evaluator)
        if known.apart is not None:
            return readings
        known = self._compared(known, queries, readings, whole)
        remember_whole(self.language_model, way.gaps, known)
        if known.apart is None:
            return readings
        self.way = known.explained(way)
        evaluator.advance(before - evaluator.done)
        return WholePass(self.language_model, self.counter, plain=True).run(queries, evaluator)

    def _compared(self, known: Whole, queries: Sequence[Query], readings: Sequence[Reading], whole: WholePass) -> Whole:
        """What is known after comparisons of what was not."""
        shapes, verification = whole.shapes(queries), Verification(self.language_model)
        while (chosen := witness(shapes, known.proven)) is not None and known.apart is None:
            if not torch.isfinite(readings[chosen].log_probs).all():
                break
            try:
                apart = verification.of_batch(queries[chosen], readings[chosen].log_probs)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                break
            known = Whole(known.proven | shapes[chosen], apart)
        self.counter.check_positions += verification.counter.positions
        return known

    def _foreseen(self, queries: Sequence[Query], way: Way, forecast: Forecast) -> list[Reading]:
        if way.kind == "whole sequences":
            known = whole_for(self.language_model, way.gaps)
            whole = WholePass(self.language_model, self.counter, plain=known.apart is not None)
            self._note(forecast, whole.calls(queries))
            if known.apart is None:
                new = frozenset().union(*whole.shapes(queries)) - known.proven
                self.counter.check_positions += len(new) * max(query.length for query in queries)
        else:
            tree_pass = TreePass(self.language_model, queries, way, self.counter)
            self._note(forecast, tree_pass.calls())
            witness = tree_pass.witness(queries)
            if not way.is_proven_for(tree_pass.shape(witness), queries[witness].length):
                self.counter.check_positions += queries[witness].length
            forecast.context = max(forecast.context, *(query.length for query in queries), 0)
        nothing = [torch.zeros(len(query.answer), dtype=torch.float32, device="cpu") for query in queries]
        return [Reading(zeros, (zeros,) * len(query.scalars)) for zeros, query in zip(nothing, queries, strict=True)]

    def _note(self, forecast: Forecast, calls: Sequence[Call]) -> None:
        forecast.note(calls)
        for call in calls:
            self.counter.add(*call)

    def _contradiction(
        self, way: Way, queries: Sequence[Query], readings: Sequence[Reading], tree_pass: TreePass
    ) -> float | None:
        """The nats by which the tree's scores of a query differ from those of a whole sequence; asked if not known."""
        chosen = tree_pass.witness(queries)
        query, found, shape = queries[chosen], readings[chosen].log_probs, tree_pass.shape(chosen)
        if way.is_proven_for(shape, query.length):
            return None
        verification = Verification(self.language_model)
        try:
            apart = verification.of_tree(query, found, tree_pass.dtype)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.way = replace(way, reason=f"{way.reason}; not compared with a whole sequence: no memory for it")
            return None
        self.counter.check_positions += verification.counter.positions
        if apart is None and torch.isfinite(found).all():
            self.way = remember_way(self.language_model, way.proved(shape, query.length))
        return apart

    def _refuse_non_finite(self, queries: Sequence[Query], readings: Sequence[Reading]) -> None:
        for query, reading in zip(queries, readings, strict=True):
            names = ["log-probabilities", *(scalar.label for scalar in query.scalars)]
            for name, found in zip(names, (reading.log_probs, *reading.scalars), strict=True):
                if not torch.isfinite(found).all():
                    text = self.language_model.decode(list(query.variant.tokens))
                    raise NonFiniteScore(
                        f"{self.language_model.name} ({self.language_model.dtype}) gave NaN or infinite {name} "
                        f"for one of {len(queries)} variants, {text[:80]!r}; check the weights, or load the model in "
                        "bf16 or fp32"
                    )
