"""`llm-attr ledger`, and `explain --ledger`."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_attr.cli import app
from llm_attr.core.game.ledger_file import LedgerFile, Scope
from llm_attr.errors import InvalidValue

ONE = Scope({"weights": "0123456789abcdef"}, {"model": "one", "dtype": "float32"})
OTHER = Scope({"name": "net 1", "game": "00"}, {"model": "net 1"})


def said(*arguments: Any) -> list[str]:
    done = CliRunner().invoke(app, ["ledger", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.output.splitlines()


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    one, other = tmp_path / "one", tmp_path / "other"
    LedgerFile(one).write(ONE, {b"a": b"1", b"b": b"2"})
    LedgerFile(other).write(ONE, {b"b": b"2", b"c": b"3"})
    LedgerFile(other).write(OTHER, {b"a": b"4"})
    return one, other


def test_merge_stats_and_prune(files: tuple[Path, Path], tmp_path: Path) -> None:
    into = tmp_path / "all"
    assert said("merge", into, *files) == [f"{files[0]}: 2 new values", f"{files[1]}: 2 new values"]
    first, *lines = said("stats", into)
    assert first == "4 values of 2 models"
    assert [line.split(",")[0] for line in sorted(lines)] == ["net 1: 1 values", "one float32 0123456789ab: 3 values"]
    held = json.loads("\n".join(said("stats", into, "--json")))
    assert sorted((each["about"]["model"], each["entries"]) for each in held) == [("net 1", 1), ("one", 3)]
    assert said("prune", into, "--model", "one", "--dry-run") == ["3 values would be removed"]
    assert said("prune", into, "--model", "one") == ["3 values removed"]
    assert said("stats", into)[0] == "1 values of 1 models"


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="there is no ledger"):
        said("stats", tmp_path / "no")
    with pytest.raises(InvalidValue, match="there is no ledger"):
        said("merge", tmp_path / "all", tmp_path / "no")
    assert list(tmp_path.iterdir()) == []


def test_explain_passes_the_file_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def plan(model: Any, prompt: Any, **options: Any) -> str:
        asked.update(options)
        return "the plan"

    monkeypatch.setattr("llm_attr.llm.model.language_model.load_model", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr("llm_attr.llm.cost.plan.plan", plan)
    (tmp_path / "prompt").write_text("A b. C d.")
    given = ["explain", "--prompt-file", str(tmp_path / "prompt"), "--plan", "--ledger", str(tmp_path / "scores")]
    done = CliRunner().invoke(app, given, catch_exceptions=False)
    assert (done.exit_code, done.output) == (0, "the plan\n")
    assert asked["ledger"] == tmp_path / "scores"
