"""`llm-attr explain`, `view` and `methods`, on a tiny model in a folder."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llm_attr import LLMAttributionResult, cli
from llm_attr.errors import InvalidValue, LlmAttrError, UnknownName
from tests.zoo import quiet, tiny

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    lm = tiny("llama", "byte_bos")
    lm.tokenizer.chat_template = CHATML
    with quiet():
        lm.model.save_pretrained(path)
        lm.tokenizer.save_pretrained(path)
    lm.tokenizer.chat_template = None
    return str(path)


def explain(*arguments: str, given: str | None = None) -> str:
    """Standard output; an error of llm_attr is raised."""
    with quiet():
        done = CliRunner().invoke(cli.app, [*arguments], input=given, env={"COLUMNS": "100", "NO_COLOR": "1"})
    if isinstance(done.exception, LlmAttrError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_a_file_a_page_and_all_numbers(folder: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Dave lives in Oslo. He sails.\n", encoding="utf-8")
    page, numbers = tmp_path / "out.html", tmp_path / "out.json"
    shown = explain(
        "explain", "--model", folder, "--prompt-file", str(tmp_path / "p.txt"), "--unit", "word",
        "--max-new-tokens", "3", "--html", str(page), "--json", str(numbers),
    )  # fmt: skip
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert found["input_tokens"] == ["Dave", "lives", "in", "Oslo.", "He", "sails."]
    assert 0 < len(found["output_tokens"]) <= 3
    assert "Strongest units" in shown
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_trust_is_said_first(folder: str, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("Dave lives in Oslo. He sails.\n", encoding="utf-8")
    asked = ["explain", "--model", folder, "--prompt-file", str(tmp_path / "p.txt"), "--unit", "word", "--trust"]
    method = ["--method", "kernel_shap", "--option", "n_samples=40", "--option", "seed=0"]
    shown = explain(*asked, *method, "--target", "Dave sails.", "--json", str(tmp_path / "out.json"))
    verdict = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["provenance"]["trust"]["verdict"]
    assert " ".join(verdict.split()[:6]) in " ".join(shown.split())
    assert shown.index(verdict.split()[0]) < shown.index("“Dave sails.”")
    part = explain(*asked, *method, "--target", "Dave sails.", "--region", "sails")
    assert any(each in part for each in ("Better than", "No better than", "Too little to", "Not judged"))


def test_standard_input_as_a_chat_and_a_part_of_the_answer(folder: str) -> None:
    shown = explain(
        "explain", "--model", folder, "--prompt-file", "-", "--chat", "--target", "He sails a boat.",
        "--region", "boat", given="Dave lives in Oslo. What does he do?",
    )  # fmt: skip
    assert "<|user|>" not in shown  # the template is folded
    assert "message user:" in shown
    assert "boat" in shown.split("Output")[1].splitlines()[1]


def test_a_quantity_a_foil_and_a_value_of_json(folder: str, tmp_path: Path) -> None:
    saved = tmp_path / "run"
    asked = ("explain", "--model", folder, "--prompt-file", "-", "--target", 'So. {"city": "Oslo"}')
    shown = explain(*asked, "--scalar", "entropy", "--region", "json:$.city", "--save", str(saved), given="He. It.")
    assert "Oslo" in shown.split("Output")[1].splitlines()[1]
    assert LLMAttributionResult.load(saved).provenance["attr_target"] == "entropy"
    assert "{" in explain("view", str(saved), "--region", "after:So.").split("Output")[1]
    assert "foil" in explain(*asked, "--foil", "No.", given="He. It.")
    with pytest.raises(UnknownName, match="did you mean 'entropy'"):
        explain(*asked, "--scalar", "entropi", given="He. It.")


def test_a_part_of_the_answer_by_many_points(folder: str, tmp_path: Path) -> None:
    saved = tmp_path / "run"
    asked = ["explain", "--model", folder, "--prompt-file", "-", "--target", "He sails a boat."]
    asked += ["--method", "integrated_gradients", "--option", "n_steps=2", "--save", str(saved)]
    assert "boat" in explain(*asked, "--region", "boat", given="Dave sails.").split("Output")[1].splitlines()[1]
    assert LLMAttributionResult.load(saved).token_attr is not None
    explain(*asked, given="Dave sails.")
    assert LLMAttributionResult.load(saved).token_attr is None


def test_messages_saved_and_viewed(folder: str, tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who lives in Oslo?"}]
    (tmp_path / "chat.json").write_text(json.dumps(chat), encoding="utf-8")
    saved = tmp_path / "run"
    explain(
        "explain", "--model", folder, "--messages", str(tmp_path / "chat.json"), "--unit", "message",
        "--absence", "mask", "--target", "Dave.", "--save", str(saved),
    )  # fmt: skip
    result = LLMAttributionResult.load(saved)
    assert result.input_tokens == ["Be brief.", "Who lives in Oslo?"]
    viewed = explain("view", str(saved), "--html", str(tmp_path / "v.html"))
    assert "system" in viewed
    assert (tmp_path / "v.html").exists()


@pytest.mark.parametrize("lines", [True, False])
def test_documents(folder: str, tmp_path: Path, lines: bool) -> None:
    source = tmp_path / ("docs.jsonl" if lines else "docs")
    if lines:
        source.write_text('{"id": "a", "text": "Dave sails."}\n\n{"text": "Rex is a dog."}\n', encoding="utf-8")
    else:
        source.mkdir()
        (source / "a").write_text("Dave sails.\n", encoding="utf-8")
        (source / "3").write_text("Rex is a dog.", encoding="utf-8")
    numbers = tmp_path / "out.json"
    explain(
        "explain", "--model", folder, "--prompt-file", "-", "--documents", str(source), "--target", " Dave",
        "--json", str(numbers), given="Who sails?",
    )  # fmt: skip
    found = json.loads(numbers.read_text(encoding="utf-8"))
    assert sorted(found["input_tokens"]) == ["[3]\nRex is a dog.", "[a]\nDave sails."]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--prompt-file", "nowhere.txt"], InvalidValue, "nowhere.txt"),
        (["--prompt-file", "-", "--unit", "chapter"], UnknownName, "sentence"),
        (["--prompt-file", "-", "--absence", "hide"], UnknownName, "mask"),
        (["--prompt-file", "-", "--method", "magic"], UnknownName, "feature_ablation"),
        (["--prompt-file", "-", "--model", "no/such/model"], InvalidValue, "no/such/model"),
    ],
)
def test_errors_are_found_before_a_model_is_loaded(arguments: list[str], error: type, words: str) -> None:
    with pytest.raises(error, match=words):
        explain("explain", *arguments, given="Some text.")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--prompt-file", "-", "--messages", "x.json"],
        ["--messages", "x.json", "--chat"],
        ["--prompt-file", "-", "--target", "a", "--max-new-tokens", "3"],
    ],
)
def test_what_does_not_go_together_is_bad_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(cli.app, ["explain", *arguments], input="text").exit_code == 2


def test_broken_inputs_name_their_place(tmp_path: Path) -> None:
    (tmp_path / "chat.json").write_text("[{", encoding="utf-8")
    with pytest.raises(InvalidValue, match=r"chat\.json is not JSON"):
        explain("explain", "--messages", str(tmp_path / "chat.json"))
    (tmp_path / "docs.jsonl").write_text('{"text": "a"}\n{"body": 1}\n', encoding="utf-8")
    with pytest.raises(InvalidValue, match=r"docs\.jsonl, line 2"):
        explain("explain", "--prompt-file", "-", "--documents", str(tmp_path / "docs.jsonl"), given="q")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InvalidValue, match="UTF-8"):
        explain("explain", "--prompt-file", str(tmp_path / "latin.txt"))


def test_methods_are_listed_by_what_they_need() -> None:
    listed = explain("methods")
    games, gradients = listed.split("Gradients and rules")
    assert re.search(r"^feature_ablation +Leaves each feature out once", games, re.MULTILINE)
    assert re.search(r"^integrated_gradients ", gradients, re.MULTILINE)
    names = re.findall(r"^([a-z]\w+) ", games, re.MULTILINE)
    assert names == sorted(names)


def test_the_help_has_panels_and_examples() -> None:
    shown = explain("explain", "--help")
    for title in ("Prompt", "Method", "Answer", "Model and work", "Output"):
        assert f"─ {title} ─" in shown
    assert "[default: feature_ablation]" in shown
    assert "llm-attr explain --messages chat.json" in shown


def test_a_progress_bar(folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Dave sails. Rex runs."))
    with quiet(), pytest.raises(SystemExit) as left:
        cli.app(["explain", "--model", folder, "--prompt-file", "-", "--target", "x", "--progress"])
    assert left.value.code == 0
    assert "Feature Ablation attribution: 100%" in capsys.readouterr().err


def test_a_sampled_answer_a_system_message_and_the_precision(folder: str, tmp_path: Path) -> None:
    saved = tmp_path / "run"
    given = "Dave lives in Oslo. What does he do?"
    asked = ("explain", "--model", folder, "--prompt-file", "-", "--max-new-tokens", "6", "--dtype", "bfloat16")
    sampled = ("--sample", "--temperature", "5.0", "--top-p", "0.9", "--top-k", "40", "--generate", "min_new_tokens=6")
    chat = ("--chat", "--system", "Be brief.", "--template", "note=1", "--save", str(saved))
    explain(*asked, *sampled, *chat, "--seed", "3", given=given)
    first = LLMAttributionResult.load(saved)
    assert first.provenance["dtype"] == "bfloat16"
    assert first.provenance["seed"] == 3
    assert len(first.output_tokens) == 6
    assert "Be brief." in first.input_tokens
    explain(*asked, *sampled, *chat, "--seed", "3", given=given)
    assert LLMAttributionResult.load(saved).output_ids == first.output_ids
    explain(*asked, *sampled, *chat, "--seed", "4", given=given)
    assert LLMAttributionResult.load(saved).output_ids != first.output_ids
    explain(*asked, *chat, "--pin", "system", given=given)
    assert "Be brief." not in LLMAttributionResult.load(saved).input_tokens
    with pytest.raises(UnknownName, match="message or document to pin"):
        explain(*asked, *chat, "--pin", "sistem", given=given)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-new-tokens", "0"], "--max-new-tokens"),
        (["--temperature", "0.5"], "--temperature: only where the answer is sampled; add --sample"),
        (["--sample", "--target", "x"], "--target gives the answer"),
        (["--seed", "1"], "add --sample"),
        (["--system", "Be brief."], "add --chat"),
        (["--template", "note=1"], "add --chat"),
    ],
)
def test_options_of_generation_that_say_nothing_are_bad_usage(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(
        cli.app, ["explain", "--prompt-file", "-", *arguments], input="text", env={"COLUMNS": "300", "NO_COLOR": "1"}
    )
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


@pytest.mark.parametrize("option", ["--html", "--json", "--save"])
def test_where_to_write_is_looked_at_before_the_work(option: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    saving = [tmp_path / "file", tmp_path / "file" / "x"]
    for path in saving if option == "--save" else [tmp_path, tmp_path / "nowhere" / "x"]:
        with pytest.raises(InvalidValue, match=r"is a folder|there is no folder|is no saved result|file is no folder"):
            explain("explain", "--model", "no/such/model", "--prompt-file", "-", option, str(path), given="He. It.")
    for command in ("view", "compare"):
        if option != "--save":
            with pytest.raises(InvalidValue, match="is a folder"):
                explain(command, "nowhere", option, str(tmp_path))


def test_a_folder_that_is_no_model_is_one_error(tmp_path: Path, folder: str) -> None:
    (tmp_path / "notes.txt").write_text("no model", encoding="utf-8")
    with pytest.raises(InvalidValue, match="cannot be loaded as a causal language model"):
        explain("explain", "--model", str(tmp_path), "--prompt-file", "-", given="He. It.")
    with pytest.raises(UnknownName, match=r"unknown dtype 'bflot16'.*did you mean 'bfloat16'"):
        explain("explain", "--model", folder, "--dtype", "bflot16", "--prompt-file", "-", given="He. It.")


def test_a_trace_with_tools(folder: str, tmp_path: Path) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "look", "arguments": {}}}
    messages = [
        {"role": "user", "content": "Hi."},
        {"role": "assistant", "content": "Ok.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "[red]Wet."},
        {"role": "assistant", "content": "So"},
    ]
    (tmp_path / "agent.json").write_text(json.dumps({"messages": messages}), encoding="utf-8")
    with pytest.warns(UserWarning, match="call of look in message 1"):
        shown = explain("explain", "--model", folder, "--trace", str(tmp_path / "agent.json"))
    assert "2: tool look (untrusted)" in shown
    assert "[red]Wet." in shown
    assert "“So”" in shown
    (tmp_path / "agent.json").write_text(json.dumps(messages[:3]), encoding="utf-8")
    with pytest.raises(InvalidValue, match="there is no action"):
        explain("explain", "--model", folder, "--trace", str(tmp_path / "agent.json"))
    (tmp_path / "agent.json").write_text('"x"', encoding="utf-8")
    with pytest.raises(InvalidValue, match="expected a list of messages"):
        explain("explain", "--model", folder, "--trace", str(tmp_path / "agent.json"))
    for wrong in (["--prompt-file", "-", "--action", "tool"], ["--trace", "x.json", "--chat"]):
        done = CliRunner().invoke(cli.app, ["explain", "--model", folder, *wrong], input="x")
        assert done.exit_code == 2
