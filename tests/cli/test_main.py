"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_attr import cli
from llm_attr.errors import LlmAttrError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llm_attr.cli", *arguments],
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_help_imports_neither_torch_nor_transformers() -> None:
    code = "import sys, llm_attr.cli; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(("given", "seen"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_idle_threads_sleep_where_the_user_says_nothing_else(
    given: str | None, seen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    monkeypatch.setattr(cli, "app", lambda **_: None)
    cli.main()
    assert os.environ.pop("OMP_WAIT_POLICY") == seen


def test_help_names_the_commands() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert "models" in done.stdout


def test_models_are_listed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LLM_ATTR_CACHE", str(tmp_path))
    done = run("models", "list")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["smollm2-135m", "efficientnet-lite0", "all-minilm-l6-v2"]
    assert "SmolLM2-135M-Instruct" in lines[0]
    assert all(line.endswith("(Apache-2.0, not fetched)") for line in lines)


def test_a_file_that_cannot_be_written_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fail(**_: Any) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/nowhere/page.html")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err == "error: [Errno 2] No such file or directory: '/nowhere/page.html'\n"


def test_an_error_is_one_line_and_exit_code_1() -> None:
    done = run("models", "fetch", "smollm")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: unknown embedded model 'smollm' (did you mean 'smollm2-135m'?); accepted: "
        "smollm2-135m, efficientnet-lite0, all-minilm-l6-v2\n"
    )


def test_a_longer_message_becomes_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(**_: object) -> None:
        raise LlmAttrError("first\n  second")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: first second\n"


@pytest.mark.parametrize("arguments", [["models", "fetch"], ["nonsense"], ["models", "list", "--nonsense"]])
def test_bad_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_that_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    monkeypatch.setattr(cli, "version_of", lambda name: {"llm_attr": "1.2.3"}[name])
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.output) == (0, "llm-attr 1.2.3\n")
