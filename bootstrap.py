"""Set llm_attr up in this folder and run it: `python bootstrap.py demo`, `docs` or `test`.

Needs nothing but Python 3.10 or newer with its standard library, on Linux, macOS or Windows. It makes `.venv` beside
this file, installs the project there with the releases of constraints.txt, fetches the embedded model into the user's
cache, and runs. A second run finds all that and starts at once; what a stopped run left is repaired by the next.

`docs` runs the notebooks and builds the site into build/docs. `test` checks style, types and import rules and runs the
tests; with `--all` it also does what `docs` does, and runs the tests that need many seeds, a browser or the site.

pip's own configuration says where packages come from. Where that offers a CPU build of torch, it is taken; elsewhere on
Linux torch comes with CUDA and is some gigabytes larger.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent
MODEL = "smollm2-135m"
OLDEST_PYTHON = (3, 10)
SPACE = 3_000_000_000  # bytes: the environment with a CPU build of torch, pip's temporary files and the model
EXTRAS = {"demo": ["demo"], "docs": ["demo", "docs"], "test": ["demo", "docs", "lint", "test"]}
CHECKS = (
    ("ruff check", ["-m", "ruff", "check", "."]),
    ("ruff format", ["-m", "ruff", "format", "--check", "."]),
    ("types", ["-m", "mypy"]),
    ("layers", ["-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]),
)
QUICK = "not (benchmark or slow or statistical or browser or site)"
ADVICE = (
    ("No space left", "free some space on this disk and run this again"),
    ("Could not find a version", "check the network and pip's configuration (pip config list), then run this again"),
    ("Connection", "check the network and pip's configuration (pip config list), then run this again"),
    ("ensurepip", "install Python's venv package (python3-venv on Debian and Ubuntu) or a Python from python.org"),
    ("Permission denied", "make this folder writable for you, or clone the project elsewhere"),
)


class Stop(Exception):
    """What went wrong, and what to do about it."""


class Environment:
    """The virtual environment of the project, with a note in it of how far it has come.

    The note is `{"state": "making" | "installing" | "installed", ...}`; it is written before each stage, so that what a
    stopped run left is known for what it is.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self.note = self.folder / "llm_attr-bootstrap.json"

    def read_note(self) -> dict[str, object]:
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def write_note(self, state: str, **more: object) -> None:
        self.note.write_text(json.dumps({"state": state, **more}), encoding="utf-8")

    def is_environment(self) -> bool:
        """Whether the folder is a virtual environment, whole or not: only then may it be deleted."""
        return (self.folder / "pyvenv.cfg").is_file() or "state" in self.read_note()

    def fault(self) -> str | None:
        """Return what is wrong with the environment, or None."""
        if self.read_note().get("state") in ("making", "installing"):
            return "its making was interrupted"
        try:
            done = subprocess.run([str(self.python), "-m", "pip", "--version"], capture_output=True, check=False)
        except OSError:
            return "its Python does not start"
        return None if done.returncode == 0 else "its Python or its pip does not run"

    def fingerprint(self) -> str:
        """Return a hash of all that decides what is installed, save the extras."""
        digest = hashlib.sha256()
        for name in ("pyproject.toml", "constraints.txt"):
            digest.update((self.root / name).read_bytes())
        # the project is installed as a link to its folder, and the environment belongs to one Python
        digest.update(str(self.root).encode())
        digest.update((self.folder / "pyvenv.cfg").read_bytes())
        return digest.hexdigest()

    def has(self, extras: list[str]) -> bool:
        """Whether these extras have been installed from the files as they are now."""
        note = self.read_note()
        installed = note.get("extras")
        return (
            note.get("state") == "installed"
            and note.get("fingerprint") == self.fingerprint()
            and isinstance(installed, list)
            and set(extras) <= set(installed)
        )


