"""An index on disk of the gradients of training texts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import BrokenFile, InvalidValue, NewerFile, positive
from llm_attr.llm.influence.examples import TextExample, TokenLoss, as_examples, batch_of, encoded, fingerprint
from llm_attr.llm.influence.layers import LayerGradients, Sides, linear_parameters
from llm_attr.llm.model.fingerprint import weights_hash
from llm_attr.llm.model.language_model import LanguageModel

SCHEMA = 1
WAIT = 0.05
"""Seconds between looks at what other processes have done."""

STAGES = ("covariance", "spectrum", "gradients")


@dataclass(frozen=True)
class Settings:
    """What an index is made of and for.

    Attributes:
        weights: The fingerprint of the model's weights.
        data: The fingerprint of the texts.
        layers: The names of the linear layers.
        projection_dim: The most dimensions on each side of a layer's gradient; None: all.
        batch_size: Texts in a pass.
        shard_size: Texts in a file.
        seed: The seed of projections and drawn labels.
        count: The number of texts.
        schema: The version of the form of the files.
    """

    weights: str
    data: str
    layers: list[str]
    projection_dim: int | None
    batch_size: int
    shard_size: int
    seed: int
    count: int
    schema: int = SCHEMA

    @property
    def shards(self) -> int:
        """The number of files of each stage."""
        return -(-self.count // self.shard_size)

    def rows(self, shard: int) -> range:
        """The texts of a file."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.count))


def build_index(
    lm: LanguageModel,
    examples: Iterable[Any],
    folder: str | Path,
    *,
    layers: Iterable[str] | None = None,
    projection_dim: int | None = 16,
    batch_size: int = 8,
    shard_size: int = 64,
    seed: int = 0,
    show_progress: bool = False,
) -> Path:
    """Writes the gradients of training texts into a folder, in EK-FAC's basis.

    Each layer's curvature is approximated by `Q (diagonal) Q^T`, where Q is the product of the eigenvectors of the
    covariances of what the layer receives and of the gradients at what it returns; the diagonal holds mean squares of
    gradients in that basis. Labels for both are drawn from the model's predictions. The gradients of the texts are
    stored in that basis, after a random projection of both sides to `projection_dim` dimensions.

    Several processes may build one folder together, and a build that was stopped goes on where it was: the files are
    the same in the end. A file is either whole or absent.

    Args:
        lm: The model, with an adapter or without.
        examples: The training texts: strings, pairs (text, answer) whose answers count, or mappings of these.
        folder: Where the index is written.
        layers: Names of modules, with wildcards, whose linear layers count; None: what requires gradients where
            something else does not (an adapter), else all linear layers but the output.
        projection_dim: The most dimensions on each side of a layer's gradient; None: no projection.
        batch_size: Texts in a pass.
        shard_size: Texts in a file.
        seed: The seed of projections and drawn labels; torch's random state stays as it is.
        show_progress: Whether to show a progress bar.

    Returns:
        The folder.

    Raises:
        InvalidValue: the folder holds an index of another model, other texts or other settings, or no layer is meant.
        InvalidType: an example has another form.

    Source: R. Grosse et al., Studying Large Language Model Generalization with Influence Functions, 2023, section 2.2;
    S. K. Choe et al., What is Your Data Worth to GPT?, 2024, section 3 (the projection).

    Example:
        >>> from llm_attr.llm.influence.index import build_index
        >>> build_index(lm, ["Aksel repairs violins.", "Tove paints."], "index")  # doctest: +SKIP
    """
    texts, parameters = as_examples(examples), linear_parameters(lm, layers)
    gradients = LayerGradients(lm, parameters)
    most = None if projection_dim is None else positive("projection_dim", projection_dim)
    settings = Settings(
        weights_hash(lm.model),
        fingerprint(texts),
        gradients.names,
        most,
        positive("batch_size", batch_size),
        positive("shard_size", shard_size),
        seed,
        len(texts),
    )
    path = Path(folder)
    _begin(path, settings, texts)
    with lm.evaluating(), Evaluator("influence index", 3 * len(texts), show_progress=show_progress) as evaluator:
        _Builder(lm, texts, path, settings, gradients, evaluator).build()
        evaluator.finish()
    return path


