"""`llm-attr influence index` and `query`, on a tiny model in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from llm_attr import cli, load_model
from llm_attr.errors import BrokenFile, InvalidValue, LlmAttrError
from tests.zoo import quiet, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path, lm = tmp_path_factory.mktemp("model"), tiny("llama", "byte_bos")
    with quiet():
        lm.model.save_pretrained(path)
        lm.tokenizer.save_pretrained(path)
    return str(path)


def run(*arguments: str) -> str:
    with quiet():
        done = CliRunner().invoke(cli.app, ["influence", *arguments], env={"COLUMNS": "100", "NO_COLOR": "1"})
    if isinstance(done.exception, LlmAttrError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_an_index_and_a_query(model: str, tmp_path: Path) -> None:
    data, folder, scores = tmp_path / "data.jsonl", str(tmp_path / "index"), tmp_path / "scores.npy"
    data.write_text('{"text": "Tove paints", "answer": " boats."}\n\n"Aksel repairs violins."\n', encoding="utf-8")
    options = ["--model", model, "--layer", "model.layers.2.mlp", "--projection-dim", "0"]
    assert run("index", str(data), folder, *options) == f"2 texts indexed: {folder}\n"
    asked = ["--prompt", "Tove paints", "--answer", " boats.", "--model", model, "--k", "1"]
    shown = run("query", folder, *asked, "--scores", str(scores))
    lines = shown.splitlines()
    assert lines[:2] == ["Tove paints >>>  boats.", "proponents:"]
    assert lines[2].endswith("[0] Tove paints boats.")
    assert "speaks to: '" in lines[3]
    assert np.load(scores).shape == (1, 2)


def test_plain_lines_and_what_does_not_fit(model: str, tmp_path: Path) -> None:
    data, bad = tmp_path / "data.txt", tmp_path / "bad.jsonl"
    data.write_text("Aksel repairs violins.\n\nTove paints.\n", encoding="utf-8")
    assert run("index", str(data), str(tmp_path / "i"), "--model", model).startswith("2 texts indexed")
    bad.write_text('"one"\n{oops\n', encoding="utf-8")
    with pytest.raises(InvalidValue, match=r"line 2 of .* is no JSON"):
        run("index", str(bad), str(tmp_path / "j"), "--model", model)
    with pytest.raises(BrokenFile, match="no influence index"):
        run("query", str(tmp_path / "k"), "--prompt", "a", "--answer", "b", "--model", model)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # of peft beside transformers
def test_an_adapter(model: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    with quiet():
        lm = load_model(model)
        adapted = peft.get_peft_model(lm.model, peft.LoraConfig(r=2, target_modules=["down_proj"]))
        torch.nn.init.normal_(
            adapted.get_submodule("base_model.model.model.layers.0.mlp.down_proj.lora_B.default").weight
        )
        adapted.save_pretrained(tmp_path / "adapter")
    data, folder = tmp_path / "data.txt", tmp_path / "index"
    data.write_text("Aksel repairs violins.\nTove paints boats.\n", encoding="utf-8")
    options = ["--model", model, "--adapter", str(tmp_path / "adapter")]
    run("index", str(data), str(folder), *options)
    layers = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["layers"]
    assert len(layers) == 6
    assert all(".lora_" in name for name in layers)
    shown = run("query", str(folder), "--prompt", "Tove paints", "--answer", " boats.", *options)
    assert "[1] Tove paints boats." in shown.splitlines()[2]
