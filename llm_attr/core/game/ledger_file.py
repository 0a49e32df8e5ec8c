"""`LedgerFile`: values that were paid for, in one SQLite file that threads and processes of a machine share."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from time import monotonic, sleep, time
from typing import Any
from zlib import crc32

from llm_attr.core.game.file_system import refuse_network
from llm_attr.errors import BrokenFile, InvalidType, InvalidValue, LedgerFailed, NewerFile

APPLICATION, SCHEMA = 0x6C41746C, 1
"""What the file's header says: that it is a ledger of llm_attr, and the version of its tables."""

PATIENCE = 60.0
"""Seconds to wait for another process that is writing."""

PAUSE = 0.01
"""Seconds between two attempts to open a file that another process is making."""

_AT_ONCE = 500
"""Keys per SELECT; SQLite takes at most 999."""

_NEW = (
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {SCHEMA}",
    "CREATE TABLE scopes (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, about TEXT NOT NULL)",
    "CREATE TABLE entries (scope INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL, "
    "check_sum INTEGER NOT NULL, written INTEGER NOT NULL, PRIMARY KEY (scope, name)) WITHOUT ROWID",
)


@dataclass(frozen=True)
class Scope:
    """What values depend on besides their own key: the model and everything around it.

    Attributes:
        identity: Names and fingerprints; scopes with equal ones share their values.
        about: What people read: the name of the model, say.
    """

    identity: Mapping[str, Any]
    about: Mapping[str, Any]

    @property
    def name(self) -> bytes:
        """A hash of the identity."""
        return blake2b(_written(self.identity).encode(), digest_size=32).digest()


@dataclass(frozen=True)
class ScopeStats:
    """What a ledger holds of one scope.

    Attributes:
        identity: See `Scope`.
        about: See `Scope`.
        entries: The number of values.
        bytes: Their size.
        first: When the first was written, in seconds since 1970.
        last: When the last was.
    """

    identity: Mapping[str, Any]
    about: Mapping[str, Any]
    entries: int
    bytes: int
    first: int
    last: int


