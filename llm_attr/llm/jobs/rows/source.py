"""Where the rows of a data set come from: objects in memory, data sets and streams of Hugging Face, and hub names."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from typing import Any, TypeAlias

from llm_attr.errors import InvalidValue
from llm_attr.llm.jobs.arrow import arrow

Row: TypeAlias = Mapping[str, Any]
"""The columns of a row."""

HEAD = 1000
"""Rows from which the columns and their types are read, if the data set does not tell them."""

STREAM_HEAD = 64
"""Rows by which a stream is recognised."""

_DIGESTED = 10_000


@dataclass(frozen=True)
class SourceRow:
    """A row of a data set.

    Attributes:
        number: Its number in the data set, from 0.
        values: Its columns.
        error: Why it cannot be read, or None.
    """

    number: int
    values: Row
    error: str | None = None


class RowSource(ABC):
    """Rows in a fixed order."""

    name: str
    repeatable = True
    """Whether the rows can be read more than once, and in another process."""

    @abstractmethod
    def raw(self, start: int) -> Iterator[Any]:
        """The rows from this number on, as far as they can be read without parsing them."""

    def parsed(self, raw: Any) -> Row:
        """The columns of a row.

        Raises:
            ValueError: it is not a row.
        """
        return as_row(raw)

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A hash of the content, or of the beginning of a stream."""

    @property
    def count(self) -> int | None:
        """How many rows there are; None if that is not known beforehand."""
        return None

    @cached_property
    def head(self) -> list[Row]:
        """The first rows, without those that cannot be read."""
        rows = []
        for raw in islice(self.raw(0), HEAD):
            try:
                rows.append(self.parsed(raw))
            except ValueError:
                continue
        return rows

    @property
    def columns(self) -> list[str]:
        """The names of the columns, in the order in which they appear."""
        return list(dict.fromkeys(chain.from_iterable(self.head)))

    def types(self, names: Sequence[str]) -> Any:
        """The arrow schema of these columns, from the first rows; a column of mixed types is text (JSON)."""
        pa, fields = arrow(), []
        for name in names:
            values = [row.get(name) for row in self.head]
            try:
                kind = pa.array(values).type
            except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
                kind = pa.string()
            fields.append(pa.field(name, pa.string() if pa.types.is_null(kind) else kind))
        return pa.schema(fields)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "head"}


class ListRows(RowSource):
    """Dicts in a list."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.name, self._rows = "a list", rows

    def raw(self, start: int) -> Iterator[Any]:
        """See `RowSource`."""
        return (self._rows[number] for number in range(start, len(self._rows)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all rows."""
        return digest_of(self._rows)

    @property
    def count(self) -> int | None:
        """The length of the list."""
        return len(self._rows)


class DatasetRows(RowSource):
    """A `datasets.Dataset`."""

    def __init__(self, dataset: Any, name: str) -> None:
        self.name, self._dataset = name, dataset.with_format(None)

    def raw(self, start: int) -> Iterator[Any]:
        """See `RowSource`."""
        return (self._dataset[number] for number in range(start, len(self._dataset)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all columns, in the form in which arrow writes them."""
        pa, digest = arrow(), hashlib.sha256()
        for batch in self._dataset.with_format("arrow").iter(_DIGESTED):
            sink = pa.BufferOutputStream()
            table = batch.replace_schema_metadata(None)
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(pa.concat_tables([table]).combine_chunks())
            digest.update(sink.getvalue())
        return digest.hexdigest()

    @property
    def count(self) -> int | None:
        """The length of the data set."""
        return len(self._dataset)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self._dataset.column_names)

    def types(self, names: Sequence[str]) -> Any:
        """The arrow types of these columns."""
        schema = self._dataset.features.arrow_schema
        return arrow().schema([schema.field(name).remove_metadata() for name in names])


class StreamRows(RowSource):
    """Something that gives its rows each time it is iterated over, such as a `datasets.IterableDataset`."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self.name, self._rows = f"a stream ({type(rows).__name__})", rows

    def raw(self, start: int) -> Iterator[Any]:
        """See `RowSource`."""
        return islice(iter(self._rows), start, None)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the first rows."""
        return digest_of(islice(self.raw(0), STREAM_HEAD))


class IteratorRows(RowSource):
    """A generator or another iterator, which gives its rows once."""

    repeatable = False

    def __init__(self, rows: Iterator[Any]) -> None:
        self.name, self._rows, self._is_read = f"an iterator ({type(rows).__name__})", rows, False
        self._begun = list(islice(rows, STREAM_HEAD))
        self._fingerprint = digest_of(self._begun)

    def raw(self, start: int) -> Iterator[Any]:
        """See `RowSource`.

        Raises:
            InvalidValue: the rows have been read already.
        """
        if self._is_read:
            raise InvalidValue("an iterator gives its rows only once; pass a list or a data set to read it again")
        self._is_read = True
        return islice(chain(self._begun, self._rows), start, None)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the first rows."""
        return self._fingerprint

    @cached_property
    def head(self) -> list[Row]:
        """The first rows."""
        return [dict(row) for row in self._begun if isinstance(row, Mapping)]


class Cursor:
    """Reads rows by number, forwards; rows that are passed over are not parsed."""

    def __init__(self, source: RowSource) -> None:
        self._source, self._rows, self._next = source, iter(()), -1

    def take(self, numbers: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers, in order; fewer if the data set ends before."""
        taken = []
        for number in numbers:
            if not 0 <= self._next <= number or isinstance(self._source, ListRows | DatasetRows):
                self._rows, self._next = self._source.raw(number), number
            skipped = number - self._next
            raw = next(islice(self._rows, skipped, None), _END)
            if raw is _END:
                break
            self._next = number + 1
            taken.append(self._row(number, raw))
        return taken

    def _row(self, number: int, raw: Any) -> SourceRow:
        try:
            return SourceRow(number, self._source.parsed(raw))
        except ValueError as error:
            return SourceRow(number, {}, f"the row cannot be read: {error}")


_END = object()


def as_row(raw: Any) -> Row:
    """The columns of a row.

    Raises:
        InvalidValue: it is not a mapping with names.
    """
    if not isinstance(raw, Mapping) or not all(isinstance(name, str) for name in raw):
        raise InvalidValue(f"a row must be a dict of columns by name; got {str(raw)[:80]!r}")
    return raw


def digest_of(rows: Iterable[Any]) -> str:
    """SHA-256 over rows, each as JSON."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, sort_keys=True, default=repr).encode() + b"\n")
    return digest.hexdigest()
