"""How long a page of a thousand units takes to follow a key.

Run: pytest tests/benchmarks/test_page.py -m benchmark -s
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pytest

from llm_attr.viz.text.page import to_html
from tests.viz.conftest import large_view

pytestmark = pytest.mark.benchmark

KEYS = """count => Array.from({ length: count }, (_, turn) => {
    const start = performance.now();
    const token = document.querySelector("[role=listbox] [tabindex='0']");
    const [key, shiftKey] = turn % 2 ? ["End", true] : ["Home", false];
    token.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, bubbles: true }));
    document.body.getBoundingClientRect();  // waits for styles and layout
    return performance.now() - start;
})"""


def test_a_selection(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(to_html(large_view()), encoding="utf-8")
    page = browser.new_page()
    page.goto((tmp_path / "page.html").as_uri())
    times = page.evaluate(KEYS, 40)
    page.close()
    print(
        f"\na selection among 1000 units and 200 tokens, goal 50 ms: {median(times):.1f} ms, at least {min(times):.1f}"
    )
