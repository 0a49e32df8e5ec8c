"""The processes that share explanations, and what they tell each other."""

from __future__ import annotations

import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from datetime import timedelta
from io import BytesIO
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.serialization import default_restore_location

from llm_attr.errors import InvalidValue, LlmAttrError, OutOfStep, ProcessFailed, ProcessLost

Value = TypeVar("Value")

PATIENCE = timedelta(days=7)
"""How long a process waits for another; a process that has ended is noticed at once."""

SHORT_PATIENCE = 5.0
"""Seconds for which a failed process waits for those that hold its model together with it."""


@dataclass(frozen=True)
class _Message:
    """What a process sends: its value, or the error that it ended with."""

    step: str
    value: Any = None
    error: BaseException | None = None
    trace: str = ""


class Team:
    """The processes that share explanations; each group of `shards` consecutive ones holds one copy of the model.

    Args:
        shards: How many processes hold a copy of the model together.
        ranks: The processes, by their global ranks; None: all of the program.

    Attributes:
        processes: The number of processes.
        process: The number of this one.
        shards: How many processes hold a copy of the model.
        size: The number of copies.
        rank: The number of this process's copy.

    Raises:
        InvalidValue: the number of processes is not a multiple of `shards`.
    """

    def __init__(self, shards: int = 1, ranks: Sequence[int] | None = None) -> None:
        here = dist.is_available() and dist.is_initialized()
        ranks = tuple(range(dist.get_world_size() if here else 1) if ranks is None else ranks)
        self.processes, self.process = len(ranks), ranks.index(dist.get_rank()) if here else 0
        if isinstance(shards, bool) or not isinstance(shards, int) or shards < 1 or self.processes % shards:
            raise InvalidValue(f"shards must divide the number of processes, {self.processes}; got {shards!r}")
        self.shards, self.size, self.rank = shards, self.processes // shards, self.process // shards
        self._is_alone = self.processes == 1
        if not self._is_alone:
            self._everyone, first = _group(ranks), self.rank * shards
            self._copy = _group(ranks[first : first + shards]) if shards > 1 else None

    @property
    def own(self) -> Team | None:
        """This process's copy of the model by itself: nothing is shared, but its processes still agree."""
        if self.shards == 1:
            return None
        alone = copy(self)
        alone.size, alone.rank, alone._is_alone = 1, 0, True
        return alone

    def exchange(self, step: str, value: Value, device: torch.device | None = None) -> list[Value]:
        """What each copy of the model gives at this step.

        Args:
            step: What this step is; all processes must be at the same one.
            value: Of this copy; anything that can be pickled.
            device: Where tensors of other processes' accelerators go; by default to the current accelerator.

        Raises:
            ProcessFailed: another process ended with an error; or that error itself.
            ProcessLost: another process has ended without a word.
            OutOfStep: the processes are at different steps.
        """
        if self._is_alone:
            return [value]
        own = _Message(step, value if self.process % self.shards == 0 else None)
        messages = _checked(self._gathered(own, device))
        return [message.value for message in messages[:: self.shards]]

    def refuse_differences(self, step: str, arguments: Mapping[str, str]) -> None:
        """Checks that all processes have the same arguments, given by their fingerprints.

        Raises:
            OutOfStep: some differ.
        """
        of_each = self.exchange(step, dict(arguments))
        differing = [name for name in arguments if len({each.get(name) for each in of_each}) > 1]
        if differing:
            raise _noted(
                OutOfStep(
                    f"all processes of a shared explanation must have the same arguments; {' and '.join(differing)} "
                    f"differ between the {self.processes} processes of {step}"
                )
            )

    def agreed(self, step: str, value: Value) -> Value:
        """The first process's value."""
        if self._is_alone:
            return value
        return self.exchange(step, value if self.process == 0 else None)[0]  # type: ignore[return-value]

    def least(self, number: int) -> int:
        """The least number that a process of this copy of the model gives."""
        if self.shards == 1:
            return number
        packed = _packed(_Message("memory", number))
        sent = _gathered_objects(packed, self.shards, self._copy)
        return min(message.value for message in _checked([_unpacked(each, None) for each in sent]))

    def announce(self, error: BaseException) -> None:
        """Ends the step that the other processes are at with this error, unless they know it.

        A process that holds a part of the model may wait for this one inside the model, where it cannot hear; it is not
        waited for long, and ends when this one does.
        """
        if self._is_alone or getattr(error, _KNOWN, False):
            return
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        message = _Message("", None, picklable(_noted(error)), trace)

        def tell() -> None:
            with suppress(ProcessLost):
                self._gathered(message, None)

        if self.shards == 1:
            tell()
            return
        telling = threading.Thread(target=tell, daemon=True)
        telling.start()
        telling.join(SHORT_PATIENCE)

    def _gathered(self, message: _Message, device: torch.device | None) -> list[_Message]:
        return [_unpacked(sent, device) for sent in _gathered_objects(_packed(message), self.processes, self._everyone)]


