"""`llm-attr run`, `merge`, `summary` and `view` of a run, on a tiny model in a folder."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from llm_attr import DatasetRun, cli
from llm_attr.errors import InvalidValue, LlmAttrError, OtherRun
from tests.llm.jobs.runs import CHAT, TEMPLATE, some_rows
from tests.zoo import quiet, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    lm = tiny("llama", "byte_bos")
    lm.tokenizer.chat_template = CHAT
    with quiet():
        lm.model.save_pretrained(path)
        lm.tokenizer.save_pretrained(path)
    lm.tokenizer.chat_template = None
    return str(path)


@pytest.fixture(autouse=True)
def _same_signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def call(*arguments: str, code: int = 0) -> Any:
    with quiet():
        done = CliRunner().invoke(cli.app, [*arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})
    if isinstance(done.exception, LlmAttrError):
        raise done.exception
    assert done.exit_code == code, done.output
    return done


def data(folder: Path, count: int) -> str:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in some_rows(count)), encoding="utf-8")
    return str(path)


def test_from_a_file_to_a_picture(folder: str, tmp_path: Path) -> None:
    out, asked = tmp_path / "run", ("--model", folder, "--prompt-template", TEMPLATE)
    done = call("run", data(tmp_path, 5), "--out", str(out), *asked, "--limit", "3")
    assert done.stdout == f"3 of 5 rows in {out}\n"
    assert "row/s" in done.stderr
    assert call("run", data(tmp_path, 5), "--out", str(out), *asked, "--quiet").stdout == f"5 of 5 rows in {out}\n"
    with pytest.raises(OtherRun, match="method is"):
        call("run", data(tmp_path, 5), "--out", str(out), *asked, "--method", "kernel_shap")
    shown = call("summary", str(out), "--json", str(tmp_path / "s.json"), "--plot", str(tmp_path / "s.png")).output
    assert "who" in shown
    assert "5 rows, attributions of the log-probability (nats)" in shown
    assert json.loads((tmp_path / "s.json").read_text())["rows"] == 5
    assert (tmp_path / "s.png").stat().st_size > 5000
    shown = call("view", str(out), "2", "--html", str(tmp_path / "r.html")).output
    assert shown.startswith("row 2 of 5 (id: r2")
    assert "Strongest units" in shown
    assert (tmp_path / "r.html").exists()
    assert call("view", str(out)).output.startswith("row 0 of 5")


def test_shares_are_merged(folder: str, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text(TEMPLATE + "\n", encoding="utf-8")
    asked = ("--model", folder, "--prompt-template", f"@{tmp_path / 't.txt'}", "--batch-size", "2", "--slot", "who")
    for share in ("0/2", "1/2"):
        call("run", data(tmp_path, 6), "--out", str(tmp_path / share[0]), *asked, "--shard", share, "--quiet")
    shown = call("merge", str(tmp_path / "0"), "--out", str(tmp_path / "part")).output
    assert shown == f"4 rows in {tmp_path / 'part'}; 2 rows of the data set are missing\n"
    call("merge", str(tmp_path / "0"), str(tmp_path / "1"), "--out", str(tmp_path / "all"))
    run = DatasetRun(tmp_path / "all")
    assert run.numbers == list(range(6))
    assert run.result(1).input_tokens == ["Aksel"]


def test_columns_a_chat_and_rows_that_fail(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "q.csv"
    path.write_text("number,question,gold\n1,Who sails? Tell me.,Dave\n2,,Aksel\n", encoding="utf-8")
    out = str(tmp_path / "run")
    shown = call(
        "run", str(path), "--out", out, "--model", folder, "--column", "prompt=question", "--column", "target=gold",
        "--chat", "--system", "Be brief.", "--pin", "system", "--absence", "mask",
        "--option", "use_cached_outputs=false", "--quiet",
    ).stdout  # fmt: skip
    assert "2 of 2 rows" in shown
    assert f"1 of them failed: llm-attr summary {out} --errors" in shown
    assert call("summary", out, "--errors").output.startswith("row 1: EmptyPrompt")
    run = DatasetRun(out)
    assert run.result(0).input_tokens == ["Who sails?", "Tell me."]
    assert run.row(0) == {"number": "1"}
    with pytest.raises(InvalidValue, match="holds no run"):
        call("summary", str(tmp_path))


def test_stopped_in_the_middle(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llm_attr.llm.jobs import row_function

    def stopped(*_: Any, **__: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(row_function, "explain", stopped)
    out = str(tmp_path / "run")
    done = call(
        "run", data(tmp_path, 5), "--out", out, "--model", folder, "--prompt-template", TEMPLATE, "--quiet", code=130
    )
    assert f"stopped; what was explained is in {out}, and the same command goes on from there" in done.stderr
