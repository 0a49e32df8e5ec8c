"""`llm-attr cite`, on a tiny model in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_attr import Citations
from llm_attr.errors import InvalidValue, UnknownName
from tests.cli.test_explain import explain, folder

__all__ = ["folder"]


def test_documents_from_files_and_json(folder: str, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("Aksel sails.\n", encoding="utf-8")
    (tmp_path / "two.json").write_text('{"x": "It snows."}', encoding="utf-8")
    out, paths = tmp_path / "cited.json", [str(tmp_path / "one.txt"), str(tmp_path / "two.json")]
    asked = [
        "cite",
        *paths,
        "--model",
        folder,
        "--question",
        "What?",
        "--answer",
        "It snows.",
        "--option",
        "n_samples=4",
    ]
    explain(*asked, "--format", "json", "--out", str(out))
    cited = Citations.from_dict(json.loads(out.read_text(encoding="utf-8")))
    assert cited.documents == {"one.txt": "Aksel sails.", "x": "It snows."}
    assert "answer" in explain(*asked)
    explain(*asked, "--format", "ragas", "--out", str(out))
    assert json.loads(out.read_text(encoding="utf-8"))["response"] == "It snows."


def test_bad_arguments(folder: str, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("{", encoding="utf-8")
    with pytest.raises(UnknownName, match="ragas"):
        explain("cite", "x", "--format", "xml")
    with pytest.raises(InvalidValue, match="JSON"):
        explain("cite", str(tmp_path / "one.json"), "--question", "What?", "--model", folder)
