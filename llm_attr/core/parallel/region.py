"""`parallel`: the explanations inside are shared by all processes."""

from __future__ import annotations

import os
import pickle
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from llm_attr.core.parallel.sharing import announcing
from llm_attr.core.parallel.team import Team, current_team, joined, picklable
from llm_attr.core.random_state import AllStreams
from llm_attr.errors import InvalidValue, ProcessFailed, ProcessLost, positive

Result = TypeVar("Result")


class parallel:  # noqa: N801 - reads as a statement
    """Shares the explanations inside over all processes of the program; every process gets the same results.

    The program is started by `torchrun` or `accelerate launch`, and all of its processes make the same calls with the
    same arguments. Whole prompts are shared out first; with fewer prompts than processes, coalitions, points of a path
    or groups of answer tokens. Random methods draw from the first process's streams, whatever the number of processes.
    An error of one process ends the others with that error.

    As a decorator in a notebook or a plain script, `parallel(num_processes=2)` starts the processes itself (by
    accelerate's `notebook_launcher`), runs the function in each, and returns the first one's result.

    Args:
        num_processes: How many processes there must be; None: as many as there are.
        shards: How many consecutive processes hold one copy of the model together (tensor parallel, FSDP); they walk
            in step, and work is shared between copies.

    Raises:
        InvalidValue: there are not `num_processes` processes, or `shards` does not divide their number.
        ProcessFailed: a process ended with an error that cannot be pickled.
        ProcessLost: a process was killed.
        OutOfStep: the processes make different calls.

    Example:
        >>> with parallel():  # in a script that torchrun started
        ...     result = explain(model, prompt)  # doctest: +SKIP
    """

    def __init__(self, num_processes: int | None = None, shards: int = 1) -> None:
        self.num_processes = None if num_processes is None else positive("num_processes", num_processes)
        self.shards = shards
        self._inside: list[AbstractContextManager[None]] = []

    def __enter__(self) -> Team:
        if current_team() is not None:
            raise InvalidValue("parallel() cannot be nested")
        _join_process_group()
        team = Team(self.shards)
        self._check_size(team)
        region = _region(team)
        region.__enter__()
        self._inside.append(region)
        return team

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self._inside.pop().__exit__(kind, error, trace)

    def __call__(self, function: Callable[..., Result]) -> Callable[..., Result]:
        @wraps(function)
        def shared(*args: Any, **kwargs: Any) -> Result:
            def inside() -> Result:
                with self:
                    return function(*args, **kwargs)

            started = dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) > 1
            if started or self.num_processes in (None, 1):
                return inside()
            return _launched(inside, self.num_processes or 1)

        return shared

    def _check_size(self, team: Team) -> None:
        if self.num_processes not in (None, team.processes):
            raise InvalidValue(
                f"num_processes={self.num_processes} was asked for, and the program runs as {team.processes}; start it "
                f"with `torchrun --standalone --nproc-per-node {self.num_processes}` (`accelerate launch --cpu` starts "
                "one process, whatever it is told), or decorate a function with parallel(num_processes=...)"
            )


@contextmanager
def in_step(ranks: Sequence[int]) -> Iterator[None]:
    """Keeps the processes that hold one model together in step, unless they share explanations already.

    Args:
        ranks: The global ranks of the processes.
    """
    if current_team() is None and len(ranks) > 1:
        with _region(Team(len(ranks), ranks)):
            yield
    else:
        yield


@contextmanager
def _region(team: Team) -> Iterator[None]:
    """Shares what runs inside; all processes draw from the first one's random streams and end together."""
    before = AllStreams.now()
    try:
        with joined(team), announcing(team):
            first = team.agreed("start", before)
            if team.process > 0:
                first.restore()
            yield
            team.exchange("end", None)
    finally:
        if team.process > 0:
            before.restore()


def _join_process_group() -> None:
    """Joins the process group of a launched program by accelerate, unless the program has done so."""
    if dist.is_available() and not dist.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState(cpu=not torch.accelerator.is_available())


def _launched(function: Callable[[], Result], processes: int) -> Result:
    """Runs a function in new processes and returns the first one's result, or raises the error of the first to fail."""
    from accelerate import notebook_launcher
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shown, port, path = sys.stdout, free.getsockname()[1], Path(folder) / "result"
        free.close()

        def keep() -> None:
            sys.stdout = shown
            if not torch.accelerator.is_available():
                os.environ.setdefault("OMP_NUM_THREADS", "1")  # else accelerate warns that it does the same
                torch.set_num_threads(1)  # a forked process cannot use its parent's threads
            with _Outcome() as outcome:
                outcome.value = function()
            if dist.get_rank() == 0:
                path.write_bytes(outcome.pickled())

        try:
            with redirect_stdout(StringIO()):  # accelerate speaks of training, and of GPUs where there are none
                notebook_launcher(keep, num_processes=processes, use_port=str(port))
        except ChildFailedError as failed:
            if not path.exists():
                raise ProcessLost(f"a process of parallel(num_processes={processes}) ended: {failed}") from failed
        result, error, trace = pickle.loads(path.read_bytes())
    if error is not None:
        raise error from ProcessFailed(f"raised in parallel(num_processes={processes}):\n{trace}")
    found: Result = result
    return found


class _Outcome:
    """What a function returned or raised, for the process that started this one."""

    value: Any = None
    error: BaseException | None = None
    trace = ""

    def __enter__(self) -> _Outcome:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, Exception):
            self.error, self.trace = picklable(error), "".join(traceback.format_exception(kind, error, trace))
        return isinstance(error, Exception)

    def pickled(self) -> bytes:
        """Value, error and traceback."""
        return pickle.dumps((self.value, self.error, self.trace))
