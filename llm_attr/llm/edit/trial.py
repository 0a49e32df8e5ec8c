"""Scores of a prompt without sets of its units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from llm_attr.core.attacks.smallest_set import Set, SetSearch, SmallestSet
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import InvalidTarget
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.bound import BoundPrompt
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.text_game import empty_prompt_id
from llm_attr.llm.target.scalar import Scalar

SearchName = Literal["greedy", "beam", "exhaustive"]

SEARCHES: tuple[SearchName, ...] = ("greedy", "beam", "exhaustive")
"""The searches, by name."""


@dataclass(frozen=True)
class EditJob:
    """What is searched.

    Attributes:
        inp: The prompt and its units.
        whole: All of it.
        drop: See `MinimalEdit.find`.
        search: The name of the search.
        width: Of a beam.
        most: The most units that are taken out.
    """

    inp: BoundPrompt
    whole: Variant
    drop: float | None
    search: SearchName
    width: int
    most: int

    @property
    def most_variants(self) -> int:
        """An upper bound of the variants, except for putting units back; of an exhaustive search all sets."""
        count = len(self.inp.spans)
        if self.search == "exhaustive":
            return 1 << min(count, 40)
        leaps, width = (self.most - 1, 1) if self.search == "greedy" else (0, self.width)
        return 1 + count + leaps + width * sum(count - size for size in range(1, self.most))


class EditTrial:
    """Scores the variants of one prompt."""

    def __init__(
        self, job: EditJob, answer: tuple[int, ...], engine: ScoreEngine, evaluator: Evaluator, lm: LanguageModel
    ) -> None:
        self._job, self._answer, self.engine, self._evaluator, self._lm = job, answer, engine, evaluator, lm
        self._margin = Scalar("margin").bound(lm, answer, job.whole.tokens)

    def search(self) -> SmallestSet:
        """The smallest set that the search finds."""
        sets = SetSearch(len(self._job.inp.spans), self.values, self._job.most)
        if self._job.search == "exhaustive":
            return sets.exhaustive()
        return sets.greedy() if self._job.search == "greedy" else sets.beam(self._job.width)

    def values(self, members: Sequence[Set]) -> list[float]:
        """How far each set is from what is asked; below 0 it does that."""
        if self._job.drop is None:
            return [margin for _, margin in self.read(members)]
        (full, _), *each = self.read([(), *members])
        return [log_prob - (full - self._job.drop) for log_prob, _ in each]

    def read(self, members: Sequence[Set]) -> list[tuple[float, float]]:
        """The log-probability of the answer without each set, and the smallest margin of its tokens."""
        queries = [Query(self.variant(each), self._answer, (self._margin,)) for each in members]
        readings = self.engine.read(queries, self._evaluator)
        return [(float(each.log_probs.sum()), float(each.scalars[0].min())) for each in readings]

    def variant(self, members: Set) -> Variant:
        """The prompt without a set of its units."""
        inp = self._job.inp
        variant = inp.variant([number not in members for number in range(len(inp.spans))])
        if variant.tokens:
            return variant
        last = max(0, (variant.length or 0) - 1)
        return Variant((empty_prompt_id(self._lm),), (last,), last + 1)

    def start(self) -> tuple[float, float]:
        """What `read` gives for the full prompt, which shares passes with the sets of one unit."""
        return self.read([(), *((number,) for number in range(len(self._job.inp.spans)))])[0]

    def check_start(self) -> None:
        """Raises `InvalidTarget` if the model gives another answer to the full prompt."""
        log_prob, margin = self.start()
        if self._job.drop is None and not margin > 0:
            answer = self._lm.decode(list(self._answer))
            raise InvalidTarget(
                f"the model does not answer {answer!r} to the full prompt (a token of it trails "
                f"by {-margin:.2f} logits, log-probability {log_prob:.2f} nats), so there is nothing to change; pass "
                "an answer that it gives, or ask for a drop of its log-probability"
            )
