"""Rows in files: JSON lines, JSON, CSV and Parquet, also compressed, by pattern and behind URLs."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from io import TextIOWrapper
from typing import Any

from llm_attr.errors import BrokenFile, InvalidValue
from llm_attr.llm.jobs.arrow import arrow, file_system, is_local, parquet
from llm_attr.llm.jobs.rows.source import Row, RowSource, as_row

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
PACKED = (".gz", ".bz2", ".xz", ".zst")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class _Passed:
    """Rows that were passed over without being read."""

    rows: int


class FileRows(RowSource):
    """The rows of one or more files of a kind, one after the other.

    Args:
        name: The path or pattern.
        kind: `jsonl`, `json`, `csv` or `parquet`.
        paths: The files.
    """

    def __init__(self, name: str, kind: str, paths: Sequence[str]) -> None:
        self.name, self._kind, self._paths = name, kind, list(paths)

    @classmethod
    def of(cls, name: str) -> FileRows | None:
        """The files of a path, URL or pattern; None if it does not look like one.

        Raises:
            InvalidValue: there is no such file.
        """
        kind = _kind(name)
        if kind is None:
            return None
        fs, path = file_system(name)
        paths = sorted(fs.glob(path)) if any(mark in path for mark in "*?[") else [path]
        missing = [each for each in paths if not fs.isfile(each)]
        if missing or not paths:
            raise InvalidValue(f"there is no file {name!r}")
        return cls(name, kind, [fs.unstrip_protocol(each) for each in paths])

    def raw(self, start: int) -> Iterator[Any]:
        """See `RowSource`."""
        skipped = start
        for path in self._paths:
            for row in self._rows(path, skipped):
                if isinstance(row, _Passed):
                    skipped -= row.rows
                elif skipped > 0:
                    skipped -= 1
                else:
                    yield row

    def parsed(self, raw: Any) -> Row:
        """See `RowSource`."""
        return as_row(json.loads(raw) if self._kind == "jsonl" else raw)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files; over size and version of those that are elsewhere."""
        return self._scanned[0]

    @property
    def count(self) -> int | None:
        """The number of rows; None for files that would have to be fetched to know it."""
        return self._scanned[1]

    @cached_property
    def _scanned(self) -> tuple[str, int | None]:
        digest, count, known = hashlib.sha256(), 0, True
        for path in self._paths:
            fs, place = file_system(path)
            if not is_local(fs):
                digest.update(str(fs.ukey(place)).encode())
                known = False
                continue
            with fs.open(place, "rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            count += parquet().read_metadata(place).num_rows if self._kind == "parquet" else self._length(path)
        return digest.hexdigest(), count if known else None

    def _length(self, path: str) -> int:
        return sum(1 for _ in self._rows(path, 0))

    def _rows(self, path: str, skipped: int) -> Iterator[Any]:
        """The rows of a file; for groups of rows that are skipped, how many they are."""
        readers: dict[str, Callable[[str], Iterator[Any]]] = {
            "jsonl": _lines,
            "json": _array,
            "csv": _records,
            "parquet": partial(_batches, skipped=skipped),
        }
        try:
            yield from readers[self._kind](path)
        except (UnicodeDecodeError, EOFError, csv.Error, arrow().ArrowInvalid) as error:
            raise BrokenFile(f"{path} cannot be read as {self._kind}: {error}") from error


def _kind(name: str) -> str | None:
    lower = name.lower()
    for ending in PACKED:
        lower = lower.removesuffix(ending)
    return next((kind for ending, kind in KINDS.items() if lower.endswith(ending)), None)


def _text(path: str) -> Any:
    fs, place = file_system(path)
    return TextIOWrapper(fs.open(place, "rb", compression="infer"), encoding="utf-8-sig", newline="")


def _lines(path: str) -> Iterator[str]:
    with _text(path) as file:
        yield from (line for line in file if line.strip())


def _array(path: str) -> Iterator[Any]:
    with _text(path) as file:
        try:
            rows = json.load(file)
        except ValueError as error:
            raise BrokenFile(f"{path} is not JSON: {error}; JSON lines have the ending .jsonl") from error
    if not isinstance(rows, list):
        raise InvalidValue(f"{path} must hold a list of rows; it holds a {type(rows).__name__}")
    yield from rows


def _records(path: str) -> Iterator[Row]:
    with _text(path) as file:
        yield from csv.DictReader(file)


def _batches(path: str, skipped: int) -> Iterator[Any]:
    fs, place = file_system(path)
    with fs.open(place, "rb") as file:
        content = parquet().ParquetFile(file)
        for group in range(content.metadata.num_row_groups):
            rows = content.metadata.row_group(group).num_rows
            if rows <= skipped:
                skipped -= rows
                yield _Passed(rows)
                continue
            skipped = 0
            for batch in content.iter_batches(row_groups=[group]):
                yield from batch.to_pylist()
