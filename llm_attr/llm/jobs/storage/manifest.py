"""The manifest of a run: what it asks, so that nothing else is mixed into it."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import llm_attr
from llm_attr.errors import BrokenFile, NewerFile, OtherRun
from llm_attr.llm.jobs.arrow import arrow
from llm_attr.llm.jobs.storage.folder import Folder

FILE = "manifest.json"
FORMAT = "llm_attr run"
SCHEMA = 1
UNKNOWN = ("offloaded", "sharded", "unreadable")
"""Hashes of weights that could not be read; they are not compared."""

HASHES = ("weights", "tokenizer", "chat template")
OF_MODEL = (*HASHES, "dtype")
"""What is only known once the model is loaded."""


@dataclass(frozen=True)
class Manifest:
    """What a run asks.

    Attributes:
        asked: What decides the results: data set, columns, arguments, and the model's hashes.
        dataset: The data set's name and number of rows, as far as they are known.
        common: Provenance that all rows have.
        carried: The arrow schema of the carried columns, serialised.
        created: When the run began.
        written_by: The version that began it.
    """

    asked: dict[str, Any]
    dataset: dict[str, Any]
    common: dict[str, Any]
    carried: str
    created: str = ""
    written_by: str = ""

    @classmethod
    def new(cls, asked: dict[str, Any], dataset: dict[str, Any], common: dict[str, Any], carried: Any) -> Manifest:
        """The manifest of a run that begins now."""
        text = base64.b64encode(carried.serialize()).decode()
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(_plain(asked), _plain(dataset), _plain(common), text, now, f"llm_attr {llm_attr.__version__}")

    @classmethod
    def read(cls, folder: Folder) -> Manifest | None:
        """The manifest of a folder; None if there is none.

        Raises:
            BrokenFile: it is not one.
            NewerFile: a newer version wrote it.
        """
        if not folder.has(FILE):
            return None
        try:
            content = json.loads(folder.read(FILE))
            known, schema = content.pop("format"), content.pop("schema")
            if known != FORMAT:
                raise ValueError(f"its format is {known!r}")
            if schema > SCHEMA:
                raise NewerFile(f"{folder}/{FILE} has schema {schema}; this llm_attr reads schemas up to {SCHEMA}")
            return cls(**content)
        except NewerFile:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenFile(f"{folder}/{FILE} is not the manifest of a run: {error}") from error

    @property
    def schema(self) -> Any:
        """The arrow schema of the carried columns."""
        return arrow().ipc.read_schema(arrow().BufferReader(base64.b64decode(self.carried)))

    @property
    def fingerprint(self) -> str:
        """A hash of what is asked."""
        return hashlib.sha256(json.dumps(self.asked, sort_keys=True).encode()).hexdigest()

    def began(self, folder: Folder) -> Manifest:
        """Writes the manifest unless there is one, and returns the one that is there.

        Raises:
            OtherRun: that one asks something else.
            NotStored: it cannot be written.
        """
        content = {"format": FORMAT, "schema": SCHEMA, **asdict(self)}
        if folder.create(FILE, (json.dumps(content, indent=1) + "\n").encode(), "the manifest"):
            return self
        there = Manifest.read(folder)
        if there is None:
            raise BrokenFile(f"{folder}/{FILE} is gone")
        there.check(self.asked, folder)
        return there

    def check(self, asked: Mapping[str, Any], folder: Folder) -> None:
        """Checks that this is what the run asks; of the model only if it is in `asked`.

        Raises:
            OtherRun: they differ; the message says in what.
        """
        differing = differences(self.asked, _plain(asked))
        if differing:
            raise OtherRun(
                f"{folder} holds a run that asks something else: {'; '.join(differing)}. Choose another folder for "
                "this one, or run it with the arguments, the model and the data set of the other"
            )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs between what two runs ask; of the model only what both say."""
    lines = []
    for name in dict.fromkeys([*here, *there]):
        if name in OF_MODEL and not (name in here and name in there):
            continue
        before, now = there.get(name), here.get(name)
        if before == now or before in UNKNOWN or now in UNKNOWN:
            continue
        if name in ("data set", *HASHES):
            lines.append(f"another {name}" if name != "weights" else "other weights")
        else:
            lines.append(f"{name} is {_shown(before)} there and {_shown(now)} here")
    return lines


def described(value: Any) -> Any:
    """A value as JSON; what JSON does not have is described."""
    if isinstance(value, Mapping):
        return {str(name): described(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [described(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__} {_code(value)}".rstrip()
    if hasattr(value, "tolist"):
        return described(value.tolist())
    if hasattr(value, "to_json_string"):
        return value.to_json_string()
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def _code(function: Any) -> str:
    """A hash of a function's own code."""
    code = getattr(function, "__code__", None)
    if code is None:
        return ""
    constants = [each for each in code.co_consts if not hasattr(each, "co_code")]
    return hashlib.sha256(code.co_code + repr((code.co_names, constants)).encode()).hexdigest()[:12]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return dict(json.loads(json.dumps(described(values))))


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
