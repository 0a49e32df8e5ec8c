"""Runs a function in several processes, as torchrun would start them, without importing torch again."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

WAIT = 120


@dataclass
class Outcome:
    """What a process gave: a value, an error, or only its exit code."""

    value: Any = None
    error: BaseException | None = None
    code: int | None = None


def launch(function: Callable[[int], Any], processes: int) -> list[Outcome]:
    """`function(rank)` in each of some forked processes.

    Raises:
        AssertionError: a process did not end.
    """
    fork = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        started = [
            fork.Process(target=_run, args=(function, rank, processes, port, folder)) for rank in range(processes)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(WAIT)
        hanging = [rank for rank, process in enumerate(started) if process.is_alive()]
        for process in started:
            process.kill()
        assert not hanging, f"the processes {hanging} did not end"
        return [_outcome(Path(folder) / str(rank), process.exitcode) for rank, process in enumerate(started)]


def values(function: Callable[[int], Any], processes: int) -> list[Any]:
    """As `launch`, where nothing is expected to fail."""
    outcomes = launch(function, processes)
    for outcome in outcomes:
        if outcome.error is not None:
            raise outcome.error
        assert outcome.code == 0
    return [outcome.value for outcome in outcomes]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _outcome(path: Path, code: int | None) -> Outcome:
    if not path.exists():
        return Outcome(code=code)
    value, error = pickle.loads(path.read_bytes())
    return Outcome(value, error, code)


def _run(function: Callable[[int], Any], rank: int, processes: int, port: int, folder: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)  # a forked process has none of its parent's threads
    value, error = None, None
    try:
        value = function(rank)
    except BaseException as raised:  # noqa: BLE001 - the test looks at it
        error = raised
    (Path(folder) / str(rank)).write_bytes(pickle.dumps((value, error)))
    if dist.is_initialized() and error is None:
        dist.destroy_process_group()
    os._exit(0)


needs_gloo = pytest.mark.skipif(not (dist.is_available() and dist.is_gloo_available()), reason="torch has no gloo here")
