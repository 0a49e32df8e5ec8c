"""Activations on disk: safetensors and a manifest."""

from __future__ import annotations

import glob
import json
from collections.abc import Generator, Iterable, Mapping, Sized
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from llm_attr.core.concepts.activations import activations, fingerprint, sites_of
from llm_attr.core.evaluator import Evaluator
from llm_attr.core.random_state import streams_kept
from llm_attr.core.site import Site
from llm_attr.core.tensors import leaves
from llm_attr.errors import BrokenFile, InvalidShape, InvalidType, InvalidValue, Unavailable

_MANIFEST = "manifest.json"


class AV:
    """Activations of layers, kept on disk: a file for each batch, and a manifest for each layer.

    `<path>/av/<model_id>/<identifier>/<layer>/<number>.safetensors`

    Example:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> from llm_attr.concept import AV
        >>> with TemporaryDirectory() as folder:
        ...     AV.save(folder, "net", "striped", "conv1", torch.ones(2, 3), "0")
        ...     AV.load(folder, "net", "striped", "conv1")[0].shape
        torch.Size([2, 3])
    """

    AV_DIR_NAME = "av"

    class AVDataset(Dataset):
        """The stored batches, in the order of their numbers.

        Args:
            path: The folder of all activations.
            model_id: The name of the model.
            identifier: The name of the data; None: all.
            layer: The name of the layer; None: all.
            num_id: The number of a batch; None: all.

        Raises:
            Unavailable: there are no such activations.
        """

        def __init__(
            self,
            path: str,
            model_id: str,
            identifier: str | None = None,
            layer: str | None = None,
            num_id: str | None = None,
        ) -> None:
            self.files = AV.sort_files(_found(path, model_id, identifier, layer, num_id))
            if not self.files:
                raise Unavailable(
                    f"no activations of model {model_id!r}, identifier {identifier!r} and layer {layer!r} are in {path}"
                )

        def __getitem__(self, idx: int) -> Tensor:
            if not 0 <= idx < len(self.files):
                raise IndexError(f"there are {len(self.files)} batches; got {idx}")
            try:
                return load_file(self.files[idx])["activations"]
            except (SafetensorError, KeyError) as error:
                raise BrokenFile(f"{self.files[idx]} holds no activations: {error}") from None

        def __len__(self) -> int:
            return len(self.files)

    @staticmethod
    def exists(
        path: str, model_id: str, identifier: str | None = None, layer: str | None = None, num_id: str | None = None
    ) -> bool:
        """Whether there are such activations.

        Args:
            path: The folder of all activations.
            model_id: The name of the model.
            identifier: The name of the data; None: any.
            layer: The name of the layer; None: any.
            num_id: The number of a batch; None: any.
        """
        return bool(_found(path, model_id, identifier, layer, num_id))

    @staticmethod
    def save(
        path: str,
        model_id: str,
        identifier: str,
        layers: str | list[str],
        act_tensors: Tensor | list[Tensor],
        num_id: str,
    ) -> None:
        """Stores a batch of activations.

        Args:
            path: The folder of all activations.
            model_id: The name of the model.
            identifier: The name of the data.
            layers: The name of the layer, or several.
            act_tensors: `(examples, *features)` for each layer.
            num_id: The number of the batch.

        Raises:
            InvalidShape: there are not as many tensors as layers.
        """
        names = [layers] if isinstance(layers, str) else list(layers)
        tensors = [act_tensors] if isinstance(act_tensors, Tensor) else list(act_tensors)
        if len(names) != len(tensors):
            raise InvalidShape(f"act_tensors must be one for each of the {len(names)} layers; got {len(tensors)}")
        for layer, tensor in zip(names, tensors, strict=True):
            folder = _folder(path, model_id, identifier, layer)
            folder.mkdir(parents=True, exist_ok=True)
            save_file({"activations": tensor.detach().cpu().contiguous()}, folder / f"{num_id}.safetensors")

    @staticmethod
    def load(
        path: str, model_id: str, identifier: str | None = None, layer: str | None = None, num_id: str | None = None
    ) -> AV.AVDataset:
        """The stored batches; files are read when a batch is asked for.

        Args:
            path: The folder of all activations.
            model_id: The name of the model.
            identifier: The name of the data; None: all.
            layer: The name of the layer; None: all.
            num_id: The number of a batch; None: all.

        Raises:
            Unavailable: there are no such activations.
        """
        return AV.AVDataset(path, model_id, identifier, layer, num_id)

    @staticmethod
    def generate_dataset_activations(
        path: str,
        model: nn.Module,
        model_id: str,
        layers: str | list[str],
        dataloader: Iterable[Any],
        identifier: str = "default",
        load_from_disk: bool = True,
        return_activations: bool = False,
    ) -> AV.AVDataset | list[AV.AVDataset] | None:
        """Stores the activations of several layers for all batches, each from one forward pass.

        Args:
            path: The folder of all activations.
            model: The model.
            model_id: A name for it.
            layers: The name of a layer, or several.
            dataloader: Batches, see `Concept`.
            identifier: A name for the data.
            load_from_disk: Whether stored activations may stay, if they are of the same weights and data.
            return_activations: Whether to return them.

        Returns:
            The batches of the layer, or a list of them for several.

        Raises:
            UnknownName: the model has no such layer.
            InvalidValue: there are no examples.
        """
        names = [layers] if isinstance(layers, str) else list(layers)
        wanted = data_fingerprint(dataloader, fingerprint(model.state_dict().values()))
        store_activations(path, model_id, identifier, model, sites_of(model, names), dataloader, wanted, load_from_disk)
        if not return_activations:
            return None
        found = [AV.load(path, model_id, identifier, layer) for layer in names]
        return found[0] if isinstance(layers, str) else found

    @staticmethod
    def sort_files(files: list[str]) -> list[str]:
        """Names of files in the order of their numbers.

        Args:
            files: Their names.
        """

        def key(name: str) -> tuple[int, str]:
            stem = Path(name).stem
            return (int(stem), "") if stem.isdigit() else (1 << 62, stem)

        return sorted(files, key=key)


