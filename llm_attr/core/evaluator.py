"""Everything between an estimator and a model: chunking, out-of-memory back-off, progress, cancellation."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from time import monotonic
from types import TracebackType
from typing import TypeAlias, TypeVar

import torch
from tqdm.auto import tqdm

from llm_attr.caller import warn_caller
from llm_attr.core.memory import is_out_of_memory, release
from llm_attr.core.parallel.sharing import announcing
from llm_attr.core.parallel.team import Team, current_team, joined
from llm_attr.errors import Cancelled, OutOfMemory

Piece = TypeVar("Piece")

LONG = 60.0
"""Seconds above which an estimated duration is worth a warning."""

EARLY = 3.0
"""Seconds of work after which the remaining time is estimated."""

LATE = 30.0
"""The same where the total is only an upper bound."""

Advice: TypeAlias = Callable[[float], str]
"""Suggests something quicker, given the fraction of the work that takes a minute."""


@dataclass(frozen=True)
class Progress:
    """What an observer receives after each chunk: the method and its evaluations, done and in total."""

    description: str
    done: int
    total: int


@dataclass(frozen=True)
class Watch:
    """What watches the explanations of a context, see `watching`."""

    observer: Callable[[Progress], None] | None = None
    cancel: threading.Event | None = None
    tokens: Callable[[int], None] | None = None
    enough: threading.Event | None = None

    @property
    def has_enough(self) -> bool:
        """Whether what was computed so far is enough."""
        return self.enough is not None and self.enough.is_set()


_watch: ContextVar[Watch | None] = ContextVar("llm_attr_watch", default=None)


def current_watch() -> Watch:
    """What watches the explanations of this context; a watch without anything if nothing does."""
    return _watch.get() or Watch()


@contextmanager
def watching(
    observer: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
    *,
    tokens: Callable[[int], None] | None = None,
    enough: threading.Event | None = None,
) -> Iterator[None]:
    """Reports the progress of every explanation inside to an observer, and lets an event cancel it.

    Args:
        observer: Called with a `Progress` after each chunk of evaluations.
        cancel: Once it is set, no further chunk is started, and no further token is generated.
        tokens: Called with the id of each token as it is generated (not in beam search).
        enough: Once it is set, a sample under `until` or `budget` grows no further, as soon as it gives an estimate,
            and a generation ends: both keep what there is.

    Raises:
        Cancelled: from the explanation inside, once `cancel` is set.

    Example:
        >>> import threading
        >>> stop = threading.Event()
        >>> with watching(lambda p: print(p.done, "of", p.total), cancel=stop):
        ...     pass
    """
    with _watched(Watch(observer, cancel, tokens, enough)):
        yield


@contextmanager
def _watched(watch: Watch) -> Iterator[None]:
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@contextmanager
def share_of(description: str, start: int, stop: int, total: int) -> Iterator[None]:
    """Reports the progress of explanations inside as pieces `start` to `stop` of a longer one.

    Args:
        description: The name of the longer one.
        start: How many of its pieces are done before.
        stop: How many are done after.
        total: How many pieces it has.
    """
    watch = current_watch()

    def observe(part: Progress) -> None:
        if watch.observer is not None:
            done = start * part.total + (stop - start) * part.done
            watch.observer(Progress(description, done, total * part.total))

    with _watched(replace(watch, observer=observe)):
        yield


@contextmanager
def shown(description: str) -> Iterator[None]:
    """A progress bar on standard error for the explanations inside."""
    with _bar(description, 1) as bar:

        def draw(part: Progress) -> None:
            bar.total, bar.n = part.total, part.done
            bar.refresh()

        with _also(draw):
            yield


@contextmanager
def _also(see: Callable[[Progress], None]) -> Iterator[None]:
    """Reports the progress of explanations inside to `see`, then to the current observer."""
    watch = current_watch()

    def observe(part: Progress) -> None:
        see(part)
        if watch.observer is not None:
            watch.observer(part)

    with _watched(replace(watch, observer=observe)):
        yield


def _bar(description: str, total: int) -> tqdm:
    """A progress bar on standard error; disabled in a process without one."""
    nowhere = sys.stderr is None or getattr(sys.stderr, "closed", False)
    return tqdm(desc=description, total=total, disable=nowhere or not _speaks())


def _speaks() -> bool:
    """Whether this process shows what it does; of those that share an explanation only the first one."""
    team = current_team()
    return team is None or team.process == 0


@contextmanager
def priced(
    description: str, quicker: Advice, most: int | None = None, seconds: float | None = None, sure: bool = True
) -> Iterator[Price]:
    """Warns early if the explanation inside will take over a minute, and suggests something quicker.

    The estimate extrapolates from the work already done; nothing is measured separately.

    Args:
        description: The name of the explanation.
        quicker: Suggests something quicker.
        most: An upper bound of the evaluations, where the announced total may grow; None: the announced total.
        seconds: A time limit.
        sure: Whether the total will be reached; else it is an upper bound, and the warning comes later.
    """
    price = Price(description, quicker, most, seconds, sure)
    with _also(price.look):
        yield price


class Price:
    """Estimates how long an explanation will take and warns once if that is long; see `priced`."""

    def __init__(
        self,
        description: str,
        quicker: Advice,
        most: int | None = None,
        seconds: float | None = None,
        sure: bool = True,
    ) -> None:
        self._description, self._quicker, self._most, self._seconds = description, quicker, most, seconds
        self._sure, self._start, self._is_told = sure, monotonic(), False

    def look(self, part: Progress) -> None:
        """Estimates the total time from the work done so far."""
        took = monotonic() - self._start
        if part.done and took >= (EARLY if self._sure else LATE):
            total = self._most or part.total
            self.tell(took * total / part.done, f"{total:,} steps, of which {part.done:,} took {took:.0f} s")

    def tell(self, seconds: float, steps: str) -> None:
        """Warns, at most once, if `seconds` is long."""
        ends_before = not self._sure or self._seconds is not None
        seconds = min(seconds, self._seconds or seconds)
        if seconds <= LONG or self._is_told or not _speaks():
            return
        self._is_told = True
        about = _duration(seconds)
        most = "at most " if ends_before else ""
        quicker = self._quicker(LONG / seconds)
        warn_caller(f"{self._description} will take {most}about {about}: {most}{steps}. Quicker: {quicker}")


def _duration(seconds: float) -> str:
    """Rounded to minutes or, from two hours on, to hours."""
    amount, unit = (seconds / 60, "minute") if seconds < 7200 else (seconds / 3600, "hour")
    return f"{amount:,.0f} {unit}" + ("" if round(amount) == 1 else "s")


class Evaluator:
    """Runs the evaluations of one attribution in chunks that fit into memory, and reports its progress.

    The observer is captured at construction, so progress made in other threads (completed futures) reaches it too.

    Args:
        description: The label of the progress bar.
        total: The expected number of evaluations.
        show_progress: Whether to draw a bar on standard error.
        device: The device whose cache is released after a failed allocation.
    """

    def __init__(
        self, description: str, total: int, *, show_progress: bool = False, device: torch.device | None = None
    ) -> None:
        self.description, self.total, self.done = description, total, 0
        self._device = device or torch.device("cpu")
        self._limit: int | None = None
        self._show_progress = show_progress
        self._bar: tqdm | None = None
        self._watch = current_watch()

    def __enter__(self) -> Evaluator:
        self.check()
        if self._show_progress:
            self._bar = _bar(self.description, self.total)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def run(self, count: int, chunk: int, evaluate: Callable[[int, int], Piece]) -> Iterator[Piece]:
        """Calls `evaluate(start, stop)` over `range(count)`, at most `chunk` at a time.

        A chunk that does not fit into memory is halved, and so are all later ones.

        Raises:
            OutOfMemory: a chunk of one does not fit.
            Cancelled: the caller's event was set.
        """
        start = 0
        while start < count:
            self.check()
            size = max(1, min(chunk, self._limit or chunk, count - start))
            failure: BaseException | None = None
            try:
                piece = evaluate(start, start + size)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                failure = error.with_traceback(None)
            if failure is None:
                yield piece
                start += size
            else:
                self._back_off(size, failure)

    def share_out(
        self, count: int, chunk: int, evaluate: Callable[[int, int], Piece], about: str = ""
    ) -> Iterator[Piece]:
        """As `run`; with a team, each process evaluates its share of the chunks and gets the others' pieces.

        Nothing inside `evaluate` is shared again.

        Args:
            count: As in `run`.
            chunk: As in `run`.
            evaluate: As in `run`; its pieces can be pickled.
            about: A fingerprint of the arguments, which must be the same in all processes.
        """
        team = current_team()
        if team is None or count < 2:
            yield from self.run(count, chunk, evaluate)
            return
        wanted = team.exchange(f"{self.description}: {count} {about}", min(chunk, self._limit or chunk))
        size, start = max(1, min(*wanted, -(-count // team.size))), 0
        while start < count:
            self.check()
            starts = range(start, count, size)[: team.size]
            own = starts[team.rank] if team.rank < len(starts) else count
            pieces = self._wave(team, own, min(own + size, count), evaluate)
            if pieces is None:
                self._back_off(size, OutOfMemory("not enough memory on one of the processes"))
                size //= 2
                continue
            yield from pieces
            start = starts[-1] + size

    def _wave(self, team: Team, start: int, stop: int, evaluate: Callable[[int, int], Piece]) -> list[Piece] | None:
        """The pieces of all processes; None if one of them has too little memory."""
        fits, before = True, self.done
        found: list[Piece] = []
        if start < stop:
            with announcing(team), joined(team.own):
                try:
                    found.append(evaluate(start, stop))
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    fits = False
        replies = team.exchange(self.description, (fits, self.done - before, found), self._device)
        if not all(fitted for fitted, *_ in replies):
            return None
        self.advance(sum(done for _, done, _ in replies) - (self.done - before))
        return [piece for *_, pieces in replies for piece in pieces]

    def advance(self, evaluations: int) -> None:
        """Counts evaluations as done and updates bar and observer; the total grows if it is exceeded."""
        if evaluations <= 0:
            return
        self.done += evaluations
        self.total = max(self.total, self.done)
        if self._bar is not None:
            self._bar.total = self.total
            self._bar.update(evaluations)
        if self._watch.observer is not None:
            self._watch.observer(Progress(self.description, self.done, self.total))

    def finish(self) -> None:
        """Counts the remaining evaluations, which turned out not to be needed, as done."""
        if self.done < self.total:
            self.check()
            self.advance(self.total - self.done)

    def check(self) -> None:
        """Raises `Cancelled` if the caller's event is set."""
        if self._watch.cancel is not None and self._watch.cancel.is_set():
            raise Cancelled(f"{self.description} was stopped after {self.done} of {self.total} evaluations")

    def _back_off(self, size: int, failure: BaseException) -> None:
        release(self._device)
        if size == 1:
            raise OutOfMemory(f"not even one piece of {self.description} fits into memory: {failure}") from failure
        if self._limit is None:
            warn_caller(
                f"{self.description}: {size} at a time did not fit into memory; going on with half as many",
                RuntimeWarning,
            )
        self._limit = size // 2
