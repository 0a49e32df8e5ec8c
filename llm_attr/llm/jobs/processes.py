"""The launcher for one machine: processes with a model each, which need nothing of each other."""

from __future__ import annotations

import os
import signal
import sys
from multiprocessing import connection, get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from llm_attr.errors import LlmAttrError, ProcessLost
from llm_attr.llm.jobs.job import Job, Report, Share

THREADS = "OMP_NUM_THREADS"

STOPPED = 130
"""The exit code of a process that was asked to end."""


def run_processes(job: Job, share: Share, processes: int, report: Report) -> None:
    """Explains a share of the rows in several processes, and waits for all of them.

    A process that dies leaves what it has written; the others go on to their end.

    Args:
        job: The job.
        share: The share that is divided among them.
        processes: How many.
        report: Told of every batch of each.

    Raises:
        ProcessLost: a process died.
        LlmAttrError: the first error of a process.
    """
    context = get_context("spawn")
    workers: dict[Connection, Any] = {}
    failed: list[BaseException] = []
    threads = max(1, torch.get_num_threads() // processes)
    try:
        for number, part in enumerate(share.divided(processes)):
            ours, theirs = context.Pipe(duplex=False)
            worker = context.Process(
                target=_work, args=(job, part, number, threads, theirs), name=f"process {number + 1} of {processes}"
            )
            worker.start()
            theirs.close()
            workers[ours] = worker
        failed = _watched(workers, report)
    finally:
        for worker in workers.values():  # after Ctrl-C: each writes what it has, and ends
            if worker.is_alive():
                worker.terminate()
        for worker in workers.values():
            worker.join()
    if failed:
        raise failed[0]


def _watched(workers: dict[Connection, Any], report: Report) -> list[BaseException]:
    """Passes reports on until all processes have ended; returns what went wrong."""
    open_ends, errors = dict(workers), list[BaseException]()
    while open_ends:
        ready: list[Any] = connection.wait(list(open_ends))
        for end in ready:
            try:
                said = end.recv()
            except (EOFError, OSError):
                worker = open_ends.pop(end)
                worker.join()
                if worker.exitcode:
                    errors.append(ProcessLost(_lost(worker)))
                continue
            if isinstance(said, BaseException):
                errors.append(said)
            else:
                report(*said)
    return sorted(errors, key=lambda error: isinstance(error, ProcessLost))


def _lost(worker: Any) -> str:
    code = worker.exitcode
    why = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return (
        f"{worker.name} {why}; what it wrote is kept, and the others went on to their end. Run the same again for the "
        "rows that are missing"
    )


def _work(job: Job, share: Share, local: int, threads: int, end: Connection) -> None:
    """The body of a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends this process with SIGTERM
    signal.signal(signal.SIGTERM, _interrupted)
    if THREADS not in os.environ:
        torch.set_num_threads(threads)
    try:
        job.run(share, lambda *done: end.send(done), local)
    except LlmAttrError as error:
        end.send(error)
    except (KeyboardInterrupt, BrokenPipeError):
        sys.exit(STOPPED)


def _interrupted(number: int, frame: Any) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt
