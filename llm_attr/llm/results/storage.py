"""Results that last: a folder of `result.json` and `tensors.safetensors`, which hold data and nothing to execute."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
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
from llm_attr.llm.results.untrusted import count, listed, mapping, optional, pair, record, text, truth

if TYPE_CHECKING:
    from llm_attr.llm.model.language_model import LanguageModel

Result = TypeVar("Result", bound=ResultData)

SCHEMA = 2
"""The form that is written, and the newest that is read; in the first, kernel_shap names what odd_shap does since."""

FORMAT = "llm_attr result"
JSON, TENSORS = "result.json", "tensors.safetensors"

MOST_JSON = 1 << 25
MOST_TENSORS = 1 << 32
"""Bytes of the files: nothing longer is written or read."""

FLOATS = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
OWN = ("seq_attr", "token_attr", "stderr", "token_stderr", "output_probs")
TABLE = ("coalitions", "values", "owner", "whole")

_DOCUMENT = {
    "format": text,
    "schema": count,
    "written_by": text,
    "checksum": text,
    "tensors": record({"bytes": count, "sha256": text}),
    "result": mapping,
    "table": optional(
        record(
            {
                "method": text,
                "options": mapping,
                "missing": listed(text),
                "attr_target": text,
                "per_token": truth,
            }
        )
    ),
}
_RESULT = {
    "input_tokens": listed(text),
    "output_tokens": listed(text),
    "output_text": text,
    "output_ids": optional(listed(count)),
    "output_spans": optional(listed(pair)),
    "region": optional(pair),
    "context": optional(listed(text)),
    "groups": listed(record({"label": text, "kind": text, "first": count, "stop": count})),
    "provenance": mapping,
}


def save(result: ResultData, path: str | Path) -> None:
    """Writes a result to a folder; one that holds a saved result, or nothing, is replaced.

    Raises:
        InvalidValue: the path is something else, or the result cannot be written.
        InvalidType: a tensor of the result holds no floating-point numbers.
    """
    folder = refuse_other(path)
    if not _is_plain(result.plain()):
        raise InvalidValue(
            "the provenance, or another field of the result, holds what JSON does not have (NaN, tuples, keys that are "
            f"no texts): {result.provenance!r:.200}"
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
        "table": _about(result.table),
    }
    document = (json.dumps(content | {"checksum": _checksum(content)}, indent=1) + "\n").encode()
    if len(document) > MOST_JSON or len(data) > MOST_TENSORS:
        raise InvalidValue(
            f"the result is too large to be saved: {len(document)} bytes of texts (at most {MOST_JSON}), {len(data)} "
            f"of numbers (at most {MOST_TENSORS})"
        )
    _replace(folder, {JSON: document, TENSORS: data})


def load(kind: type[Result], path: str | Path, language_model: LanguageModel | None = None) -> Result:
    """Reads a result written by `save` as an instance of `kind`.

    Raises:
        BrokenFile: the folder does not hold a whole and unchanged result.
        NewerFile: a newer version of llm_attr wrote it.
    """
    folder = Path(path)
    document = _document(folder)
    about = document["tensors"]
    data = untrusted.read(folder / TENSORS, min(about["bytes"], MOST_TENSORS))
    if len(data) != about["bytes"] or hashlib.sha256(data).hexdigest() != about["sha256"]:
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
    """Whether two results would be stored alike, to the bit of every number."""
    if first.plain() != second.plain() or _about(first.table) != _about(second.table):
        return False
    one, other = _tensors(first), _tensors(second)
    return one.keys() == other.keys() and all(_same_bits(one[name], other[name]) for name in one)


def _tensors(result: ResultData) -> dict[str, Tensor]:
    found = {name: getattr(result, name) for name in OWN} | {name: getattr(result.table, name, None) for name in TABLE}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in found.items() if tensor is not None}


def _tensors_in(data: bytes) -> dict[str, Tensor]:
    try:
        return dict(tensors_from(data))
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:  # the last three: types unknown to torch
        raise BrokenFile(f"{TENSORS} is not what safetensors writes: {error}") from error


def _about(table: Table | None) -> dict[str, Any] | None:
    if table is None:
        return None
    kept = {name: value for name, value in table.options.items() if _is_plain(value)}
    missing = sorted({*table.missing, *(table.options.keys() - kept.keys())})
    return {
        "method": table.method,
        "options": kept,
        "missing": missing,
        "attr_target": table.attr_target,
        "per_token": table.per_token,
    }


def _is_plain(value: Any) -> bool:
    """Whether JSON has the value and gives it back."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def _same_bits(one: Tensor, other: Tensor) -> bool:
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    first, second = (tensor.clone(memory_format=torch.contiguous_format).flatten() for tensor in (one, other))
    return torch.equal(first.view(torch.uint8), second.view(torch.uint8))


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _document(folder: Path) -> dict[str, Any]:
    """The contents of `result.json`, whose form has been checked."""
    file = folder / JSON
    found = untrusted.parse(untrusted.read(file, MOST_JSON), str(file))
    if found.get("format") != FORMAT or not count(found.get("schema")) or found["schema"] < 1:
        raise BrokenFile(f"{file} is no result of llm_attr")
    if found["schema"] > SCHEMA:
        raise NewerFile(
            f"{file} has schema {found['schema']}, written by {str(found.get('written_by', 'a newer llm_attr'))[:40]}; "
            f"this is llm_attr {llm_attr.__version__}, which reads schemas up to {SCHEMA}; update llm_attr"
        )
    untrusted.check(found, _DOCUMENT, str(file))
    untrusted.check(found["result"], _RESULT, f"the result in {file}")
    if found["checksum"] != _checksum({name: value for name, value in found.items() if name != "checksum"}):
        raise BrokenFile(f"{file} was changed: its contents do not have the checksum that was written with them")
    return found


