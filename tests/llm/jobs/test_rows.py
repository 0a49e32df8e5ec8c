"""Rows from files, data sets, streams and hub names, and the templates that they fill."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llm_attr.errors import BrokenFile, InvalidType, InvalidValue, UnknownName
from llm_attr.llm.jobs.rows.opened import source_of
from llm_attr.llm.jobs.rows.source import Cursor, RowSource
from llm_attr.llm.jobs.rows.template import Template
from llm_attr.llm.jobs.storage.record import OTHER, failure, schema_with, table_of
from tests.llm.jobs.runs import some_rows

ROWS = some_rows(25)


def lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n\n" for row in rows)


def written(folder: Path, kind: str) -> str:
    """A file, or a pattern of two, with these rows."""
    if kind == "jsonl":
        (folder / "a.jsonl").write_bytes(lines(ROWS))
    elif kind == "jsonl.gz":
        (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines(ROWS), mtime=0))
    elif kind == "json":
        (folder / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == "csv":
        with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(ROWS[0]))
            table.writeheader()
            table.writerows(ROWS)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), folder / "a.parquet", row_group_size=7)
    else:
        (folder / "a1.jsonl").write_bytes(lines(ROWS[:10]))
        (folder / "a2.jsonl").write_bytes(lines(ROWS[10:]))
        return str(folder / "a*.jsonl")
    return str(folder / f"a.{kind}")


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "parquet", "pattern"])
def test_files(tmp_path: Path, kind: str) -> None:
    source = source_of(written(tmp_path, kind))
    check(source)
    assert source.count == 25
    before = source.fingerprint
    assert source_of(written(tmp_path, kind)).fingerprint == before
    ROWS[24]["id"] = "changed"
    try:
        assert source_of(written(tmp_path, kind)).fingerprint != before
    finally:
        ROWS[24]["id"] = "r24"


def check(source: RowSource) -> None:
    """Every row has its number, wherever reading begins, also where rows are passed over."""
    assert source.columns == list(ROWS[0])
    cursor = Cursor(source)
    for numbers in ([0, 1], [2], [9, 10], [16, 21], [24, 25, 26], [99]):
        taken = cursor.take(numbers)
        assert [(row.number, dict(row.values)) for row in taken] == [(i, ROWS[i]) for i in numbers if i < 25]
    if source.repeatable:
        assert [row.number for row in Cursor(source).take([7, 12])] == [7, 12]
        assert cursor.take([3])[0].values["id"] == "r3"


class Again:
    """Iterable more than once."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(ROWS)


@pytest.mark.parametrize("kind", ["list", "dataset", "selected", "stream", "iterable", "iterator"])
def test_objects(kind: str) -> None:
    made = {
        "list": lambda: ROWS,
        "dataset": lambda: datasets.Dataset.from_list(ROWS),
        "selected": lambda: datasets.Dataset.from_list([ROWS[0], *ROWS]).select(range(1, 26)).with_format("torch"),
        "stream": lambda: datasets.Dataset.from_list(ROWS).to_iterable_dataset(),
        "iterable": Again,
        "iterator": lambda: iter(ROWS),
    }
    source = source_of(made[kind]())
    assert source.fingerprint == source_of(made[kind]()).fingerprint
    assert source.count == (25 if kind in ("list", "dataset", "selected") else None)
    if kind == "dataset":
        other = datasets.Dataset.from_list([*ROWS[:-1], ROWS[0]])
        assert source_of(other).fingerprint != source.fingerprint
    check(source)


def test_a_name_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "owner" / "name").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "owner" / "name" / "train.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    check(source_of("owner/name"))
    with pytest.raises(InvalidValue, match="no data set 'owner/nothing'"):
        source_of("owner/nothing")


def test_what_is_no_data_set(tmp_path: Path) -> None:
    with pytest.raises(InvalidType, match="not one dict"):
        source_of({"prompt": "Who?"})
    with pytest.raises(InvalidType, match="has the splits train"):
        source_of(datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}))
    with pytest.raises(InvalidType, match="got int"):
        source_of(3)
    with pytest.raises(InvalidValue, match="there is no file"):
        source_of(tmp_path / "none.jsonl")
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8")
    with pytest.raises(InvalidValue, match="must hold a list of rows; it holds a dict"):
        source_of(tmp_path / "a.json").head  # noqa: B018
    (tmp_path / "a.json").write_text('{"a": 1}\n{"a": 2}', encoding="utf-8")
    with pytest.raises(BrokenFile, match=r"JSON lines have the ending \.jsonl"):
        source_of(tmp_path / "a.json").head  # noqa: B018
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(BrokenFile, match="cannot be read as parquet"):
        source_of(tmp_path / "a.parquet").head  # noqa: B018


def test_a_line_that_cannot_be_read_is_a_row_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \n[1]\n{"a": 4}\n')
    taken = Cursor(source_of(tmp_path / "a.jsonl")).take(range(4))
    assert [row.values.get("a") for row in taken] == [1, None, None, 4]
    assert "the row cannot be read" in str(taken[1].error)
    assert "a row must be a dict" in str(taken[2].error)


def test_values_of_another_type_are_kept_beside_their_column() -> None:
    rows = [
        {"n": 1, "s": "a", "l": [1, 2], "o": None},
        {"n": 2.5, "s": None, "l": [1, 2.5], "o": "later", "new": {"k": 1}},
    ]
    schema = schema_with(source_of(rows[:1]).types(["n", "s", "l", "o"]))
    table = table_of([row | failure(i, "no") for i, row in enumerate(rows)], schema)
    assert table.schema == schema
    first, second = table.to_pylist()
    assert {name: first[name] for name in rows[0]} == rows[0]
    assert first[OTHER] is None
    assert (second["n"], second["l"], second["o"]) == (None, None, "later")
    assert json.loads(second[OTHER]) == {"n": 2.5, "l": [1, 2.5], "new": {"k": 1}}
    again = table_of(table.to_pylist(), schema)
    assert again.equals(table)


def test_slots_of_a_template() -> None:
    template = Template("{{{a}}} costs {b:.2f}, {a!r:>5}{c}")
    text, spans = template.filled({"a": "x", "b": 3, "c": ""})
    assert text == "{x} costs 3.00,   'x'"
    assert {name: text[slice(*place)] for name, place in spans.items()} == {"a": "x", "b": "3.00", "a 2": "  'x'"}
    assert template.columns == ["a", "b", "c"]
    assert list(Template("{a}{b}", ("b",)).filled({"a": "x", "b": "y"})[1]) == ["b"]
    messages, spans = Template([{"role": "user", "content": "{a}"}, {"role": "user", "content": "of {a}"}]).filled(
        {"a": 7}
    )
    assert [message["content"] for message in messages] == ["7", "of 7"]
    assert spans == {"a": (0, 0, 1), "a 2": (1, 3, 4)}
    with pytest.raises(InvalidValue, match="no value in column 'b'"):
        template.filled({"a": "x"})
    with pytest.raises(InvalidValue, match="cannot be formatted"):
        template.filled({"a": "x", "b": "three", "c": ""})
    with pytest.raises(UnknownName, match="unknown slot 'd'"):
        Template("{a}", ("d",))
