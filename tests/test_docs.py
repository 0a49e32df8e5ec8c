"""The documentation: every public name has its place, its Python runs, and the built site asks nobody for anything."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.zoo import quiet

ROOT = Path(__file__).parents[1]
DOCS, SITE = ROOT / "docs", ROOT / "build" / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.py"))
ELSEWHERE = {"visualization": "llm_attr.attr.visualization", "LLMAttributionResult": "llm_attr"}
"""Names of `llm_attr.attr` that have their page under another module, or are one."""


def listed(page: Path) -> set[str]:
    """What a page of the reference lists, with its module."""
    found, module = set(), ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"\.\. currentmodule:: (\S+)", line):
            module = match[1]
        elif match := re.match(r"   ([A-Za-z_]\w*)$", line):
            found.add(f"{module}.{match[1]}")
        elif match := re.match(r"\.\. automodule:: (\S+)", line):
            found.add(match[1])
    return found


@pytest.mark.parametrize(
    "module",
    [
        "llm_attr",
        "llm_attr.attr",
        "llm_attr.concept",
        "llm_attr.influence",
        "llm_attr.metrics",
        "llm_attr.robust",
        "llm_attr.module",
        "llm_attr.testing",
    ],
)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    pages = set().union(*map(listed, (DOCS / "reference").glob("*.md")))
    names = set(import_module(module).__all__) - {"__version__"} - (ELSEWHERE.keys() if module != "llm_attr" else set())
    assert {f"{module}.{name}" for name in names} - pages == set()
    stale = {name for name in pages if name.rpartition(".")[0] == module} - {f"{module}.{name}" for name in names}
    assert all(import_module(name) for name in stale)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in [*DOCS.rglob("*.md"), *NOTEBOOKS]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            assert path.with_suffix(".py").exists() if path.suffix == ".ipynb" else path.exists(), (page.name, target)


def test_every_notebook_is_in_a_table_of_contents() -> None:
    entries = "\n".join((DOCS / name).read_text(encoding="utf-8") for name in ("index.md", "tutorials.md"))
    for path in NOTEBOOKS:
        assert re.search(rf"^notebooks/{path.stem}$", entries, re.MULTILINE), path.name


@pytest.mark.real
@pytest.mark.parametrize(
    "page",
    [
        "index.md",
        "captum.md",
        "completeness.md",
        "concepts.md",
        "influence.md",
        "metrics.md",
        "trust.md",
        "agents.md",
        "testing.md",
        "citations.md",
        "robust.md",
        "gates.md",
        "datasets.md",
    ],
)
def test_the_python_of_the_pages_runs(page: str, smollm: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names: dict[str, Any] = {"lm": smollm}
    with quiet():
        for block in blocks:
            exec(compile(block, page, "exec"), names)


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest) -> Any:
    """An installed Chromium, and a site to look at."""
    if not (SITE / "index.html").exists():
        pytest.skip("the site is not built (python bootstrap.py docs)")
    return request.getfixturevalue("browser")


PAGES = [
    "index.html",
    *(f"notebooks/{path.stem}.html" for path in NOTEBOOKS),
    "estimators.html",
    "captum.html",
    "reference/generated/llm_attr.explain.html",
    "reference/generated/llm_attr.attr.IntegratedGradients.html",
    "search.html",
]


@pytest.mark.site
@pytest.mark.parametrize("page", PAGES)
def test_a_page_asks_nobody_and_fits_a_telephone(browser: Any, page: str) -> None:
    context = browser.new_context(viewport={"width": 400, "height": 800})
    tab, incidents = context.new_page(), []
    tab.on("request", lambda it: it.url.startswith(("file:", "data:")) or incidents.append(it.url))
    tab.on("console", lambda message: message.type == "error" and incidents.append(message.text))
    tab.on("pageerror", lambda error: incidents.append(str(error)))
    tab.goto((SITE / page).as_uri())
    wider = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
    context.close()
    assert incidents == []
    assert wider <= 0
