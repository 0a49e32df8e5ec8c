"""Shards: Parquet files of some rows each, which appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from time import monotonic
from typing import Any

import numpy as np

from llm_attr.errors import BrokenFile, OtherRun
from llm_attr.llm.jobs.arrow import arrow, parquet
from llm_attr.llm.jobs.storage.folder import Folder
from llm_attr.llm.jobs.storage.manifest import Manifest
from llm_attr.llm.jobs.storage.record import ERROR, ROW, Record, table_of

ROWS = "rows"
"""The folder of the shards."""

ENDING = ".parquet"
KEY = b"llm_attr"
"""The key of what the footer says."""


class ShardWriter:
    """Collects records and writes a shard once it is full or old.

    Args:
        folder: The folder of the run.
        schema: The arrow schema of the rows.
        manifest: The manifest, for the footer.
        share: The share whose rows these are, such as `0-of-2`.
        rows: How many rows a shard has at most.
        seconds: After how many seconds a shard is written at the latest.
    """

    def __init__(self, folder: Folder, schema: Any, manifest: Manifest, share: str, rows: int, seconds: float) -> None:
        self._folder, self._share, self._rows, self._seconds = folder, share, rows, seconds
        self._schema = schema.with_metadata({KEY: footer(manifest).encode()})
        self._pending: list[Record] = []
        self._since = monotonic()
        self.written = 0

    def add(self, records: Sequence[Record]) -> None:
        """Adds records, and writes the shard if it is due.

        Raises:
            NotStored: it could not be written; its records are kept for another try.
        """
        if not self._pending:
            self._since = monotonic()
        self._pending += records
        if len(self._pending) >= self._rows or monotonic() - self._since >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Writes the records that wait.

        Raises:
            NotStored: they could not be written.
        """
        if not self._pending:
            return
        numbers = [record[ROW] for record in self._pending]
        data = bytes_of(table_of(self._pending, self._schema))
        self._folder.write(shard_name(numbers, self._share), data, f"rows {numbers[0]} to {numbers[-1]}")
        self.written += len(self._pending)
        self._pending = []


def shard_name(numbers: Sequence[int], share: str) -> str:
    """The name of the shard with these rows; other rows have another name, also of the same share."""
    mark = hashlib.sha256(repr(list(numbers)).encode()).hexdigest()[:8]
    return f"{ROWS}/rows-{numbers[0]:09d}-{numbers[-1]:09d}-{mark}.{share}{ENDING}"


def bytes_of(table: Any) -> bytes:
    """A table as the content of a Parquet file."""
    sink = arrow().BufferOutputStream()
    parquet().write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def footer(manifest: Manifest) -> str:
    """What the footer of a shard says: the run, what it asks, and the provenance of all its rows."""
    about = {"run": manifest.fingerprint, "asked": manifest.asked, "provenance": manifest.common}
    return json.dumps({"format": "llm_attr rows", "schema": 1, "written_by": manifest.written_by, **about})


@dataclass(frozen=True)
class Shard:
    """A shard of a run.

    Attributes:
        folder: The folder of the run.
        name: The shard's name in it.
    """

    folder: Folder
    name: str

    def read(self, columns: Sequence[str] | None = None) -> Any:
        """Its rows as an arrow table.

        Raises:
            BrokenFile: it cannot be read.
        """
        return self._opened(lambda file: file.read(columns=None if columns is None else list(columns)))

    def rows(self, manifest: Manifest) -> tuple[np.ndarray, np.ndarray]:
        """The numbers of its rows, and which of them failed.

        Raises:
            BrokenFile: it cannot be read.
            OtherRun: it belongs to another run.
        """

        def read(file: Any) -> tuple[np.ndarray, np.ndarray]:
            known = json.loads((file.schema_arrow.metadata or {}).get(KEY, b"{}"))
            if known.get("run") != manifest.fingerprint:
                raise OtherRun(f"{self.folder}/{self.name} is not of the run of the manifest beside it; move it away")
            table = file.read(columns=[ROW, ERROR])
            return table[ROW].to_numpy(), table[ERROR].is_valid().to_numpy()

        return self._opened(read)

    def forget_failures(self) -> None:
        """Takes the rows that failed out of it, so that they are explained anew.

        Raises:
            NotStored: it could not be written.
        """
        table = self.read()
        kept = table.filter(table[ERROR].is_null())
        if len(kept):
            self.folder.write(self.name, bytes_of(kept), f"the rows of {self.name}")
        else:
            self.folder.remove(self.name)

    def _opened(self, read: Callable[[Any], Any]) -> Any:
        try:
            with self.folder.open(self.name) as file:
                return read(parquet().ParquetFile(file))
        except (arrow().ArrowInvalid, arrow().ArrowKeyError, OSError) as error:
            raise BrokenFile(
                f"{self.folder}/{self.name} cannot be read: {error}. Remove it to have its rows explained anew"
            ) from error


