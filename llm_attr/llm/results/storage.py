"""Saved results: a folder with `result.json` and `tensors.safetensors`, formats that hold data and cannot hold code."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar
from uuid import uuid4

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from
from safetensors.torch import save as bytes_of
from torch import Tensor

import llm_attr
from llm_attr.caller import warn_caller
from llm_attr.errors import BrokenFile, InvalidType, InvalidValue, NewerFile
from llm_attr.llm.model.fingerprint import differences
from llm_attr.llm.results import untrusted
from llm_attr.llm.results.data import ResultData
from llm_attr.llm.results.table import Table
from llm_attr.viz.text.groups import Group

if TYPE_CHECKING:
    from llm_attr.llm.model.language_model import LanguageModel

Result = TypeVar("Result", bound=ResultData)

SCHEMA = 2
"""The schema that is written, and the newest that can be read; in schema 1, odd_shap was named kernel_shap."""

FORMAT = "llm_attr result"
JSON, TENSORS = "result.json", "tensors.safetensors"

MAX_JSON = 1 << 25
MAX_TENSORS = 1 << 32
"""Size limits of the files in bytes, for writing and reading."""

FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
OWN = ("seq_attr", "token_attr", "stderr", "token_stderr", "output_probs")
TABLE = ("coalitions", "values", "owner", "whole")


class _TensorFile(TypedDict):
    bytes: int
    sha256: str


class _TableFields(TypedDict):
    method: str
    options: dict
    missing: list[str]
    attr_target: str
    per_token: bool


class _Document(TypedDict):
    """The content of `result.json`."""

    format: str
    schema: int
    written_by: str
    checksum: str
    tensors: _TensorFile
    result: dict
    table: _TableFields | None


class _ResultFields(TypedDict):
    """The result in it, as `ResultData.plain` gives it."""

    input_tokens: list[str]
    output_tokens: list[str]
    output_text: str
    output_ids: list[int] | None
    output_spans: list[tuple[int, int]] | None
    region: tuple[int, int] | None
    context: list[str] | None
    groups: list[Group]
    provenance: dict


def save(result: ResultData, path: str | Path) -> None:
    """Writes a result to a folder, replacing an empty folder or a saved result there.

    Raises:
        InvalidValue: the path holds something else, or the result cannot be represented.
        InvalidType: a tensor of the result is not of a floating-point type.
    """
    folder = replaceable(path)
    if not _is_json(result.plain()):
        raise InvalidValue(
            "the provenance, or another field of the result, holds what JSON does not have (NaN, tuples, keys that are "
            f"not strings): {result.provenance!r:.200}"
        )
    tensors = _tensors(result)
    for name in OWN:
        if name in tensors and tensors[name].dtype not in FLOATS:
            raise InvalidType(f"{name} must hold floating-point numbers to be saved; got {tensors[name].dtype}")
    data = bytes_of(tensors)
    content = {
        "format": FORMAT,
        "schema": SCHEMA,
        "written_by": f"llm_attr {llm_attr.__version__}",
        "tensors": {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "result": result.plain(),
        "table": _table_fields(result.table),
    }
    document = (json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n").encode()
    if len(document) > MAX_JSON or len(data) > MAX_TENSORS:
        raise InvalidValue(
            f"the result is too large to be saved: {len(document)} bytes of text (at most {MAX_JSON}), {len(data)} "
            f"of tensors (at most {MAX_TENSORS})"
        )
    _replace(folder, {JSON: document, TENSORS: data})


def load(kind: type[Result], path: str | Path, language_model: LanguageModel | None = None) -> Result:
    """Reads a result written by `save` as an instance of `kind`.

    Raises:
        BrokenFile: the folder does not hold a complete and unmodified result.
        NewerFile: a newer version of llm_attr wrote it.
    """
    folder = Path(path)
    document = _document(folder)
    size, sha256 = document["tensors"]["bytes"], document["tensors"]["sha256"]
    data = untrusted.read(folder / TENSORS, min(size, MAX_TENSORS))
    if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
        raise BrokenFile(f"{folder / TENSORS} is cut short or was changed: it is not what {JSON} was written with")
    try:
        result = _result(kind, document, _tensors_in(data))
    except (InvalidValue, InvalidType) as error:
        raise BrokenFile(f"{folder} does not hold a result of llm_attr: {error}") from error
    if language_model is not None and (other := differences(result.provenance, language_model)):
        made_with = str(result.provenance.get("model", "another model"))
        warn_caller(
            f"{folder} was made with {made_with}, and {language_model.name} differs in: {', '.join(other)}", UserWarning
        )
    return result


def equal(first: ResultData, second: ResultData) -> bool:
    """Whether two results would be stored alike, bit by bit."""
    texts = first.plain() == second.plain() and _table_fields(first.table) == _table_fields(second.table)
    return texts and bytes_of(_tensors(first)) == bytes_of(_tensors(second))


def _tensors(result: ResultData) -> dict[str, Tensor]:
    sources = [(result, OWN), (result.table, TABLE)]
    named = {name: getattr(source, name, None) for source, names in sources for name in names}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items() if tensor is not None}


def _tensors_in(data: bytes) -> dict[str, Tensor]:
    try:
        return dict(tensors_from(data))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # the last three: dtypes unknown to torch
        raise BrokenFile(f"{TENSORS} is not what safetensors writes: {error}") from error


def _table_fields(table: Table | None) -> _TableFields | None:
    if table is None:
        return None
    options, missing = table.options_for(_is_json)
    return {
        "method": table.method,
        "options": options,
        "missing": list(missing),
        "attr_target": table.attr_target,
        "per_token": table.per_token,
    }


def _is_json(value: Any) -> bool:
    """Whether the value survives a JSON round trip."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _document(folder: Path) -> dict[str, Any]:
    """The content of `result.json`, with its form and checksum verified."""
    file = folder / JSON
    content = untrusted.parse(untrusted.read(file, MAX_JSON), str(file))
    schema = content.get("schema")
    if content.get("format") != FORMAT or type(schema) is not int or schema < 1:
        raise BrokenFile(f"{file} is no result of llm_attr")
    if schema > SCHEMA:
        raise NewerFile(
            f"{file} has schema {schema}, written by {str(content.get('written_by', 'a newer llm_attr'))[:40]}; "
            f"this is llm_attr {llm_attr.__version__}, which reads schemas up to {SCHEMA}; update llm_attr"
        )
    untrusted.check(content, _Document, str(file))
    untrusted.check(content["result"], _ResultFields, f"the result in {file}")
    if content["checksum"] != _checksum({name: value for name, value in content.items() if name != "checksum"}):
        raise BrokenFile(f"{file} was changed: its contents do not have the checksum that was written with them")
    return content


