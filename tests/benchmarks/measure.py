"""Side by side in one process: medians of wall and processor time, and counters that do not depend on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter, process_time
from typing import Any

import torch


@dataclass
class Side:
    """One way of doing a job."""

    name: str
    run: Callable[[], Any]
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    calls: int = 0
    positions: int = 0
    head_rows: int = 0
    result: Any = None

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def median_busy(self) -> float:
        return median(self.busy)


@contextmanager
def one_thread() -> Iterator[None]:
    """Two threads on a shared machine swing far more than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def counting(model: torch.nn.Module, side: Side) -> Iterator[None]:
    """Counts calls and rows through the input embeddings and the output head."""

    def body(_: Any, __: Any, output: torch.Tensor) -> None:
        side.calls += 1
        side.positions += output.shape[:-1].numel()

    def head(_: Any, __: Any, output: torch.Tensor) -> None:
        side.head_rows += output.shape[:-1].numel()

    hooks = [
        model.get_input_embeddings().register_forward_hook(body),
        model.get_output_embeddings().register_forward_hook(head),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def compare(sides: list[Side], rounds: int, model: torch.nn.Module | None = None) -> None:
    """Runs the sides in turn, `rounds` times, and counts the last run; a side that takes a minute is run once."""
    with one_thread():
        for number in range(rounds):
            for side in sides:
                if number and side.seconds[0] > 60:
                    continue
                side.calls = side.positions = side.head_rows = 0
                with nullcontext() if model is None else counting(model, side):
                    start, busy = perf_counter(), process_time()
                    side.result = side.run()
                    side.seconds.append(perf_counter() - start)
                    side.busy.append(process_time() - busy)


def report(title: str, sides: list[Side]) -> str:
    """A line for each side, its ratios to the first; processor time is what a loaded machine leaves comparable."""
    first, busy = sides[0].median, sides[0].median_busy
    lines = [f"{title}: {'':24}  median ms   ratio     cpu ms   ratio  calls  positions  head rows"]
    lines += [
        f"  {side.name:34} {side.median * 1e3:9.1f}  {side.median / first:6.2f}  "
        f"{side.median_busy * 1e3:9.1f}  {side.median_busy / busy:6.2f}  "
        f"{side.calls or '-':>5}  {side.positions or '-':>9}  {side.head_rows or '-':>9}"
        for side in sides
    ]
    return "\n".join(lines)
