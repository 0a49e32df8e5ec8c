"""What an import brings along: no plotting, no server, and next to no time."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

HEAVY = (
    "matplotlib",
    "IPython",
    "ipywidgets",
    "anywidget",
    "pandas",
    "sklearn",
    "skimage",
    "fastapi",
    "uvicorn",
    "PIL.ImageDraw",
)
EVERYTHING = (
    "import llm_attr, llm_attr.attr, llm_attr.attr.visualization, llm_attr.viz; llm_attr.explain; llm_attr.compare"
)


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=300)


@pytest.mark.parametrize("code", ["import llm_attr", EVERYTHING])
def test_nothing_that_only_pictures_or_servers_need(code: str) -> None:
    loaded = set(python("-c", f"{code}; import sys; print(*sys.modules)").stdout.split())
    assert not loaded & set(HEAVY)
    if code == "import llm_attr":
        assert not loaded & {"torch", "transformers", "numpy", "rich", "jinja2"}


def test_the_environment_of_the_process_stays_as_it_was() -> None:
    code = f"import os; before = dict(os.environ); {EVERYTHING}; import llm_attr.cli; print(before == dict(os.environ))"
    assert python("-c", code).stdout == "True\n"


def test_the_import_itself_takes_no_time() -> None:
    """The best of three, since other processes may be at work."""
    line = re.compile(r"\|\s+(\d+) \|\s+llm_attr$", re.MULTILINE)
    found = [line.search(python("-X", "importtime", "-c", "import llm_attr").stderr) for _ in range(3)]
    assert min(int(each[1]) for each in found if each) < 300_000