def store_activations(
    path: str,
    model_id: str,
    identifier: str,
    model: nn.Module,
    sites: Mapping[str, Site],
    data: Iterable[Any],
    wanted: str,
    from_disk: bool = True,
) -> None:
    """Stores what is missing of the activations at some sites, all from the same forward passes.

    Raises:
        InvalidValue: there are no examples.
    """
    folders = {layer: _folder(path, model_id, identifier, layer) for layer in sites}
    missing = {layer: site for layer, site in sites.items() if not (from_disk and _is_kept(folders[layer], wanted))}
    if not missing:
        return
    for layer in missing:
        for file in [folders[layer] / _MANIFEST, *folders[layer].glob("*.safetensors")]:
            file.unlink(missing_ok=True)
    number = 0
    with Evaluator("TCAV activations", _size(data)) as run, closing(batches(data)) as read:
        for inputs in read:
            found = activations(model, missing, inputs, (), run)
            AV.save(path, model_id, identifier, list(found), list(found.values()), str(number))
            number += 1
    if not number:
        raise InvalidValue(f"{identifier!r} has no examples")
    for layer in missing:
        manifest = {"fingerprint": wanted, "files": number}
        (folders[layer] / _MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")


def batches(data: Iterable[Any]) -> Generator[tuple[Any, ...], None, None]:
    """The model's inputs of each batch, without labels; torch's global streams stay where they are.

    Raises:
        InvalidType: a batch is no tensor, and no pair of inputs and labels.
    """
    with streams_kept():
        for items in data:
            inputs = items[0] if isinstance(items, tuple | list) and len(items) in (1, 2) else items
            inputs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
            if not leaves(inputs) or (isinstance(items, tuple | list) and len(items) > 2):
                raise InvalidType(
                    "data_iter must give tensors, or pairs (inputs, labels) in which inputs may be a tuple of tensors; "
                    f"got {type(items).__name__}" + (f" of {len(items)}" if isinstance(items, tuple | list) else "")
                )
            yield inputs


def data_fingerprint(data: Iterable[Any] | None, *more: object) -> str:
    """A hash of the number of batches and of the first of them, where its order is fixed."""
    first: list[Any] = []
    sampler = getattr(data, "sampler", None)
    if data is not None and (sampler is None or isinstance(sampler, torch.utils.data.SequentialSampler)):
        with closing(batches(data)) as read:
            first = leaves(next(read, ()))
    return fingerprint(first, None if data is None else _size(data), *more)


def _size(data: Iterable[Any]) -> int:
    """How many examples the data has, or batches; 0 if it does not say."""
    for source in (getattr(data, "dataset", None), data):
        if isinstance(source, Sized):
            return len(source)
    return 0


def _folder(path: str, model_id: str, identifier: str, layer: str) -> Path:
    return Path(path) / AV.AV_DIR_NAME / model_id / quote(identifier, safe=" ") / layer


def _is_kept(folder: Path, wanted: str) -> bool:
    """Whether a folder has all files of these activations."""
    try:
        kept = json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
        return kept["fingerprint"] == wanted and len(list(folder.glob("*.safetensors"))) == kept["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _found(path: str, model_id: str, identifier: str | None, layer: str | None, num_id: str | None) -> list[str]:
    parts = [None if identifier is None else quote(identifier, safe=" "), layer, num_id and f"{num_id}.safetensors"]
    pattern = [glob.escape(str(Path(path) / AV.AV_DIR_NAME / model_id))]
    pattern += [
        glob.escape(part) if part else default for part, default in zip(parts, ("*", "*", "*.safetensors"), strict=True)
    ]
    return glob.glob("/".join(pattern))  # noqa: PTH207 - folders are literal, names are patterns
