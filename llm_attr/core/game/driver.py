"""Playing a game: evaluates the coalitions of an estimator's design until the sample is large enough."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic
from typing import Protocol

import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.evaluator import current_watch
from llm_attr.core.game import coalitions as designs
from llm_attr.core.game.budget import Meter, MeteredBudget
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.core.parallel.sharing import agreed
from llm_attr.errors import InvalidValue, NonFiniteValue
from llm_attr.typing import Coalitions, Game, Values

MAX_ROWS = 100_000
"""Coalitions, repeats included, after which sampling stops if no budget ends it earlier."""

GROWTH = 0.25
"""The growth of the sample between two checks of its error."""

MAX_BLOCK = 1 << 14
"""The most samples evaluated at once when only their number ends the sampling."""


class Estimator(Protocol):
    """A design of coalitions, and the estimate from their values; `BaseEstimator` has defaults for most of it.

    Attributes:
        fixed: Whether the design depends only on the number of features.
        n_samples: The default number of rounds; 1 for a fixed design.
        per_round: The number of samples, as the user counts them, in each round.
        takes_any_value: Whether values may be NaN or infinite; each then affects only its own feature.
    """

    fixed: bool
    n_samples: int
    per_round: int
    takes_any_value: bool

    @property
    def first_look(self) -> int:
        """The number of rounds from which the standard errors are valid."""

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """The maximum number of distinct coalitions."""

    def least(self, features: int) -> int:
        """The minimum number of distinct coalitions for an estimate."""

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The design in pieces: a fixed one in any number, without repeats; a sampled one a sample per piece."""

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """The estimate from the coalitions, in design order, and their `(coalitions, outputs)` values, on the CPU.

        A fixed design knows its coalitions and may receive none: `(0, features)`.
        """


@dataclass(frozen=True)
class GameRun:
    """The coalitions that were played, and their values.

    Attributes:
        coalitions: `(coalitions, features)` in design order; no rows if they are not kept.
        values: `(coalitions, ...)`.
        n_samples: The size of the sample, as the method counts it; None for a fixed design.
        met: Whether the requested precision was reached; None if none was requested.
    """

    coalitions: Coalitions
    values: Values
    n_samples: int | None = None
    met: bool | None = None


def play(
    game: Game,
    estimator: Estimator,
    features: int,
    stopping: Stopping | None = None,
    outputs: Callable[[Values], Values] | None = None,
    keep: bool = False,
    ledger: Ledger | None = None,
    meter: Meter | None = None,
    rounds: Iterator[Coalitions] | None = None,
) -> GameRun:
    """Evaluates the coalitions of an estimator's design, each distinct one once.

    Args:
        game: Any callable from coalitions to values.
        estimator: Supplies the design.
        features: The number of features.
        stopping: When to stop sampling; None: after the estimator's own number of samples.
        outputs: Maps the game's values to the `(coalitions, outputs)` whose error decides; None: the identity.
        keep: Whether to keep the coalitions of a fixed design too.
        ledger: Known values of this game; new ones are added.
        meter: Measures how much of a budget in passes or positions is spent.
        rounds: The estimator's rounds, if some of them have been drawn ahead.

    Raises:
        InvalidValue: the budget is too small for one estimate, or its unit does not apply to this method or game.
        NonFiniteValue: the value of a coalition is NaN or infinite.
    """
    stopping = stopping or Stopping()
    if not estimator.takes_any_value:
        game = finite(game)
    if estimator.fixed and stopping.adaptive:
        raise InvalidValue("until and budget are for sampled methods; this one evaluates a fixed design")
    rounds = estimator.rounds(features) if rounds is None else rounds
    ledger = Ledger() if ledger is None and not estimator.fixed else ledger
    game = game if ledger is None else ledger.remembering(game)
    if ledger is None or not stopping.adaptive:
        return _by_default(game, estimator, rounds, features, keep)
    return _sampled(_Sampling(estimator, rounds, features, stopping, ledger, meter), game, outputs)