def _result(kind: type[Result], document: Mapping[str, Any], tensors: dict[str, Any]) -> Result:
    table_fields = document["table"]
    table_tensors = TABLE if table_fields else ()
    needed, possible = {"seq_attr", *table_tensors}, {*OWN, *table_tensors}
    if not needed <= tensors.keys() <= possible:
        raise BrokenFile(
            f"its tensors are {', '.join(sorted(tensors)) or 'none'}; {', '.join(sorted(needed))} are needed"
        )
    for name, tensor in tensors.items():
        if name in OWN and tensor.dtype not in FLOATS:
            raise BrokenFile(f"{name} is of type {tensor.dtype}")
        if tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1:
            raise BrokenFile(f"{name} holds what is neither true nor false")
    table = None
    if table_fields:
        fields = _current(table_fields) if document["schema"] == 1 else table_fields
        fields = fields | {"missing": tuple(fields["missing"])}
        table = Table(**fields, **{name: tensors.pop(name) for name in TABLE})
    return kind(**document["result"], **tensors, table=table)


def _current(fields: dict[str, Any]) -> dict[str, Any]:
    """The table fields of schema 1 under the current name of the estimator."""
    if fields["method"] != "kernel_shap":
        return fields
    options = dict(fields["options"])
    odd = options.pop("interactions", True)
    return fields | {"method": "odd_shap" if odd else "kernel_shap", "options": options}


def replaceable(path: str | Path) -> Path:
    """The folder at a path where a result may be written: nothing there, an empty folder or a saved result.

    Raises:
        InvalidValue: something else is there.
    """
    folder = Path(path).parent.resolve() / Path(path).name
    if not folder.is_symlink() and not folder.exists():
        return folder
    names = {file.name for file in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else None
    if names is None or names - {JSON, TENSORS}:
        raise InvalidValue(f"{folder} is there already and is no saved result; choose a folder that does not exist")
    if names:
        try:
            _document(folder)
        except BrokenFile as error:
            raise InvalidValue(f"{folder} is there already and holds no complete result: {error}") from error
        except NewerFile:
            pass
    return folder


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files to a new folder next to this one and renames it into place."""
    fresh, old = (folder.with_name(f".{folder.name}.{uuid4().hex}.{kind}") for kind in ("new", "old"))
    fresh.mkdir(parents=True)
    try:
        for name, data in files.items():
            (fresh / name).write_bytes(data)
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