_KNOWN = "_llm_attr_known_to_all"
_team: ContextVar[Team | None] = ContextVar("llm_attr_team", default=None)


def current_team() -> Team | None:
    """The team whose processes share what runs here; None if nothing is shared."""
    return _team.get()


@contextmanager
def joined(team: Team | None) -> Iterator[None]:
    """Shares what runs inside with this team, or with nobody."""
    token = _team.set(team)
    try:
        yield
    finally:
        _team.reset(token)


def _checked(messages: list[_Message]) -> list[_Message]:
    """The messages, which must be of the same step and without an error."""
    for process, message in enumerate(messages):
        if (error := message.error) is not None:
            cause = ProcessFailed(f"raised by process {process} of {len(messages)}:\n{message.trace}")
            raise _noted(error) from cause
    steps = [message.step for message in messages]
    if len(set(steps)) > 1:
        raise _noted(OutOfStep(_differing(steps)))
    return messages


def _noted(error: BaseException) -> BaseException:
    """The error, marked as known to all processes."""
    setattr(error, _KNOWN, True)
    return error


def picklable(error: BaseException) -> BaseException:
    """The error, or one that says the same, if it cannot be pickled."""
    with suppress(Exception):  # whatever a class raises when it is copied
        _unpacked(_packed(_Message("", None, error)), None)
        return error
    return ProcessFailed(f"{type(error).__name__}: {error}")


def _packed(message: _Message) -> bytes:
    stream = BytesIO()
    torch.save(message, stream)
    return stream.getvalue()


def _unpacked(sent: bytes, device: torch.device | None) -> _Message:
    def there(storage: Any, location: str) -> Any:
        if location == "cpu":
            return storage
        return default_restore_location(storage, str(device or torch.accelerator.current_accelerator() or "cpu"))

    received: _Message = torch.load(BytesIO(sent), map_location=there, weights_only=False)
    return received


def _gathered_objects(value: Value, count: int, group: Any) -> list[Value]:
    gathered: list[Any] = [None] * count
    try:
        with _uninterrupted():
            dist.all_gather_object(gathered, value, group=group)
    except (RuntimeError, ValueError) as error:
        if isinstance(error, LlmAttrError):
            raise
        raise _noted(ProcessLost(f"another process ended in the middle of a shared explanation: {error}")) from error
    return gathered


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Puts Ctrl-C off to the end, since a message of which only a part is sent would block the other processes."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    missed: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: missed.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if missed:
            handler(*missed[0])


_groups: dict[tuple[Any, tuple[int, ...]], Any] = {}


def _group(ranks: tuple[int, ...]) -> Any:
    """A group of processes that talk over the CPU's network, whatever the accelerators use."""
    key = dist.group.WORLD, ranks
    if key not in _groups:
        _groups[key] = dist.new_group(list(ranks), timeout=PATIENCE, backend="gloo", use_local_synchronization=True)
    return _groups[key]


def _differing(steps: list[str]) -> str:
    at = "; ".join(f"process {process} is at {step!r}" for process, step in enumerate(steps))
    return f"all processes of a shared explanation must make the same calls with the same arguments: {at}"
