"""Scoring the variants of several prompts together, so that shared prefixes are computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch

from llm_attr.core.evaluator import Evaluator
from llm_attr.core.game.coalitions import distinct, keys
from llm_attr.core.game.driver import GameRun, play
from llm_attr.core.game.features import Features
from llm_attr.errors import about_prompt
from llm_attr.llm.model.cost import Cost
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.prompt.interpretable import InterpretableInput
from llm_attr.llm.prompt.variant import Variant
from llm_attr.llm.results.table import Table
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
class PromptScores:
    """The values of the games of a prompt.

    Attributes:
        job: The prompt.
        games: One per trial.
        prompts: How many prompts were scored together, this one included.
        tables: The values of each scalar.
        log_probs: fp32 `(answer tokens,)` after the full prompt, in nats.
        n_samples: The size of the sample, as the method counts it; None for a fixed design.
        met: Whether the requested precision was reached; None if none was requested.
    """

    job: PromptJob
    games: Sequence[TextGame]
    prompts: int
    tables: Sequence[Table]
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
        self._engine, self._options, self._evaluator = engine, options, evaluator
        self._trials = [_Trials(self._with_references(job), engine, options, evaluator) for job in jobs]
        tokens = sum(trials.job.tokens(options) for trials in self._trials)
        self._joint = tokens <= JOINT_TOKENS and not options.stopping.adaptive

    def scores(self) -> list[PromptScores]:
        evaluations = sum(self._options.evaluations(trials.job.features) for trials in self._trials)
        expected = self._evaluator.done + evaluations
        runs = self._designs_scored() if self._joint else [trials.play for trials in self._trials]
        scores = [self._scored(*pair) for pair in zip(self._trials, runs, strict=True)]
        self._evaluator.advance(expected - self._evaluator.done)
        return scores

    def _with_references(self, job: PromptJob) -> PromptJob:
        """The job, with reference distributions of the full prompt for the scalars that need them."""
        if not any(scalar.needs_reference for scalar in job.scalars):
            return job
        with about_prompt(job.number):
            reference = self._engine.reference(Query(job.whole, job.answer), self._evaluator)
        scalars = [replace(s, reference=reference) if s.needs_reference else s for s in job.scalars]
        return replace(job, scalars=tuple(scalars))

    def _designs_scored(self) -> list[Callable[[], GameRun]]:
        """Scores the designs of all prompts together; returns what reads the values of each."""
        queries: list[Query] = []
        runs: list[Callable[[], GameRun]] = []
        for trials in self._trials:
            with about_prompt(trials.job.number):
                own, run = trials.design()
                self._engine.check_lengths(own)
            queries += [*own, *trials.whole()]
            runs.append(run)
        self._engine.learn(queries, self._evaluator)
        return runs

    def _scored(self, trials: _Trials, run: Callable[[], GameRun]) -> PromptScores:
        job, game = trials.job, trials.games[0]
        with about_prompt(job.number):
            played = run()
            whole = game.split(game.worth([job.whole])[0])
            log_probs = self._engine.score(trials.whole()[:1], self._evaluator)[0]
        each = zip(job.scalars, game.split(played.values.transpose(0, 1)), whole, game.per_token, strict=True)
        tables = [self._table(trials, played, *of_scalar) for of_scalar in each]
        return PromptScores(job, trials.games, len(self._trials), tables, log_probs, played.n_samples, played.met)

    def _table(
        self, trials: _Trials, run: GameRun, scalar: Scalar, values: Values, whole: Values, per_token: bool
    ) -> Table:
        features, columns = trials.job.features, trials.games[0].inp.feature_of_value()
        every = torch.arange(features.count, device="cpu")
        return Table(
            coalitions=run.coalitions,
            values=values,
            owner=every if columns is None else features.owner[0][0][columns],
            whole=whole,
            method=self._options.method_name,
            options=self._options.method_options,
            attr_target=scalar.name,
            per_token=per_token,
            estimator=self._options.estimator,
        )


class _Trials:
    """The games of a prompt, one for each sample of the input's random baselines, played as one.

    The rounds that the estimator asks for by default are drawn at once, before any prompt is scored.
    """

    def __init__(self, job: PromptJob, engine: ScoreEngine, options: Options, evaluator: Evaluator) -> None:
        self.job, self._engine, self._options = job, engine, options
        shared = (options.inspect, set[Variant](), job.scalars)
        self.games = [
            TextGame(job.inp.sampled(), job.features, job.answer, engine, evaluator, *shared)
            for _ in range(options.trials)
        ]
        estimator = options.estimator
        self._rounds = estimator.rounds(job.features.count)
        self._ahead = list(islice(self._rounds, None if estimator.fixed else estimator.n_samples))
        self._spent_before = 0
        self._priced: dict[bytes, list[Variant]] = {}

    def whole(self) -> list[Query]:
        """The queries for the full prompt."""
        return self.games[0].asked(self.job.whole)

    def design(self) -> tuple[list[Query], Callable[[], GameRun]]:
        """The queries of the default design, and a function that plays it once they have been scored."""
        coalitions, estimator = torch.cat(self._ahead), self._options.estimator
        rows, index = distinct(coalitions)
        variants = [(game, game.variants(rows)) for game in self.games]

        def run() -> GameRun:
            values = torch.stack([game.worth(own) for game, own in variants], 1)[index]
            return GameRun(coalitions, values, None if estimator.fixed else len(self._ahead) * estimator.per_round)

        return [query for pair in variants for query in _queries(*pair)], run

    def play(self) -> GameRun:
        """Plays until the sample is large enough."""
        stopping, features = self._options.stopping, self.job.features.count
        meter = None if stopping.metered is None else self
        self._spent_before = self._cost(self._engine.cost)
        rounds = chain(self._ahead, self._rounds)
        return play(
            self._values, self._options.estimator, features, stopping, self._deciding, True, meter=meter, rounds=rounds
        )

    def spent(self) -> int:
        """What the games have cost, in the unit of the budget."""
        return self._cost(self._engine.cost) - self._spent_before

    def prices(self, samples: Sequence[Coalitions]) -> Callable[[int], int]:
        """What the first k samples and the full prompt would cost, in the unit of the budget."""
        each: list[list[list[Variant]]] = []
        for sample in samples:
            each.append(self._variants(sample))
            self._priced.update(zip(keys(sample), each[-1], strict=True))

        def price(count: int) -> int:
            rows = [row for variants in each[:count] for row in variants]
            queries = [query for i, game in enumerate(self.games) for row in rows for query in game.asked(row[i])]
            return self._cost(self._engine.price([*queries, *self.whole()]))

        return price

    def _cost(self, cost: Cost) -> int:
        return cost.passes if self._options.stopping.positions is None else cost.positions

    def _values(self, coalitions: Coalitions) -> Values:
        """`(coalitions, trials, entries)`."""
        of_games = zip(*self._variants(coalitions), strict=True)
        return torch.stack([game.worth(own) for game, own in zip(self.games, of_games, strict=True)], 1)

    def _variants(self, coalitions: Coalitions) -> list[list[Variant]]:
        """For each coalition its variant in each game."""
        pairs = zip(keys(coalitions), coalitions, strict=True)
        return [self._priced.get(name) or [game.variant(row) for game in self.games] for name, row in pairs]

    def _deciding(self, values: Values) -> Values:
        """`(coalitions, scalars)`: the values whose error ends the sampling."""
        named = zip(self.games[0].split(values), self.job.scalars, self.games[0].per_token, strict=True)
        return torch.cat([payoff(part, scalar.name, each)[..., :1].mean(1) for part, scalar, each in named], 1)


def _queries(game: TextGame, variants: Sequence[Variant]) -> list[Query]:
    return [query for variant in variants for query in game.asked(variant)]
