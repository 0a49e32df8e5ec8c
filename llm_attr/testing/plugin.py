"""The pytest plugin: the fixture `llm_attr_model`, pictures below failures, and pages beside the JUnit file.

Nothing of torch is imported before a test asks for a model or fails with an explanation.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from llm_attr.llm.model.language_model import LanguageModel

_DEFAULT = "smollm2-135m"
_VARIABLE = "LLM_ATTR_MODEL"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The model and the folder for pages, on the command line and in the configuration."""
    group = parser.getgroup("llm_attr")
    about = f"model of the fixture llm_attr_model: embedded, a folder, or a name on the hub (default: {_DEFAULT})"
    group.addoption("--llm-attr-model", metavar="MODEL", default=None, help=about)
    pages = "folder for an HTML page per failure (default: beside the JUnit file, if there is one)"
    group.addoption("--llm-attr-html", metavar="DIR", default=None, help=pages)
    parser.addini("llm_attr_model", f"{about}; ${_VARIABLE} and --llm-attr-model come first")
    parser.addini("llm_attr_html", f"{pages}; --llm-attr-html comes first")


@pytest.fixture(scope="session")
def llm_attr_model(pytestconfig: pytest.Config) -> LanguageModel:
    """The language model of the session, loaded when the first test asks for it.

    `--llm-attr-model`, else the variable LLM_ATTR_MODEL, else `llm_attr_model` in the configuration, else SmolLM2.
    """
    from llm_attr.llm.model.language_model import load_model

    chosen = pytestconfig.getoption("llm_attr_model") or os.environ.get(_VARIABLE)
    return load_model(chosen or pytestconfig.getini("llm_attr_model") or _DEFAULT)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """Adds the picture of an explanation to the report of a test that failed by it."""
    report: Any = yield
    error = call.excinfo and call.excinfo.value
    shown = getattr(error, "explanation", None)
    if isinstance(error, AssertionError) and shown is not None and type(error).__module__ == "llm_attr.errors":
        report.sections.append(("explanation", _picture(item.config, shown)))
        folder = _folder(item.config)
        if folder is not None:
            page = folder / _file_name(item.nodeid, call.when)
            folder.mkdir(parents=True, exist_ok=True)
            shown.to_html(page)
            report.sections.append(("explanation as HTML", str(page)))
            item.user_properties.append(("llm_attr_html", str(page)))
    return report


def _picture(config: pytest.Config, shown: Any) -> str:
    """What `show` prints, coloured where the report is."""
    reporter: Any = config.pluginmanager.get_plugin("terminalreporter")
    coloured = bool(reporter is not None and reporter.hasmarkup)
    width = None if reporter is None else reporter._tw.fullwidth
    return str(shown.render(width=width, colour=coloured))


def _folder(config: pytest.Config) -> Path | None:
    """The folder for pages: as given, else beside the JUnit file, else none."""
    given = config.getoption("llm_attr_html")
    if given:
        return (config.invocation_params.dir / given).resolve()
    if configured := config.getini("llm_attr_html"):
        return (config.rootpath / configured).resolve()
    worker: Any = getattr(config, "workerinput", {})
    junit = getattr(config.option, "xmlpath", None) or worker.get("llm_attr_junit")
    if not junit:
        return None
    path = (config.invocation_params.dir / Path(os.path.expandvars(junit)).expanduser()).resolve()
    return path.with_name(f"{path.stem}-explanations")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tells the workers of pytest-xdist where the JUnit file of the run is."""
    junit = getattr(node.config.option, "xmlpath", None)
    if junit:
        expanded = Path(os.path.expandvars(junit)).expanduser()
        node.workerinput["llm_attr_junit"] = str((node.config.invocation_params.dir / expanded).resolve())


def _file_name(nodeid: str, when: str) -> str:
    """A name that any file system takes, and that no other test has."""
    readable = re.sub(r"[^A-Za-z0-9_.-]+", "-", nodeid.rpartition("/")[2]).strip("-.")[:80]
    stage = "" if when == "call" else f"-{when}"
    return f"{readable}-{hashlib.sha256(nodeid.encode('utf-8', 'backslashreplace')).hexdigest()[:8]}{stage}.html"
