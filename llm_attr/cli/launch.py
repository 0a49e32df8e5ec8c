"""Running a command in several processes that share its explanation."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Any

import typer

NumProcesses = Annotated[
    int, typer.Option(min=1, help="Number of processes that share the work, each with the model (one per GPU).")
]


def launch(processes: int) -> bool:
    """Runs this command in new processes and ends with their exit code, unless it runs in one of them already.

    Args:
        processes: How many processes there must be.

    Returns:
        Whether the work is shared: False with one process.
    """
    if processes == 1 or "TORCHELASTIC_RUN_ID" in os.environ:
        return processes > 1
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main

    threads = max(1, len(os.sched_getaffinity(0)) // processes if hasattr(os, "sched_getaffinity") else 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # of the launcher; processes tell their errors
    print(f"{processes} processes share the work", file=sys.stderr)
    try:
        main(["--standalone", "--nproc-per-node", str(processes), "-m", "llm_attr.cli", *sys.argv[1:]])
    except ChildFailedError as failed:
        raise typer.Exit(max(failure.exitcode for failure in failed.failures.values()) or 1) from None
    except SignalException as signalled:  # the launcher has ended the processes
        raise typer.Exit(128 + int(signalled.sigval)) from None
    raise typer.Exit


def is_first() -> bool:
    """Whether this process speaks for those that share a command."""
    return os.environ.get("RANK", "0") == "0"


def own_device() -> dict[str, Any]:
    """The argument of `load_model` that puts the model onto this process's accelerator, if there is one."""
    import torch

    if not torch.accelerator.is_available():
        return {}
    return {"device_map": {"": int(os.environ.get("LOCAL_RANK", "0"))}}
