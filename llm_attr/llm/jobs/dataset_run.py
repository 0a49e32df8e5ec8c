"""A run over a data set, read back from its folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_attr.errors import InvalidValue
from llm_attr.llm.jobs.storage.folder import Folder, checked_path
from llm_attr.llm.jobs.storage.manifest import Manifest
from llm_attr.llm.jobs.storage.record import ERROR, ROW, carried_of, result_of
from llm_attr.llm.jobs.storage.shards import Index
from llm_attr.llm.jobs.summary import By, Interval, Summary, summarise

if TYPE_CHECKING:
    from llm_attr.llm.results.result import LLMAttributionResult


class DatasetRun:
    """The results of `explain_dataset`, in a folder of Parquet shards.

    Args:
        path: The folder, or its URL.

    Attributes:
        manifest: What the run asks, and of which data set.

    Raises:
        InvalidValue: there is no run in the folder.
        BrokenFile: its manifest, or later a shard, cannot be read.
        NewerFile: a newer version of llm_attr wrote it.
        MissingExtra: pyarrow is not installed.

    Example:
        >>> run = DatasetRun("answers")  # doctest: +SKIP
        >>> run.result(0).top(1)  # doctest: +SKIP
        >>> print(run.summary("slot"))  # doctest: +SKIP
    """

    def __init__(self, path: str | Path) -> None:
        self._folder = Folder(checked_path(path))
        found = Manifest.read(self._folder)
        if found is None:
            raise InvalidValue(f"{path} holds no run of explain_dataset (no manifest.json)")
        self.manifest = found

    def __repr__(self) -> str:
        return f"DatasetRun({str(self._folder)!r}, {len(self)} rows, {len(self.failed)} failed)"

    def __len__(self) -> int:
        """How many rows are there, those that failed included."""
        return len(self._index)

    @property
    def path(self) -> str:
        """The folder."""
        return str(self._folder)

    @property
    def total(self) -> int | None:
        """How many rows the data set has; None if it did not say so."""
        return self.manifest.dataset.get("rows")

    @cached_property
    def _index(self) -> Index:
        return Index.of((self._folder, self.manifest))

    @property
    def numbers(self) -> list[int]:
        """The numbers of the rows that are there, in order."""
        return [int(row) for row in self._index.rows]

    @property
    def first(self) -> int:
        """The number of the first row that was explained.

        Raises:
            InvalidValue: none was.
        """
        explained = self._index.rows[~self._index.failed]
        if not len(explained):
            raise InvalidValue(f"no row of {self.path} was explained")
        return int(explained[0])

    @property
    def failed(self) -> list[int]:
        """The numbers of the rows that could not be explained."""
        return [int(row) for row in self._index.rows[self._index.failed]]

    def errors(self) -> Iterator[tuple[int, str]]:
        """The number and the error of each row that could not be explained."""
        for record in self._index.only_failed().records([ROW, ERROR]):
            yield record[ROW], record[ERROR]

    def records(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """The stored rows in their order, as dicts; a few shards are in memory at a time.

        Args:
            columns: The names of the columns; None: all. docs/datasets.md lists those that begin with `attr_`.
        """
        return self._index.records(columns)

    def result(self, row: int) -> LLMAttributionResult:
        """The result of a row, without the table of coalition values.

        Raises:
            InvalidValue: the row is not there, or could not be explained.
        """
        return result_of(self._record(row), self.manifest.common)

    def row(self, row: int) -> dict[str, Any]:
        """The data set's own columns of a row, as far as they were carried along.

        Raises:
            InvalidValue: the row is not there.
        """
        return carried_of(self._record(row))

    def results(self) -> Iterator[tuple[int, LLMAttributionResult]]:
        """The number and the result of each row that was explained, in order."""
        for record in self.records():
            if record[ERROR] is None:
                yield record[ROW], result_of(record, self.manifest.common)

    def summary(self, by: By | None = None, *, interval: Interval = "normal", seed: int = 0) -> Summary:
        """What matters on average: the attribution of each slot, document or role over all rows.

        For each row the attributions of the units that belong together are added up; the mean over the rows has a 95 %
        interval.

        Args:
            by: What belongs together: `slot` (of a template), `document` (by its place among the row's documents),
                `role` (of messages), `kind` (slot, document, message or text) or `position` (the number of the unit in
                the prompt); None: the first of slot, document and role that the rows have, else position.
            interval: `normal`, by Student's t; or `bootstrap`, the percentiles of 2,000 resamples of the rows.
            seed: The seed of the resamples.

        Raises:
            InvalidValue: no row was explained, or the rows have no such units.
            UnknownName: there is no such `by` or `interval`.
        """
        return summarise(self._index, self.manifest, by, interval, seed)

    def to_dataset(self) -> Any:
        """The stored rows as a `datasets.Dataset`, in the order of the shards.

        Raises:
            MissingExtra: datasets is not installed.
        """
        from llm_attr.llm.jobs.rows.opened import hugging_face

        files = [shard.folder.place(shard.name) for shard in self._index.shards]
        return hugging_face().load_dataset("parquet", data_files=files, split="train")

    def _record(self, row: int) -> dict[str, Any]:
        if isinstance(row, bool) or not isinstance(row, int) or not (row >= 0 and self._index.has(row)):
            raise InvalidValue(f"row {row!r} is not in {self.path}, which has {len(self)} rows")
        return next(self._index.only(row).records())
