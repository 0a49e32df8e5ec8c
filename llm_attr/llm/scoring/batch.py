"""Games of several prompts whose variants are scored together, so that what they share is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.driver import design, play
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
"""Tokens of all the variants that are held and scored together: many passes' worth."""


@dataclass(frozen=True)
class PromptJob:
    """A prompt whose answer is explained.

    Attributes:
        inp: The prompt in its units.
        features: Which units form a feature.
        prompt: Token ids of the whole prompt.
        answer: Token ids of the answer.
        number: Its place among several prompts, by which errors call it; None if it is alone.
        scalars: What is asked of the answer, bound to it.
    """

    inp: InterpretableInput
    features: Features
    prompt: tuple[int, ...]
    answer: tuple[int, ...] = ()
    number: int | None = None
    scalars: tuple[Scalar, ...] = ()

    @property
    def whole(self) -> Variant:
        """The whole prompt."""
        return Variant.plain(self.prompt)

    def answered(self, language_model: LanguageModel, answer: tuple[int, ...], scalars: Sequence[Scalar]) -> PromptJob:
        """The same with this answer, of which these scalars are asked.

        Raises:
            ContextTooLong: the prompt and the answer, or a foil, do not fit into the model's context.
            LlmAttrError: as in `Scalar.bound`.
        """
        bound = tuple(scalar.bound(language_model, answer, self.prompt) for scalar in scalars)
        for each in (answer, *(scalar.contrast.foil for scalar in bound if scalar.contrast is not None)):
            language_model.check_length(len(self.prompt), len(each))
        return replace(self, answer=answer, scalars=bound)

    def tokens(self, options: Options) -> int:
        """About how many tokens all its variants have, with the answer and its foils behind them."""
        foils = sum(len(scalar.contrast.foil) for scalar in self.scalars if scalar.contrast is not None)
        return options.evaluations(self.features) * (len(self.prompt) + len(self.answer) - 1 + foils)


@dataclass(frozen=True, eq=False)
class ScalarValues:
    """What the games of a prompt gave for one scalar.

    Attributes:
        scalar: The scalar.
        values: fp32 `(trials, coalitions, answer tokens)`.
        whole: fp32 `(answer tokens,)` after the whole prompt.
        per_token: False if it is one number for the whole answer; `answer tokens` is 1 then.
    """

    scalar: Scalar
    values: Values
    whole: Values
    per_token: bool


@dataclass(frozen=True, eq=False)
class PromptScores:
    """What the games of a prompt gave.

    Attributes:
        job: The prompt.
        games: One for each trial.
        prompts: How many prompts were scored together with it, itself included.
        coalitions: Bool `(coalitions, features)`.
        found: What they gave for each scalar.
        log_probs: fp32 `(answer tokens,)` after the whole prompt, in nats.
        n_samples: The size of the sample, as the method counts it; None for a fixed design.
        met: Whether they are as sure as was asked for; None: nobody asked.
    """

    job: PromptJob
    games: Sequence[TextGame]
    prompts: int
    coalitions: Coalitions
    found: Sequence[ScalarValues]
    log_probs: Values
    n_samples: int | None
    met: bool | None


def score_prompts(
    engine: Callable[[], ScoreEngine], jobs: Sequence[PromptJob], options: Options, evaluator: Evaluator
) -> Iterator[list[PromptScores]]:
    """The games of all prompts, as many prompts at a time as are scored together.

    Those that wait for a run on the whole prompt are played one at a time: each holds the distributions of that run.

    Args:
        engine: Makes what scores one group of prompts, and forgets it afterwards.
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
    """Prompts that share an engine; one that has too many tokens for it is played block by block."""

    def __init__(self, engine: ScoreEngine, jobs: Sequence[PromptJob], options: Options, evaluator: Evaluator) -> None:
        self._engine = engine
        self._options, self._evaluator = options, evaluator
        jobs = [self._with_references(job) for job in jobs]
        tokens = sum(job.tokens(options) for job in jobs)
        self._joint = tokens <= JOINT_TOKENS and not options.stopping.adaptive
        self._games = [(job, self._trials(job), self._drawn(job)) for job in jobs]

    def scores(self) -> list[PromptScores]:
        evaluations = sum(self._options.evaluations(job.features) for job, *_ in self._games)
        expected = self._evaluator.done + evaluations
        if self._joint:
            self._score_designs()
        found = [self._scored(*one) for one in self._games]
        self._evaluator.advance(expected - self._evaluator.done)
        return found

    def _with_references(self, job: PromptJob) -> PromptJob:
        """The job whose scalars have the run on the whole prompt where they compare with it."""
        if not any(scalar.needs_reference for scalar in job.scalars):
            return job
        with about_prompt(job.number):
            found = self._engine.distributions(Query(job.whole, job.answer), self._evaluator)
        scalars = [replace(each, reference=found) if each.needs_reference else each for each in job.scalars]
        return replace(job, scalars=tuple(scalars))

    def _trials(self, job: PromptJob) -> list[TextGame]:
        shared = (self._options.inspect, set[Variant](), job.scalars)
        return [
            TextGame(job.inp.sampled(), job.features, job.answer, self._engine, self._evaluator, *shared)
            for _ in range(self._options.trials)
        ]

    def _drawn(self, job: PromptJob) -> list[Coalitions] | None:
        """The design for a prompt, if all designs are scored together."""
        return list(design(self._options.estimator, job.features.count)) if self._joint else None

    def _score_designs(self) -> None:
        """Scores the designs of all prompts together, so that the games find every coalition known."""
        queries: list[Query] = []
        for job, games, drawn in self._games:
            with about_prompt(job.number):
                coalitions = torch.cat(drawn or [])
                own = [query for game in games for each in game.variants(coalitions) for query in game.asked(each)]
                self._engine.check_lengths(own)
            queries += [*own, *games[0].asked(job.whole)]
        self._engine.learn(queries, self._evaluator)

    def _scored(self, job: PromptJob, games: Sequence[TextGame], drawn: Sequence[Coalitions] | None) -> PromptScores:
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
            run = play(trials, estimator, count, stopping, deciding, keep=True, meter=meter, drawn=drawn)
            whole = games[0].split(games[0].worth([job.whole])[0])
            log_probs = self._engine.score(games[0].asked(job.whole)[:1], self._evaluator)[0]
        each = games[0].split(run.values.transpose(0, 1))
        found = list(map(ScalarValues, job.scalars, each, whole, games[0].per_token))
        sampled = run.n_samples, run.met
        return PromptScores(job, games, len(self._games), run.coalitions, found, log_probs, *sampled)


class _Meter:
    """What the games of a prompt cost, in the unit of the budget; the run on the whole prompt included."""

    def __init__(self, engine: ScoreEngine, job: PromptJob, games: Sequence[TextGame], stopping: Stopping) -> None:
        self._engine, self._subject, self._games = engine, job, games
        self._unit = "passes" if stopping.positions is None else "positions"
        self._before = getattr(engine.cost, self._unit)

    def spent(self) -> int:
        return int(getattr(self._engine.cost, self._unit)) - int(self._before)

    def price(self, coalitions: Coalitions) -> int:
        queries = [query for game in self._games for each in game.variants(coalitions) for query in game.asked(each)]
        queries += self._games[0].asked(self._subject.whole)
        return int(getattr(self._engine.price(queries), self._unit))
