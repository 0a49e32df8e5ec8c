"""Jobs and results on disk: a job is there before it is accepted, and comes back after a restart."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import time
from typing import Any, Literal

from llm_attr.errors import BrokenFile

State = Literal["queued", "running", "done", "failed", "cancelled"]

KEPT = 1000
"""Finished jobs that are kept; the oldest go first."""

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Job:
    """A request that was accepted.

    Attributes:
        id: 32 hexadecimal digits.
        session: The page that asked.
        kind: `explain` or `generate`.
        asked: The request.
        key: The idempotency key, or None.
        parent: The job that this one varies, or None.
        note: How it varies its parent.
        state: How far it is.
        made: When it was accepted, in seconds since 1970.
        failure: Of a failed job: `kind`, `place` and `message`.
    """

    id: str
    session: str
    kind: Literal["explain", "generate"]
    asked: dict[str, Any]
    key: str | None = None
    parent: str | None = None
    note: str = ""
    state: State = "queued"
    made: float = field(default_factory=time)
    failure: dict[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in ("queued", "running")


class Storage:
    """A folder of jobs and their results; written by the loop's thread and the thread of work, each file by one.

    Args:
        folder: Made if missing, readable by this user only.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in (folder, folder / "jobs", folder / "results"):
            part.mkdir(parents=True, exist_ok=True, mode=0o700)

    def keep(self, job: Job) -> None:
        """Writes a job so that it survives a crash."""
        _write(self.folder / "jobs" / f"{job.id}.json", asdict(job))

    def keep_result(self, name: str, result: dict[str, Any]) -> None:
        """Writes what a job gave."""
        _write(self.folder / "results" / f"{name}.json", result)

    def result(self, name: str) -> dict[str, Any] | None:
        """What a job gave, or None."""
        path = self.folder / "results" / f"{name}.json"
        if not _ID.fullmatch(name) or not path.exists():
            return None
        return json.loads(path.read_text(encoding="utf-8"))

    def jobs(self) -> list[Job]:
        """All jobs, in the order in which they were accepted; jobs that were running are queued again."""
        found = sorted(self._read(), key=lambda job: job.made)
        return [replace(job, state="queued") if job.state == "running" else job for job in found]

    def forget(self, job: Job) -> None:
        """Deletes a job and its result."""
        for part in ("jobs", "results"):
            (self.folder / part / f"{job.id}.json").unlink(missing_ok=True)

    def _read(self) -> Iterator[Job]:
        for path in (self.folder / "jobs").glob("*.json"):
            try:
                yield Job(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise BrokenFile(f"{path} is not a job of the insights page: {error}; move it away") from error


def _write(path: Path, content: dict[str, Any]) -> None:
    """Replaces a file in one step, and has it on disk before this returns."""
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