def check_python(found: tuple[int, ...]) -> None:
    """Refuse a Python that is too old, naming a newer one if the path has it."""
    if found >= OLDEST_PYTHON:
        return
    newer = next((name for name in (f"python3.{minor}" for minor in range(19, 9, -1)) if shutil.which(name)), None)
    oldest = ".".join(map(str, OLDEST_PYTHON))
    what_to_do = f"run: {newer} bootstrap.py" if newer else f"install Python {oldest} or newer and run this with it"
    raise Stop(f"this is Python {found[0]}.{found[1]}, and {oldest} or newer is needed; {what_to_do}")


def check_root(root: Path) -> None:
    """Refuse to work in a folder that does not hold the project."""
    missing = [name for name in ("pyproject.toml", "constraints.txt", "llm_attr") if not (root / name).exists()]
    if missing:
        raise Stop(f"{root} has no {missing[0]}: bootstrap.py must lie in a whole clone of the project; clone it again")


def check_space(free: int) -> None:
    """Refuse to install where it cannot fit."""
    if free < SPACE:
        raise Stop(
            f"the disk of {ROOT} has {free / 1e9:.1f} GB free and {SPACE / 1e9:.0f} GB are needed; free some space, "
            "or clone the project on another disk"
        )


def run(
    title: str, command: list[str], *, quiet: bool = False, beside: bool = False, last: bool = False, **environment: str
) -> None:
    """Run one step in the project's folder, printed with its time.

    Args:
        title: what is printed of it.
        command: what is run.
        quiet: its own output is shown only where it fails.
        beside: it runs beside another step, so that it is printed in one line when it is done.
        last: the closing line is left to the step.
        environment: variables for it.
    """
    if not beside:
        print(f"== {title}", flush=True)
    start = time.monotonic()
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**surroundings(), **environment},
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    took = time.monotonic() - start
    if done.returncode != 0:
        raise Stop(failure(title, done.returncode, done.stdout or ""))
    if not last:
        print(f"== {title}: {took:.1f} s" if beside else f"   {took:.1f} s", flush=True)


def surroundings() -> dict[str, str]:
    """Return the variables for every step: idle threads sleep, and each module is compiled once.

    pip compiles nothing here, so a process that may not keep bytecode would compile all of torch and transformers for
    itself. Where no bytecode is wanted beside the sources, it is kept in `.venv`.
    """
    found = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ}
    if found.pop("PYTHONDONTWRITEBYTECODE", ""):
        found.setdefault("PYTHONPYCACHEPREFIX", str(ROOT / ".venv" / "bytecode"))
    return found


def failure(title: str, code: int, output: str) -> str:
    """Return the message for a failed step: the end of what it printed, if that was kept back, and what to do."""
    tail = [f"   {line}" for line in output.splitlines()[-15:]]
    advice = [f"what to do: {text}" for sign, text in ADVICE if sign in output][:1]
    return "\n".join([f"{title} failed (exit code {code})", *tail, *advice])


def make_environment(environment: Environment) -> None:
    """Make `.venv`, or make it anew where it is broken; never delete what is not a virtual environment."""
    folder = environment.folder
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise Stop(f"{folder} is not a folder; move it away and run this again")
    if folder.is_dir() and any(folder.iterdir()):
        if not environment.is_environment():
            raise Stop(f"{folder} is not a virtual environment and is left alone; move it away and run this again")
        fault = environment.fault()
        if fault is None:
            return
        if Path(sys.prefix).resolve() == folder.resolve():
            raise Stop(f"{folder} is broken ({fault}) and runs this; deactivate it and run this with another Python")
        print(f"{folder} is broken ({fault}) and is made anew", flush=True)
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    environment.write_note("making")
    run("environment: make .venv", [sys.executable, "-m", "venv", str(folder)], quiet=True)
    environment.write_note("made")