def _result(kind: type[Result], document: Mapping[str, Any], tensors: dict[str, Tensor]) -> Result:
    about = document["table"]
    needed, possible = {"seq_attr", *(TABLE if about else ())}, {*OWN, *(TABLE if about else ())}
    if not needed <= tensors.keys() <= possible:
        raise BrokenFile(
            f"its tensors are {', '.join(sorted(tensors)) or 'none'}; {', '.join(sorted(needed))} are needed"
        )
    for name, tensor in tensors.items():
        if name in OWN and tensor.dtype not in FLOATS:
            raise BrokenFile(f"{name} is of type {tensor.dtype}")
        if tensor.dtype == torch.bool and tensor.numel() and tensor.view(torch.uint8).max() > 1:
            raise BrokenFile(f"{name} holds what is neither true nor false")
    own: dict[str, Any] = {name: tensors[name] for name in OWN if name in tensors}
    asked: dict[str, Any] = {name: tensors[name] for name in TABLE if name in tensors}
    about = _of_today(about) if about and document["schema"] == 1 else about
    table = Table(**asked | about | {"missing": tuple(about["missing"])}) if about else None
    return kind(**document["result"], **own, table=table)


def _of_today(about: dict[str, Any]) -> dict[str, Any]:
    """What schema 1 says of a table, with the name that the estimator has now."""
    if about["method"] != "kernel_shap":
        return about
    options = dict(about["options"])
    odd = options.pop("interactions", True)
    return {**about, "method": "odd_shap" if odd else "kernel_shap", "options": options}


def refuse_other(path: str | Path) -> Path:
    """The folder that is meant; refuses what is there already, unless it is a saved result or an empty folder.

    Raises:
        InvalidValue: something else is there.
    """
    folder = Path(path).parent.resolve() / Path(path).name
    if not folder.is_symlink() and not folder.exists():
        return folder
    names = {file.name for file in folder.iterdir()} if folder.is_dir() and not folder.is_symlink() else None
    if names is None or names - {JSON, TENSORS}:
        raise InvalidValue(f"{folder} is there already and is no saved result; choose a folder that is not there yet")
    if names:
        _document_of_any_version(folder)
    return folder


def _document_of_any_version(folder: Path) -> None:
    try:
        _document(folder)
    except NewerFile:
        return
    except BrokenFile as error:
        raise InvalidValue(f"{folder} is there already and holds no whole result: {error}") from error


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes the files to a new folder beside this one, which then takes its place."""
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
