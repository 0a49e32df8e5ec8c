"""Results on the disk: the same to the bit, or an error that says what is wrong with the files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import disk_offload
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import llm_attr
from llm_attr import LanguageModel, Prompt
from llm_attr.attr import TextTemplateInput
from llm_attr.errors import InvalidType, InvalidValue, UnsupportedMethod
from llm_attr.llm.model.fingerprint import identity
from llm_attr.llm.results import storage as stored
from llm_attr.llm.results.table import Table
from tests.llm.saved import DOCUMENTS, TARGET, Result, by_hand
from tests.zoo import byte_level, tiny, tiny_model


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


@pytest.fixture(scope="module")
def result(lm: LanguageModel) -> Result:
    prompt = Prompt.from_documents("What is it?", DOCUMENTS, unit="sentence", chat=False)
    return llm_attr.explain(lm, prompt, target=TARGET, attr_target="prob")


@pytest.fixture
def folder(result: Result, tmp_path: Path) -> Path:
    result.save(tmp_path / "run")
    return tmp_path / "run"


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def test_a_round_trip(result: Result, folder: Path) -> None:
    again = Result.load(folder)
    assert again == result
    assert hash(again) == hash(result)
    assert again.to_dict() == result.to_dict()
    assert again.inp is None
    for name in ("seq_attr", "token_attr", "output_probs"):
        assert bits(getattr(again, name)) == bits(getattr(result, name))
    for name in ("coalitions", "values", "owner", "whole"):
        assert torch.equal(getattr(again.table, name), getattr(result.table, name))
    assert again.view() == result.view()
    assert again.to_html() == result.to_html()
    assert [group.label for group in again.groups][:2] == [*DOCUMENTS]
    part = result.for_output("likes")
    assert again.for_output("likes") == part != result
    part.save(folder.parent / "part")
    assert Result.load(folder.parent / "part") == part
    assert names(folder) == {"result.json", "tensors.safetensors"}
    assert names(folder.parent) == {"part", "run"}


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"token_attr": torch.rand(2, 3).to(torch.bfloat16), "output_probs": torch.rand(2).half()},
        {"token_attr": torch.rand(3, 2).T, "provenance": {"a": [1, {"b": None}], "c": 0.1, "d": "\u2028"}},
        {"output_text": "something else", "context": ["", "1", "2", "3"]},
        {"input_tokens": [], "output_tokens": [], "seq_attr": torch.zeros(0)},
    ],
)
def test_results_made_by_hand(parts: dict[str, Any], tmp_path: Path) -> None:
    result = by_hand(**parts)
    result.save(str(tmp_path / "deep" / "er"))
    again = Result.load(str(tmp_path / "deep" / "er"))
    assert again == result
    assert bits(again.seq_attr) == bits(result.seq_attr)


@pytest.mark.parametrize(
    ("method", "options"),
    [("odd_shap", {}), ("odd_shap", {"interactions": True}), ("kernel_shap", {"interactions": False})],
)
def test_kernel_shap_of_schema_1(method: str, options: dict[str, Any], lm: LanguageModel, tmp_path: Path) -> None:
    prompt = Prompt("Dave lives in Palm Coast and has a dog.", unit="word")
    result = llm_attr.explain(lm, prompt, target=TARGET, method=method, n_samples=40, seed=0)
    result.save(tmp_path / "old")
    file = tmp_path / "old" / "result.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["schema"] = 1
    document["table"] |= {"method": "kernel_shap", "options": document["table"]["options"] | options}
    del document["checksum"]
    file.write_text(json.dumps(document | {"checksum": stored._checksum(document)}), encoding="utf-8")
    old = Result.load(tmp_path / "old")
    everything = slice(0, len(result.output_tokens))
    assert torch.equal(old.for_output(everything).seq_attr, result.for_output(everything).seq_attr)
    other = {"odd_shap": "kernel_shap", "kernel_shap": "odd_shap"}[method]
    wrong = llm_attr.explain(lm, prompt, target=TARGET, method=other, n_samples=40, seed=0)
    assert not torch.allclose(wrong.seq_attr, result.seq_attr, rtol=0.01)


def test_equality(result: Result) -> None:
    assert by_hand() == by_hand()
    assert by_hand() != "a result"
    assert len({by_hand(), by_hand(), result}) == 2
    others: list[dict[str, Any]] = [
        {"input_tokens": ["a", "b", "c"]},
        {"seq_attr": torch.tensor([0.1, torch.nan, 0.0], dtype=torch.float64)},
        {"seq_attr": torch.tensor([0.1, torch.nan, -0.0])},
        {"token_attr": torch.zeros(2, 3)},
        {"provenance": {"model": "a"}},
        {"context": [""] * 4},
        {"output_ids": [1, 2]},
    ]
    assert all(by_hand(**other) != by_hand() for other in others)


@settings(max_examples=40, deadline=None)
@given(
    texts=st.lists(st.text(st.characters(), max_size=6), max_size=4),
    outputs=st.lists(st.text(st.characters(), max_size=4), max_size=3),
    provenance=st.dictionaries(
        st.text(max_size=5),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    ),
    data=st.data(),
)
def test_any_result_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], outputs: list[str], provenance: Any, data: st.DataObject
) -> None:
    numbers = st.lists(st.floats(width=32), min_size=len(texts), max_size=len(texts))
    values = torch.tensor(data.draw(numbers), dtype=torch.float32)
    result = Result(input_tokens=texts, output_tokens=outputs, seq_attr=values, provenance=provenance)
    path = tmp_path_factory.mktemp("any") / "run"
    result.save(path)
    assert Result.load(path) == result


def test_what_is_known_of_the_run(lm: LanguageModel, result: Result) -> None:
    found = result.provenance
    assert found["method"] == "feature_ablation"
    assert (found["model"], found["dtype"], found["attention_kernel"]) == ("tiny llama", "float32", "sdpa")
    assert len(found["weights"]) == len(found["tokenizer"]) == 64
    assert found["template"] is None
    assert found["seed"] is None
    assert found["versions"] == identity(lm)["versions"]
    assert set(found["versions"]) == {"llm_attr", "torch", "transformers", "tokenizers"}
    sampled = llm_attr.explain(lm, "Dave is old.", gen_args={"max_new_tokens": 2, "do_sample": True, "seed": 3})
    assert sampled.provenance["seed"] == 3


def test_another_model_is_said(lm: LanguageModel, folder: Path, tmp_path: Path) -> None:
    Result.load(folder, lm)
    Result.load(folder, tiny("llama"))
    other = LanguageModel(tiny_model("llama", seed=1), byte_level(), "other")
    other.tokenizer.chat_template = "x"
    with pytest.warns(
        UserWarning, match=r"made with tiny llama, and other differs in: weights, tokenizer, chat template"
    ):
        assert Result.load(folder, language_model=other).input_tokens
    offloaded = tiny_model("llama", seed=1)
    disk_offload(offloaded, tmp_path / "offload")
    Result.load(folder, LanguageModel(offloaded, lm.tokenizer))


def test_only_a_saved_result_is_replaced(result: Result, folder: Path, tmp_path: Path) -> None:
    by_hand().save(folder)
    assert Result.load(folder) == by_hand()
    (tmp_path / "empty").mkdir()
    result.save(tmp_path / "empty")
    refused = {name: tmp_path / name for name in ("file", "other", "more", "cut", "link", "loose")}
    refused["file"].write_text("mine")
    for name in ("other", "more", "cut"):
        refused[name].mkdir()
    (refused["other"] / "result.json").write_text("{}")
    for name in ("more", "cut"):
        for file in folder.iterdir():
            (refused[name] / file.name).write_bytes(file.read_bytes())
    (refused["more"] / "notes.txt").write_text("mine")
    (refused["cut"] / "result.json").write_text('{"format": "llm')
    refused["link"].symlink_to(folder)
    refused["loose"].symlink_to(tmp_path / "nowhere")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path in refused.values():
        with pytest.raises(InvalidValue, match="is there already and"):
            result.save(path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("fails_at", ["write_bytes", "rename"])
def test_a_failed_save_leaves_what_was_there(
    result: Result, folder: Path, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = getattr(Path, fails_at), []

    def failing(path: Path, given: Any) -> Any:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(path, given)

    with monkeypatch.context() as patch:
        patch.setattr(Path, fails_at, failing)
        with pytest.raises(OSError, match="No space"):
            by_hand().save(folder)
    assert Result.load(folder) == result
    assert names(folder.parent) == {"run"}


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ({"provenance": {"a": torch.zeros(1)}}, InvalidValue, "what JSON does not have"),
        ({"provenance": {"a": (1, 2)}}, InvalidValue, "tuples"),
        ({"provenance": {"a": float("nan")}}, InvalidValue, "NaN"),
        ({"provenance": {1: 2}}, InvalidValue, "keys"),
        ({"seq_attr": torch.tensor([1, 2, 3])}, InvalidType, "seq_attr must hold floating-point"),
    ],
)
def test_what_cannot_be_saved(parts: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        by_hand(**parts).save(tmp_path / "run")
    assert names(tmp_path) == set()


def test_what_is_too_large(result: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAX_JSON", "MAX_TENSORS"):
        with monkeypatch.context() as patch:
            patch.setattr(stored, name, 100)
            with pytest.raises(InvalidValue, match="too large to be saved"):
                result.save(tmp_path / "run")


def test_options_that_cannot_be_stored(tmp_path: Path) -> None:
    table = Table(
        coalitions=torch.tensor([[True], [False]]),
        values=torch.tensor([[[-1.0], [-2.0]]]),
        owner=torch.tensor([0]),
        whole=torch.tensor([-1.0]),
        method="feature_ablation",
        options={"kernel": len, "samples": 3, "alpha": (1, 2)},
    )
    result = Result(input_tokens=["a"], output_tokens=["x"], seq_attr=torch.ones(1), table=table)
    result.save(tmp_path / "run")
    again = Result.load(tmp_path / "run")
    assert again == result
    assert again.table is not None
    assert (again.table.options, again.table.missing) == ({"samples": 3}, ("alpha", "kernel"))
    with pytest.raises(UnsupportedMethod, match="alpha, kernel of feature_ablation could not be stored"):
        again.for_output("x")
    assert "x" in again.to_html()


def test_a_fresh_process_needs_no_model(result: Result, folder: Path) -> None:
    program = (
        "import sys, llm_attr; r = llm_attr.LLMAttributionResult.load(sys.argv[1]);"
        "p = r.for_output('likes'); print(p.seq_attr.tolist(), p.region)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    part = result.for_output("likes")
    assert done.stdout == f"{part.seq_attr.tolist()} {part.region}\n"


def test_inputs_without_context(lm: LanguageModel, tmp_path: Path) -> None:
    result = llm_attr.explain(lm, TextTemplateInput("{} is {}.", ["Dave", 12]), target=TARGET)
    result.save(tmp_path / "run")
    assert Result.load(tmp_path / "run") == result
    assert (result.context, result.groups) == (None, ())


def test_json_is_strict_and_what_has_no_number_stands_last() -> None:
    values = torch.tensor([1.0, torch.nan, -2.0, torch.inf])
    result = Result(input_tokens=list("abcd"), output_tokens=["x"], seq_attr=values)
    assert json.loads(result.to_json(), parse_constant=pytest.fail)["seq_attr"] == [1.0, None, -2.0, None]
    assert [part.text for part in result.top(4)] == ["d", "a", "c", "b"]
