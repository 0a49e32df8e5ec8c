"""`llm-attr serve`, `doctor --engine` and `explain --engine`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from llm_attr.cli import app
from llm_attr.errors import UnknownName
from tests.llm.engines.servers import serving
from tests.zoo import tiny


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    """A tiny model, and the folder of its tokenizer."""
    lm = tiny("llama")
    lm.tokenizer.save_pretrained(tmp_path / "tokenizer")
    return lm, str(tmp_path / "tokenizer")


def test_engines_from_the_command_line(saved: Any, tmp_path: Path) -> None:
    lm, folder = saved
    (tmp_path / "prompt.txt").write_text("Dave lives in Palm Coast. He is a lawyer.")
    with serving(lm) as served:
        checked = CliRunner().invoke(app, ["doctor", "--engine", served.address("sglang"), "--model", folder])
        assert checked.exit_code == 0, checked.output
        assert "tokens generated and scored" in checked.output
        asked = ["--engine", served.address("vllm"), "--model", folder]
        as_json = CliRunner().invoke(app, ["doctor", "--json", *asked])
        assert json.loads(as_json.output)["tokens"] > 16
        prompt = ["--prompt-file", str(tmp_path / "prompt.txt"), "--target", " He fishes."]
        explained = CliRunner().invoke(app, ["explain", *asked, *prompt])
        assert explained.exit_code == 0, explained.output
        assert "vllm" in explained.output
        planned = CliRunner().invoke(app, ["explain", "--plan", *asked, *prompt])
        assert "tokens sent" in planned.output
        assert CliRunner().invoke(app, ["explain", *asked, *prompt, "--dtype", "bfloat16"]).exit_code == 2


def test_requests_that_are_not_understood_are_refused() -> None:
    with serving(tiny("llama")) as served:
        for path, body in (
            ("/generate", {"input_ids": []}),
            ("/generate", {"input_ids": [5], "sampling_params": {"max_new_tokens": 0}}),
            ("/v1/completions", {"prompt": None, "echo": True}),
            ("/v1/completions", {"prompt": [1, "a"], "prompt_logprobs": 0}),
        ):
            answer = httpx2.post(served.url + path, json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["message"]
        texts = {"prompt": ["Dave", "Dave lives"], "prompt_logprobs": 0}
        choices = httpx2.post(served.url + "/v1/completions", json=texts).json()["choices"]
        assert [len(choice["prompt_logprobs"]) for choice in choices] == [
            len(tiny("llama").encode(text, special_tokens=True)) for text in texts["prompt"]
        ]
        assert httpx2.get(served.url + "/health").json() == {"status": "ok"}


def test_an_unknown_fault_is_refused_before_the_model_is_loaded() -> None:
    result = CliRunner().invoke(app, ["serve", "no-such-model", "--fault", "gremlins"])
    assert isinstance(result.exception, UnknownName)
