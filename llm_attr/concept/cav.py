"""Concept activation vectors."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llm_attr.concept.concept import Concept, concepts_to_str
from llm_attr.errors import BrokenFile, InvalidType


class CAV:
    """The directions that separate concepts from each other in the activations of a layer.

    Stored as safetensors: the tensors of `stats`, and all else as JSON in the file's metadata.

    Args:
        concepts: The concepts.
        layer: The name of the layer.
        stats: `weights` `(concepts, features)`, `classes` (the ids of the concepts in the order of the rows), and what
            the classifier tells besides, such as `accs`.
        save_path: The folder of all CAVs.
        model_id: A name for the model, of which one folder may hold several.

    Example:
        >>> import torch
        >>> from tempfile import TemporaryDirectory
        >>> from llm_attr.concept import CAV, Concept
        >>> concepts = [Concept(0, "striped", None), Concept(1, "random", None)]
        >>> with TemporaryDirectory() as folder:
        ...     CAV(concepts, "conv1", {"weights": torch.eye(2), "classes": [0, 1]}, folder).save()
        ...     CAV.load(folder, "default_model_id", concepts, "conv1").stats["classes"]
        [0, 1]
    """

    def __init__(
        self,
        concepts: list[Concept],
        layer: str,
        stats: dict[str, Any] | None = None,
        save_path: str = "./cav/",
        model_id: str = "default_model_id",
    ) -> None:
        self.concepts, self.layer, self.stats = concepts, layer, stats
        self.save_path, self.model_id = save_path, model_id
        self.fingerprint = ""

    @staticmethod
    def assemble_save_path(path: str, model_id: str, concepts: list[Concept], layer: str) -> str:
        """The name of the file: `<path>/<model_id>/<ids joined by "-">-<layer>.safetensors`.

        Args:
            path: The folder of all CAVs.
            model_id: The name of the model.
            concepts: The concepts.
            layer: The name of the layer.
        """
        return str(Path(path) / model_id / f"{concepts_to_str(concepts)}-{layer}.safetensors")

    def save(self) -> None:
        """Writes the file; the old one stays until the new one is complete.

        Raises:
            InvalidType: `stats` has something that JSON cannot hold.
        """
        stats = self.stats or {}
        tensors = {
            name: value.detach().cpu().contiguous() for name, value in stats.items() if isinstance(value, Tensor)
        }
        rest = {name: value for name, value in stats.items() if not isinstance(value, Tensor)}
        record = {
            "concept_ids": [concept.id for concept in self.concepts],
            "concept_names": [concept.name for concept in self.concepts],
            "layer": self.layer,
            "stats": None if self.stats is None else rest,
            "fingerprint": self.fingerprint,
        }
        try:
            text = json.dumps(record)
        except (TypeError, ValueError) as error:
            raise InvalidType(
                f"the statistics of a CAV must be tensors, numbers, texts and lists of them: {error}"
            ) from None
        self.create_cav_dir_if_missing(self.save_path, self.model_id)
        file = self.assemble_save_path(self.save_path, self.model_id, self.concepts, self.layer)
        partial = f"{file}.{os.getpid()}.partial"
        save_file(tensors, partial, metadata={"cav": text})
        Path(partial).replace(file)

    @staticmethod
    def create_cav_dir_if_missing(save_path: str, model_id: str) -> None:
        """Makes the folder of a model's CAVs.

        Args:
            save_path: The folder of all CAVs.
            model_id: The name of the model.
        """
        (Path(save_path) / model_id).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def load(cavs_path: str, model_id: str, concepts: list[Concept], layer: str) -> CAV | None:
        """The stored CAV of these concepts; None if there is none.

        Args:
            cavs_path: The folder of all CAVs.
            model_id: The name of the model.
            concepts: The concepts, in their order.
            layer: The name of the layer.

        Raises:
            BrokenFile: the file is damaged.
        """
        file = CAV.assemble_save_path(cavs_path, model_id, concepts, layer)
        if not Path(file).exists():
            return None
        try:
            with safe_open(file, "pt") as content:
                record = json.loads((content.metadata() or {})["cav"])
                tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as error:
            raise BrokenFile(f"{file} holds no CAV: {error}") from None
        if (record["concept_ids"], record["layer"]) != ([concept.id for concept in concepts], layer):
            return None
        stats = None if record["stats"] is None else {**tensors, **record["stats"]}
        cav = CAV(concepts, layer, stats, cavs_path, model_id)
        cav.fingerprint = record["fingerprint"]
        return cav

    @staticmethod
    def load_pkl(file: str | Path, concepts: Sequence[Concept] | None = None) -> CAV:
        """A CAV that Captum stored as `.pkl`; only tensors and plain values are unpickled, no code is run.

        Args:
            file: The file.
            concepts: Its concepts; None: concepts without data, of the stored ids and names.

        Raises:
            BrokenFile: the file is damaged, or holds something else.

        Example:
            >>> from llm_attr.concept import CAV
            >>> CAV.load_pkl("cav/default_model_id/0-1-conv1.pkl")  # doctest: +SKIP
        """
        try:
            with torch.serialization.safe_globals(_numpy_types()):
                record = torch.load(file, map_location="cpu", weights_only=True)
        except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
            raise BrokenFile(f"{file} holds no CAV of Captum: {error}") from None
        names = {"concept_ids", "concept_names", "layer", "stats"}
        if not isinstance(record, Mapping) or not names <= record.keys():
            raise BrokenFile(f"{file} holds no CAV of Captum: it lacks one of {', '.join(sorted(names))}")
        pairs = zip(record["concept_ids"], record["concept_names"], strict=True)
        own = [Concept(id, name, None) for id, name in pairs] if concepts is None else list(concepts)
        if [concept.id for concept in own] != list(record["concept_ids"]):
            raise BrokenFile(f"{file} is the CAV of the ids {record['concept_ids']}; given {own}")
        stats = record["stats"] and {**record["stats"]}
        if stats and "classes" in stats:
            stats["classes"] = [int(each) for each in stats["classes"]]
        return CAV(own, record["layer"], stats, str(Path(file).parent.parent), Path(file).parent.name)

    def weights_of(self, concepts: Sequence[Concept]) -> Tensor:
        """`(concepts, features)`: the rows of the weights in the order of these concepts.

        Args:
            concepts: The concepts.

        Raises:
            InvalidType: the classifier gave no weights, or not a row for each concept.
        """
        stats = self.stats or {}
        weights, classes = stats.get("weights"), [int(each) for each in stats.get("classes", [])]
        if not isinstance(weights, Tensor) or weights.dim() < 2 or len(weights) != len(classes):
            shape = tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__
            raise InvalidType(
                f"weights() of a classifier must be a tensor (classes, features), a row for each of classes(); got "
                f"{shape} and the classes {classes}"
            )
        if missing := [concept for concept in concepts if concept.id not in classes]:
            raise InvalidType(f"classes() of a classifier must name the ids of all concepts; {classes} lacks {missing}")
        return weights.flatten(1)[[classes.index(concept.id) for concept in concepts]]


def _numpy_types() -> list[Any]:
    """What numpy's whole numbers and arrays of them are pickled as: Captum's classes are such."""
    kinds = [type(np.dtype(name)) for name in ("int32", "int64", "float32", "float64")]
    return [np.ndarray, np.dtype, *kinds, np.zeros(1).__reduce__()[0], np.int64(0).__reduce__()[0]]
