"""The index of training texts: its vectors, its files, and what queries of it say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from llm_attr import LanguageModel
from llm_attr.errors import (
    BrokenFile,
    EmptyTarget,
    InvalidShape,
    InvalidType,
    InvalidValue,
    NewerFile,
    UnsupportedMethod,
)
from llm_attr.llm.influence import index as module
from llm_attr.llm.influence.examples import TextExample, TokenLoss, batch_of, encoded
from llm_attr.llm.influence.index import build_index, read_settings
from llm_attr.llm.influence.layers import linear_parameters
from llm_attr.llm.influence.query import InfluenceIndex, TextInfluence
from tests.zoo import tiny

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS: list[Any] = [
    "Aksel repairs violins.",
    ("Tove paints", " boats."),
    {"text": "Runa sells", "answer": " maps."},
    "The harbour is closed.",
    "Nils keeps two goats.",
    ("Eskil was born in", " Tarsin."),
    "Clocks are dear.",
]
LAYERS = ["model.layers.1.self_attn", "model.layers.1.mlp.down_proj"]


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return tiny("llama")


def build(lm: LanguageModel, folder: Path, **changed: Any) -> Path:
    options: dict[str, Any] = {"layers": LAYERS, "projection_dim": 5, "batch_size": 2, "shard_size": 3}
    return build_index(lm, changed.pop("texts", TEXTS), folder, **{**options, **changed})


def contents(folder: Path) -> dict[str, bytes]:
    """What is stored; a killed process leaves unfinished files under hidden names."""
    files = (file for file in folder.rglob("*") if file.is_file() and "locks" not in file.parts)
    files = (file for file in files if not file.name.startswith("."))
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def gradients(lm: LanguageModel, text: Any, name: str) -> torch.Tensor:
    """Autograd, one text at a time."""
    batch = batch_of(lm, [encoded(lm, TextExample.of(text))])
    weight = lm.model.get_submodule(name).weight
    return torch.autograd.grad(TokenLoss(lm).total(lm.model, batch), weight)[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_vectors_are_gradients_in_ekfacs_basis(family: str, tmp_path: Path) -> None:
    model = tiny(family)
    layers = None if family == "gpt2" else LAYERS
    path = build(model, tmp_path, layers=layers, projection_dim=None)
    opened, basis = InfluenceIndex(path), load_file(path / "basis.safetensors")
    stored, start = np.concatenate(opened.shards), 0
    for name in opened.settings.layers:
        left, right = basis[f"{name}.left"], basis[f"{name}.right"]
        size = left.shape[1] * right.shape[1]
        assert torch.allclose(left.T @ left, torch.eye(len(left)), atol=1e-5)
        rows = stored[:, start : start + size]
        start += size
        if family == "gpt2":
            continue  # its layers have biases
        for number in (0, 1, 6):
            wanted = left.T @ gradients(model, TEXTS[number], name) @ right
            np.testing.assert_allclose(rows[number], wanted.flatten().numpy(), rtol=1e-3, atol=1e-4)
    assert start == stored.shape[1]


def test_the_basis_diagonalises_and_the_spectrum_is_the_mean_square(lm: LanguageModel, tmp_path: Path) -> None:
    path = build(lm, tmp_path, projection_dim=None)
    basis, settings = load_file(path / "basis.safetensors"), read_settings(path)
    parts = [load_file(path / "covariance" / f"{shard:05}.safetensors") for shard in range(settings.shards)]
    for key, turned in basis.items():
        covariance = sum((part[key] for part in parts), torch.zeros(len(turned), len(turned)))
        diagonal = turned.T @ covariance @ turned
        off = diagonal - torch.diag(diagonal.diagonal())
        assert off.norm() < 1e-4 * diagonal.norm()
    spectrum = load_file(path / "spectrum.safetensors")
    sums = [load_file(path / "spectrum" / f"{shard:05}.safetensors") for shard in range(settings.shards)]
    for name, value in spectrum.items():
        torch.testing.assert_close(value, sum(part[name] for part in sums) / len(TEXTS))
        assert (value >= 0).all()


def test_queries(lm: LanguageModel, tmp_path: Path) -> None:
    path = build(lm, tmp_path, projection_dim=None)
    opened = InfluenceIndex(path)
    found = opened.query(lm, "Eskil was born in", " Tarsin.")
    assert found.proponents(3)[0] == 5
    assert found.scores.shape == (len(found.tokens), len(TEXTS))
    assert "".join(found.tokens) == " Tarsin."
    assert found.opponents(1)[0] == int(found.total.argmin())
    spectrum = load_file(path / "spectrum.safetensors")
    damped = [spectrum[name] + 0.1 * spectrum[name].mean() for name in opened.settings.layers]
    scale = 1 / torch.cat([each.flatten() for each in damped])
    stored = np.concatenate(opened.shards)
    np.testing.assert_allclose(found.total, stored @ (stored[5] * scale.numpy()), rtol=1e-3)
    text = found.to_text(2)
    assert "[5] Eskil was born in Tarsin." in text.splitlines()[2]
    assert "speaks to: '" in text
    found.save_scores(tmp_path / "scores.npy")
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), found.total[None])
    assert all(isinstance(shard, np.memmap) for shard in opened.shards)


def test_only_texts_that_oppose_are_opponents() -> None:
    shown = TextInfluence("a", ("b", "c"), np.array([[1.0, -3.0], [0.5, 1.0]]), ("one", "two")).to_text()
    assert [line for line in shown.splitlines() if "[" in line] == ["        +1.5  [0] one", "          -2  [1] two"]
    assert "speaks to: 'b' 67%, 'c' 33%" in shown
    assert TextInfluence("a", ("b",), np.ones((1, 1)), ("one",)).to_text().endswith("opponents: none")


def test_a_projection_keeps_the_order(lm: LanguageModel, tmp_path: Path) -> None:
    exact = InfluenceIndex(build(lm, tmp_path / "a", projection_dim=None)).query(lm, "Tove paints", " boats.")
    few = InfluenceIndex(build(lm, tmp_path / "b", projection_dim=12)).query(lm, "Tove paints", " boats.")
    assert exact.proponents(1) == few.proponents(1) == [1]


def test_stopped_anywhere_and_resumed_it_is_bit_equal(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(build(lm, tmp_path / "whole"))
    write, left = module._write, [0]

    def stops(file: Path, content: Any) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        write(file, content)

    monkeypatch.setattr(module, "_write", stops)
    stopped = 0
    for step in (0, 1, 1, 2, 1, 3, 1, 1, 2, 9):
        left[0] = step
        try:
            build(lm, tmp_path / "stopped")
        except KeyboardInterrupt:
            stopped += 1
    assert stopped >= 8
    assert contents(tmp_path / "stopped") == whole


def test_another_model_other_texts_or_settings_are_noticed(lm: LanguageModel, tmp_path: Path) -> None:
    path = build(lm, tmp_path)
    with pytest.raises(InvalidValue, match="an index with other data"):
        build(lm, path, texts=[*TEXTS[:-1], "Clocks are cheap."])
    with pytest.raises(InvalidValue, match="other seed"):
        build(lm, path, seed=3)
    opened, other = InfluenceIndex(path), tiny("qwen3")
    with pytest.raises(InvalidValue, match="other weights"):
        opened.query(other, "Tove", " paints")
    weight = lm.model.get_submodule("model.layers.1.mlp.down_proj").weight
    with torch.no_grad():
        weight[0, 0] += 1
    try:
        with pytest.raises(InvalidValue, match="index with other weights"):
            build(lm, path)
    finally:
        with torch.no_grad():
            weight[0, 0] -= 1


def test_bad_input(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(InvalidType, match="an example must be a string"):
        build(lm, tmp_path / "a", texts=[3])
    with pytest.raises(InvalidType, match="one string"):
        build(lm, tmp_path / "a", texts="text")
    with pytest.raises(InvalidValue, match="at least one"):
        build(lm, tmp_path / "a", texts=[])
    with pytest.raises(InvalidValue, match="no linear layer"):
        build(lm, tmp_path / "a", layers=["nothing"])
    with pytest.raises(EmptyTarget, match="needs one before it"):
        build(lm, tmp_path / "b", texts=[("Tove", "")])
    with pytest.raises(BrokenFile, match="no influence index"):
        InfluenceIndex(tmp_path / "c")
    path = build(lm, tmp_path / "d")
    with pytest.raises(InvalidValue, match="damping must be a positive number"):
        InfluenceIndex(path, damping=0)
    with pytest.raises(EmptyTarget):
        InfluenceIndex(path).query(lm, "Tove", "")
    (path / "gradients" / "00001.npy").unlink()
    with pytest.raises(BrokenFile, match="1 of 3 files are missing"):
        InfluenceIndex(path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "schema": 99}))
    with pytest.raises(NewerFile, match="schema 99"):
        InfluenceIndex(path)
    with pytest.raises(InvalidShape, match=r"here \(1, 2\)"):
        TextInfluence("a", ("b",), np.zeros((2, 2)), ("c", "d"))


def test_layers_that_are_meant(lm: LanguageModel) -> None:
    names = linear_parameters(lm, None)
    assert len(names) == 3 * 7
    assert all("lm_head" not in name for name in names)
    assert len(linear_parameters(lm, "model.layers.*.mlp.*")) == 9
    adapter = lm.model.get_submodule("model.layers.0.mlp.up_proj").weight
    frozen = [value for value in lm.model.parameters() if value is not adapter]
    for value in frozen:
        value.requires_grad_(False)
    try:
        assert list(linear_parameters(lm, None)) == ["model.layers.0.mlp.up_proj.weight"]
    finally:
        for value in frozen:
            value.requires_grad_(True)


def test_a_layer_whose_weight_is_used_elsewhere(tmp_path: Path) -> None:
    model = tiny("gpt2")
    with pytest.raises(UnsupportedMethod, match="leave it out"):
        build(model, tmp_path, layers=["lm_head"])


def test_nothing_of_the_callers_changes(lm: LanguageModel, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    lm.model.train()
    build(lm, tmp_path)
    InfluenceIndex(tmp_path).query(lm, "Tove", " paints")
    assert lm.model.training
    lm.model.eval()
    assert torch.get_rng_state().equal(before)
    assert all(value.grad is None for value in lm.model.parameters())


WORKER = """
import sys, torch
torch.set_num_threads(1)
from pathlib import Path
from tests.llm.test_influence import build
from tests.zoo import tiny
build(tiny("llama"), Path(sys.argv[1]), texts=[f"Text number {i} of many." for i in range(60)], layers=None)
"""


def worker(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder)], cwd=root, env=environment)


@pytest.mark.slow
def test_killed_ten_times_at_random_and_by_two_processes(tmp_path: Path) -> None:
    assert worker(tmp_path / "whole").wait() == 0
    whole, draws = contents(tmp_path / "whole"), np.random.default_rng(0)
    for _ in range(10):
        process, files = worker(tmp_path / "killed"), len(list((tmp_path / "killed").rglob("0*.*")))
        while process.poll() is None and len(list((tmp_path / "killed").rglob("0*.*"))) <= files:
            time.sleep(0.02)
        time.sleep(draws.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    pair = [worker(tmp_path / "killed") for _ in range(2)]
    assert [process.wait() for process in pair] == [0, 0]
    assert contents(tmp_path / "killed") == whole
