"""What the README shows runs, in its order, in one process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.zoo import quiet

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.real
@pytest.mark.site
def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 7
    names: dict[str, Any] = {}
    with quiet():
        for block in blocks:
            exec(compile(block, "README.md", "exec"), names)
    assert names["result"].top(1)[0].text.startswith("[a.txt]")
    assert (tmp_path / "explanation.html").exists()


def test_every_path_in_the_readme_exists() -> None:
    text = README.read_text(encoding="utf-8")
    for path in re.findall(r"\((docs/[^)]+)\)|`(examples/[^`]+)`", text):
        assert (README.parent / "".join(path)).exists()
