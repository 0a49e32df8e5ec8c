"""Files from untrusted sources: bounded reads, strict JSON, and a check of its fields against type hints."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

from llm_attr.errors import BrokenFile


def read(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes; its size is checked before it is opened.

    Raises:
        BrokenFile: the file does not exist, is not a regular file (a link, for instance), or is longer.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BrokenFile(f"{path} is not a regular file")
        if status.st_size > most:
            raise BrokenFile(f"{path} is longer ({status.st_size} bytes) than it can be ({most} bytes)")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise BrokenFile(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > most:
        raise BrokenFile(f"{path} grew while it was being read")
    return data


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The object in a JSON file without NaN or infinity.

    Raises:
        BrokenFile: it is not UTF-8, not JSON, not an object, nested too deeply, or holds a number that is not finite.
    """
    try:
        content = json.loads(data.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{name} is not the JSON that llm_attr writes: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise BrokenFile(f"{name} must hold an object; got {type(content).__name__}")
    return content


def check(content: Mapping[str, Any], form: type, name: str) -> None:
    """Checks that an object has exactly the fields of a TypedDict, with values of their types.

    Raises:
        BrokenFile: a field is missing, unknown or of another type.
    """
    hints = _hints(form)
    if content.keys() != hints.keys():
        raise BrokenFile(
            f"{name} must have the fields {', '.join(sorted(hints))}; got {', '.join(sorted(content))[:200] or 'none'}"
        )
    for field, hint in hints.items():
        if not _conforms(content[field], hint):
            raise BrokenFile(f"{field} of {name} is not of the form that llm_attr writes: {str(content[field])[:80]!r}")


_hints = cache(get_type_hints)


def _conforms(value: Any, hint: Any) -> bool:
    """Whether a JSON value has a type: a scalar, `list[X]`, `tuple[X, Y]`, `X | None`, a TypedDict or a dataclass.

    An `int` is a 64-bit integer of 0 or more.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if is_typeddict(hint) or is_dataclass(hint):
        fields = _hints(hint)
        same = type(value) is dict and value.keys() == fields.keys()
        return same and all(_conforms(value[name], field) for name, field in fields.items())
    if origin is UnionType:
        return any(_conforms(value, one) for one in inner)
    if origin is list:
        return type(value) is list and all(_conforms(item, inner[0]) for item in value)
    if origin is tuple:
        return type(value) is list and len(value) == len(inner) and all(map(_conforms, value, inner))
    return type(value) is hint and (hint is not int or 0 <= value < 1 << 63)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:40]} is not a finite number")
    return value
