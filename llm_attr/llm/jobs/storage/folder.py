"""A folder on a local disk or behind a URL, in which files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock, Timeout

from llm_attr.errors import InUse, InvalidValue, NotStored
from llm_attr.llm.jobs.arrow import file_system, is_local

TEMPORARY = ".tmp"
LOCK = ".lock"


class Folder:
    """A folder.

    Args:
        path: A local path, or a URL that fsspec opens (`s3://bucket/run`, `memory://run`).
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self._fs, self._root = file_system(self.path)
        self.is_local = is_local(self._fs)

    def __reduce__(self) -> tuple[Any, ...]:
        return Folder, (self.path,)

    def __str__(self) -> str:
        return self.path

    def place(self, name: str) -> str:
        """The full path of a file."""
        return f"{self._root.rstrip('/')}/{name}"

    def make(self) -> None:
        """Creates the folder and checks that a file can be written to it.

        Raises:
            NotStored: it cannot be created or written to.
        """
        probe = self.place(f".{uuid4().hex}{TEMPORARY}")
        try:
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(probe, b"")
            self._fs.rm_file(probe)
        except OSError as error:
            raise NotStored(f"{self.path} cannot be written to: {_reason(error)}; choose another folder") from error

    def names(self, below: str = "") -> list[str]:
        """The names of the files in the folder, or in one below it, in order."""
        place = self.place(below) if below else self._root
        try:
            found = self._fs.ls(place, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name.rstrip("/").rpartition("/")[2] for name in found)

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return bool(self._fs.exists(self.place(name)))

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return bytes(self._fs.cat_file(self.place(name)))

    def open(self, name: str) -> Any:
        """A file, open for reading."""
        return self._fs.open(self.place(name), "rb")

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self.place(name))

    def write(self, name: str, data: bytes, what: str) -> None:
        """Writes a file under a temporary name, to the disk, and renames it.

        Args:
            name: Its name, which may be in a folder below.
            data: Its content.
            what: What it is, for the error.

        Raises:
            NotStored: there is no room, or no permission; the file is as it was before.
        """
        temporary = self._temporary(name)
        try:
            self._write(temporary, data)
            if self.is_local:
                os.replace(temporary, self.place(name))  # noqa: PTH105
                _flush_folder(Path(temporary).parent)
            else:
                self._fs.mv(temporary, self.place(name))
        except OSError as error:
            with suppress(OSError):
                self._fs.rm_file(temporary)
            raise NotStored(
                f"{what} could not be written to {self.path}: {_reason(error)}. What was written before is intact; "
                "make room or choose a folder that can be written to, and run the same again"
            ) from error

    def create(self, name: str, data: bytes, what: str) -> bool:
        """Writes a file unless there is one of this name; says whether it did.

        Raises:
            NotStored: see `write`.
        """
        if self.has(name):
            return False
        if not self.is_local:
            self.write(name, data, what)
            return True
        temporary = self._temporary(name)
        try:
            self._write(temporary, data)
            os.link(temporary, self.place(name))
            _flush_folder(Path(temporary).parent)
        except FileExistsError:
            return False
        except OSError as error:
            raise NotStored(f"{what} could not be written to {self.path}: {_reason(error)}") from error
        finally:
            with suppress(OSError):
                Path(temporary).unlink()
        return True

    @contextmanager
    def locked(self, share: str, busy: str) -> Iterator[None]:
        """Holds the lock of a share, which ends with the process; only on a local disk.

        Args:
            share: The share, such as `0-of-2`; nobody may hold one of another division.
            busy: What the error says.

        Raises:
            InUse: another process holds this lock, or one of another division.
        """
        if not self.is_local:
            yield
            return
        division = share.partition("-of-")[2]
        for name in self.names():
            other = name.removesuffix(LOCK)
            if name.endswith(LOCK) and other.partition("-of-")[2] != division:
                self._check_free(name, busy)
        try:
            with FileLock(self.place(f".share-{share}{LOCK}"), timeout=0):
                yield
        except Timeout as error:
            raise InUse(busy) from error

    def sweep(self, share: str) -> None:
        """Removes what a process that was killed left of this share: files under temporary names."""
        for below in ("", "rows"):
            for name in self.names(below):
                if name.endswith(TEMPORARY) and f".{share}." in name:
                    self.remove(f"{below}/{name}" if below else name)

    def _check_free(self, name: str, busy: str) -> None:
        try:
            with FileLock(self.place(name), timeout=0):
                pass
        except Timeout as error:
            raise InUse(busy) from error

    def _temporary(self, name: str) -> str:
        below, _, file = name.rpartition("/")
        return self.place(f"{below + '/' if below else ''}.{file}.{uuid4().hex[:8]}{TEMPORARY}")

    def _write(self, place: str, data: bytes) -> None:
        self._fs.makedirs(place.rpartition("/")[0], exist_ok=True)
        if not self.is_local:
            self._fs.pipe_file(place, data)
            return
        with Path(place).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    """Writes the folder itself to the disk, so that a rename outlives a power cut; Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


def checked_path(path: object) -> str:
    """A path or URL of a folder as text.

    Raises:
        InvalidValue: it is empty or a file.
    """
    text = str(path) if isinstance(path, str | Path) else ""
    if not text or ("://" not in text and Path(text).is_file()):
        raise InvalidValue(f"out must be the path or URL of a folder; got {path!r}")
    return text
