"""Playing a game: an estimator asks for coalitions, and what they are worth says how much each feature carries.

An estimator sees `game(coalitions) -> values` and nothing else.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import monotonic
from typing import Any, Literal, Protocol

import torch

from llm_attr.core import coalitions as designs
from llm_attr.core.ledger import Ledger
from llm_attr.core.meter import Bill, Meter
from llm_attr.errors import InvalidValue, NonFiniteValue
from llm_attr.typing import Coalitions, Game, Values

CONFIDENT = 1.96
"""Standard errors on each side of an estimate that hold the truth in 95 % of the cases."""

MOST_ROWS = 100_000
"""Coalitions, repeated ones too, after which sampling gives up if no budget ends it before."""

GROWTH = 0.25
"""By how much the sample grows between two looks at its error."""


@dataclass(frozen=True)
class Estimate:
    """What an estimator found.

    Attributes:
        values: `(features, outputs)` the attributions.
        stderr: `(features, outputs)` their standard errors, infinite where a single sample tells nothing about them;
            None for methods that evaluate all they need.
        kind: What the errors are: of the sampling, or by `bootstrap`, which knows no bias.
    """

    values: Values
    stderr: Values | None = None
    kind: Literal["sampling", "bootstrap"] = "sampling"


class Estimator(Protocol):
    """A design of coalitions and what their values say about each feature.

    One that sets `takes_any_value` is played with values that are NaN or infinite too: each of them shows in the
    attribution of its own feature alone.

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
        """From the coalitions, in the order of the design, and their `(coalitions, outputs)` values.

        A fixed design knows its coalitions and may be given none: `(0, features)`.
        """


@dataclass(frozen=True)
class Stopping:
    """When sampling ends, if not after the number of samples that was asked for.

    Attributes:
        tolerance: The largest standard error, as a share of the largest attribution of the same output.
        top: How many features must stand apart from all others by the 95 % interval of the difference.
        evaluations: The most distinct coalitions.
        seconds: The most time.
        passes: The most passes through a language model.
        positions: The most token positions that go through it.
    """

    tolerance: float | None = None
    top: int | None = None
    evaluations: int | None = None
    seconds: float | None = None
    passes: int | None = None
    positions: int | None = None

    @classmethod
    def of(cls, until: float | str | None = None, budget: int | str | None = None) -> Stopping:
        """From the public arguments: `until=0.05` or `"top 3 stable"`, `budget=200`, `"200 evaluations"` or `"30 s"`.

        Of a text the budget may be `"50 passes"` or `"2000 positions"`, too.

        Raises:
            InvalidValue: one of them says something else.
        """
        return cls(*_tolerance(until), **_budget(budget))

    @property
    def metered(self) -> int | None:
        """The most that a `Meter` may show."""
        return self.passes if self.positions is None else self.positions

    @property
    def adaptive(self) -> bool:
        """Whether anything but the number of samples counts."""
        return self != Stopping()

    @property
    def wants_certainty(self) -> bool:
        """Whether the error decides."""
        return self.tolerance is not None or self.top is not None

    def satisfied(self, estimate: Estimate) -> bool:
        """Whether an estimate is as sure as was asked for."""
        if estimate.stderr is None:
            return False
        values, errors = estimate.values.double(), estimate.stderr.double()
        if not errors.isfinite().all():
            return False
        if self.tolerance is not None and (errors.amax(0) <= self.tolerance * values.abs().amax(0)).all():
            return True
        return self.top is not None and bool(_apart(values.abs(), errors, self.top).all())


@dataclass(frozen=True)
class Played:
    """What was asked and answered.

    Attributes:
        coalitions: `(coalitions, features)` in the order in which they were asked for; no rows where nobody needs them.
        values: `(coalitions, ...)`.
    """

    coalitions: Coalitions
    values: Values