@dataclass(frozen=True)
class Index:
    """Where the rows of a run are: arrays of the same length, in the order of the rows.

    Attributes:
        shards: The shards.
        rows: The numbers of the rows, each once.
        shard: The shard of each, an index into `shards`.
        place: Its place in the shard.
        failed: Whether it could not be explained.
    """

    shards: list[Shard]
    rows: np.ndarray
    shard: np.ndarray
    place: np.ndarray
    failed: np.ndarray

    @classmethod
    def of(cls, *runs: tuple[Folder, Manifest]) -> Index:
        """Reads the numbers of all rows; of a row that is there twice one that was explained counts.

        Raises:
            BrokenFile: a shard cannot be read.
            OtherRun: a shard belongs to another run than the manifest beside it.
        """
        found = [(Shard(folder, name), manifest) for folder, manifest in runs for name in shard_names(folder)]
        parts = [shard.rows(manifest) for shard, manifest in found]
        rows = np.concatenate([np.zeros(0, np.int64), *(part[0] for part in parts)])
        failed = np.concatenate([np.zeros(0, bool), *(part[1] for part in parts)])
        sizes = [len(part[0]) for part in parts]
        shard = np.repeat(np.arange(len(found)), sizes)
        place = np.concatenate([np.zeros(0, np.int64), *map(np.arange, sizes)])
        order = np.lexsort((shard, failed, rows))
        order = order[np.r_[True, np.diff(rows[order]) > 0]] if len(order) else order
        return cls([each for each, _ in found], rows[order], shard[order], place[order], failed[order])

    def __len__(self) -> int:
        return len(self.rows)

    def only_failed(self) -> Index:
        """The rows that could not be explained."""
        return self._chosen(np.flatnonzero(self.failed))

    def only(self, row: int) -> Index:
        """One row."""
        return self._chosen(np.flatnonzero(self.rows == row))

    @cached_property
    def done(self) -> np.ndarray:
        """Bool `(highest row + 1,)`: whether each row is there."""
        mask = np.zeros(int(self.rows[-1]) + 1 if len(self) else 0, bool)
        mask[self.rows] = True
        return mask

    def has(self, row: int) -> bool:
        """Whether a row is there."""
        return row < len(self.done) and bool(self.done[row])

    def _chosen(self, places: np.ndarray) -> Index:
        return Index(self.shards, self.rows[places], self.shard[places], self.place[places], self.failed[places])

    def records(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """The stored rows in their order, a few shards in memory at a time."""
        for table in self.tables(columns):
            yield from table.to_pylist()

    def tables(self, columns: Sequence[str] | None = None, size: int = 256) -> Iterator[Any]:
        """The stored rows in their order, as tables of at most `size` rows."""
        shards: dict[int, Any] = {}
        left = np.bincount(self.shard, minlength=len(self.shards))
        for start in range(0, len(self), size):
            shard, place = self.shard[start : start + size], self.place[start : start + size]
            pieces, order = [], []
            for number in np.unique(shard).tolist():
                if number not in shards:
                    shards[number] = self.shards[number].read(columns)
                inside = np.flatnonzero(shard == number)
                pieces.append(shards[number].take(place[inside]))
                order.append(inside)
                left[number] -= len(inside)
                if not left[number]:
                    del shards[number]
            yield arrow().concat_tables(pieces).take(np.argsort(np.concatenate(order), kind="stable"))


def shard_names(folder: Folder) -> list[str]:
    """The names of the shards of a run, in order."""
    return [f"{ROWS}/{name}" for name in folder.names(ROWS) if name.endswith(ENDING) and not name.startswith(".")]
