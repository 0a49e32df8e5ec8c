"""A job: everything that a process needs to explain its share of the rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from llm_attr.core.evaluator import share_of
from llm_attr.errors import InvalidValue
from llm_attr.llm.jobs.model_source import ModelSource, common_provenance, hashes_of, local_number
from llm_attr.llm.jobs.row_function import RowFunction, blocks, check_arguments
from llm_attr.llm.jobs.rows.prompts import RowPrompts
from llm_attr.llm.jobs.rows.source import Cursor, RowSource
from llm_attr.llm.jobs.storage.folder import Folder
from llm_attr.llm.jobs.storage.manifest import Manifest
from llm_attr.llm.jobs.storage.record import ERROR, Record, schema_with
from llm_attr.llm.jobs.storage.shards import Index, ShardWriter

Report: TypeAlias = Callable[[int, int], None]
"""Called with the numbers of rows that are done and of those among them that failed."""


@dataclass(frozen=True)
class Share:
    """The rows of one process among several: every `of`-th block of rows, from `number` on."""

    number: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.of:
            raise InvalidValue(f"a share is i/n with 0 <= i < n; got {self.number}/{self.of}")

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"

    @classmethod
    def parsed(cls, given: str | Sequence[int] | None) -> Share:
        """From `"0/4"` or `(0, 4)`; None: by torchrun's RANK and WORLD_SIZE, else all rows.

        Raises:
            InvalidValue: it has another form.
        """
        if given is None:
            given = (os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1"))  # type: ignore[assignment]
        parts = given.split("/") if isinstance(given, str) else list(given or ())
        if len(parts) != 2 or not all(str(part).isdigit() for part in parts):
            raise InvalidValue(f"a share is written i/n, such as 0/4; got {given!r}")
        return cls(*map(int, parts))

    def rows(self, total: int, size: int) -> int:
        """How many of `total` rows in blocks of `size` belong to it."""
        count = -(-total // size)
        own = range(self.number, count, self.of)
        return len(own) * size - (count * size - total if count - 1 in own else 0)

    def holds(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Which of these rows belong to it, in blocks of `size`."""
        return (rows // size) % self.of == self.number

    def divided(self, processes: int) -> list[Share]:
        """This share, divided among processes."""
        return [Share(self.number * processes + i, self.of * processes) for i in range(processes)]


@dataclass(frozen=True)
class Job:
    """What is explained, how, and where the results go; it can be sent to another process.

    Attributes:
        source: The rows.
        prompts: Makes their prompts.
        arguments: Arguments of `explain`.
        model: Where the model comes from.
        folder: Where the results go.
        asked: What decides the results, without the model.
        carried: The arrow schema of the columns that are carried along.
        batch_size: How many rows are explained together.
        rows_per_shard: How many rows a shard has at most.
        seconds_per_shard: After how many seconds a shard is written at the latest.
        limit: How many rows are explained at most; None: all.
    """

    source: RowSource
    prompts: RowPrompts
    arguments: Mapping[str, Any]
    model: ModelSource
    folder: Folder
    asked: Mapping[str, Any]
    carried: Any
    batch_size: int
    rows_per_shard: int
    seconds_per_shard: float
    limit: int | None = None

    @property
    def total(self) -> int | None:
        """How many rows there are; None if unknown."""
        counts = [count for count in (self.source.count, self.limit) if count is not None]
        return None if self.source.count is None else min(counts)

    @property
    def schema(self) -> Any:
        """The arrow schema of the stored rows."""
        return schema_with(self.carried)

    def manifest(self, hashes: Mapping[str, Any], common: Mapping[str, Any]) -> Manifest:
        """The manifest of this job, written unless it is there.

        Args:
            hashes: See `hashes_of`.
            common: See `common_provenance`.

        Raises:
            OtherRun: the folder holds a run that asks something else.
            NotStored: it cannot be written.
        """
        dataset = {"name": self.source.name, "rows": self.source.count}
        asked = {**self.asked, **hashes}
        return Manifest.new(asked, dataset, dict(common), self.carried).began(self.folder)

    def writer(self, manifest: Manifest, share: object) -> ShardWriter:
        """The writer of a share's shards."""
        size, seconds = self.rows_per_shard, self.seconds_per_shard
        return ShardWriter(self.folder, self.schema, manifest, str(share), size, seconds)

    def rows_of(self, share: Share, index: Index) -> Any:
        """The row numbers of a share that are not there yet, block by block, without end if the total is unknown."""
        end = self.limit if self.total is None else self.total
        for block in blocks(share.number, share.of, self.batch_size):
            if end is not None and block.start >= end:
                return
            numbers = [row for row in block if (end is None or row < end) and not index.has(row)]
            yield numbers

    def run(self, share: Share, report: Report, local: int | None = None) -> None:
        """Explains the rows of a share in this process, as far as they are not there yet.

        Args:
            share: The share.
            report: Told of every batch.
            local: The number of this process on its machine, for its device.

        Raises:
            InUse: another process works on these rows.
            OtherRun: the folder holds a run that asks something else.
            NotStored: results could not be written.
            LlmAttrError: the model or the arguments are refused.
        """
        busy = f"another process is at work on this share of {self.folder}; wait for it, or stop it"
        with self.folder.locked(f"{share}", busy):
            self.folder.sweep(f"{share}")
            language_model = self.model.load(local_number() if local is None else local)
            check_arguments(language_model, self.arguments)
            manifest = self.manifest(hashes_of(language_model), common_provenance(language_model))
            function = RowFunction(language_model, self.prompts, self.arguments, manifest.common)
            index = Index.of((self.folder, manifest))
            writer, before = self.writer(manifest, share), len(index)
            with ExitStack() as stack:
                stack.callback(writer.flush)
                self._explain(function, share, index, writer, report, before)

    def _explain(
        self, function: RowFunction, share: Share, index: Index, writer: ShardWriter, report: Report, before: int
    ) -> None:
        cursor, done = Cursor(self.source), before
        for numbers in self.rows_of(share, index):
            rows = cursor.take(numbers)
            if len(rows) < len(numbers) and not rows:
                return
            if not rows:
                continue
            total = max(self.total or 0, done + len(rows))
            with share_of("rows of a data set", done, done + len(rows), total):
                records = function(rows)
            writer.add(records)
            done += len(rows)
            report(len(rows), failures(records))
            if len(rows) < len(numbers):
                return


def failures(records: Sequence[Record]) -> int:
    """How many of these rows failed."""
    return sum(record.get(ERROR) is not None for record in records)
