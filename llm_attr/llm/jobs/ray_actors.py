"""The launcher for a cluster with Ray Data: actors with a model each, fed with blocks of row numbers."""

from __future__ import annotations

import json
from typing import Any

from llm_attr.errors import InvalidValue, MissingExtra, OtherRun
from llm_attr.llm.jobs.job import Job, Report, Share, failures
from llm_attr.llm.jobs.model_source import common_provenance, hashes_of
from llm_attr.llm.jobs.row_function import RowFunction, check_arguments
from llm_attr.llm.jobs.rows.source import Cursor
from llm_attr.llm.jobs.storage.manifest import Manifest
from llm_attr.llm.jobs.storage.record import PROVENANCE, table_of, without_common
from llm_attr.llm.jobs.storage.shards import Index

MODEL = "attr_model"
"""The column in which an actor says which model it has."""


class RowActor:
    """Explains blocks of rows with a model of its own; the class that `map_batches` starts."""

    def __init__(self, job: Job) -> None:
        language_model = job.model.load()
        check_arguments(language_model, job.arguments)
        self._common, self._hashes = common_provenance(language_model), hashes_of(language_model)
        self._function = RowFunction(language_model, job.prompts, job.arguments, {})
        self._cursor, self._schema = Cursor(job.source), job.schema

    def __call__(self, batch: Any) -> Any:
        """The records of the rows whose numbers are in the batch, as an arrow table."""
        import pyarrow as pa

        numbers = [number for block in batch["numbers"].to_pylist() for number in json.loads(block)]
        table = table_of(self._function(self._cursor.take(numbers)), self._schema)
        about = json.dumps({"hashes": self._hashes, "common": self._common})
        return table.append_column(MODEL, pa.array([about] * len(table), pa.string()))


def run_ray(job: Job, share: Share, actors: int, report: Report) -> None:
    """Explains a share of the rows in Ray's actors; this process writes the shards.

    Connects to the running cluster that `RAY_ADDRESS` names or `ray.init` has connected to, else starts one here.

    Args:
        job: The job.
        share: The share.
        actors: How many actors.
        report: Told of every batch.

    Raises:
        MissingExtra: Ray is not installed.
        InvalidValue: the number of rows is unknown.
        OtherRun: an actor has other weights than the first, or the folder holds a run that asks something else.
    """
    try:
        import ray.data
    except ImportError as error:
        raise MissingExtra("ray[data]", "ray") from error
    if job.total is None:
        raise InvalidValue("launcher='ray' needs to know how many rows there are: pass a file, a list or a Dataset")
    busy = f"another process is at work on this share of {job.folder}; wait for it, or stop it"
    with job.folder.locked(f"{share}", busy):
        job.folder.sweep(f"{share}")
        found = Manifest.read(job.folder)
        index = None if found is None else Index.of((job.folder, found))
        open_blocks = [numbers for numbers in _blocks(job, share, index) if numbers]
        if not open_blocks:
            return
        sent = ray.data.from_items([{"numbers": json.dumps(numbers)} for numbers in open_blocks])
        pool = ray.data.ActorPoolStrategy(size=actors)
        gpus = {"num_gpus": 1} if ray.cluster_resources().get("GPU") else {}
        explained = sent.map_batches(
            RowActor, fn_constructor_args=(job,), batch_size=1, batch_format="pyarrow", compute=pool, **gpus
        )
        _written(job, share, explained, report)


def _blocks(job: Job, share: Share, index: Index | None) -> Any:
    if index is None:
        import numpy as np

        empty = np.zeros(0, np.int64)
        index = Index([], empty, empty, empty, empty.astype(bool))
    return job.rows_of(share, index)


def _written(job: Job, share: Share, explained: Any, report: Report) -> None:
    """Writes tables as they come from the actors."""
    writer: Any = None
    hashes: Any = None
    manifest: Any = None
    try:
        for table in explained.iter_batches(batch_size=None, batch_format="pyarrow"):
            for about in table[MODEL].unique().to_pylist():
                model = json.loads(about)
                if writer is None:
                    hashes, manifest = model["hashes"], job.manifest(model["hashes"], model["common"])
                    writer = job.writer(manifest, share)
                elif model["hashes"] != hashes:
                    raise OtherRun("two of Ray's actors have loaded different weights; pin the revision of the model")
            records = table.drop_columns([MODEL]).to_pylist()
            for record in records:
                record[PROVENANCE] = without_common(record[PROVENANCE], manifest.common)
            writer.add(records)
            report(len(records), failures(records))
    finally:
        if writer is not None:
            writer.flush()
