"""The pytest plugin, in test runs of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

NAME, MODULE = "llm_attr", "llm_attr.testing.plugin"
FAILING = """
import torch
from llm_attr import LLMAttributionResult
from llm_attr.testing import assert_grounded

def test_sources():
    result = LLMAttributionResult(
        input_tokens=["It is <b>red</b>.", "It is old."], output_tokens=["A"], seq_attr=torch.tensor([3.0, 1.0])
    )
    assert_grounded(result, 1, min_share=0.6)

def test_another():
    assert 1 == 2
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs pytest with this plugin and no other that is installed."""
    monkeypatch.delenv("LLM_ATTR_MODEL", raising=False)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    return lambda *arguments: pytester.runpytest_inprocess("-p", MODULE, "-p", "no:cacheprovider", *arguments)


def test_a_failure_shows_the_picture_and_no_frame_of_ours(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(FAILING)
    done = run("--color=no")
    done.assert_outcomes(failed=2)
    done.stdout.fnmatch_lines(
        [
            "*NotGrounded: unit 1 'It is old.': 25.0% of what speaks for the answer, at least 60% wanted",
            "*- explanation -*",
        ]
    )
    done.stdout.no_fnmatch_line("*grounded.py*raise*")
    assert done.stdout.str().count("- explanation -") == 1
    assert not list(pytester.path.rglob("*.html"))


@pytest.mark.parametrize("workers", [[], pytest.param(["-p", "xdist", "-n", "1"], marks=pytest.mark.slow)])
def test_pages_beside_the_junit_file(pytester: pytest.Pytester, run: Any, workers: list[str]) -> None:
    if workers:
        pytest.importorskip("xdist")
    pytester.makepyfile(FAILING)
    run("--junitxml=out/report.xml", *workers).assert_outcomes(failed=2)
    (page,) = (pytester.path / "out" / "report-explanations").iterdir()
    assert "&lt;b&gt;red" in page.read_text(encoding="utf-8")
    properties = ElementTree.parse(pytester.path / "out" / "report.xml").iter("property")
    assert [each.get("value") for each in properties if each.get("name") == "llm_attr_html"] == [str(page)]


def test_pages_in_a_folder(pytester: pytest.Pytester, run: Any) -> None:
    pytester.makepyfile(FAILING)
    pytester.makeini("[pytest]\nllm_attr_html = configured")
    run("--junitxml=report.xml", "--llm-attr-html=given")
    assert len(list((pytester.path / "given").iterdir())) == 1
    run("--junitxml=report.xml")
    assert len(list((pytester.path / "configured").iterdir())) == 1


@pytest.mark.parametrize(
    ("line", "variable", "ini", "expected"),
    [
        ("a", "b", "c", "a"),
        (None, "b", "c", "b"),
        (None, None, "c", "c"),
        (None, None, None, "smollm2-135m"),
    ],
)
def test_the_model_is_chosen_and_loaded_once(
    pytester: pytest.Pytester,
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    variable: str,
    ini: str,
    expected: str,
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr("llm_attr.llm.model.language_model.load_model", lambda name: loaded.append(name) or name)
    if ini:
        pytester.makeini(f"[pytest]\nllm_attr_model = {ini}")
    if variable:
        monkeypatch.setenv("LLM_ATTR_MODEL", variable)
    test = f"def test_one(llm_attr_model): assert llm_attr_model == {expected!r}\n"
    pytester.makepyfile(test + test.replace("one", "two"))
    run(*([f"--llm-attr-model={line}"] if line else [])).assert_outcomes(passed=2)
    assert loaded == [expected]


def test_the_plugin_brings_nothing_heavy() -> None:
    code = f"import sys, pytest; before = set(sys.modules); import {MODULE}; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {name for name in loaded if name.startswith(NAME)} == {NAME, "llm_attr.testing", MODULE}
    assert not {"torch", "transformers", "numpy", "rich", "jinja2"} & set(loaded)


def test_the_project_declares_it() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'[project.entry-points.pytest11]\n{NAME} = "{MODULE}"\n' in text