def _by_default(game: Game, estimator: Estimator, rounds: Iterator[Coalitions], features: int, keep: bool) -> GameRun:
    """Evaluates the design that the estimator asks for by itself."""
    if estimator.fixed:
        blocks = _grouped(rounds, _rows(features))
        return _joined([(block if keep else block[:0], game(block)) for block in blocks])
    drawn = list(islice(rounds, estimator.n_samples))
    evaluated = [(block, game(block)) for block in _grouped(drawn, _rows(features))]
    return _joined(evaluated, len(drawn) * estimator.per_round)


def _sampled(sampling: _Sampling, game: Game, outputs: Callable[[Values], Values] | None) -> GameRun:
    """Evaluates samples until the requested precision is reached or the budget is spent."""
    stopping, estimator = sampling.stopping, sampling.estimator
    evaluated: list[tuple[Coalitions, Values]] = []

    def estimate() -> Estimate:
        so_far = _joined(evaluated)
        evaluated[:] = [(so_far.coalitions, so_far.values)]
        values = so_far.values if outputs is None else outputs(so_far.values)
        return estimator.estimate(so_far.coalitions, values.cpu())

    last: Estimate | None = None
    for block, is_check in sampling.blocks():
        evaluated.append((block, game(block)))
        last = estimate() if is_check else None
        if last is not None and stopping.satisfied(last):
            return _joined(evaluated, sampling.samples, met=True)
    if not stopping.wants_certainty:
        return _joined(evaluated, sampling.samples)
    last = last or estimate()
    met = stopping.satisfied(last)
    if not met:
        warn_caller(f"sampling ended {sampling.end}, less precise than requested: {stopping.lacking(last)}")
    return _joined(evaluated, sampling.samples, met)


def estimated(read: Callable[[Coalitions, Values], Estimate], coalitions: Coalitions, values: Values) -> Estimate:
    """An estimate, computed on the CPU, which supports every dtype, and moved back to the device of the values.

    Args:
        read: `Estimator.estimate`, or another function with its arguments.
        coalitions: Passed on to it.
        values: Passed on to it; on any device and of any dtype.

    Returns:
        The estimate in the dtype of the values; in its own if the values are integers.
    """
    estimate = read(coalitions, values.cpu())

    def there(tensor: Tensor) -> Tensor:
        return (tensor.to(values.dtype) if values.is_floating_point() else tensor).to(values.device)

    return replace(
        estimate, values=there(estimate.values), stderr=None if estimate.stderr is None else there(estimate.stderr)
    )


def finite(game: Game) -> Game:
    """The same game, with a check that all values are finite."""

    def checked(coalitions: Coalitions) -> Values:
        values = game(coalitions)
        check_finite(coalitions, values)
        return values

    return checked


def check_finite(coalitions: Coalitions, values: Values) -> None:
    """Raises NonFiniteValue, naming the absent features, if the value of a coalition is NaN or infinite."""
    wrong = (~values.flatten(1).isfinite()).nonzero()
    if len(wrong):
        row, output = wrong[0].tolist()
        absent = (~coalitions[row]).nonzero().flatten().tolist()
        without = f"the features {absent}" if absent else "nothing"
        raise NonFiniteValue(
            f"the output is {values.flatten(1)[row, output].item()} (entry {output}) with {without} absent, of "
            f"{coalitions.shape[1]} features; {len(wrong[:, 0].unique())} of {len(values)} coalitions are affected. "
            "Choose other baselines, or explain another output"
        )


def design(estimator: Estimator, features: int) -> Iterator[Coalitions]:
    """An estimator's default design, in blocks."""
    return islice(estimator.rounds(features), None if estimator.fixed else estimator.n_samples)


def _joined(blocks: list[tuple[Coalitions, Values]], n_samples: int | None = None, met: bool | None = None) -> GameRun:
    coalitions, values = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return GameRun(coalitions, values, n_samples, met)


