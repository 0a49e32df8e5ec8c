"""Saved results that are damaged, from a newer version, or made to do harm: an error of ours, and nothing is done."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as bytes_of

import llm_attr
from llm_attr import LLMAttributionResult as Result
from llm_attr import Prompt
from llm_attr.errors import BrokenFile, NewerFile, UnknownKeyword, UnknownName
from llm_attr.llm.results import storage as stored
from tests.llm.saved import DOCUMENTS, TARGET, by_hand
from tests.zoo import tiny


@pytest.fixture(scope="module")
def result() -> Result:
    prompt = Prompt.from_documents("What is it?", DOCUMENTS, unit="sentence", chat=False)
    return llm_attr.explain(tiny("llama"), prompt, target=TARGET)


@pytest.fixture
def folder(result: Result, tmp_path: Path) -> Path:
    result.save(tmp_path / "run")
    return tmp_path / "run"


def rewritten(folder: Path, change: Callable[[dict[str, Any]], Any], *, signed: bool = True) -> None:
    """Changes `result.json`, by default like somebody who knows how its checksum is made."""
    document = json.loads((folder / "result.json").read_text())
    change(document)
    if signed:
        content = {name: value for name, value in document.items() if name != "checksum"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        document["checksum"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "result.json").write_text(json.dumps(document))


def with_tensors(folder: Path, data: bytes) -> None:
    (folder / "tensors.safetensors").write_bytes(data)
    about = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewritten(folder, lambda document: document.update(tensors=about))


def put(*path: Any, value: Any) -> Callable[[dict[str, Any]], Any]:
    def change(document: Any) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def refused(folder: Path, message: str, error: type[Exception] = BrokenFile) -> None:
    before = {path: path.lstat().st_mtime_ns for path in folder.parent.rglob("*")}
    with pytest.raises(error, match=message):
        Result.load(folder)
    assert {path: path.lstat().st_mtime_ns for path in folder.parent.rglob("*")} == before


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "result.json cannot be read: No such file")
    (tmp_path / "file").write_text("")
    refused(tmp_path / "file", "cannot be read: Not a directory")


@pytest.mark.parametrize("file", ["result.json", "tensors.safetensors"])
def test_files_cut_short_or_edited(folder: Path, file: str) -> None:
    whole = (folder / file).read_bytes()
    for size in (0, 1, 7, 8, 9, len(whole) // 3, len(whole) - 2):
        (folder / file).write_bytes(whole[:size])
        refused(folder, "cut short|not the JSON")
    for place in range(11, len(whole), len(whole) // 25):
        (folder / file).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        refused(folder, "result")
    (folder / file).write_bytes(whole + b" ")
    if file == "tensors.safetensors":
        refused(folder, "longer")
    (folder / file).unlink()
    refused(folder, f"{file} cannot be read")


def test_a_newer_schema(folder: Path) -> None:
    rewritten(folder, lambda document: document.update(schema=7, written_by="llm_attr 9.2", novel=[1]))
    message = (
        rf"schema 7, written by llm_attr 9.2; this is llm_attr {llm_attr.__version__}, which reads schemas up to 2"
    )
    refused(folder, message, NewerFile)
    by_hand().save(folder)
    assert Result.load(folder) == by_hand()


def test_edited_texts(folder: Path) -> None:
    rewritten(folder, put("result", "provenance", "model", value="a better one"), signed=False)
    refused(folder, "was changed: its contents do not have the checksum")


HOSTILE: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no format": (put("format", value="another"), "no result of llm_attr"),
    "schema is a text": (put("schema", value="1"), "no result of llm_attr"),
    "schema is true": (put("schema", value=True), "no result of llm_attr"),
    "schema 0": (put("schema", value=0), "no result of llm_attr"),
    "a field more": (put("load", value="os.system"), "must have the fields"),
    "a field less": (lambda document: document.pop("table"), "must have the fields"),
    "a path for the tensors": (put("tensors", value="../../etc/passwd"), "tensors of .* is not of the form"),
    "a path as hash": (put("tensors", "sha256", value="/dev/zero"), "cut short or was changed"),
    "huge tensors": (put("tensors", "bytes", value=1 << 62), "cut short or was changed"),
    "too huge": (put("tensors", "bytes", value=1 << 80), "tensors of"),
    "negative": (put("tensors", "bytes", value=-1), "tensors of"),
    "units are numbers": (put("result", "input_tokens", value=[1, 2, 3]), "input_tokens of the result"),
    "too few units": (put("result", "input_tokens", value=["a"]), "seq_attr must have the shape"),
    "too many tokens": (put("result", "output_tokens", value=["a"] * 999), "must have the shape"),
    "text is a list": (put("result", "output_text", value=["a"]), "output_text of the result"),
    "another text": (put("result", "output_text", value="boo"), "output_spans must be in order"),
    "huge ids": (put("result", "output_ids", value=[1 << 70]), "output_ids of the result"),
    "too few ids": (put("result", "output_ids", value=[1]), "output_ids must be one for each"),
    "spans": (put("result", "output_spans", 0, value=[0, 1 << 60]), "output_spans"),
    "span of three": (put("result", "output_spans", 0, value=[0, 1, 2]), "output_spans"),
    "context": (put("result", "context", value=[]), "context must be one text more"),
    "groups": (put("result", "groups", 0, "stop", value=1 << 60), "groups must be in order"),
    "group of another form": (put("result", "groups", 0, value={"__class__": "os"}), "groups of the result"),
    "region": (put("result", "region", value=["a", 1]), "region of the result"),
    "provenance": (put("result", "provenance", value="a"), "provenance of the result"),
    "tensors as texts": (put("result", "seq_attr", value=[1.0]), "must have the fields"),
    "no table": (put("table", value=None), "its tensors are"),
    "attr_target": (put("table", "attr_target", value="__import__"), "unknown attr_target"),
    "options": (put("table", "options", value=[]), "table of"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_texts(folder: Path, case: str) -> None:
    change, message = HOSTILE[case]
    rewritten(folder, change)
    refused(folder, message)


def test_methods_in_a_file_are_only_names(folder: Path) -> None:
    rewritten(folder, lambda document: document["table"].update(method="../../os.system", options={"__init__": 1}))
    found = Result.load(folder)
    with pytest.raises(UnknownName, match="unknown method"):
        found.for_output(0)
    rewritten(folder, lambda document: document["table"].update(method="feature_ablation"))
    with pytest.raises(UnknownKeyword, match="__init__"):
        Result.load(folder).for_output(0)
    noted = ("model", "dtype", "scoring", "variants", "passes", "positions", "empty_prompt", "method", "attr_target")
    rewritten(folder, put("result", "provenance", value={name: [None, {"__class__": "os"}] for name in noted}))
    Result.load(folder).to_html()


RAW = {
    "NaN": b'{"format": NaN}',
    "Infinity": b'{"format": -Infinity}',
    "overflow": b'{"format": 1e999}',
    "many digits": b'{"format": ' + b"9" * 10_000 + b"}",
    "nested lists": b"[" * 200_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "not UTF-8": b'{"format": "\xff\xfe"}',
    "UTF-16": '{"format": "llm_attr result"}'.encode("utf-16"),
    "a list": b"[]",
    "a number": b"7",
    "empty": b"",
    "zeros": b"\0" * 100,
    "pickle": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
}


@pytest.mark.parametrize("case", RAW)
def test_hostile_json(folder: Path, case: str) -> None:
    (folder / "result.json").write_bytes(RAW[case])
    refused(folder, "result.json (is not the JSON|must hold an object)")


@pytest.mark.parametrize("file", ["result.json", "tensors.safetensors"])
def test_files_that_are_too_long_or_none(folder: Path, file: str) -> None:
    """Sizes are looked at first: these are sparse, and reading them would take the memory."""
    whole = (folder / file).read_bytes()
    with (folder / file).open("r+b") as sparse:
        sparse.truncate(1 << 40)
    refused(folder, r"is longer \(1099511627776 bytes\)")
    (folder / file).unlink()
    (folder.parent / "elsewhere").write_bytes(whole)
    (folder / file).symlink_to(folder.parent / "elsewhere")
    refused(folder, "not a regular file")
    (folder / file).unlink()
    (folder / file).symlink_to("/dev/zero")
    refused(folder, "not a regular file")
    (folder / file).unlink()
    os.mkfifo(folder / file)
    refused(folder, "not a regular file")
    (folder / file).unlink()
    (folder / file).mkdir()
    refused(folder, "not a regular file")


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return struct.pack("<Q", len(text)) + text


def wrong_tensors(result: Result) -> dict[str, bytes]:
    good = stored._tensors(result)
    huge = {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 1 << 62]}
    return {
        "no bytes": b"",
        "header longer than the file": struct.pack("<Q", 1 << 62),
        "header of nothing": struct.pack("<Q", 4) + b"null",
        "nested header": struct.pack("<Q", 100_000) + b"[" * 100_000,
        "huge": header(seq_attr=huge),
        "overflow": header(seq_attr=huge | {"shape": [1 << 62, 1 << 62]}),
        "overlap": header(
            seq_attr={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            token_attr={"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        )
        + b"\0" * 4,
        "unknown type": header(seq_attr={"dtype": "OBJECT", "shape": [1], "data_offsets": [0, 8]}) + b"\0" * 8,
        "strange type": header(seq_attr={"dtype": "F8_E8M0", "shape": [8], "data_offsets": [0, 8]}) + b"\0" * 8,
        "small type": header(seq_attr={"dtype": "F4", "shape": [16], "data_offsets": [0, 8]}) + b"\0" * 8,
        "negative": header(seq_attr={"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}) + b"\0" * 4,
        "no tensors": bytes_of({}),
        "one too few": bytes_of({name: tensor for name, tensor in good.items() if name != "owner"}),
        "one too many": bytes_of(good | {"../../x": torch.zeros(1)}),
        "wrong shape": bytes_of(good | {"seq_attr": torch.zeros(2, 2)}),
        "shape of the table": bytes_of(good | {"whole": torch.zeros(1)}),
        "wrong type": bytes_of(good | {"seq_attr": good["seq_attr"].to(torch.int32)}),
        "complex": bytes_of(good | {"seq_attr": good["seq_attr"].to(torch.complex64)}),
        "type of the table": bytes_of(good | {"values": good["values"].double()}),
        "NaN in the table": bytes_of(good | {"whole": good["whole"] * torch.nan}),
        "infinity in the table": bytes_of(good | {"values": good["values"] * torch.inf}),
        "owner out of range": bytes_of(good | {"owner": good["owner"] + (1 << 40)}),
        "owner below": bytes_of(good | {"owner": -1 - good["owner"]}),
        "neither true nor false": bytes_of(
            good | {"coalitions": torch.full(good["coalitions"].shape, 7, dtype=torch.uint8).view(torch.bool)}
        ),
        "pickle": b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.",
    }


def test_hostile_tensors(result: Result, folder: Path) -> None:
    for data in wrong_tensors(result).values():
        with_tensors(folder, data)
        refused(folder, "does not hold a result of llm_attr")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_change_of_the_tensors_is_refused_or_data(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Signed by somebody who knows how: either an error of ours or numbers, never anything else."""
    folder = tmp_path_factory.mktemp("fuzz") / "run"
    by_hand(token_attr=torch.rand(2, 3)).save(folder)
    whole = bytearray((folder / "tensors.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip":
            whole[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            whole[place:place] = data.draw(st.binary(max_size=6))
        elif place:
            del whole[place:]
    with_tensors(folder, bytes(whole))
    with suppress(BrokenFile):
        Result.load(folder).to_html()


@settings(max_examples=100, deadline=None)
@given(raw=st.binary(max_size=60) | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_bytes_as_json(tmp_path_factory: pytest.TempPathFactory, raw: bytes | str) -> None:
    folder = tmp_path_factory.mktemp("json")
    (folder / "result.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode("utf-8", "surrogatepass"))
    with pytest.raises(BrokenFile):
        Result.load(folder)
