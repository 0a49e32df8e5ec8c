"""Scoring the variants of several prompts together, so that shared prefixes are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.driver import Estimator, play
from llm_attr.core.game.features import Features
from llm_attr.core.game.stopping import Stopping
from llm_attr.errors import about_prompt
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.scoring.engine import ScoreEngine
from llm_attr.llm.scoring.options import Options
from llm_attr.llm.scoring.prefix_tree import Query
from llm_attr.llm.scoring.text_game import TextGame
from llm_attr.llm.target.scalar import Scalar, payoff
from llm_attr.typing import Coalitions, Values

JOINT_TOKENS = 1 << 18
"""The most tokens of variants that are held and scored together: many passes' worth."""


@dataclass(frozen=True)
class PromptJob:
    """A prompt whose answer is explained.

    Attributes:
        inp: The prompt and its units.
        features: Which units form a feature.
        prompt: Token ids of the full prompt.
        answer: Token ids of the answer.
        number: Its index among several prompts, for errors; None for a single prompt.
        scalars: The scalars, bound to the answer.
    """

    inp: InterpretableInput
    features: Features
    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()
    number: int | None = None
    scalars: tuple[Scalar, ...] = ()

    @property
    def whole(self) -> Variant:
        """The full prompt."""
        return Variant.plain(self.prompt)

    def answered(self, language_model: LanguageModel, answer: tuple[int, ...], scalars: Sequence[Scalar]) -> PromptJob:
        """The job with this answer, and the scalars bound to it.

        Raises:
            ContextTooLong: the prompt and the answer, or a foil, do not fit into the model's context.
            LlmAttrError: as in `Scalar.bound`.
        """
        bound = tuple(scalar.bound(language_model, answer, self.prompt) for scalar in scalars)
        for each in (answer, *(scalar.contrast.foil for scalar in bound if scalar.contrast is not None)):
            language_model.check_length(len(self.prompt), len(each))
        return replace(self, answer=answer, scalars=bound)

    def tokens(self, options: Options) -> int:
        """The approximate number of tokens of all its variants, each followed by the answer and its foils."""
        foils = sum(len(scalar.contrast.foil) for scalar in self.scalars if scalar.contrast is not None)
        return options.evaluations(self.features) * (len(self.prompt) + len(self.answer) - 1 + foils)


@dataclass(frozen=True, eq=False)
class ScalarValues:
    """The values of one scalar in the games of a prompt.

    Attributes:
        scalar: The scalar.
        values: fp32 `(trials, coalitions, answer tokens)`.
        whole: fp32 `(answer tokens,)` after the full prompt.
        per_token: False for a single number for the full answer; `answer tokens` is then 1.
    """

    scalar: Scalar
    values: Values
    whole: Values
    per_token: bool


@dataclass(frozen=True, eq=False)
class PromptScores:
    """The values of the games of a prompt.

    Attributes:
        job: The prompt.
        games: One per trial.
        prompts: How many prompts were scored together, this one included.
        coalitions: Bool `(coalitions, features)`.
        per_scalar: The values of each scalar.
        log_probs: fp32 `(answer tokens,)` after the full prompt, in nats.
        n_samples: The size of the sample, as the method counts it; None for a fixed design.
        met: Whether the requested precision was reached; None if none was requested.
    """

    job: PromptJob
    games: Sequence[TextGame]
    prompts: int
    coalitions: Coalitions
    per_scalar: Sequence[ScalarValues]
    log_probs: Values
    n_samples: int | None
    met: bool | None


def score_prompts(
    engine: Callable[[], ScoreEngine], jobs: Sequence[PromptJob], options: Options, evaluator: Evaluator
) -> Iterator[list[PromptScores]]:
    """Plays the games of all prompts, in groups that are scored together.

    Prompts that need reference distributions of the full prompt are played one at a time, since these take memory.

    Args:
        engine: Makes an engine for one group of prompts.
        jobs: The prompts.
        options: How they are explained.
        evaluator: Runs the passes.
    """
    group: list[PromptJob] = []
    tokens = 0
    for job in jobs:
        size = job.tokens(options)
        alone = any(scalar.needs_reference for scalar in job.scalars)
        if group and (alone or tokens + size > JOINT_TOKENS):
            yield _Batch(engine(), group, options, evaluator).scores()
            group, tokens = [], 0
        group.append(job)
        tokens += size
    yield _Batch(engine(), group, options, evaluator).scores()


