"""`llm-attr diff`, on saved results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llm_attr import LLMAttributionResult, cli
from llm_attr.errors import BrokenFile


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    folders = []
    for name, values in (("one", [1.0, 2.0]), ("other", [1.0, 5.0])):
        folders.append(str(tmp_path / name))
        LLMAttributionResult(
            input_tokens=["It is red.", "It is old."], output_tokens=["A"], seq_attr=torch.tensor(values)
        ).save(folders[-1])
    return folders


def test_a_page_and_all_numbers(runs: list[str], tmp_path: Path) -> None:
    page, numbers = tmp_path / "d.html", tmp_path / "d.json"
    arguments = ["diff", *runs, "--name", "old", "--name", "new", "--html", str(page), "--json", str(numbers)]
    done = CliRunner().invoke(cli.app, arguments, env={"COLUMNS": "100", "NO_COLOR": "1"})
    assert done.exit_code == 0, done.output
    assert "1 of 2 units changed" in done.output
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(numbers.read_text(encoding="utf-8"))["names"] == ["old", "new"]


def test_check_says_by_its_exit_code_whether_anything_changed(runs: list[str]) -> None:
    assert CliRunner().invoke(cli.app, ["diff", *runs, "--check"]).exit_code == 1
    assert CliRunner().invoke(cli.app, ["diff", *runs, "--check", "--least", "4"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["diff", runs[0], runs[0], "--check"]).exit_code == 0


def test_a_folder_without_a_result(runs: list[str]) -> None:
    assert isinstance(CliRunner().invoke(cli.app, ["diff", runs[0], "nowhere"]).exception, BrokenFile)
