"""Games of several prompts whose variants are scored together, so that what they share is computed once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.features import Features
from llm_attr.core.ledger import Ledger
from llm_attr.llm.game import TextGame
from llm_attr.llm.inputs import InterpretableInput
from llm_attr.llm.many import naming
from llm_attr.llm.model import LanguageModel
from llm_attr.llm.options import Options
from llm_attr.llm.prefix_tree import Query, Variant
from llm_attr.llm.scoring import Scorer
from llm_attr.typing import Coalitions, Values

JOINT_TOKENS = 1 << 18
"""Tokens of all the variants that are held and scored together: many passes' worth."""


@dataclass(frozen=True)
class Subject:
    """A prompt whose answer is explained.

    Attributes:
        inp: The prompt in its units.
        features: Which units form a feature.
        prompt: Token ids of the whole prompt.
        answer: Token ids of the answer.
        number: Its place among several prompts, by which errors call it; None if it is alone.
    """

    inp: InterpretableInput
    features: Features
    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()
    number: int | None = None

    @property
    def whole(self) -> Query:
        """The answer after the whole prompt."""
        return Query(Variant.plain(self.prompt), self.answer)

    def tokens(self, options: Options) -> int:
        """About how many tokens all its variants have."""
        return options.evaluations(self.features) * len(self.whole.tokens)


@dataclass(frozen=True, eq=False)
class Played:
    """What the games of a prompt gave.

    Attributes:
        subject: The prompt.
        games: One for each trial.
        prompts: How many prompts were scored together with it, itself included.
        coalitions: Bool `(coalitions, features)`.
        log_probs: fp32 `(trials, coalitions, answer tokens)`.
        whole: fp32 `(answer tokens,)` after the whole prompt.
    """

    subject: Subject
    games: Sequence[TextGame]
    prompts: int
    coalitions: Coalitions
    log_probs: Values
    whole: Values


def played(
    language_model: LanguageModel, subjects: Sequence[Subject], options: Options, evaluator: Evaluator
) -> Iterator[list[Played]]:
    """The games of all prompts, as many prompts at a time as are scored together."""
    group: list[Subject] = []
    tokens = 0
    for subject in subjects:
        size = subject.tokens(options)
        if group and tokens + size > JOINT_TOKENS:
            yield _Group(language_model, group, options, evaluator).played()
            group, tokens = [], 0
        group.append(subject)
        tokens += size
    yield _Group(language_model, group, options, evaluator).played()


class _Group:
    """Prompts that share a scorer; one that has too many tokens for it is played block by block."""

    def __init__(
        self, language_model: LanguageModel, subjects: Sequence[Subject], options: Options, evaluator: Evaluator
    ) -> None:
        self._scorer = Scorer(language_model, options.cached, options.perturbations_per_eval)
        self._options, self._evaluator = options, evaluator
        self._games = [(subject, self._trials(subject)) for subject in subjects]

    def played(self) -> list[Played]:
        evaluations = sum(self._options.evaluations(subject.features) for subject, _ in self._games)
        expected = self._evaluator.done + evaluations
        if sum(subject.tokens(self._options) for subject, _ in self._games) <= JOINT_TOKENS:
            self._prefill()
        found = [self._played(subject, games) for subject, games in self._games]
        self._evaluator.advance(expected - self._evaluator.done)
        return found

    def _trials(self, subject: Subject) -> list[TextGame]:
        shared = (self._options.inspect, set[Variant]())
        return [
            TextGame(subject.inp.sampled(), subject.features, subject.answer, self._scorer, self._evaluator, *shared)
            for _ in range(self._options.trials)
        ]

    def _prefill(self) -> None:
        """Scores the designs of all prompts in one go; the games then find their coalitions known."""
        queries: list[Query] = []
        for subject, games in self._games:
            with naming(subject.number):
                design = torch.cat(list(self._options.estimator.blocks(subject.features.count)))
                own = [query for game in games for query in game.queries(design)]
                self._scorer.check_lengths(own)
            queries += [*own, subject.whole]
        self._scorer.learn(queries, self._evaluator)

    def _played(self, subject: Subject, games: Sequence[TextGame]) -> Played:
        design = list(self._options.estimator.blocks(subject.features.count))
        with naming(subject.number):
            each = [self._log_probs(game, design) for game in games]
            whole = self._scorer.score([subject.whole], self._evaluator)[0]
        return Played(subject, games, len(self._games), torch.cat(design), torch.stack(each), whole)

    def _log_probs(self, game: TextGame, design: Sequence[Coalitions]) -> Values:
        """`(coalitions, answer tokens)` of one game, which is asked for each coalition once."""
        remembered = Ledger().remembering(game)
        return torch.cat([remembered(coalitions) for coalitions in design])
