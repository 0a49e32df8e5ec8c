"""Playing a game: an estimator asks for coalitions, and what they are worth says how much each feature carries.

An estimator sees `game(coalitions) -> values` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic
from typing import Protocol

import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.game import coalitions as designs
from llm_attr.core.game.budget import Meter, MeteredBudget
from llm_attr.core.game.estimate import Estimate
from llm_attr.core.game.ledger import Ledger
from llm_attr.core.game.stopping import Stopping
from llm_attr.errors import InvalidValue, NonFiniteValue
from llm_attr.typing import Coalitions, Game, Values

MOST_ROWS = 100_000
"""Coalitions, repeated ones too, after which sampling gives up if no budget ends it before."""

GROWTH = 0.25
"""By how much the sample grows between two looks at its error."""

TOGETHER = 1 << 14
"""The most samples that are evaluated together where nothing but their number ends the sampling."""


class Estimator(Protocol):
    """A design of coalitions and what their values say about each feature.

    One that sets `takes_any_value` is played with values that are NaN or infinite too: each of them shows in the
    attribution of its own feature alone. One that sets `first_look` says with how many rounds its standard errors hold:
    where these end the sampling, they are looked at from there on, else from `n_samples` on. One that sets `per_round`
    counts so many samples for each round where a user says how many.

    Attributes:
        fixed: Whether the design follows from the number of features alone.
        n_samples: Rounds that it asks for by default; 1 for a fixed design, whose rounds are all one.
    """

    fixed: bool
    n_samples: int

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """The most distinct coalitions that it asks for."""

    def least(self, features: int) -> int:
        """The fewest distinct coalitions from which something can be estimated."""

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """The design in pieces, no coalition twice; for a sampled one as many samples as there are, each in one."""

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """From the coalitions, in the order of the design, and their `(coalitions, outputs)` values, all on the CPU.

        A fixed design knows its coalitions and may be given none: `(0, features)`.
        """


@dataclass(frozen=True)
class GameRun:
    """What was asked and answered.

    Attributes:
        coalitions: `(coalitions, features)` in the order in which they were asked for; no rows where nobody needs them.
        values: `(coalitions, ...)`.
        n_samples: The size of the sample, as the method counts it; None for a fixed design.
        met: Whether the estimate is as sure as was asked for; None: nobody asked.
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
    drawn: Sequence[Coalitions] | None = None,
) -> GameRun:
    """Asks a game for the coalitions of an estimator's design, each distinct one once.

    Args:
        game: Any callable from coalitions to values.
        estimator: What asks.
        features: How many features there are.
        stopping: When to stop sampling; None: after the estimator's own number of samples.
        outputs: From the game's values to the `(coalitions, outputs)` whose error decides; None: they are these.
        keep: Whether the coalitions of a fixed design are kept too.
        ledger: What is known of this game already, and will be known of it.
        meter: What shows how much of a budget in passes or positions is spent.
        drawn: The estimator's design, if it has been drawn already, see `design`; only without `stopping`.

    Raises:
        InvalidValue: the budget is too small for one estimate, or the method or game takes none of this unit.
        NonFiniteValue: a coalition is worth NaN or infinity.
    """
    stopping = stopping or Stopping()
    if not getattr(estimator, "takes_any_value", False):
        game = finite(game)
    if estimator.fixed:
        if stopping.adaptive:
            raise InvalidValue("until and budget are for sampled methods: this one evaluates all that it needs")
        ask = game if ledger is None else ledger.remembering(game)
        blocks = _grouped(estimator.rounds(features) if drawn is None else drawn, _rows(features))
        return _joined([(block if keep else block[:0], ask(block)) for block in blocks])
    ledger = Ledger() if ledger is None else ledger
    rounds = estimator.rounds(features) if drawn is None else iter(drawn)
    return _sampled(_Sampling(estimator, rounds, features, stopping, ledger, meter), ledger.remembering(game), outputs)


def _sampled(sampling: _Sampling, game: Game, outputs: Callable[[Values], Values] | None) -> GameRun:
    """Evaluates samples until they are as sure as was asked for, or as expensive as was allowed."""
    stopping, estimator = sampling.stopping, sampling.estimator
    found: list[tuple[Coalitions, Values]] = []

    def estimate() -> Estimate:
        so_far = _joined(found)
        found[:] = [(so_far.coalitions, so_far.values)]
        values = so_far.values if outputs is None else outputs(so_far.values)
        return estimator.estimate(so_far.coalitions, values.cpu())

    last: Estimate | None = None
    for block, telling in sampling.blocks():
        found.append((block, game(block)))
        last = estimate() if telling else None
        if last is not None and stopping.satisfied(last):
            return _joined(found, sampling.samples, met=True)
    if not stopping.wants_certainty:
        return _joined(found, sampling.samples)
    last = last or estimate()
    met = stopping.satisfied(last)
    if not met:
        warn_caller(f"sampling ended {sampling.end}, less sure than was asked for: {stopping.lacking(last)}")
    return _joined(found, sampling.samples, met)


def estimated(read: Callable[[Coalitions, Values], Estimate], coalitions: Coalitions, values: Values) -> Estimate:
    """What an estimator reads from values, where they are; it is read on the CPU, which has every type.

    Args:
        read: `Estimator.estimate`, or what else is read from them.
        coalitions: As for it.
        values: As for it, on any device and in any type.

    Returns:
        In the type of the values; in that of the estimate where these are whole numbers.
    """
    found = read(coalitions, values.cpu())

    def there(tensor: Tensor) -> Tensor:
        return (tensor.to(values.dtype) if values.is_floating_point() else tensor).to(values.device)

    return replace(found, values=there(found.values), stderr=None if found.stderr is None else there(found.stderr))


