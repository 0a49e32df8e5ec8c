"""`llm-attr compare`, on saved results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from llm_attr import LLMAttributionResult, cli
from llm_attr.errors import BrokenFile, InvalidShape, InvalidValue, LlmAttrError


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    folders = []
    for method, values in (("feature_ablation", [1.0, 2.0, 0.5]), ("lime", [10.0, 30.0, -2.0])):
        result = LLMAttributionResult(
            input_tokens=["It is red.", "It is old.", "What is it?"],
            output_tokens=["A", " boat"],
            seq_attr=torch.tensor(values),
            provenance={"method": method},
        )
        folders.append(str(tmp_path / method))
        result.save(folders[-1])
    return folders


def compare(*arguments: str) -> str:
    """Standard output; an error of llm_attr is raised."""
    done = CliRunner().invoke(cli.app, ["compare", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})
    if isinstance(done.exception, LlmAttrError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_two_runs_a_page_and_all_numbers(runs: list[str], tmp_path: Path) -> None:
    page, numbers = tmp_path / "c.html", tmp_path / "c.json"
    shown = compare(*runs, "--html", str(page), "--json", str(numbers))
    assert "2 explanations of “A boat”" in shown
    assert "Rank agreement" in shown
    assert "shared by 2" in shown
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert json.loads(numbers.read_text(encoding="utf-8"))["names"] == ["feature ablation", "lime"]
    assert shown.count("written: ") == 2


def test_names_and_scales(runs: list[str]) -> None:
    shown = compare(*runs, "--name", "one", "--name", "other", "--own-scales")
    assert "1 one" in shown
    assert "each on its own scale" in shown


@pytest.mark.parametrize(
    ("more", "error"), [(["--name", "one"], InvalidShape), (["nowhere"], BrokenFile), (None, InvalidValue)]
)
def test_what_does_not_fit(runs: list[str], more: list[str] | None, error: type[Exception]) -> None:
    with pytest.raises(error):
        compare(*(runs[:1] if more is None else [*runs, *more]))
