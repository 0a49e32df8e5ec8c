"""Files that appear whole or not at all: full disks, folders that cannot be written to, other file systems."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from llm_attr import DatasetRun, explain_dataset
from llm_attr.errors import MissingExtra, NotStored
from llm_attr.llm.jobs.merge import merge
from llm_attr.llm.jobs.storage.folder import Folder
from tests.llm.jobs.runs import TEMPLATE, load, numbers_of, some_rows

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def lm() -> Any:
    return load()


@pytest.mark.parametrize(("code", "call"), [(errno.ENOSPC, "fsync"), (errno.EDQUOT, "fsync"), (errno.EROFS, "replace")])
def test_a_failed_write_leaves_what_was_there(
    lm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    asked: dict[str, Any] = {"template": TEMPLATE, "rows_per_shard": 4, "batch_size": 4}
    explain_dataset(lm, some_rows(12), tmp_path, **asked, limit=4)
    shards = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    real = getattr(os, call)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError(code, os.strerror(code))))
        with pytest.raises(NotStored, match=rf"rows 4 to 7 could not be written.*{os.strerror(code)}.*is intact"):
            explain_dataset(lm, some_rows(12), tmp_path, **asked)
    assert getattr(os, call) is real
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")} == shards
    assert not [path for path in (tmp_path / "rows").iterdir() if path.suffix == ".tmp"]
    assert list(numbers_of(explain_dataset(lm, some_rows(12), tmp_path, **asked))) == list(range(12))


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the size of files, which fails in the middle of a write as a full disk does."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from llm_attr.llm.jobs.storage.folder import Folder\n"
        "folder = Folder(sys.argv[1]); folder.make(); folder.write('a', b'x' * 1000, 'rows 0 to 1')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "folder.write('a', b'y' * 9000, 'rows 2 to 3')\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert "NotStored: rows 2 to 3 could not be written" in done.stderr
    assert "File too large" in done.stderr
    assert (tmp_path / "a").read_bytes() == b"x" * 1000
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_cannot_be_made(lm: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "run", "/proc/nowhere/run"):
        with pytest.raises(NotStored, match="cannot be written to"):
            explain_dataset(lm, some_rows(1), path, template=TEMPLATE)


def test_what_a_killed_process_left_is_removed(lm: Any, tmp_path: Path) -> None:
    explain_dataset(lm, some_rows(2), tmp_path, template=TEMPLATE)
    own = tmp_path / "rows" / ".rows-0.0-of-1.parquet.abc.tmp"
    other = tmp_path / "rows" / ".rows-0.1-of-2.parquet.abc.tmp"
    for path in (own, other):
        path.write_bytes(b"half")
    assert len(explain_dataset(lm, some_rows(2), tmp_path, template=TEMPLATE)) == 2
    assert (own.exists(), other.exists()) == (False, True)


def test_a_file_system_of_fsspec(lm: Any, tmp_path: Path) -> None:
    url = "memory://runs/one"
    asked: dict[str, Any] = {"template": TEMPLATE, "rows_per_shard": 2, "batch_size": 2}
    explain_dataset(lm, some_rows(5), url, **asked, limit=2)
    run = explain_dataset(lm, some_rows(5), url, **asked)
    assert numbers_of(run) == numbers_of(explain_dataset(lm, some_rows(5), tmp_path / "whole", **asked))
    names = [name.rpartition("/")[2] for name in fsspec.filesystem("memory").ls("/runs/one/rows", detail=False)]
    assert len(names) == 3
    assert not [name for name in names if name.startswith(".")]
    assert numbers_of(merge([url], tmp_path / "merged")) == numbers_of(run)
    with pytest.raises(MissingExtra, match="gcs"):
        Folder("gcs://bucket/run")


def test_others_read_the_shards(lm: Any, tmp_path: Path) -> None:
    rows = [row | {"score": i / 2, "tags": ["a", str(i)]} for i, row in enumerate(some_rows(6))]
    run = explain_dataset(lm, rows, tmp_path, template=TEMPLATE, rows_per_shard=2, batch_size=2)
    found = load_dataset("parquet", data_dir=str(tmp_path / "rows"), split="train", cache_dir=str(tmp_path / "cache"))
    assert [found[i]["score"] for i in range(6)] == [i / 2 for i in range(6)]
    assert found[3]["tags"] == ["a", "3"]
    assert found[3]["attr_seq"] == numbers_of(run)[3]
    assert found[3]["attr_groups"][0]["label"] == "who"
    shard = next((tmp_path / "rows").glob("*.parquet"))
    about = json.loads(pq.read_schema(shard).metadata[b"llm_attr"])
    assert about["asked"]["template"] == TEMPLATE
    assert about["provenance"]["weights"] == run.result(0).provenance["weights"]
    assert about["run"] == DatasetRun(tmp_path).manifest.fingerprint