class _Sampling:
    """The coalitions of a sample whose size is not known beforehand, within budget and time."""

    def __init__(
        self,
        estimator: Estimator,
        rounds: Iterator[Coalitions],
        features: int,
        stopping: Stopping,
        ledger: Ledger,
        meter: Meter | None,
    ) -> None:
        self.estimator, self.stopping, self._features, self._ledger = estimator, stopping, features, ledger
        self._drawing, self._watch = rounds, current_watch()
        self._metered = None if stopping.metered is None else MeteredBudget(meter, stopping.metered)
        self._least, self._deadline = estimator.least(features), monotonic() + (stopping.seconds or 0)
        self._rounds = self._evaluated = 0
        self._is_spent = False
        if stopping.evaluations is not None and stopping.evaluations < self._least and not len(ledger):
            raise self._too_small()

    def _too_small(self) -> InvalidValue:
        unit = "" if self.stopping.evaluations is not None else " evaluations"
        return InvalidValue(
            f"a budget of {self.stopping.budget} is too small: one estimate over {self._features} "
            f"features takes at least {self._least}{unit}"
        )

    @property
    def samples(self) -> int:
        """The number of samples, as the method counts them."""
        return self._rounds * self.estimator.per_round

    @property
    def end(self) -> str:
        """Why and when the sampling ended, in words."""
        known = len(self._ledger)
        if known == 1 << self._features:
            return f"after all {known:,} coalitions"
        by = f"by its budget of {self.stopping.budget}, " if self.stopping.budget else ""
        return f"{by}after {known:,} coalitions"

    def blocks(self) -> Iterator[tuple[Coalitions, bool]]:
        """Blocks of rows, and whether to check the error after each."""
        rounds = self._within_limits()
        while sample := self._affordable(list(islice(rounds, self._next_rounds(self._rounds)))):
            self._rounds += len(sample)
            *before, last = _grouped(sample, _rows(self._features))
            yield from ((block, False) for block in before)
            yield last, self.stopping.wants_certainty and self._rounds >= self.estimator.first_look

    def _next_rounds(self, done: int) -> int:
        """How many rounds to evaluate at once after `done` rounds."""
        stopping = self.stopping
        if not (stopping.wants_certainty or stopping.seconds is not None or self._metered is not None):
            return MAX_BLOCK
        if done:
            return max(1, int(GROWTH * done))
        if stopping.seconds is not None:
            return 1
        return self.estimator.first_look if stopping.wants_certainty else self.estimator.n_samples

    def _affordable(self, samples: list[Coalitions]) -> list[Coalitions]:
        """The leading samples that a budget in passes or positions can pay for."""
        if self._metered is None or not samples:
            return samples
        count = 0 if self._is_spent else self._metered.affordable(samples)
        self._is_spent = count < len(samples)
        self._evaluated += sum(map(len, samples[:count]))
        if self._is_spent and self._evaluated < self._least:
            raise self._too_small()
        return samples[:count]

    def _within_limits(self) -> Iterator[Coalitions]:
        known, planned, drawn = self._ledger.names, set[bytes](), 0
        for sample in self._drawing:
            new = set(designs.keys(sample)) - known - planned
            if self._is_over(len(planned) + len(new), drawn):
                break
            drawn += len(sample)
            planned |= new
            yield sample
        if drawn < self._least and self.stopping.evaluations is not None:
            raise self._too_small()

    def _is_over(self, cost: int, drawn: int) -> bool:
        """Whether to stop before a sample that brings the number of distinct coalitions to `cost`."""
        limit, seconds = self.stopping.evaluations, self.stopping.seconds
        if drawn >= self._least and self._watch.enough is not None and agreed("enough", lambda: self._watch.has_enough):
            return True
        if limit is not None and cost > limit:
            return True
        if seconds is not None:
            return drawn >= self._least and agreed("time", lambda: monotonic() > self._deadline)
        return drawn > MAX_ROWS + (limit or 0)


def _rows(features: int) -> int:
    return max(1, designs.BLOCK_ENTRIES // max(1, features))


def _grouped(pieces: Iterable[Coalitions], rows: int) -> Iterator[Coalitions]:
    """Consecutive pieces joined into blocks of about `rows` rows."""
    group: list[Coalitions] = []
    size = 0
    for piece in pieces:
        if group and size + len(piece) > rows:
            yield torch.cat(group)
            group, size = [], 0
        group.append(piece)
        size += len(piece)
    yield torch.cat(group)
