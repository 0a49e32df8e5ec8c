"""The measures of the house (tools/house.py), on a package made for it and on this one."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parent.parent
FILES = {
    "llm_attr/__init__.py": '"""The package."""\n',
    "llm_attr/errors.py": (
        '"""Errors."""\n\n# a comment\nclass Wrong(Exception):\n    """It was wrong."""\n\n    code = 1\n'
    ),
    "llm_attr/core/__init__.py": "",
    "llm_attr/core/walk.py": "from llm_attr.errors import Wrong\nimport llm_attr.core.step\n",
    "llm_attr/core/step.py": (
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from llm_attr.core.game import play\n"
        "def walk():\n    from llm_attr.core import walk\n"
    ),
    "llm_attr/core/game/__init__.py": "",
    "llm_attr/core/game/play.py": "from ..walk import x\nfrom . import draw\n",
    "llm_attr/core/game/draw.py": "from llm_attr import errors\n",
    "llm_attr/llm/__init__.py": "",
    "llm_attr/llm/explain.py": "from llm_attr.core.game.play import x\nfrom llm_attr.core.walk import x\n",
}


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with these files; the tools can be imported."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_lines_by_kind(made: Path) -> None:
    sizes = import_module("house_sizes")
    text = '"""Title.\n\nMore."""\nx = """\n# text\n"""\n\n\ndef f():\n    "Said."\n    # why\n    return 1\n'
    text += 'Y = 2\n"""Of Y."""\n'
    assert sizes.count_lines(text) == sizes.Lines(code=6, docstring=5, comment=1, blank=2)
    assert sizes.modules_of(made)["llm_attr.errors"].lines == sizes.Lines(code=2, docstring=2, comment=1, blank=2)


def test_imports_levels_and_circles(made: Path) -> None:
    sizes = import_module("house_sizes")
    modules = sizes.modules_of(made)
    assert modules["llm_attr.core.game.play"].imports == {"llm_attr.core.walk", "llm_attr.core.game.draw"}
    assert modules["llm_attr.core.step"].imports == frozenset()
    assert modules["llm_attr.core.step"].later == {"llm_attr.core.walk"}
    assert sizes.circles(modules) == [["llm_attr.core.step", "llm_attr.core.walk"]]
    assert sizes.levels_inside(modules, "llm_attr.core.") == 3
    rooms, graph = sizes.rooms_of(modules)
    assert {room: len(inside) for room, inside in rooms.items()} == {
        "core": 2,
        "core/game": 2,
        "errors, typing": 1,
        "llm": 1,
    }
    assert sizes.levels(graph) == {"errors, typing": 1, "core": 2, "core/game": 3, "llm": 4}
    assert import_module("house_picture").without_shortcuts(graph) == {
        "errors, typing": set(),
        "core": {"errors, typing"},
        "core/game": {"core"},
        "llm": {"core/game"},
    }


def test_two_checkouts_side_by_side(made: Path) -> None:
    report = import_module("house").report([made, ROOT], paths=False)
    (total,) = (line for line in report.splitlines() if line.startswith("all  "))
    assert total.split("|")[0].split() == ["all", "10", "14", "3"]
    assert "llm_attr.core.step <-> llm_attr.core.walk" in report
    assert "llm/scoring" in report


def test_the_picture_shows_every_room_once(made: Path) -> None:
    sizes, picture = import_module("house_sizes"), import_module("house_picture")
    modules = sizes.modules_of(ROOT)
    drawing = ElementTree.fromstring(picture.drawn(modules))
    texts = [element.text for element in drawing.iter() if element.get("font-weight") == "600"]
    assert sorted(texts) == sorted(sizes.rooms_of(modules)[0])
    right, bottom = float(drawing.get("width")), float(drawing.get("height"))
    boxes = [element for element in drawing.iter() if element.get("rx") == "7"]
    corners = {(float(box.get("x")), float(box.get("y"))) for box in boxes}
    assert len(corners) == len(texts)
    assert all(0 <= x <= right - picture.WIDTH and 0 <= y <= bottom - picture.HEIGHT for x, y in corners)


@pytest.mark.slow
def test_calls_are_counted() -> None:
    script = ROOT / "tools" / "house_paths.py"
    done = subprocess.run([sys.executable, "-W", "ignore", str(script)], cwd=ROOT, capture_output=True, check=True)
    found = json.loads(done.stdout)
    assert len(found) == 5
    for counts in found.values():
        assert 0 < counts["files"] <= counts["functions"] <= counts["calls"]
        assert counts["depth"] > 3


def test_the_picture_of_the_documentation_shows_the_house_as_it_is(made: Path) -> None:
    """Where it does not: python tools/house.py --picture docs/images/house.svg."""
    picture, modules = import_module("house_picture"), import_module("house_sizes").modules_of(ROOT)
    assert (ROOT / "docs" / "images" / "house.svg").read_text(encoding="utf-8") == picture.drawn(modules)


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_every_file_that_a_guide_names_is_there(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {
        name for name in re.findall(r"`([\w./-]+)`", text) if "/" in name or name.endswith((".py", ".md", ".toml"))
    }
    inside = ("", "llm_attr/", "llm_attr/attr/", "llm_attr/core/", "llm_attr/core/estimators/")
    missing = {name for name in named if not any((ROOT / folder / name).exists() for folder in inside)}
    assert len(named) > 8
    assert missing <= {"utils.py", "build/docs"}
