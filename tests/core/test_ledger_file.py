"""The ledger on disk: what it keeps, for whom, and what happens to it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from llm_attr.core.game import file_system, ledger_file
from llm_attr.core.game.ledger_file import LedgerFile, Scope
from llm_attr.errors import BrokenFile, InvalidType, InvalidValue, LedgerFailed, NewerFile

ONE, OTHER = Scope({"weights": "a"}, {"model": "one"}), Scope({"weights": "b"}, {"model": "other"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "values.ledger"


def values(count: int, start: int = 0) -> dict[bytes, bytes]:
    return {f"key {i}".encode(): f"value {i}".encode() * 9 for i in range(start, start + count)}


def test_what_was_written_is_read_by_whoever_opens_the_file(path: Path) -> None:
    LedgerFile(path).write(ONE, values(1300))
    names = [*values(1300), b"unknown"]
    assert LedgerFile(path).read(ONE, names) == values(1300)
    assert LedgerFile(path).read(ONE, []) == {}


def test_scopes_do_not_see_each_other(path: Path) -> None:
    file = LedgerFile(path)
    file.write(ONE, values(3))
    assert file.read(OTHER, list(values(3))) == {}
    file.write(OTHER, dict.fromkeys(values(3), b"else"))
    assert file.read(ONE, list(values(3))) == values(3)
    assert file.read(Scope(ONE.identity, {"model": "renamed"}), list(values(3))) == values(3)


def test_the_first_value_stays(path: Path) -> None:
    file = LedgerFile(path)
    file.write(ONE, {b"a": b"first"})
    file.write(ONE, {b"a": b"second", b"b": b"new"})
    assert file.read(ONE, [b"a", b"b"]) == {b"a": b"first", b"b": b"new"}


def test_threads_share_an_object(path: Path) -> None:
    file = LedgerFile(path)

    def work(number: int) -> None:
        for step in range(5):
            file.write(ONE, values(10, 1000 * number + 10 * step))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert file.stats()[0].entries == 200


def test_merge_adds_what_is_new(tmp_path: Path) -> None:
    here, there = LedgerFile(tmp_path / "here"), LedgerFile(tmp_path / "there")
    here.write(ONE, values(4))
    there.write(OTHER, values(2))
    there.write(ONE, values(4, 2))
    before = there.stats()
    assert here.merge(there) == 4
    assert here.merge(there) == 0
    assert here.read(ONE, list(values(6))) == values(6)
    assert here.read(OTHER, list(values(2))) == values(2)
    assert there.stats() == before
    with pytest.raises(InvalidValue, match="cannot be merged into itself"):
        here.merge(LedgerFile(tmp_path / "here"))


def test_prune_by_age_and_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LedgerFile(path)
    now = ledger_file.time()
    monkeypatch.setattr(ledger_file, "time", lambda: now - 10 * 86400)
    file.write(ONE, values(200))
    file.write(OTHER, values(5))
    monkeypatch.setattr(ledger_file, "time", lambda: now)
    file.write(OTHER, values(3, 5))
    assert file.prune(older_than=11) == 0
    assert file.prune(older_than=9, dry_run=True) == 205
    assert file.prune(older_than=9, model="other") == 5
    assert [(each.about["model"], each.entries) for each in file.stats()] == [("one", 200), ("other", 3)]
    size = path.stat().st_size
    assert file.prune(model="one") == 200
    assert path.stat().st_size < size
    assert [each.identity for each in file.stats()] == [OTHER.identity]
    for bad in ({}, {"older_than": -1.0}):
        with pytest.raises(InvalidValue, match=r"older|days"):
            file.prune(**bad)  # type: ignore[arg-type]


def test_paths_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="is a folder"):
        LedgerFile(tmp_path)
    with pytest.raises(InvalidValue, match="there is no folder"):
        LedgerFile(tmp_path / "no" / "file")
    with pytest.raises(InvalidValue, match="there is no ledger"):
        LedgerFile(tmp_path / "file", create=False)
    with pytest.raises(InvalidType, match="must be the path of a file; got int"):
        LedgerFile(3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"a text, not a database, of more than a hundred characters " * 40, b"SQLite format 3\0"]
)
def test_another_kind_of_file_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match="damaged, or not a ledger"):
        LedgerFile(path)
    assert path.read_bytes() == content


def test_another_programs_database_stays_as_it_is(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE scopes (id)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(BrokenFile, match="is a SQLite file, but not a ledger of llm_attr"):
        LedgerFile(path)
    assert path.read_bytes() == before


def test_a_newer_schema(path: Path) -> None:
    file = LedgerFile(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(NewerFile, match="has schema 2, this version reads 1; update llm_attr"):
        file.read(ONE, [b"a"])


def test_a_damaged_value_is_not_read(path: Path) -> None:
    LedgerFile(path).write(ONE, values(3))
    content = path.read_bytes()
    assert content.count(b"value 1") == 9
    path.write_bytes(content.replace(b"value 1", b"value 7"))
    with pytest.raises(BrokenFile, match="does not have its checksum"):
        LedgerFile(path).read(ONE, list(values(3)))
    other = LedgerFile(path.with_name("other"))
    with pytest.raises(BrokenFile, match="does not have its checksum"):
        other.merge(LedgerFile(path))
    assert other.stats() == []


def test_a_file_with_a_damaged_page(path: Path) -> None:
    LedgerFile(path).write(ONE, values(2000))
    content = bytearray(path.read_bytes())
    content[4096 * 4 : 4096 * 20] = b"\xff" * 4096 * 16
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match="damaged"):
        LedgerFile(path).read(ONE, list(values(2000)))


def test_a_full_disk_leaves_earlier_values(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LedgerFile(path)
    file.write(ONE, values(50))
    connected = ledger_file.connected

    def small(path: Path) -> sqlite3.Connection:
        connection = connected(path)
        connection.execute("PRAGMA max_page_count = 12")
        return connection

    monkeypatch.setattr(ledger_file, "connected", small)
    with pytest.raises(LedgerFailed, match="the disk is full; what it held before stays"):
        file.write(ONE, values(5000, 50))
    monkeypatch.undo()
    assert file.read(ONE, list(values(60))) == values(50)


def test_a_file_that_cannot_be_written_to(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LedgerFile(path)
    file.write(ONE, values(5))
    connected = ledger_file.connected

    def reading(path: Path) -> sqlite3.Connection:
        connection = connected(path)
        connection.execute("PRAGMA query_only = 1")
        return connection

    monkeypatch.setattr(ledger_file, "connected", reading)
    with pytest.raises(LedgerFailed, match=r"cannot be written to .*the file and its folder must be writable"):
        file.write(ONE, values(5, 5))
    monkeypatch.undo()
    assert file.read(ONE, list(values(9))) == values(5)


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="a folder of Linux in which no file can be made")
def test_a_folder_that_cannot_be_written_to() -> None:
    with pytest.raises(LedgerFailed, match=r"cannot be written to .*the file and its folder must be writable"):
        LedgerFile("/sys/kernel/values.ledger")


def test_another_process_that_never_ends_its_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = LedgerFile(path)
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr(ledger_file, "PATIENCE", 0.05)
    with pytest.raises(LedgerFailed, match="another process has been writing for over"):
        file.write(ONE, values(1))
    connection.close()


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        ("/dev/a / ext4 rw 0 0\nserver:/x {here} nfs4 rw 0 0\n", "nfs4"),
        ("/dev/a / ext4 rw 0 0\nhost {parent} fuse.sshfs rw 0 0\n", "fuse.sshfs"),
        ("//host/x / cifs rw 0 0\n", "cifs"),
        ("/dev/a {here} ext4 rw 0 0\nserver:/x {here} lustre rw 0 0\n", "lustre"),
    ],
)
def test_a_network_file_system_is_refused(
    mounts: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "a folder"
    here.mkdir()
    known = tmp_path / "mounts"
    known.write_text(mounts.format(here=str(here).replace(" ", "\\040"), parent=tmp_path))
    monkeypatch.setattr(file_system, "MOUNTS", known)
    with pytest.raises(LedgerFailed, match=rf"network file system \({kind}\).*keep one on a local disk .* merge"):
        LedgerFile(here / "values")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "mounts", ["server:/x / nfs4 rw 0 0\n/dev/a {here} ext4 rw 0 0\n", "nfs {here}x nfs rw 0 0\n", None]
)
def test_a_local_disk_is_not(mounts: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tmp_path / "mounts"
    if mounts is not None:
        known.write_text(mounts.format(here=tmp_path))
    monkeypatch.setattr(file_system, "MOUNTS", known)
    LedgerFile(tmp_path / "values").write(ONE, values(1))


WRITER = """
import sys
from llm_attr.core.game.ledger_file import LedgerFile, Scope

