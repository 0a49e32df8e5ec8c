"""Sharing work out over the processes of a team, and gathering what they found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor

from llm_attr.core.parallel.team import Team, current_team, joined

Found = TypeVar("Found")
Value = TypeVar("Value")


def share(step: str, count: int, work: Callable[[int], Found]) -> list[Found]:
    """`[work(0), ..., work(count - 1)]`; with a team each process does its own part of it.

    Nothing inside `work` is shared again.

    Args:
        step: The name of the work.
        count: How many pieces it has.
        work: Does one piece.
    """
    team = current_team()
    if team is None or count < 2:
        return [work(i) for i in range(count)]
    with announcing(team), joined(team.own):
        own = [work(i) for i in range(team.rank, count, team.size)]
    of_each = team.exchange(f"{step} of {count}", own)
    return [of_each[i % team.size][i // team.size] for i in range(count)]


def share_rows(step: str, rows: Tensor, work: Callable[[Tensor], Found], device: torch.device) -> list[Found]:
    """What `work` finds for consecutive parts of `rows`, in order: one part, or with a team one for each process.

    Args:
        step: The name of the work.
        rows: `(rows, ...)`.
        work: Works on some of the rows, at least one.
        device: Where tensors that other processes found on an accelerator go.
    """
    team = current_team()
    if team is None:
        return [work(rows)]
    own = rows.tensor_split(team.size)[team.rank]
    with announcing(team), joined(team.own):
        found = work(own) if len(own) else None
    of_each = team.exchange(f"{step} {fingerprint(rows)}", found, device)
    return [part for part in of_each if part is not None]


def agreed(step: str, value: Callable[[], Value]) -> Value:
    """A value that every process of a team takes from the first one, such as a time."""
    team = current_team()
    if team is None:
        return value()
    with announcing(team):
        own = value()
    return team.agreed(step, own)


def gathered(step: str, value: Value) -> list[Value]:
    """The value of each process of a team, or this one's."""
    team = current_team()
    return [value] if team is None else team.exchange(step, value)


def least(number: int) -> int:
    """The least number that a process of this copy of the model gives."""
    team = current_team()
    return number if team is None else team.least(number)


def cuts(costs: Sequence[int], alone: Sequence[int], parts: int) -> list[int]:
    """Where to cut a sequence of jobs so that the most expensive part is as cheap as possible.

    Args:
        costs: The cost of each job right after the one before it.
        alone: Its cost as the first of a part.
        parts: How many parts, some of which may be empty.

    Returns:
        `parts + 1` indices from 0 to the number of jobs.
    """
    totals = [0, *accumulate(costs)]
    low, high = max(alone, default=0), totals[-1] + sum(alone[:1])

    def fitting(most: int) -> list[int]:
        places = [0]
        while len(places) <= parts:
            start = stop = places[-1]
            while stop < len(costs) and (stop == start or alone[start] + totals[stop + 1] - totals[start + 1] <= most):
                stop += 1
            places.append(stop)
        return places

    while low < high:
        middle = (low + high) // 2
        if fitting(middle)[-1] == len(costs):
            high = middle
        else:
            low = middle + 1
    return fitting(low)


def fingerprint(*values: Any) -> str:
    """A short hash of tensors, numbers, texts, containers and records of these; other objects count by their type."""
    digest = sha256()
    _add(digest, values)
    return digest.hexdigest()[:16]


class announcing:  # noqa: N801 - reads as a statement
    """Tells the other processes of an error inside at once, so that none of them waits."""

    def __init__(self, team: Team) -> None:
        self._team = team

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            self._team.announce(error)


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        own = value.detach().cpu().clone(memory_format=torch.contiguous_format)  # one entry may be broadcast
        digest.update(repr((tuple(own.shape), own.dtype)).encode())
        digest.update(own.flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        _add(digest, sorted(value.items(), key=lambda item: repr(item[0])))
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}(".encode())
        for part in value:
            _add(digest, part)
    elif isinstance(value, set | frozenset):
        _add(digest, sorted(value, key=repr))
    elif isinstance(value, str | bytes | int | float | complex | bool | None):
        digest.update(repr(value).encode())
    elif hasattr(value, "__dataclass_fields__"):
        _add(digest, [type(value).__qualname__, {name: getattr(value, name) for name in value.__dataclass_fields__}])
    else:
        digest.update(getattr(value, "__qualname__", type(value).__qualname__).encode())
