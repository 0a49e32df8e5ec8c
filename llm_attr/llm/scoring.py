"""Scores of many variants of a prompt for one answer, in as few token positions as possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.memory import is_out_of_memory
from llm_attr.errors import LlmAttrError, NonFiniteScore
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.passes import Counter, TreePass, WholePass
from llm_attr.llm.prefix_tree import PrefixTree, Variant
from llm_attr.llm.ways import Way, agree, remember_way, way_for


@dataclass
class Scorer:
    """Log-probabilities of an answer's tokens after variants of a prompt.

    Equal variants are scored once, and shared prefixes of (token, position) once, where the model allows it: the new
    nodes of the prefix tree go through the model's own forward in packs, with a mask by which each sees its
    ancestors. Models for which that is not exact (recurrent, hybrid, ALiBi, other attention kernels) get whole
    sequences without cache. The first tree of a model, and any deeper one, is compared with a whole sequence; where
    they differ, or the model refuses the tree, whole sequences are used from then on.

    Attributes:
        language_model: Model and tokenizer.
        answer: The token ids that are scored.
        cached: False scores every variant whole and without cache.
        counter: Passes, positions and head rows so far.
        way: How variants were scored, and why; None before the first.
    """

    language_model: LanguageModel
    answer: tuple[int, ...]
    cached: bool = True
    counter: Counter = field(default_factory=Counter)
    way: Way | None = None
    _known: dict[Variant, Tensor] = field(default_factory=dict)

    @property
    def variants(self) -> int:
        """How many distinct variants have been scored."""
        return len(self._known)

    def score(self, variants: Sequence[Variant], evaluator: Evaluator) -> Tensor:
        """`(variants, answer tokens)` log-probabilities in nats, fp32 on the CPU.

        Raises:
            ContextTooLong: a variant and the answer do not fit into the model's context.
            NonFiniteScore: the model answered NaN or infinity.
        """
        new = [variant for variant in dict.fromkeys(variants) if variant not in self._known]
        for variant in new:
            self.language_model.check_length(variant.end, len(self.answer))
        if new:
            with self.language_model.inference():
                scores = self._score_new(new, evaluator)
            self._refuse_non_finite(new, scores)
            self._known.update(zip(new, scores, strict=True))
        return torch.stack([self._known[variant] for variant in variants])

    def _score_new(self, variants: list[Variant], evaluator: Evaluator) -> Tensor:
        gaps = any(variant.has_gaps for variant in variants)
        self.way = way_for(self.language_model, gaps) if self.cached else Way("whole sequences", "asked for")
        if self.way.kind == "whole sequences":
            return WholePass(self.language_model, self.answer, self.counter).run(variants, evaluator)
        tree = PrefixTree.of(variants, self.answer)
        tree_pass = TreePass(self.language_model, self.answer, tree, self.way, self.counter)
        before = evaluator.done
        try:
            scores = tree_pass.run(evaluator)
        except (TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
            if self.way.proven or isinstance(error, LlmAttrError) or is_out_of_memory(error):
                raise
            reason = f"the model's forward refused a prefix tree: {type(error).__name__}: {error}"
        else:
            contradiction = self._contradiction(
                self.way, variants[tree_pass.witness], scores[tree_pass.witness], tree_pass
            )
            if contradiction is None:
                return scores
            reason = contradiction
        self.way = remember_way(self.language_model, Way("whole sequences", reason, gaps=gaps))
        evaluator.advance(before - evaluator.done)
        return WholePass(self.language_model, self.answer, self.counter).run(variants, evaluator)

    def _contradiction(self, way: Way, witness: Variant, scores: Tensor, tree_pass: TreePass) -> str | None:
        """How the tree's scores of a variant differ from those of a whole sequence; asked where not known."""
        length = witness.end - 1 + len(self.answer)
        if way.is_proven_for(tree_pass.shape, length):
            return None
        check = Counter()
        try:
            expected = WholePass(self.language_model, self.answer, check).batch([witness])[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self.way = replace(way, reason=f"{way.reason}; not compared with a whole sequence: no memory for it")
            return None
        self.counter.check_positions += check.positions
        if not torch.isfinite(expected).all():
            return None
        if not agree(scores, expected, tree_pass.dtype):
            return f"prefix tree and whole sequence differ by {(scores - expected).abs().max().item():.2g} nats"
        self.way = remember_way(self.language_model, way.proved(tree_pass.shape, length))
        return None

    def _refuse_non_finite(self, variants: list[Variant], scores: Tensor) -> None:
        broken = (~torch.isfinite(scores)).any(1).nonzero().flatten().tolist()
        if broken:
            text = self.language_model.decode(list(variants[broken[0]].tokens))
            raise NonFiniteScore(
                f"{self.language_model.name} ({self.language_model.model.dtype}) gave NaN or infinite "
                f"log-probabilities for {len(broken)} of {len(variants)} variants, the first being {text[:80]!r}; "
                "check the weights, or load the model in bf16 or fp32"
            )
