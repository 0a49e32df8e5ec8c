"""What an import brings along: no plotting, no server, next to nothing of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
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
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("code", ["import llm_attr", EVERYTHING])
def test_nothing_that_only_pictures_or_servers_need(code: str) -> None:
    loaded = set(python("-c", f"{code}; import sys; print(*sys.modules)").stdout.split())
    assert not loaded & set(HEAVY)
    if code == "import llm_attr":
        assert not loaded & {"torch", "transformers", "numpy", "rich", "jinja2"}


def test_the_environment_of_the_process_stays_as_it_was() -> None:
    code = f"import os; before = dict(os.environ); {EVERYTHING}; import llm_attr.cli; print(before == dict(os.environ))"
    assert python("-c", code).stdout == "True\n"


def test_the_import_itself_loads_next_to_nothing() -> None:
    """No other module of the package, and of the standard library what `re` and `typing` need."""
    code = "import sys; before = set(sys.modules); import llm_attr; print(*set(sys.modules) - before)"
    loaded = python("-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}").stdout.split()
    assert [name for name in loaded if name.startswith("llm_attr")] == ["llm_attr"]
    assert {name.partition(".")[0] for name in loaded} <= sys.stdlib_module_names | {"llm_attr"}
    assert len(loaded) < 60