def finite(game: Game) -> Game:
    """The same game, in which every coalition must be worth a number."""

    def checked(coalitions: Coalitions) -> Values:
        values = game(coalitions)
        check_finite(coalitions, values)
        return values

    return checked


def check_finite(coalitions: Coalitions, values: Values) -> None:
    """Raises NonFiniteValue, with the absent features, if a coalition is worth NaN or infinity."""
    wrong = (~values.flatten(1).isfinite()).nonzero()
    if len(wrong):
        row, output = wrong[0].tolist()
        absent = (~coalitions[row]).nonzero().flatten().tolist()
        without = f"the features {absent}" if absent else "nothing"
        raise NonFiniteValue(
            f"the output is {values.flatten(1)[row, output].item()} (entry {output}) with {without} absent, of "
            f"{coalitions.shape[1]} features; {len(wrong[:, 0].unique())} of {len(values)} coalitions are so. An "
            "attribution needs numbers: give other baselines, or explain another output"
        )


def design(estimator: Estimator, features: int) -> Iterator[Coalitions]:
    """The coalitions that an estimator asks for by itself, in blocks."""
    return islice(estimator.rounds(features), None if estimator.fixed else estimator.n_samples)


def _joined(blocks: list[tuple[Coalitions, Values]], n_samples: int | None = None, met: bool | None = None) -> GameRun:
    coalitions, values = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return GameRun(coalitions, values, n_samples, met)


class _Sampling:
    """The coalitions of a sampled design, as far as budget and patience go.

    Attributes:
        estimator: What asks for them.
        stopping: What ends the sampling.
    """

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
        self._drawing = rounds
        self._metered = None if stopping.metered is None else MeteredBudget(meter, stopping.metered)
        self._least, self._deadline = estimator.least(features), monotonic() + (stopping.seconds or 0)
        self._rounds = self._asked = 0
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
        """How many there were, as the method counts them."""
        return self._rounds * int(getattr(self.estimator, "per_round", 1))

    @property
    def end(self) -> str:
        """What ended the sampling, if nothing else did."""
        known = len(self._ledger)
        if known == 1 << self._features:
            return f"after all {known:,} coalitions"
        by = f"by its budget of {self.stopping.budget}, " if self.stopping.budget else ""
        return f"{by}after {known:,} coalitions"

    def blocks(self) -> Iterator[tuple[Coalitions, bool]]:
        """Blocks of rows, and whether the error tells after this one whether to go on."""
        rounds = self._within_limits()
        while sample := self._affordable(list(islice(rounds, self._together(self._rounds)))):
            self._rounds += len(sample)
            *before, last = _grouped(sample, _rows(self._features))
            yield from ((block, False) for block in before)
            yield last, self.stopping.wants_certainty and self._rounds >= self._first_look
            if not self.stopping.adaptive:
                return

    @property
    def _first_look(self) -> int:
        """The rounds with which standard errors hold."""
        return int(getattr(self.estimator, "first_look", self.estimator.n_samples))

    def _together(self, done: int) -> int:
        """How many rounds are evaluated together after so many."""
        stopping = self.stopping
        if not (stopping.wants_certainty or stopping.seconds is not None or self._metered is not None):
            return TOGETHER if stopping.adaptive else self.estimator.n_samples
        if done:
            return max(1, int(GROWTH * done))
        if stopping.seconds is not None:
            return 1
        return self._first_look if stopping.wants_certainty else self.estimator.n_samples

    def _affordable(self, samples: list[Coalitions]) -> list[Coalitions]:
        """The first of the samples, as many as a budget in passes or positions pays for."""
        if self._metered is None or not samples:
            return samples
        count = 0 if self._is_spent else self._metered.affordable(samples)
        self._is_spent = count < len(samples)
        self._asked += sum(map(len, samples[:count]))
        if self._is_spent and self._asked < self._least:
            raise self._too_small()
        return samples[:count]

    def _within_limits(self) -> Iterator[Coalitions]:
        known, planned, asked = self._ledger.names, set[bytes](), 0
        for sample in self._drawing:
            new = set(designs.keys(sample)) - known - planned
            if self._is_over(len(planned) + len(new), asked):
                break
            asked += len(sample)
            planned |= new
            yield sample
        if asked < self._least and self.stopping.evaluations is not None:
            raise self._too_small()

    def _is_over(self, cost: int, asked: int) -> bool:
        """Whether to stop before a sample that brings the distinct coalitions to this cost."""
        limit, seconds = self.stopping.evaluations, self.stopping.seconds
        if limit is not None and cost > limit:
            return True
        if seconds is not None:
            return asked >= self._least and monotonic() > self._deadline
        return self.stopping.adaptive and asked > MOST_ROWS + (limit or 0)


def _rows(features: int) -> int:
    return max(1, designs.BLOCK_ENTRIES // max(1, features))


def _grouped(pieces: Iterable[Coalitions], rows: int) -> Iterator[Coalitions]:
    """Consecutive pieces joined to blocks of about so many rows."""
    group: list[Coalitions] = []
    held = 0
    for piece in pieces:
        if group and held + len(piece) > rows:
            yield torch.cat(group)
            group, held = [], 0
        group.append(piece)
        held += len(piece)
    yield torch.cat(group)
