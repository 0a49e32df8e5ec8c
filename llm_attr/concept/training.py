"""Training CAVs from stored activations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from llm_attr.concept.activation_store import AV
from llm_attr.concept.cav import CAV
from llm_attr.concept.classifier import Classifier, DefaultClassifier
from llm_attr.concept.concept import Concept, concepts_to_str
from llm_attr.concept.data import LabelledDataset
from llm_attr.core.evaluator import Evaluator
from llm_attr.errors import ProcessLost

READ_BYTES = 1 << 28
"""Bytes of activations that are kept in memory between sets of concepts."""

Job: TypeAlias = tuple[str, list[Concept], list[str], Classifier, str, dict[str, Any]]
"""The arguments of `train_cav`."""


def train_cav(
    model_id: str,
    concepts: list[Concept],
    layers: str | list[str],
    classifier: Classifier,
    save_path: str,
    classifier_kwargs: dict[str, Any],
) -> dict[str, dict[str, CAV]]:
    """Trains a classifier on the stored activations of concepts at each layer, and stores its CAVs.

    Args:
        model_id: The name of the model.
        concepts: The concepts.
        layers: The name of a layer, or several.
        classifier: The classifier, trained anew for each layer.
        save_path: The folder of activations and CAVs.
        classifier_kwargs: Options of its `train_and_eval`.

    Returns:
        For the key of the concepts, see `concepts_to_str`, the CAV of each layer.

    Raises:
        Unavailable: there are no activations of a concept at a layer.
    """
    found = trained(
        (model_id, concepts, [layers] if isinstance(layers, str) else layers, classifier, save_path, classifier_kwargs)
    )
    for cav in found.values():
        cav.save()
    return {concepts_to_str(concepts): found}


def trained(job: Job, read: dict[tuple[str, str], list[Tensor]] | None = None) -> dict[str, CAV]:
    """As `train_cav`, without storing.

    Args:
        job: Its arguments.
        read: Activations that were read before, by concept and layer; grows up to a size.
    """
    model_id, concepts, layers, classifier, save_path, options = job
    read = {} if read is None else read
    cavs: dict[str, CAV] = {}
    for layer in layers:
        stored = [_read(read, save_path, model_id, concept.identifier, layer) for concept in concepts]
        data = LabelledDataset(stored, [concept.id for concept in concepts])
        stats = classifier.train_and_eval(_loader(data, classifier), **options) or {}
        kept = {"weights": classifier.weights(), "classes": classifier.classes(), **stats}
        cavs[layer] = CAV(concepts, layer, kept, save_path, model_id)
        cavs[layer].weights_of(concepts)
    return cavs


def train_all(jobs: Sequence[Job], processes: int | None) -> list[dict[str, CAV]]:
    """The CAVs of several sets of concepts, a `train_cav` for each, in this process or in several.

    Raises:
        ProcessLost: a process ended without an answer.
    """
    found: list[dict[str, CAV]] = []
    read: dict[tuple[str, str], list[Tensor]] = {}
    with Evaluator("TCAV training", len(jobs)) as run:
        if processes is None or processes < 2 or len(jobs) < 2:
            for job in jobs:
                run.check()
                found.append(trained(job, read))
                run.advance(1)
            return found
        with ProcessPoolExecutor(min(processes, len(jobs)), get_context("spawn")) as pool:
            try:
                for answer in pool.map(_trained_alone, [_without_data(job) for job in jobs]):
                    run.check()
                    found.append(answer)
                    run.advance(1)
            except BrokenProcessPool as error:
                raise ProcessLost(
                    "a process of processes=... ended at once; in a script, calls must stand under "
                    f'`if __name__ == "__main__":` ({error})'
                ) from None
    return found


def _read(read: dict[tuple[str, str], list[Tensor]], path: str, model_id: str, name: str, layer: str) -> Any:
    """The batches of a concept at a layer: in memory where they fit beside what was read before."""
    if (name, layer) in read:
        return read[name, layer]
    stored = AV.load(path, model_id, name, layer)
    held = sum(tensor.nbytes for tensors in read.values() for tensor in tensors)
    if held + sum(Path(file).stat().st_size for file in stored.files) > READ_BYTES:
        return stored
    read[name, layer] = [stored[number] for number in range(len(stored))]
    return read[name, layer]


def _trained_alone(job: Job) -> dict[str, CAV]:
    torch.set_num_threads(1)
    return trained(job)


def _without_data(job: Job) -> Job:
    """The job with concepts that have no data, which need not be picklable, and a seed drawn from Python's stream."""
    model_id, concepts, layers, classifier, save_path, options = job
    if isinstance(classifier, DefaultClassifier):
        options = {"seed": random.getrandbits(31), **options}
    bare = [Concept(each.id, each.name, None) for each in concepts]
    return model_id, bare, layers, classifier, save_path, options


def _loader(data: LabelledDataset, classifier: Classifier) -> Any:
    """The stored batches; a classifier of one's own gets them through a DataLoader."""
    if isinstance(classifier, DefaultClassifier):
        return [_flat(data[number]) for number in range(len(data))]
    return DataLoader(data, batch_size=1, collate_fn=_first, generator=torch.Generator())


def _first(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return _flat(items[0])


def _flat(item: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return item[0].flatten(1), item[1]