file, scope, number = LedgerFile(sys.argv[1]), Scope({"weights": "a"}, {}), int(sys.argv[2])
for step in range(100_000):
    rows = {f"{number} {step} {i}".encode(): f"{number} {step} {i} ".encode() * 40 for i in range(20)}
    file.write(scope, rows)
    print(step, flush=True)
"""


def started(path: Path, number: int) -> subprocess.Popen[str]:
    command: list[Any] = [sys.executable, "-c", WRITER, path, str(number)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)})


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_they_reported(path: Path) -> None:
    """Two writers, each killed at another moment, ten times; then the file is whole and has all that was reported."""
    scope, reported = Scope({"weights": "a"}, {}), list[bytes]()
    for kill in range(10):
        writers = [started(path, 2 * kill + each) for each in range(2)]
        for each, writer in enumerate(writers):
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(1 + kill * (each + 1))]
            writer.send_signal(signal.SIGKILL)
            writer.wait()
            lines += writer.stdout.read().split()
            writer.stdout.close()
            assert writer.returncode == -signal.SIGKILL
            steps = [int(line) for line in lines]
            reported += [f"{2 * kill + each} {step} {i}".encode() for step in steps for i in range(20)]
    file = LedgerFile(path)
    found = file.read(scope, reported)
    assert all(found.get(name) == (name + b" ") * 40 for name in reported)
    assert file.stats()[0].entries % 20 == 0, "no transaction is half there"
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
