"""Data-set runs: their results are those of `explain`, and a stopped one goes on where it was."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import llm_attr
from llm_attr import DatasetRun, LanguageModel, Prompt, explain_dataset
from llm_attr.errors import (
    BrokenFile,
    Cancelled,
    InUse,
    InvalidType,
    InvalidValue,
    NewerFile,
    OtherRun,
    UnknownKeyword,
    UnknownName,
)
from llm_attr.llm.jobs.job import Share
from llm_attr.llm.jobs.storage.folder import Folder
from tests.llm.jobs.runs import TEMPLATE, chatting, load, numbers_of, some_rows
from tests.zoo import quiet

TARGET = " He likes fishing."


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    with quiet():
        return chatting()


def test_results_are_those_of_explain(lm: LanguageModel, tmp_path: Path) -> None:
    rows = some_rows(5)
    run = explain_dataset(lm, rows, tmp_path, template=TEMPLATE, batch_size=2)
    assert len(run) == run.total == 5
    for number, row in enumerate(rows):
        text, who, city = TEMPLATE.format(**row), row["who"], row["city"]
        prompt = Prompt(text, spans={"who": who, "city": city})
        expected, found = llm_attr.explain(lm, prompt, target=TARGET), run.result(number)
        assert torch.allclose(found.seq_attr, expected.seq_attr, rtol=0, atol=1e-4)
        assert torch.allclose(found.token_attr, expected.token_attr, rtol=0, atol=1e-4)
        assert torch.allclose(found.output_probs, expected.output_probs, atol=1e-6)
        assert found.plain().keys() == expected.plain().keys()
        for name in ("input_tokens", "output_tokens", "output_ids", "output_spans", "context", "groups"):
            assert found.plain()[name] == expected.plain()[name]
        assert found.provenance["weights"] == expected.provenance["weights"]
        assert found.provenance.keys() == expected.provenance.keys()
        assert run.row(number) == {"id": row["id"], "who": who, "city": city}
        assert found.for_output("fishing").seq_attr.shape == (2,)


def test_errors_of_sampled_methods_and_generated_answers(lm: LanguageModel, tmp_path: Path) -> None:
    rows = [{"prompt": "Dave sails. He is old. It is late. What now?"}, {"prompt": "He sails. Why? Who? Where?"}]
    asked = {"method": "kernel_shap", "n_samples": 9, "gen_args": {"max_new_tokens": 4, "do_sample": False}}
    run = explain_dataset(lm, rows, tmp_path, **asked)
    for number, row in enumerate(rows):
        expected, found = llm_attr.explain(lm, row["prompt"], seed=0, **asked), run.result(number)
        assert found.output_ids == expected.output_ids
        assert torch.allclose(found.seq_attr, expected.seq_attr, atol=1e-4)
        assert torch.allclose(found.stderr, expected.stderr, atol=1e-4)
    other = explain_dataset(lm, rows, tmp_path / "seed", **asked, seed=5)
    assert numbers_of(other) != numbers_of(run)


@pytest.mark.parametrize("method", ["input_x_gradient", "gradient_shap"])
def test_gradients(lm: LanguageModel, tmp_path: Path, method: str) -> None:
    rows = some_rows(2)
    run = explain_dataset(lm, rows, tmp_path, template=TEMPLATE, method=method)
    again = explain_dataset(lm, rows, tmp_path / "again", template=TEMPLATE, method=method)
    assert numbers_of(again) == numbers_of(run)


def test_documents_messages_and_chats(lm: LanguageModel, tmp_path: Path) -> None:
    documents = [
        {"prompt": "Who?", "documents": {"a": "Dave sails.", "b": "He sings."}, "target": "Dave"},
        {"prompt": "Who?", "documents": json.dumps([{"id": 7, "text": "Aksel."}, {"text": "Mads."}]), "target": "Me"},
        {"prompt": "Who?", "documents": ["Signe.", "Dave."], "target": "Signe"},
    ]
    run = explain_dataset(lm, documents, tmp_path / "d", chat=True, system="Be brief.")
    assert [[group.label for group in run.result(i).groups] for i in range(3)] == [["a", "b"], ["7", "2"], ["1", "2"]]
    assert "system: Be brief." in "".join(run.result(0).context or ())
    assert [each.name for each in run.summary().averages if each.rows == 3] != []
    assert run.summary().by == "document"

    chats = [{"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Who is Dave?"}]}]
    pinned = {"pinned": ["system"]}
    run = explain_dataset(lm, chats, tmp_path / "m", unit="message", target="Dave", prompt_options=pinned)
    assert [group.label for group in run.result(0).groups] == ["user"]

    template = [{"role": "system", "content": "You are {who}."}, {"role": "user", "content": "In {city}? {{so}}"}]
    run = explain_dataset(lm, some_rows(2), tmp_path / "t", template=template, slots=["city"])
    assert run.result(1).input_tokens == ["Palm Coast 1"]
    run = explain_dataset(lm, some_rows(2), tmp_path / "u", template=TEMPLATE, chat=True, system="Be.", unit="word")
    assert [group.label for group in run.result(1).groups] == ["system", "user"]
    run = explain_dataset(lm, some_rows(2), tmp_path / "s", template=TEMPLATE, chat=True, system="Be.")
    assert run.result(1).input_tokens == ["Aksel", "Palm Coast 1"]


def test_a_row_that_fails_does_not_spoil_others(lm: LanguageModel, tmp_path: Path) -> None:
    rows: list[Any] = some_rows(7)
    rows[1] = rows[1] | {"target": ""}
    rows[2] = {"who": "Dave"}
    rows[3] = "no row"
    rows[4] = rows[4] | {"target": None}
    rows[5] = rows[5] | {"city": "far " * 400}
    rows[6] = rows[6] | {"target": [9, 8, 7]}
    run = explain_dataset(lm, rows, tmp_path, template=TEMPLATE, gen_args={"max_new_tokens": 2, "do_sample": False})
    assert run.failed == [1, 2, 3, 5]
    errors = dict(run.errors())
    assert "EmptyTarget" in errors[1]
    assert "no value in column 'city'" in errors[2]
    assert "a row must be a dict" in errors[3]
    assert "ContextTooLong" in errors[5]
    assert run.result(6).output_ids == (9, 8, 7)
    assert len(run.result(4).output_ids or ()) == 2
    with pytest.raises(InvalidValue, match="row 2 could not be explained"):
        run.result(2)
    with pytest.raises(InvalidValue, match="row 7 is not in"):
        run.result(7)
    assert run.row(5)["id"] == "r5"
    whole = explain_dataset(lm, some_rows(7), tmp_path / "whole", template=TEMPLATE)
    assert torch.allclose(run.result(0).seq_attr, whole.result(0).seq_attr, atol=1e-4)


def test_failed_rows_are_tried_again_on_request(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"template": TEMPLATE, "rows_per_shard": 4, "batch_size": 2}
    whole = numbers_of(explain_dataset(lm, some_rows(10), tmp_path / "whole", **asked))
    bad = {0, 3, 6, 7}
    count = [0]
    from llm_attr.llm.jobs import row_function

    def failing(model: Any, prompt: Any, **options: Any) -> Any:
        prompts = prompt if isinstance(prompt, list) else [prompt]
        count[0] += len(prompts)
        if any(str(each.content).split(". ")[0].endswith(tuple(f" {i}" for i in bad)) for each in prompts):
            raise RuntimeError("the device is busy")
        return llm_attr.explain(model, prompt, **options)

    monkeypatch.setattr(row_function, "explain", failing)
    run = explain_dataset(lm, some_rows(10), tmp_path / "run", **asked)
    assert run.failed == sorted(bad)
    count[0] = 0
    assert explain_dataset(lm, some_rows(10), tmp_path / "run", **asked).failed == sorted(bad)
    assert count[0] == 0
    bad -= {0, 3, 6}
    run = explain_dataset(lm, some_rows(10), tmp_path / "run", **asked, retry_failed=True)
    assert run.failed == [7]
    run = explain_dataset(lm, some_rows(10), tmp_path / "run", **asked, retry_failed=True)
    assert run.failed == [7]
    bad.clear()
    run = explain_dataset(lm, some_rows(10), tmp_path / "run", **asked, retry_failed=True)
    assert run.failed == []
    assert numbers_of(run).keys() == whole.keys()
    assert run.to_dataset().num_rows == 10
    for number, values in numbers_of(run).items():
        assert values == pytest.approx(whole[number], abs=1e-4)


def test_a_stopped_run_goes_on(lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explain_dataset(lm, some_rows(20), tmp_path / "whole", template=TEMPLATE, batch_size=3)
    from llm_attr.llm.jobs import row_function

    explained, real = list[str](), llm_attr.explain

    def stopping(model: Any, prompts: Any, **options: Any) -> Any:
        if len(explained) >= 9:
            raise KeyboardInterrupt
        explained.extend(prompt.content for prompt in prompts)
        return real(model, prompts, **options)

    asked: dict[str, Any] = {"template": TEMPLATE, "batch_size": 3, "rows_per_shard": 6}
    monkeypatch.setattr(row_function, "explain", stopping)
    with pytest.raises(KeyboardInterrupt):
        explain_dataset(lm, iter(some_rows(20)), tmp_path / "run", **asked)
    assert len(DatasetRun(tmp_path / "run")) == 9
    again = list[str]()

    def recording(model: Any, prompt: Any, **options: Any) -> Any:
        again.extend(each.content for each in (prompt if isinstance(prompt, list) else [prompt]))
        return real(model, prompt, **options)

    monkeypatch.setattr(row_function, "explain", recording)
    run = explain_dataset(lm, iter(some_rows(20)), tmp_path / "run", **asked)
    assert sorted(explained + again) == sorted(TEMPLATE.format(**row) for row in some_rows(20))
    assert numbers_of(run) == numbers_of(whole)
    more = explain_dataset(lm, iter(some_rows(20)), tmp_path / "run", **asked)
    assert len(more) == 20
    assert len(again) == 11


def test_a_cancelled_run_keeps_what_is_done_and_reports(lm: LanguageModel, tmp_path: Path) -> None:
    stop, seen = threading.Event(), []

    def look(progress: Any) -> None:
        seen.append(progress.done / progress.total)
        if seen[-1] >= 0.5:
            stop.set()

    with pytest.raises(Cancelled), llm_attr.watching(look, stop):
        explain_dataset(lm, some_rows(8), tmp_path, template=TEMPLATE, batch_size=2)
    assert len(DatasetRun(tmp_path)) == 4
    assert seen == sorted(seen)


def test_shares_make_up_the_whole(lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {"template": TEMPLATE, "batch_size": 2}
    whole = numbers_of(explain_dataset(lm, some_rows(11), tmp_path / "whole", **asked))
    first = explain_dataset(lm, some_rows(11), tmp_path / "a", **asked, shard="0/2")
    assert list(numbers_of(first)) == [0, 1, 4, 5, 8, 9]
    explain_dataset(lm, some_rows(11), tmp_path / "b", **asked, shard=(1, 2))
    from llm_attr.llm.jobs.merge import merge

    merged = merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c", rows_per_shard=4)
    assert numbers_of(merged) == whole
    assert [len(table) for table in merged._index.tables(size=99)] == [11]
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert numbers_of(explain_dataset(lm, some_rows(11), tmp_path / "a", **asked)) == whole
    with pytest.raises(InvalidValue, match="torchrun has started"):
        explain_dataset("m", some_rows(11), tmp_path / "x", **asked, num_processes=2)
    for wrong in ("2/2", "1", "a/b", (1,)):
        with pytest.raises(InvalidValue, match="a share is"):
            explain_dataset(lm, some_rows(11), tmp_path / "x", **asked, shard=wrong)


def test_the_rows_of_shares_are_counted() -> None:
    for total in range(12):
        for of in (1, 2, 3):
            rows = np.arange(total)
            shares = [Share(number, of) for number in range(of)]
            assert [share.rows(total, 4) for share in shares] == [share.holds(rows, 4).sum() for share in shares]
            assert sum(share.rows(total, 4) for share in shares) == total


def test_merging_refuses_what_is_not_one_run(lm: LanguageModel, tmp_path: Path) -> None:
    from llm_attr.llm.jobs.merge import merge

    explain_dataset(lm, some_rows(2), tmp_path / "a", template=TEMPLATE)
    explain_dataset(lm, some_rows(2), tmp_path / "b", template=TEMPLATE, scalar="prob")
    with pytest.raises(OtherRun, match='scalar is "log_prob" there and "prob" here'):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    with pytest.raises(InvalidValue, match="not empty"):
        merge([tmp_path / "a"], tmp_path / "b")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"method": "kernel_shap"}, 'method is "feature_ablation" there and "kernel_shap" here'),
        ({"template": "{who}? {city}?"}, "template is"),
        ({"slots": ["city"]}, "slots is null there"),
        ({"foil": "No."}, 'foil is null there and "No." here'),
        ({"dataset": some_rows(3)}, "another data set"),
        ({"model": "another"}, "other weights"),
        ({"prompt_options": {"absence": "mask"}}, "prompt_options is"),
        ({"region": None}, 'region is "fishing" there and null here'),
    ],
)
def test_something_else_in_the_same_folder_is_refused(
    lm: LanguageModel, tmp_path: Path, changed: dict[str, Any], says: str
) -> None:
    asked: dict[str, Any] = {"model": lm, "dataset": some_rows(2), "out": tmp_path, "template": TEMPLATE}
    asked["region"] = "fishing"
    explain_dataset(**asked)
    before = sorted(tmp_path.rglob("*.parquet"))
    if changed.get("model") == "another":
        from tests.zoo import tiny_model

        changed = {"model": LanguageModel(tiny_model("llama", seed=1), lm.tokenizer)}
    with pytest.raises(OtherRun, match=says):
        explain_dataset(**asked | changed)
    assert sorted(tmp_path.rglob("*.parquet")) == before


def test_what_changes_no_result_is_no_other_run(lm: LanguageModel, tmp_path: Path) -> None:
    explain_dataset(lm, some_rows(6), tmp_path, template=TEMPLATE, limit=2)
    run = explain_dataset(lm, some_rows(6), tmp_path, template=TEMPLATE, batch_size=5, rows_per_shard=1)
    assert list(numbers_of(run)) == list(range(6))


def test_arguments_are_refused_before_any_row(lm: LanguageModel, tmp_path: Path) -> None:
    rows = some_rows(2)
    for error, says, options in [
        (InvalidValue, "no column 'prompt' or 'messages'", {}),
        (UnknownName, "unknown role", {"columns": {"question": "who"}}),
        (UnknownName, "unknown column 'wo'", {"columns": {"prompt": "wo"}}),
        (UnknownName, "column in the template 'town'", {"template": "{town}"}),
        (UnknownName, "unknown slot", {"template": TEMPLATE, "slots": ["town"]}),
        (InvalidValue, "has no slot", {"template": "hello"}),
        (InvalidValue, "malformed", {"template": "{who"}),
        (InvalidValue, "must name a column", {"template": "{who.x} {}"}),
        (InvalidType, "messages whose content is a text", {"template": [{"role": "user"}]}),
        (InvalidValue, "takes the place", {"template": TEMPLATE, "columns": {"prompt": "who"}}),
        (InvalidValue, "needs a template", {"columns": {"prompt": "who"}, "unit": "slot"}),
        (UnknownName, "unknown unit", {"columns": {"prompt": "who"}, "unit": "chapter"}),
        (InvalidValue, "needs chat=True", {"template": TEMPLATE, "system": "Be."}),
        (InvalidType, "one for a data-set run", {"template": TEMPLATE, "scalar": ["prob", "logit"]}),
        (UnknownName, "unknown method", {"template": TEMPLATE, "method": "feature_ablatio"}),
        (UnknownKeyword, "n_sample", {"template": TEMPLATE, "n_sample": 3}),
        (UnknownName, "unknown launcher", {"template": TEMPLATE, "launcher": "slurm"}),
        (InvalidValue, "batch_size", {"template": TEMPLATE, "batch_size": 0}),
        (InvalidValue, "seconds_per_shard", {"template": TEMPLATE, "seconds_per_shard": 0}),
        (InvalidType, "a model of its own", {"template": TEMPLATE, "num_processes": 2}),
        (InvalidType, "pass the model's name", {"template": TEMPLATE, "model_options": {"dtype": "auto"}}),
    ]:
        with pytest.raises(error, match=says):
            explain_dataset(lm, rows, tmp_path, **options)
    with pytest.raises(InvalidType, match="must be one of a module"):
        explain_dataset(lambda: lm, rows, tmp_path, template=TEMPLATE, num_processes=2)
    with pytest.raises(InvalidType, match="one process only"):
        explain_dataset(load, iter(rows), tmp_path, template=TEMPLATE, num_processes=2)
    with pytest.raises(InvalidValue, match="must not begin with 'attr_'"):
        explain_dataset(lm, [rows[0] | {"attr_row": 1}], tmp_path, template=TEMPLATE)
    with pytest.raises(InvalidValue, match="holds no run"):
        DatasetRun(tmp_path / "nothing")
    assert not list(tmp_path.rglob("*.parquet"))


def test_functions_and_names_of_models(tmp_path: Path) -> None:
    with quiet():
        run = explain_dataset(load, some_rows(1), tmp_path / "a", template=TEMPLATE)
        folder = tmp_path / "model"
        lm = load()
        lm.model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        named = explain_dataset(str(folder), some_rows(1), tmp_path / "b", template=TEMPLATE)
        loading = {"dtype": "bfloat16"}
        half = explain_dataset(folder, some_rows(1), tmp_path / "c", template=TEMPLATE, model_options=loading)
    assert numbers_of(run) == numbers_of(named)
    assert half.manifest.asked["dtype"] == "bfloat16"


def test_two_at_a_time_are_refused(lm: LanguageModel, tmp_path: Path) -> None:
    explain_dataset(lm, some_rows(1), tmp_path, template=TEMPLATE)
    for held in ("0-of-1", "1-of-3"):
        with Folder(tmp_path).locked(held, ""), pytest.raises(InUse, match="another process is at work"):
            explain_dataset(lm, some_rows(1), tmp_path, template=TEMPLATE)
    explain_dataset(lm, some_rows(1), tmp_path, template=TEMPLATE)


def test_damaged_files_are_named(lm: LanguageModel, tmp_path: Path) -> None:
    explain_dataset(lm, some_rows(3), tmp_path, template=TEMPLATE, rows_per_shard=2, batch_size=2)
    shards = sorted((tmp_path / "rows").glob("*.parquet"))
    whole = shards[0].read_bytes()
    shards[0].write_bytes(whole[:-7])
    with pytest.raises(BrokenFile, match=f"{shards[0].name} cannot be read.*Remove it"):
        explain_dataset(lm, some_rows(3), tmp_path, template=TEMPLATE)
    shards[0].unlink()
    assert list(numbers_of(explain_dataset(lm, some_rows(3), tmp_path, template=TEMPLATE))) == [0, 1, 2]
    other = tmp_path / "other"
    explain_dataset(lm, some_rows(2), other, template=TEMPLATE)
    (tmp_path / "rows" / "stray.parquet").write_bytes(next((other / "rows").glob("*.parquet")).read_bytes())
    with pytest.raises(OtherRun, match=r"stray\.parquet"):
        len(DatasetRun(tmp_path))
    manifest = tmp_path / "manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(NewerFile):
        DatasetRun(tmp_path)
    manifest.write_text(text[:50])
    with pytest.raises(BrokenFile, match="not the manifest"):
        DatasetRun(tmp_path)