class _Builder:
    """One process that builds an index, perhaps beside others."""

    def __init__(
        self,
        lm: LanguageModel,
        texts: Sequence[TextExample],
        folder: Path,
        settings: Settings,
        gradients: LayerGradients,
        evaluator: Evaluator,
    ) -> None:
        self._lm, self._texts, self._folder, self._settings = lm, texts, folder, settings
        self._gradients, self._evaluator = gradients, evaluator
        most, seed = settings.projection_dim, settings.seed
        drawn = {name: Sides.drawn(name, *size, most, seed) for name, size in gradients.sizes().items()}
        self._sides = self._placed(drawn)
        self._is_checked = False

    def build(self) -> None:
        """All stages; each needs the files of the one before."""
        self._stage("covariance", self._covariances)
        basis = self._once("basis.safetensors", self._basis)
        self._sides = self._placed(sides_of(basis, self._gradients.names))
        self._stage("spectrum", self._spectrum)
        self._once("spectrum.safetensors", self._mean_spectrum)
        self._stage("gradients", self._stored)

    def _placed(self, sides: dict[str, Sides]) -> dict[str, Sides]:
        return {name: each.on(self._lm.device) for name, each in sides.items()}

    def _stage(self, stage: str, compute: Callable[[int], Any]) -> None:
        """Computes what no process has done yet, and waits for the others."""
        ending = "npy" if stage == "gradients" else "safetensors"
        files = [self._folder / stage / f"{shard:05}.{ending}" for shard in range(self._settings.shards)]
        while waiting := [shard for shard, file in enumerate(files) if not file.exists()]:
            worked = [self._claimed(files[shard], lambda shard=shard: compute(shard)) for shard in waiting]  # type: ignore[misc]
            self._evaluator.check()
            if not any(worked):
                time.sleep(WAIT)

    def _once(self, name: str, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        file = self._folder / name
        while not file.exists():
            if not self._claimed(file, compute):
                time.sleep(WAIT)
        return load_file(file)

    def _claimed(self, file: Path, compute: Callable[[], Any]) -> bool:
        """Whether this process wrote the file: a lock, which ends with its process, says who works on it."""
        lock = FileLock(self._folder / "locks" / f"{file.parent.name}-{file.name}.lock")
        try:
            with lock.acquire(timeout=0):
                if not file.exists():
                    for part in file.parent.glob(f".{file.name}.*"):
                        part.unlink()  # of a process that was killed
                    _write(file, compute())
                    return True
        except Timeout:
            pass
        return False

    def _factors(self, shard: int, drawn: bool) -> Iterable[tuple[int, dict[str, tuple[Tensor, Tensor]]]]:
        """For each batch of a shard its size, and each layer's two sides of the gradients."""
        rows = [encoded(self._lm, self._texts[i]) for i in self._settings.rows(shard)]
        seed = self._settings.seed * 1_000_003 + shard
        draws = torch.Generator().manual_seed(seed) if drawn else None
        for start in range(0, len(rows), self._settings.batch_size):
            self._evaluator.check()
            batch = batch_of(self._lm, rows[start : start + self._settings.batch_size])
            if not self._is_checked:  # with the labels of the data, which are the same for an example alone
                self._gradients.of(batch, TokenLoss(self._lm))
                self._is_checked = True
            blocks = self._gradients.of(batch, TokenLoss(self._lm, draws))
            yield batch.count, {name: self._sides[name].applied(blocks[name]) for name in self._gradients.names}
            self._evaluator.advance(batch.count)

    def _covariances(self, shard: int) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for _, sides in self._factors(shard, drawn=True):
            for name, (g, a) in sides.items():
                for side, values in (("left", g), ("right", a)):
                    flat = values.flatten(0, 1)
                    key, product = f"{name}.{side}", (flat.T @ flat).cpu()
                    total[key] = total[key] + product if key in total else product
        return total

    def _basis(self) -> dict[str, Tensor]:
        sums = _summed(self._folder / "covariance", self._settings.shards)
        found: dict[str, Tensor] = {}
        for name, sides in self._sides.items():
            turned = sides.on(torch.device("cpu")).turned((sums[f"{name}.left"], sums[f"{name}.right"]))
            found |= {f"{name}.left": turned.left.contiguous(), f"{name}.right": turned.right.contiguous()}
        return found

    def _spectrum(self, shard: int) -> dict[str, Tensor]:
        total: dict[str, Tensor] = {}
        for _, sides in self._factors(shard, drawn=True):
            for name, (g, a) in sides.items():
                squares = (g.transpose(1, 2) @ a).square().sum(0).cpu()
                total[name] = total[name] + squares if name in total else squares
        return total

    def _mean_spectrum(self) -> dict[str, Tensor]:
        sums = _summed(self._folder / "spectrum", self._settings.shards)
        return {name: value / self._settings.count for name, value in sums.items()}

    def _stored(self, shard: int) -> np.ndarray:
        rows = [vectors(sides) for _, sides in self._factors(shard, drawn=False)]
        return torch.cat(rows).cpu().float().numpy()


def vectors(sides: dict[str, tuple[Tensor, Tensor]]) -> Tensor:
    """`(examples, entries)`: the gradients of all layers, written out."""
    return torch.cat([(g.transpose(1, 2) @ a).flatten(1) for g, a in sides.values()], 1)


def sides_of(basis: dict[str, Tensor], names: Sequence[str]) -> dict[str, Sides]:
    """The two sides of each layer, from the file of the basis."""
    return {name: Sides(basis[f"{name}.left"], basis[f"{name}.right"]) for name in names}


def _summed(folder: Path, shards: int) -> dict[str, Tensor]:
    """The sum of the files of a stage, in their order."""
    total = load_file(folder / "00000.safetensors")
    for shard in range(1, shards):
        total = {name: total[name] + value for name, value in load_file(folder / f"{shard:05}.safetensors").items()}
    return total


def _write(file: Path, content: Any) -> None:
    """Writes a file that is whole or absent."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    if isinstance(content, np.ndarray):
        with part.open("wb") as stream:
            np.save(stream, content)
    elif isinstance(content, str):
        part.write_text(content, encoding="utf-8")
    else:
        save_file(content, part)
    part.replace(file)


def _begin(folder: Path, settings: Settings, texts: Sequence[TextExample]) -> None:
    """Makes the folder, or checks that it holds the same index."""
    for name in ("locks", *STAGES):
        (folder / name).mkdir(parents=True, exist_ok=True)
    manifest = folder / "manifest.json"
    with FileLock(folder / "locks" / "manifest.lock"):
        if not manifest.exists():
            lines = "".join(json.dumps(asdict(text), ensure_ascii=False) + "\n" for text in texts)
            _write(folder / "texts.jsonl", lines)
            _write(manifest, json.dumps(asdict(settings), indent=1))
            return
    there = asdict(read_settings(folder))
    wrong = [name for name, value in asdict(settings).items() if there[name] != value]
    if wrong:
        raise InvalidValue(
            f"{folder} holds an index with other {', '.join(wrong)}; choose another folder, or delete this one"
        )


def read_settings(folder: Path) -> Settings:
    """The settings of the index in a folder.

    Raises:
        BrokenFile: there is no index, or its manifest is damaged.
        NewerFile: a newer version of llm_attr wrote it.
    """
    try:
        values = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if values["schema"] > SCHEMA:
            raise NewerFile(f"the index in {folder} has schema {values['schema']}; this version reads up to {SCHEMA}")
        return Settings(**values)
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, NewerFile):
            raise
        raise BrokenFile(f"{folder} holds no influence index, or a damaged one: {error}") from error
