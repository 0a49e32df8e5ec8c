"""The stored form of an explained row: the columns carried along, and those of the explanation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.errors import InvalidValue
from llm_attr.llm.jobs.arrow import arrow
from llm_attr.llm.results.result import LLMAttributionResult

Record: TypeAlias = dict[str, Any]
"""A stored row, in plain Python types."""

PREFIX = "attr_"
"""What the names of the explanation's columns begin with."""

ROW, ERROR, OTHER, SEQ, GROUPS = "attr_row", "attr_error", "attr_other", "attr_seq", "attr_groups"
STDERR, PROVENANCE, ANSWER, UNITS = "attr_stderr", "attr_provenance", "attr_answer", "attr_units"


def own_fields() -> list[Any]:
    """The arrow fields of the explanation."""
    pa = arrow()
    floats, texts, numbers = pa.list_(pa.float32()), pa.list_(pa.string()), pa.list_(pa.int32())
    group = pa.struct([("label", pa.string()), ("kind", pa.string()), ("first", pa.int32()), ("stop", pa.int32())])
    kinds = {
        ROW: pa.int64(),
        ERROR: pa.string(),
        UNITS: texts,
        SEQ: floats,
        STDERR: floats,
        GROUPS: pa.list_(group),
        "attr_context": texts,
        ANSWER: pa.string(),
        "attr_answer_tokens": texts,
        "attr_answer_ids": numbers,
        "attr_answer_spans": pa.list_(numbers),
        "attr_answer_probs": floats,
        "attr_tokens": pa.list_(floats),
        "attr_tokens_stderr": pa.list_(floats),
        "attr_region": numbers,
        PROVENANCE: pa.string(),
        OTHER: pa.string(),
    }
    return [pa.field(name, kind) for name, kind in kinds.items()]


def schema_with(carried: Any) -> Any:
    """The arrow schema of stored rows: the carried columns, then those of the explanation.

    Raises:
        InvalidValue: a carried column has a name of ours.
    """
    if taken := [name for name in carried.names if name.startswith(PREFIX)]:
        raise InvalidValue(
            f"columns of the data set must not begin with {PREFIX!r}, as those of the explanation do: rename "
            f"{', '.join(taken)}"
        )
    return arrow().schema([*carried, *own_fields()])


def record_of(number: int, result: LLMAttributionResult, common: Mapping[str, Any]) -> Record:
    """The explanation of a row.

    Args:
        number: The row's number.
        result: The result.
        common: Provenance that all rows have, which is not stored with each.
    """
    plain = result.plain()
    return {
        ROW: number,
        UNITS: plain["input_tokens"],
        SEQ: _numbers(result.seq_attr),
        STDERR: _numbers(result.stderr),
        GROUPS: [asdict(group) for group in result.groups],
        "attr_context": plain["context"],
        ANSWER: plain["output_text"],
        "attr_answer_tokens": plain["output_tokens"],
        "attr_answer_ids": plain["output_ids"],
        "attr_answer_spans": plain["output_spans"],
        "attr_answer_probs": _numbers(result.output_probs),
        "attr_tokens": _numbers(result.token_attr),
        "attr_tokens_stderr": _numbers(result.token_stderr),
        "attr_region": plain["region"],
        PROVENANCE: json.dumps(_beside(plain["provenance"], common), default=repr),
    }


def failure(number: int, error: str) -> Record:
    """The record of a row that could not be explained."""
    return {ROW: number, ERROR: error}


def table_of(records: Sequence[Record], schema: Any) -> Any:
    """Records as an arrow table.

    Carried values that do not have the type of their column, and columns that the schema lacks, are in `attr_other`.
    """
    pa = arrow()
    own = {field.name for field in own_fields()}
    carried = [field for field in schema if field.name not in own]
    names = {field.name for field in schema}
    others: list[dict[str, Any]] = [
        {name: value for name, value in record.items() if name not in names} for record in records
    ]
    columns = {}
    for field in carried:
        values = [record.get(field.name) for record in records]
        columns[field.name] = _fitted(field, values, others)
    for field in schema:
        if field.name in own and field.name != OTHER:
            columns[field.name] = pa.array([record.get(field.name) for record in records], field.type)
    known = [record.get(OTHER) for record in records]
    texts = [json.dumps(other, default=repr) if other else text for other, text in zip(others, known, strict=True)]
    columns[OTHER] = pa.array(texts, pa.string())
    return pa.table([columns[name] for name in schema.names], schema=schema)


def without_common(provenance: str | None, common: Mapping[str, Any]) -> str | None:
    """A stored provenance without what all rows have."""
    if provenance is None:
        return None
    return json.dumps(_beside(json.loads(provenance), common))


def result_of(record: Mapping[str, Any], common: Mapping[str, Any]) -> LLMAttributionResult:
    """The result that a record was made of, without the table of coalition values.

    Raises:
        InvalidValue: the row failed.
    """
    if record[ERROR] is not None:
        raise InvalidValue(f"row {record[ROW]} could not be explained: {record[ERROR]}")
    own = json.loads(record[PROVENANCE])
    return LLMAttributionResult(
        input_tokens=record[UNITS],
        output_tokens=record["attr_answer_tokens"],
        seq_attr=torch.tensor(record[SEQ], dtype=torch.float32, device="cpu"),
        token_attr=_tensor(record["attr_tokens"], len(record[UNITS])),
        stderr=_tensor(record[STDERR]),
        token_stderr=_tensor(record["attr_tokens_stderr"], len(record[UNITS])),
        output_probs=_tensor(record["attr_answer_probs"]),
        output_text=record[ANSWER],
        output_ids=record["attr_answer_ids"],
        output_spans=record["attr_answer_spans"],
        region=record["attr_region"],
        context=record["attr_context"],
        groups=record[GROUPS],
        provenance=own | {name: value for name, value in common.items() if name not in own},
    )


def carried_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The data set's own columns of a record."""
    return {name: value for name, value in record.items() if not name.startswith(PREFIX)}


def _beside(provenance: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in provenance.items() if name not in common or common[name] != value}


def _fitted(field: Any, values: list[Any], others: list[dict[str, Any]]) -> Any:
    """A column; values of another type are moved to `others`."""
    column = _exact(values, field.type)
    if column is not None:
        return column
    for number, value in enumerate(values):
        if _exact([value], field.type) is None:
            others[number][field.name], values[number] = value, None
    return arrow().array(values, field.type)


def _exact(values: list[Any], kind: Any) -> Any:
    """The values as a column of this type; None if they do not have it, or numbers would change."""
    pa = arrow()
    try:
        column = pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return None
    return column if _same(values, column.to_pylist()) else None


def _same(value: Any, stored: Any) -> bool:
    """Whether the numbers in a value are those that were stored."""
    if isinstance(value, Mapping) and isinstance(stored, Mapping):
        return all(_same(each, stored.get(name)) for name, each in value.items())
    if isinstance(value, list | tuple) and isinstance(stored, list):
        return all(map(_same, value, stored))
    return not isinstance(value, int | float) or value == stored or value != value


def _numbers(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().cpu().tolist()


def _tensor(numbers: Any, width: int = 0) -> Tensor | None:
    if numbers is None:
        return None
    rows = [[_number(x) for x in row] if width else _number(row) for row in numbers]
    tensor = torch.tensor(rows, dtype=torch.float32, device="cpu")
    return tensor.reshape(-1, width) if width else tensor


def _number(value: float | None) -> float:
    return math.nan if value is None else value