class LedgerFile:
    """Values by scope and key, in a SQLite file in WAL mode.

    Each call is one transaction on a connection of its own, so an object may be used from any thread and after a fork.
    A value is on disk when `write` returns, and whoever is killed in the middle leaves the file as it was. Of two
    processes that write the same key, the first one's value stays.

    Args:
        path: The file; it is made, in an existing folder, if it is missing.
        create: False: the file must exist.

    Raises:
        InvalidType: the path is not a path.
        InvalidValue: there is no such folder, or no such file.
        LedgerFailed: the folder is on a network file system or cannot be written to, or the disk is full.
        BrokenFile: the file is damaged, or of another kind.
        NewerFile: a newer version of llm_attr made it.
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = True) -> None:
        if not isinstance(path, str | os.PathLike):
            raise InvalidType(f"ledger must be the path of a file; got {type(path).__name__}")
        self.path = Path(path).absolute()
        if self.path.is_dir():
            raise InvalidValue(f"ledger {self.path} is a folder; name a file in it")
        if not self.path.parent.is_dir():
            raise InvalidValue(f"ledger {self.path}: there is no folder {self.path.parent}")
        if not create and not self.path.is_file():
            raise InvalidValue(f"there is no ledger {self.path}")
        refuse_network(self.path.parent)
        with self._connection():
            pass

    def read(self, scope: Scope, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values of those keys that are known.

        Raises:
            LedgerFailed: the file cannot be read.
            BrokenFile: it is damaged.
        """
        found: dict[bytes, bytes] = {}
        with self._connection() as connection:
            number = _number(connection, scope.name)
            for start in range(0, 0 if number is None else len(names), _AT_ONCE):
                part = names[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT name, value, check_sum FROM entries WHERE scope = ? AND name IN ({marks})"
                for name, value, check_sum in connection.execute(query, (number, *part)):
                    if crc32(name + value) != check_sum:
                        raise BrokenFile(f"{self.path} is damaged: a value does not have its checksum")
                    found[name] = value
        return found

    def write(self, scope: Scope, values: Mapping[bytes, bytes]) -> None:
        """Adds values; they are on disk when this returns, all or none of them.

        Raises:
            LedgerFailed: the disk is full, or the file cannot be written to; what it held stays.
            BrokenFile: it is damaged.
        """
        if not values:
            return
        now = int(time())
        rows = [(name, value, crc32(name + value), now) for name, value in values.items()]
        with self._connection() as connection, _transaction(connection):
            number = _numbered(connection, scope.name, _written([scope.identity, scope.about]))
            connection.executemany(_INSERT, [(number, *row) for row in rows])

    def stats(self) -> list[ScopeStats]:
        """What the ledger holds of each scope, by the time of its last value.

        Raises:
            LedgerFailed: the file cannot be read.
            BrokenFile: it is damaged.
        """
        query = (
            "SELECT about, count(*), sum(length(entries.name) + length(value)), min(written), max(written) "
            "FROM entries JOIN scopes ON scopes.id = scope GROUP BY scope ORDER BY max(written), scope"
        )
        with self._connection() as connection:
            return [ScopeStats(*json.loads(text), *numbers) for text, *numbers in connection.execute(query)]

    def merge(self, other: LedgerFile) -> int:
        """Adds the values of another ledger, which stays as it is; returns how many were new.

        Raises:
            InvalidValue: it is the same file.
            LedgerFailed: a file cannot be read or written to.
            BrokenFile: one of them is damaged.
        """
        if self.path.samefile(other.path):
            raise InvalidValue(f"{self.path} cannot be merged into itself")
        with other._connection() as source, self._connection() as connection, _transaction(connection):
            before = connection.total_changes
            scopes = list(source.execute("SELECT id, name, about FROM scopes"))
            numbers = {theirs: _numbered(connection, name, about) for theirs, name, about in scopes}
            of_scopes = connection.total_changes - before
            rows = source.execute("SELECT scope, name, value, check_sum, written FROM entries")
            checked = (row for row in rows if other._is_sound(row))
            connection.executemany(_INSERT, ((numbers[theirs], *row) for theirs, *row in checked))
            return connection.total_changes - before - of_scopes

    def prune(self, older_than: float | None = None, model: str | None = None, dry_run: bool = False) -> int:
        """Removes values and gives their space back to the disk; returns how many.

        Args:
            older_than: Only values that were written before so many days.
            model: Only values of models with this name.
            dry_run: Only counts.

        Raises:
            InvalidValue: neither is given, or the days are negative.
            LedgerFailed: the file cannot be written to.
            BrokenFile: it is damaged.
        """
        if older_than is None and model is None:
            raise InvalidValue("prune removes what is older than some days, or of one model; neither was given")
        if older_than is not None and not older_than >= 0:
            raise InvalidValue(f"older_than is a number of days; got {older_than!r}")
        latest = time() + 1 if not older_than else time() - older_than * 86400
        with self._connection() as connection:
            with _transaction(connection):
                abouts = connection.execute("SELECT id, about FROM scopes").fetchall()
                chosen = [number for number, text in abouts if model in (None, json.loads(text)[1].get("model"))]
                count = sum(connection.execute(_OLD, (number, latest)).fetchone()[0] for number in chosen)
                if dry_run:
                    return count
                connection.executemany(
                    "DELETE FROM entries WHERE scope = ? AND written < ?", [(number, latest) for number in chosen]
                )
                connection.execute("DELETE FROM scopes WHERE id NOT IN (SELECT scope FROM entries)")
            connection.execute("VACUUM")
        return count

    def _is_sound(self, row: Sequence[Any]) -> bool:
        _, name, value, check_sum, _ = row
        if crc32(name + value) != check_sum:
            raise BrokenFile(f"{self.path} is damaged: a value does not have its checksum")
        return True

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection to the file, checked, and made if it is new."""
        with self._explained(), closing(self._opened()) as connection:
            yield connection

    def _opened(self) -> sqlite3.Connection:
        """An open connection; waits while another process makes the file or recovers it."""
        deadline = monotonic() + PATIENCE
        while True:
            with ExitStack() as stack:
                connection = stack.enter_context(closing(connected(self.path)))
                try:
                    self._prepare(connection)
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or monotonic() > deadline:
                        raise
                else:
                    stack.pop_all()
                    return connection
            sleep(PAUSE)

    def _prepare(self, connection: sqlite3.Connection) -> None:
        if not self._is_known(connection):
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise LedgerFailed(f"ledger {self.path}: SQLite cannot keep a write-ahead log there, but {mode!r}")
            with _transaction(connection):
                if not self._is_known(connection):
                    for statement in _NEW:
                        connection.execute(statement)
        connection.execute("PRAGMA synchronous = FULL")

    def _is_known(self, connection: sqlite3.Connection) -> bool:
        """Whether the file is a ledger; False for an empty one."""
        application, schema = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        if application == APPLICATION and schema > SCHEMA:
            raise NewerFile(f"{self.path} has schema {schema}, this version reads {SCHEMA}; update llm_attr")
        if application == APPLICATION and schema == SCHEMA:
            return True
        if application or schema or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise BrokenFile(f"{self.path} is a SQLite file, but not a ledger of llm_attr; name another file")
        return False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Raises SQLite's errors as ours."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if "locked" in text:
                raise LedgerFailed(
                    f"ledger {self.path}: another process has been writing for over {PATIENCE:g} s"
                ) from error
            if "full" in text:
                raise LedgerFailed(f"ledger {self.path}: the disk is full; what it held before stays") from error
            if isinstance(error, sqlite3.OperationalError) and any(
                each in text for each in ("readonly", "read-only", "unable to open", "disk I/O", "access")
            ):
                raise LedgerFailed(
                    f"ledger {self.path} cannot be written to ({text}): the file and its folder must be writable"
                ) from error
            raise BrokenFile(f"{self.path} is damaged, or not a ledger of llm_attr: {text}") from error


_INSERT = "INSERT OR IGNORE INTO entries (scope, name, value, check_sum, written) VALUES (?, ?, ?, ?, ?)"
_OLD = "SELECT count(*) FROM entries WHERE scope = ? AND written < ?"


def connected(path: Path) -> sqlite3.Connection:
    """A connection that leaves transactions to its user."""
    return sqlite3.connect(path, timeout=PATIENCE, isolation_level=None)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """A transaction that is undone by an error inside."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _number(connection: sqlite3.Connection, name: bytes) -> int | None:
    row = connection.execute("SELECT id FROM scopes WHERE name = ?", (name,)).fetchone()
    return None if row is None else int(row[0])


def _numbered(connection: sqlite3.Connection, name: bytes, about: str) -> int | None:
    """The number of a scope, which is added if it is new."""
    connection.execute("INSERT OR IGNORE INTO scopes (name, about) VALUES (?, ?)", (name, about))
    return _number(connection, name)


def _written(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=dict)