def install(environment: Environment, extras: list[str]) -> None:
    """Install the project, editable, with the extras, unless the note says that this has been done."""
    if environment.has(extras):
        return
    check_space(shutil.disk_usage(environment.root).free)
    environment.write_note("installing")
    command = [str(environment.python), "-m", "pip", "install", "--quiet", "--no-input", "--progress-bar", "off"]
    command += ["--disable-pip-version-check", "--no-warn-script-location"]
    command += ["--no-compile"]  # of the 20,000 modules a fifth is ever imported, and compiled then
    command += ["--constraint", str(environment.root / "constraints.txt")]
    command += ["--editable", f".[{','.join(extras)}]"]
    try:
        run("install: llm_attr, torch and transformers (a minute or more)", command, quiet=True, PIP_USER="0")
    except Stop:
        environment.write_note("made")
        raise
    environment.write_note("installed", fingerprint=environment.fingerprint(), extras=extras)


def build_site(environment: Environment) -> None:
    """Copy the pages, make notebooks of their sources, run each once, and build the site from what that gives."""
    pages = environment.root / "build" / "pages"
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(environment.root / "docs", pages)
    sources = sorted((pages / "notebooks").glob("*.py"))
    python = str(environment.python)
    run("notebooks: make", [python, "-m", "jupytext", "--quiet", "--to", "ipynb", *map(str, sources)])
    for source in sources:
        source.unlink()
    run(
        "notebooks: run",
        [python, "-m", "pytest", "-q", "-n", "auto", "--nbmake", "--nbmake-timeout=120", "--overwrite", str(pages)],
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        HF_HUB_OFFLINE="1",
        OMP_NUM_THREADS="1",
        PYTHONPATH=str(environment.root / "examples"),
    )
    site = environment.root / "build" / "docs"
    shutil.rmtree(site, ignore_errors=True)
    run("site: build/docs/index.html", [python, "-m", "sphinx", "-q", "-W", "--keep-going", str(pages), str(site)])


def check(environment: Environment) -> None:
    """Run the checks of style, types and import rules; quietly, since the model is fetched beside them."""
    for title, arguments in CHECKS:
        run(title, [str(environment.python), *arguments], quiet=True, beside=True)


def fetch(environment: Environment, beside: bool = False) -> None:
    """Fetch the embedded model into the user's cache."""
    run(f"model: {MODEL}", [str(environment.python), "-m", "llm_attr.cli", "models", "fetch", MODEL], beside=beside)


def test(environment: Environment, everything: bool) -> None:
    """Check and test; the checks and the conversion of the model keep one core each, so they run at once."""
    with ThreadPoolExecutor() as threads:
        jobs = [threads.submit(fetch, environment, beside=True), threads.submit(check, environment)]
    for job in jobs:
        job.result()
    if everything:
        build_site(environment)
    command = [str(environment.python), "-m", "pytest", "-n", "auto", "--dist", "worksteal", "-p", "no:nbmake"]
    command += [] if everything else ["-m", QUICK]
    run("pytest", command, last=True, HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")


def work(task: str, everything: bool = False) -> None:
    """Do everything that the task needs, then the task."""
    check_python(sys.version_info[:2])
    check_root(ROOT)
    environment = Environment(ROOT)
    make_environment(environment)
    install(environment, EXTRAS[task])
    if task == "test":
        test(environment, everything)
        return
    fetch(environment)
    if task == "demo":
        run("demo", [str(environment.python), str(Path("examples", "demo.py"))], last=True)
    else:
        build_site(environment)


def main() -> int:
    """Return the exit code: 0, 1 where a step failed, 130 where the user stopped it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("task", choices=sorted(EXTRAS), help="what to run")
    parser.add_argument("--all", action="store_true", help="test: also the site, and the tests that take long")
    arguments = parser.parse_args()
    if arguments.all and arguments.task != "test":
        parser.error("--all belongs to test")
    try:
        work(arguments.task, arguments.all)
    except Stop as stop:
        print(f"\nbootstrap: {stop}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("\nbootstrap: stopped; the same command goes on from here", file=sys.stderr, flush=True)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