class _Batch:
    """Prompts that share an engine; a prompt with too many tokens is played block by block."""

    def __init__(self, engine: ScoreEngine, jobs: Sequence[PromptJob], options: Options, evaluator: Evaluator) -> None:
        self._engine = engine
        self._options, self._evaluator = options, evaluator
        jobs = [self._with_references(job) for job in jobs]
        tokens = sum(job.tokens(options) for job in jobs)
        self._joint = tokens <= JOINT_TOKENS and not options.stopping.adaptive
        self._games = [(job, self._trials(job), _Design(options.estimator, job.features.count)) for job in jobs]

    def scores(self) -> list[PromptScores]:
        evaluations = sum(self._options.evaluations(job.features) for job, *_ in self._games)
        expected = self._evaluator.done + evaluations
        if self._joint:
            self._score_designs()
        scores = [self._scored(*game) for game in self._games]
        self._evaluator.advance(expected - self._evaluator.done)
        return scores

    def _with_references(self, job: PromptJob) -> PromptJob:
        """The job, with reference distributions of the full prompt for the scalars that need them."""
        if not any(scalar.needs_reference for scalar in job.scalars):
            return job
        with about_prompt(job.number):
            reference = self._engine.distributions(Query(job.whole, job.answer), self._evaluator)
        scalars = [replace(s, reference=reference) if s.needs_reference else s for s in job.scalars]
        return replace(job, scalars=tuple(scalars))

    def _trials(self, job: PromptJob) -> list[TextGame]:
        shared = (self._options.inspect, set[Variant](), job.scalars)
        return [
            TextGame(job.inp.sampled(), job.features, job.answer, self._engine, self._evaluator, *shared)
            for _ in range(self._options.trials)
        ]

    def _score_designs(self) -> None:
        """Scores the designs of all prompts together; the games then read known scores."""
        queries: list[Query] = []
        for job, games, design in self._games:
            with about_prompt(job.number):
                own = _queries(games, torch.cat(design.ahead))
                self._engine.check_lengths(own)
            queries += [*own, *games[0].asked(job.whole)]
        self._engine.learn(queries, self._evaluator)

    def _scored(self, job: PromptJob, games: Sequence[TextGame], design: _Design) -> PromptScores:
        def trials(coalitions: Coalitions) -> Values:
            return torch.stack([game(coalitions) for game in games], 1)

        def deciding(values: Values) -> Values:
            named = zip(games[0].split(values), job.scalars, games[0].per_token, strict=True)
            whole = [payoff(part, scalar.name, per_token)[..., :1].mean(1) for part, scalar, per_token in named]
            return torch.cat(whole, 1)

        stopping = self._options.stopping
        meter = None if stopping.metered is None else _Meter(self._engine, job, games, stopping)
        with about_prompt(job.number):
            estimator, count = self._options.estimator, job.features.count
            run = play(trials, estimator, count, stopping, deciding, keep=True, meter=meter, rounds=design.rounds())
            whole = games[0].split(games[0].worth([job.whole])[0])
            log_probs = self._engine.score(games[0].asked(job.whole)[:1], self._evaluator)[0]
        each = games[0].split(run.values.transpose(0, 1))
        per_scalar = list(map(ScalarValues, job.scalars, each, whole, games[0].per_token))
        sampled = run.n_samples, run.met
        return PromptScores(job, games, len(self._games), run.coalitions, per_scalar, log_probs, *sampled)


def _queries(games: Sequence[TextGame], coalitions: Coalitions) -> list[Query]:
    """What the games of a prompt ask for these coalitions."""
    return [query for game in games for variant in game.variants(coalitions) for query in game.asked(variant)]


class _Design:
    """The rounds of an estimator; those that it asks for by default are drawn for all prompts before any is scored."""

    def __init__(self, estimator: Estimator, features: int) -> None:
        self._rest = estimator.rounds(features)
        self.ahead = list(islice(self._rest, None if estimator.fixed else estimator.n_samples))

    def rounds(self) -> Iterator[Coalitions]:
        """All rounds, as often as sampling goes on."""
        return chain(self.ahead, self._rest)


class _Meter:
    """The cost of a prompt's games in the unit of the budget, the full prompt included."""

    def __init__(self, engine: ScoreEngine, job: PromptJob, games: Sequence[TextGame], stopping: Stopping) -> None:
        self._engine, self._job, self._games = engine, job, games
        self._unit = "passes" if stopping.positions is None else "positions"
        self._before = getattr(engine.cost, self._unit)

    def spent(self) -> int:
        return int(getattr(self._engine.cost, self._unit)) - int(self._before)

    def price(self, coalitions: Coalitions) -> int:
        queries = [*_queries(self._games, coalitions), *self._games[0].asked(self._job.whole)]
        return int(getattr(self._engine.price(queries), self._unit))
