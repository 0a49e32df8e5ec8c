"""One explanation of a generation by gradients: the full answer, and its tokens a few at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from socket import gethostname
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.core.evaluator import share_of
from llm_attr.core.parallel.sharing import gathered, share
from llm_attr.core.tensors import map_tensors, split_by
from llm_attr.errors import InvalidValue
from llm_attr.llm.gradients.absent_units import AbsentUnits
from llm_attr.llm.gradients.answer_score import AnswerScore, AnswerScores, ContrastScore, Entries
from llm_attr.llm.gradients.checks import refuse_shadowed
from llm_attr.llm.gradients.explained import Ends, Explained, Samples, Units, UnitSums
from llm_attr.llm.gradients.jacobian import NoRule, Strategy, entry_rows
from llm_attr.llm.gradients.methods import MethodCall, is_embedding, sites_of
from llm_attr.llm.gradients.passages import Passage
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.interpretable import TokenMap
from llm_attr.llm.target.scalar import ADDITIVE, Scalar

Choice = tuple[int, int]
"""The place of a quantity, and 0 for the full answer or 1 + t for token t."""


class GradientRun:
    """Explains one answer to one prompt, and counts what that costs.

    Args:
        call: The method, made for the model, and what is asked of it.
        language_model: Model and tokenizer, in evaluation mode.
        tokens: The tokens of the prompt and their units.
        answer: Token ids of the answer.
        baseline: The token that stands for an absent one; None: that of the input, else pad or EOS.
        scalars: Which quantities of the answer, all from the same forward passes; a contrast stands alone.
        score: The class of the scores.
        forward_mode: Whether forward mode may be used where it is quicker.

    Attributes:
        baseline: The id of the token that stands for an absent one.
        strategy: How the tokens of the answer are differentiated.
    """

    def __init__(
        self,
        call: MethodCall,
        language_model: LanguageModel,
        tokens: TokenMap,
        answer: tuple[int, ...],
        baseline: int | str | None,
        scalars: Sequence[Scalar],
        score: type[AnswerScore] = AnswerScore,
        forward_mode: bool = True,
    ) -> None:
        self.call, self.language_model, self.tokens, self.answer = call, language_model, tokens, answer
        self._absent = AbsentUnits(language_model, tokens, baseline, call.baselines, call.inner.is_random)
        self.baseline = self._absent.token
        sites = sites_of(call.method, language_model, call.to_layer_input)
        of_token = torch.tensor(tokens.unit_of_token, device="cpu")
        places = [place for place, moved in enumerate(tokens.moved) if moved]
        moving = places if is_embedding(sites, language_model) else None
        self._units = Units(of_token if moving is None else of_token[moving], tokens.units)
        self._scores = AnswerScores(language_model, answer, sites, moving, scalars, call.at_prompt, score)
        self.strategy = Strategy(call, self._scores, tokens.ids, answer, tokens.units, forward_mode)
        self._pieces, self._done = 1, 0

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        """The quantities."""
        return self._scores.scalars

    @property
    def counter(self) -> Cost:
        """Passes, positions and backward passes so far."""
        return self._scores.counter

    @property
    def log_probs(self) -> Tensor:
        """`(answer tokens,)` in nats, after the full prompt."""
        return self._scores.log_probs

    def explained(self, token_rows: bool, recomputed: bool = False) -> list[Explained]:
        """The attributions of each quantity.

        Args:
            token_rows: Whether to explain each token too.
            recomputed: Whether activations are computed again for the backward pass.
        """
        self.strategy.recomputed = recomputed
        high = self._look_at_the_prompt(token_rows)
        score = self._scores.of(Passage(self.tokens.ids, self.answer))
        rows = self._with_rows(score) if token_rows else []
        rest = [place for place, scalar in enumerate(self.scalars) if place not in rows or not self._adds_up(scalar)]
        self._pieces = self.strategy.runs(len(rows), len(rest))
        tokens = dict(zip(rows, self._tokens(score, rows), strict=True)) if rows else {}
        full = self._sums(score, [(place, 0) for place in rest]) if rest else None
        answers = {place: full.rows(slice(k, k + 1)) for k, place in enumerate(rest)} if full else {}
        ends = self._ends(score, high)
        return [
            Explained.of(
                answers[place] if place in answers else tokens[place].summed(),
                tokens.get(place),
                ends[place],
                self.call.divides,
                self.call.wants_deltas,
            )
            for place in range(len(self.scalars))
        ]

    def _look_at_the_prompt(self, token_rows: bool) -> list[Tensor]:
        """What the quantities are after the full prompt, see `AnswerScores.look_at`, where no later pass shows it."""
        unseen = not self.call.at_prompt or (token_rows and self.strategy.forward_rule(len(self.scalars)) is not None)
        wanting = any(scalar.needs_reference for scalar in self.scalars)
        if wanting or (self._scores.places is not None and unseen):
            return self._scores.look_at(Passage(self.tokens.ids, self.answer))
        return []

    def _with_rows(self, score: AnswerScore | ContrastScore) -> list[int]:
        """The places of the quantities that every token has."""
        with torch.no_grad():
            dimensions = [values.dim() for values in score(*score.activations)] if self._scores.waits else None
        return [place for place in range(len(self.scalars)) if dimensions is None or dimensions[place] > 1]

    def _adds_up(self, scalar: Scalar) -> bool:
        """Whether the attributions of the tokens sum to those of the answer."""
        return scalar.name in ADDITIVE and self.call.is_linear

    def _tokens(self, score: AnswerScore | ContrastScore, rows: Sequence[int]) -> list[UnitSums]:
        """The attributions of each token, of every quantity that has them."""
        parts = self._by_forward_mode(score, rows)
        if not parts:
            parts = self._by_passages(score, rows)

        def of(number: int) -> UnitSums:
            sizes = [len(part.totals) // len(rows) for part in parts]
            pairs = zip(parts, sizes, strict=True)
            return UnitSums.joined([part.rows(slice(number * size, (number + 1) * size)) for part, size in pairs])

        return [of(number) for number in range(len(rows))]

    def _by_passages(self, score: AnswerScore | ContrastScore, rows: Sequence[int]) -> list[UnitSums]:
        """The tokens of each passage; with a team each process takes some passages."""
        if self.call.is_random:
            return [self._sums(score, tokens_of(score.passage, rows))]
        passages = list(self.strategy.passages())

        def sums(number: int) -> UnitSums:
            part = self._scores.of(passages[number])
            return self._sums(part, tokens_of(part.passage, rows))

        return share("groups of tokens", len(passages), sums)

    def _by_forward_mode(self, score: AnswerScore | ContrastScore, quantities: Sequence[int]) -> list[UnitSums]:
        """All tokens at once; nothing where that is more work, or an operation of the model has no forward mode."""
        rule = self.strategy.forward_rule(len(quantities))
        if rule is None:
            return []
        high = score.activations
        low = tuple(map(torch.zeros_like, high)) if self.call.at_prompt else self._absent.passing(score)
        units = self._units.with_rest() if self.call.divides else self._units
        try:
            with self._piece():
                rows = entry_rows(Entries(score, tokens_of(score.passage, quantities)), low, high, units, rule)
        except NoRule:
            self.strategy.forward_mode = False
            self._pieces += len(list(self.strategy.passages())) - 1
            return []
        self._scores.note(score)
        return [UnitSums([rows[:, : self._units.count]], rows.sum(1))]

    def _sums(self, score: AnswerScore | ContrastScore, chosen: Sequence[Choice]) -> UnitSums:
        """The attributions of some entries; a random method explains each with the same draws."""
        call = self.call
        if call.is_random and len(chosen) > 1:
            return UnitSums.joined([self._sums(score, [one]) for one in chosen])
        entries = Entries(score, chosen, axis=len(chosen) > 1).differentiated(self.strategy.jacobian(score))
        states = self._absent.passing(score) if call.inner.starts_at_baseline else None
        samples = Samples(self._units, score.slots, call.is_random, call.squares)
        with self._piece():
            found, deltas = call.attribute(entries, score.activations, states, samples if call.is_mean else None)
        self._scores.note(score)
        if len(chosen) > 1:
            found, deltas = map_tensors(lambda tensor: tensor.flatten(0, 1), (found, deltas))
        parts = split_by(found, score.slots)
        if score.runs_model:
            refuse_shadowed(self._scores.sites, parts)
        return UnitSums.of(parts, self._units, samples, deltas, call.inner.by_position)

    def _ends(self, score: AnswerScore | ContrastScore, high: Sequence[Tensor]) -> list[Ends | None]:
        """Each quantity at the baseline and at the prompt; nothing where that is not what attributions sum to."""
        if not self.call.divides or self.call.knows_deltas:
            return [None] * len(self.scalars)

        def worth(*point: Tensor) -> list[Tensor]:
            with torch.no_grad():
                return self._scores.worth(score(*point))

        states = self._absent.passing(score)
        each = [worth(*(tensor[k : k + 1] for tensor in states)) for k in range(len(states[0]))]
        low = [torch.stack(values).mean(0) for values in zip(*each, strict=True)]
        return list(zip(low, high or worth(*score.activations), strict=True))

    @contextmanager
    def _piece(self) -> Iterator[None]:
        """One run of the method among several, for those who watch the progress."""
        name = f"{self.call.method.get_name()} attribution"
        with share_of(name, self._done, self._done + 1, self._pieces):
            yield
        self._done += 1


def tokens_of(passage: Passage, quantities: Sequence[int]) -> list[Choice]:
    """The scored tokens of a passage, of one quantity after the other."""
    return [(place, 1 + token) for place in quantities for token in range(len(passage.scored))]


class ContrastRun:
    """The run of an answer less that of a foil, token beside token: at a layer each has activations of its own.

    Args:
        answer: The run of the answer, of a method that is linear in what it explains.
        foil: That of the foil.
        scalar: The contrast of both.
    """

    def __init__(self, answer: GradientRun, foil: GradientRun, scalar: Scalar) -> None:
        self._answer, self._foil, self.scalars = answer, foil, (scalar,)
        self.call, self.tokens, self.answer, self.baseline = answer.call, answer.tokens, answer.answer, answer.baseline
        self.strategy = answer.strategy

    @property
    def log_probs(self) -> Tensor:
        """Those of the answer."""
        return self._answer.log_probs

    @property
    def counter(self) -> Cost:
        """The cost of both."""
        return self._answer.counter + self._foil.counter

    def explained(self, token_rows: bool, recomputed: bool = False) -> list[Explained]:
        """See `GradientRun.explained`.

        Raises:
            InvalidValue: the contrast is not bound to an answer.
        """
        contrast = self.scalars[0].contrast
        if contrast is None:
            raise InvalidValue("a contrast must be bound to an answer")
        [own], [other] = (run.explained(token_rows, recomputed) for run in (self._answer, self._foil))
        return [own.less(other, contrast)]


Run: TypeAlias = GradientRun | ContrastRun


@dataclass(frozen=True)
class Found:
    """What a run found, by all processes that took part in it.

    Attributes:
        explained: The attributions of each quantity.
        log_probs: `(answer tokens,)` in nats.
        cost: What it cost.
        seed: Of a random method, or None.
        baseline: The token that stood for absent ones, or None.
        processes: Host and positions of each process.
    """

    explained: list[Explained]
    log_probs: Tensor
    cost: Cost
    seed: int | None
    baseline: int | None
    processes: list[dict[str, Any]]

    @classmethod
    def gathered(cls, run: Run, explained: list[Explained]) -> Found:
        """The same in all processes that shared the run."""
        of_each = gathered("cost", (run.counter, run.log_probs, gethostname()))
        costs, log_probs, hosts = zip(*of_each, strict=True)
        known = reduce(lambda one, other: torch.where(one.isnan(), other, one), log_probs)
        baseline = run.baseline if run.call.inner.starts_at_baseline else None
        processes = [{"host": host, "positions": cost.positions} for host, cost in zip(hosts, costs, strict=True)]
        return cls(explained, known, reduce(add, costs), run.call.seed, baseline, processes)
