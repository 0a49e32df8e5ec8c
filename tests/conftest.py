"""Shared by the tests of several parts, and the rules that new tests follow.

* A test is quick (tests/zoo.py has tiny models; the real one is the fixture `smollm`, loaded once per worker) and says
  the same on any machine: no duration, no installed font (tests/fonts.py makes some), no number of cores or threads, no
  order of tests. Times are printed by tests/benchmarks.
* A tolerance covers the rounding of another processor: absolute in the size of the summands where the right value is 0.
* What must take long has a mark, which `python bootstrap.py test` leaves to `python bootstrap.py test --all`: `slow`
  (over five seconds), `statistical` (many seeds; a few of them stay unmarked), `browser` (set by itself where the
  fixture is asked for), `site` (examples and pages run as a user runs them, the built site).
"""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch loads: idle threads sleep

import pytest
import torch
from hypothesis import settings

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

pytest_plugins = ["pytester"]

LONG = ("slow", "statistical", "browser", "site")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in a browser get their mark; what takes long comes last."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
    items.sort(key=lambda item: any(map(item.get_closest_marker, LONG)))


def pytest_collection_finish() -> None:
    """The garbage collector does not look again at the modules and the thousands of tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # tests that look at what is freed collect by themselves


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """For models and games that are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def smollm() -> Any:
    """The embedded model, loaded once; tests leave it as it is."""
    from llm_attr import load_model

    return load_model("smollm2-135m")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """An installed Chromium; tests that ask for it are skipped where there is none."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (the test extra has it)")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()
