"""`llm-attr doctor`: true where things are there, and alive where they are not."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from llm_attr.cli import app
from llm_attr.llm.model import environment
from llm_attr.llm.model.environment import Environment


def asked(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["doctor", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_it_fits_on_a_screen() -> None:
    lines = asked().splitlines()
    assert len(lines) <= 45
    assert f"torch {torch.__version__}" in lines[0]
    assert any(line.startswith("  cpu ") and "fp32" in line for line in lines)


def test_json_has_the_same() -> None:
    found = json.loads(asked("--json"))
    assert found["versions"]["torch"] == torch.__version__
    cpu = found["devices"][-1]
    assert cpu["name"] == "cpu"
    assert 0 < cpu["free"] <= cpu["total"]
    assert {check["section"] for check in found["checks"]} == {"attention", "uses", "models", "extras"}


def test_what_is_missing_is_said_with_what_helps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setenv("LLM_ATTR_CACHE", str(tmp_path))
    monkeypatch.setattr(environment, "version", nothing)
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    monkeypatch.setattr(environment, "is_fetched", lambda name: [][0])
    found = Environment.here()
    assert set(found.versions.values()) == {None}
    broken = {check.name: check for check in found.checks if not check.works}
    assert broken["8-bit weights"].remedy == "pip install torchao"
    assert broken["a model over several devices"].detail == "the package accelerate is not installed"
    assert broken["demo"].remedy == "pip install 'llm_attr[demo]'"
    assert broken["smollm2-135m"].remedy == "pip install 'llm_attr[demo]'"
    assert "MISSING" in "\n".join(found.lines())


def test_a_type_that_does_not_compute_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def computes(device: Any, dtype: torch.dtype, autocast: bool = False) -> None:
        if dtype == torch.float16:
            raise RuntimeError("not implemented for Half")

    monkeypatch.setattr(environment, "_computes", computes)
    cpu = Environment.here().devices[-1]
    assert cpu.dtypes == ("fp32", "bf16", "fp64")
    assert cpu.autocast == ("bf16",)