def play(
    game: Game,
    estimator: Estimator,
    features: int,
    stopping: Stopping | None = None,
    outputs: Callable[[Values], Values] | None = None,
    keep: bool = False,
    ledger: Ledger | None = None,
    meter: Meter | None = None,
) -> Played:
    """Asks a game for the coalitions of an estimator's design, each distinct one once.

    Args:
        game: Any callable from coalitions to values.
        estimator: What asks.
        features: How many features there are.
        stopping: When to stop sampling; None: after the estimator's own number of samples, which is the least else.
        outputs: From the game's values to the `(coalitions, outputs)` whose error decides; None: they are these.
        keep: Whether the coalitions of a fixed design are kept too.
        ledger: What is known of this game already, and will be known of it.
        meter: What shows how much of a budget in passes or positions is spent.

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
        blocks = _grouped(estimator.rounds(features), _rows(features))
        return _joined([(block if keep else block[:0], ask(block)) for block in blocks])
    ledger = Ledger() if ledger is None else ledger
    remembering = ledger.remembering(game)
    sampling = _Sampling(estimator, features, stopping, ledger, meter)
    found: list[tuple[Coalitions, Values]] = []
    for block, complete in sampling.blocks():
        found.append((block, remembering(block)))
        if complete and stopping.wants_certainty:
            so_far = _joined(found)
            found = [(so_far.coalitions, so_far.values)]
            shown = so_far.values if outputs is None else outputs(so_far.values)
            if stopping.satisfied(estimator.estimate(so_far.coalitions, shown)):
                break
    return _joined(found)


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


class Foreseen:
    """An estimator whose own design is drawn once, ahead of the game: who looks at it does not change it."""

    def __init__(self, estimator: Estimator, features: int) -> None:
        self.fixed, self.n_samples, self._estimator = estimator.fixed, estimator.n_samples, estimator
        self._rest = estimator.rounds(features)
        self.ahead = list(islice(self._rest, None if self.fixed else self.n_samples))

    def evaluations(self, features: int, budget: int | None = None) -> int:
        """As the estimator says."""
        return self._estimator.evaluations(features, budget)

    def least(self, features: int) -> int:
        """As the estimator says."""
        return self._estimator.least(features)

    def rounds(self, features: int) -> Iterator[Coalitions]:
        """What was drawn ahead, then what the estimator goes on with."""
        yield from self.ahead
        yield from self._rest

    def estimate(self, coalitions: Coalitions, values: Values) -> Estimate:
        """As the estimator says."""
        return self._estimator.estimate(coalitions, values)


def _joined(blocks: list[tuple[Coalitions, Values]]) -> Played:
    return Played(torch.cat([block for block, _ in blocks]), torch.cat([values for _, values in blocks]))


class _Sampling:
    """The coalitions of a sampled design, as far as budget and patience go."""

    def __init__(
        self, estimator: Estimator, features: int, stopping: Stopping, ledger: Ledger, meter: Meter | None
    ) -> None:
        self._estimator, self._features, self._stopping, self._ledger = estimator, features, stopping, ledger
        self._bill = None if stopping.metered is None else Bill(meter, ledger, stopping.metered)
        self._least, self._deadline = estimator.least(features), monotonic() + (stopping.seconds or 0)
        if stopping.evaluations is not None and stopping.evaluations < self._least and not len(ledger):
            raise self._too_small()

    def _too_small(self) -> InvalidValue:
        limits = ((name, getattr(self._stopping, name)) for name in ("evaluations", "passes", "positions"))
        unit, limit = next((name, limit) for name, limit in limits if limit is not None)
        return InvalidValue(
            f"a budget of {limit} {unit} is too small: one estimate over {self._features} "
            f"features takes at least {self._least}" + ("" if unit == "evaluations" else " evaluations")
        )

    def blocks(self) -> Iterator[tuple[Coalitions, bool]]:
        """Blocks of rows, and whether the error may be looked at after this one."""
        rounds, done = self._affordable(), 0
        wanted = self._estimator.n_samples if self._stopping.seconds is None else 1
        while sample := list(islice(rounds, wanted)):
            *before, last = _grouped(sample, _rows(self._features))
            yield from ((block, False) for block in before)
            yield last, True
            if not self._stopping.adaptive:
                return
            done += len(sample)
            wanted = max(1, int(GROWTH * done))

    def _affordable(self) -> Iterator[Coalitions]:
        known, planned, asked = self._ledger.names, set[bytes](), 0
        for sample in self._estimator.rounds(self._features):
            new = set(designs.keys(sample)) - known - planned
            if self._is_over(len(planned) + len(new), asked) or (self._bill and self._bill.is_beyond(sample)):
                break
            asked += len(sample)
            planned |= new
            yield sample
        if asked < self._least and (self._stopping.evaluations is not None or self._bill is not None):
            raise self._too_small()

    def _is_over(self, cost: int, asked: int) -> bool:
        """Whether to stop before a sample that brings the distinct coalitions to this cost."""
        limit, seconds = self._stopping.evaluations, self._stopping.seconds
        if limit is not None and cost > limit:
            return True
        if seconds is not None:
            return asked >= self._least and monotonic() > self._deadline
        if self._stopping.adaptive and asked > MOST_ROWS + (limit or 0):
            if self._stopping.wants_certainty:
                _warn(asked)
            return True
        return False


def _warn(asked: int) -> None:
    warnings.warn(
        f"sampling stopped after {asked} coalitions without being as sure as was asked for; a time, as budget='60 s', "
        "allows more",
        RuntimeWarning,
        stacklevel=2,
    )


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


def _apart(sizes: Values, errors: Values, top: int) -> Values:
    """`(outputs,)`: whether the `top` largest features are apart from all others by the interval of the difference."""
    order = sizes.argsort(0, descending=True)
    sizes, errors = sizes.gather(0, order), errors.gather(0, order)
    difference = sizes[:top, None] - sizes[None, top:]
    noise = (errors[:top, None] ** 2 + errors[None, top:] ** 2).sqrt()
    return (difference > CONFIDENT * noise).flatten(0, 1).all(0)


def _tolerance(until: float | str | None) -> tuple[float | None, int | None]:
    if isinstance(until, str):
        found = re.fullmatch(r"top (\d+)( stable)?", until.strip())
        if found and int(found[1]) > 0:
            return None, int(found[1])
    elif until is None or (isinstance(until, int | float) and not isinstance(until, bool) and until > 0):
        return until, None
    raise InvalidValue(
        "until must be the largest standard error as a share of the largest attribution, as 0.05, or a text as "
        f"'top 3 stable'; got {until!r}"
    )


def _budget(budget: int | str | None) -> dict[str, Any]:
    if budget is None:
        return {}
    text = str(budget).strip()
    counted = re.fullmatch(r"(\d+)(?: (evaluations|passes|positions))?", text)
    timed = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:s|seconds)", text)
    if isinstance(budget, bool) or not (counted or timed):
        raise InvalidValue(
            "budget must be evaluations, as 200, or a time, as '30 s' (for a text also '50 passes' or "
            f"'2000 positions'); got {budget!r}"
        )
    return {counted[2] or "evaluations": int(counted[1])} if counted else {"seconds": float(timed[1] if timed else 0)}
