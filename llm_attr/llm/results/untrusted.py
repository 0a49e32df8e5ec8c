"""Files that anybody may have written: read within bounds, taken apart without trust."""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llm_attr.errors import BrokenFile

Check = Callable[[Any], bool]
"""Whether a value has the form that is expected."""


def read(path: Path, most: int) -> bytes:
    """The bytes of a regular file that is not longer than `most`; its size is looked at first.

    Raises:
        BrokenFile: there is no such file, it is no regular file or a link, or it is longer.
    """
    try:
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise BrokenFile(f"{path} is not a regular file")
        if found.st_size > most:
            raise BrokenFile(f"{path} is longer ({found.st_size} bytes) than it can be ({most} bytes)")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise BrokenFile(f"{path} cannot be read: {error.strerror or error}") from error
    if len(data) > most:
        raise BrokenFile(f"{path} grew while it was read")
    return data


def parse(data: bytes, name: str) -> dict[str, Any]:
    """The object of a JSON file without NaN or infinity.

    Raises:
        BrokenFile: it is not UTF-8, not JSON, not an object, nested too deeply, or holds a number that is none.
    """
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise BrokenFile(f"{name} is not the JSON that llm_attr writes: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise BrokenFile(f"{name} must hold an object; got {type(found).__name__}")
    return found


def check(found: Mapping[str, Any], fields: Mapping[str, Check], name: str) -> None:
    """Looks at the fields of an object.

    Raises:
        BrokenFile: a field is missing, unknown, or of another form.
    """
    if found.keys() != fields.keys():
        raise BrokenFile(
            f"{name} must have the fields {', '.join(sorted(fields))}; got {', '.join(sorted(found))[:200] or 'none'}"
        )
    for field, is_right in fields.items():
        if not is_right(found[field]):
            raise BrokenFile(f"{field} of {name} is not of the form that llm_attr writes: {str(found[field])[:80]!r}")


def text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def count(value: Any) -> bool:
    """A whole number that a 64-bit integer holds, not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def truth(value: Any) -> bool:
    """True or false."""
    return isinstance(value, bool)


def mapping(value: Any) -> bool:
    """An object."""
    return isinstance(value, dict)


def listed(item: Check) -> Check:
    """A list of such items."""
    return lambda value: isinstance(value, list) and all(map(item, value))


def pair(value: Any) -> bool:
    """Two counts."""
    return isinstance(value, list) and len(value) == 2 and all(map(count, value))


def optional(inner: Check) -> Check:
    """Such a value, or null."""
    return lambda value: value is None or inner(value)


def record(fields: Mapping[str, Check]) -> Check:
    """An object of just these fields."""
    return lambda value: (
        isinstance(value, dict)
        and value.keys() == fields.keys()
        and all(is_right(value[field]) for field, is_right in fields.items())
    )


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number[:40]} is not a finite number")
    return value
