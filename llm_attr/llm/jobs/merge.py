"""Merging the parts of a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llm_attr.errors import InvalidValue, OtherRun, positive
from llm_attr.llm.jobs.arrow import arrow
from llm_attr.llm.jobs.dataset_run import DatasetRun
from llm_attr.llm.jobs.storage.folder import Folder, checked_path
from llm_attr.llm.jobs.storage.manifest import Manifest, differences
from llm_attr.llm.jobs.storage.record import PROVENANCE, ROW, without_common
from llm_attr.llm.jobs.storage.shards import KEY, Index, bytes_of, footer, shard_name

SHARE = "merged"
"""What the names of merged shards have in place of a share."""


def merge(runs: Sequence[str | Path], out: str | Path, *, rows_per_shard: int = 4096) -> DatasetRun:
    """Writes the rows of runs to a new folder: in their order, each once, in few shards.

    Of a row that several runs have, one that was explained counts. The runs are left as they are.

    Args:
        runs: Folders of parts of the same run: shares of it, or only one to be compacted.
        out: The new folder.
        rows_per_shard: How many rows a shard has at most.

    Raises:
        OtherRun: the runs ask different things.
        InvalidValue: `out` holds something already, or no runs are given.
        NotStored: the results could not be written.
    """
    positive("rows_per_shard", rows_per_shard)
    folders = [Folder(checked_path(path)) for path in runs]
    manifests = [DatasetRun(path).manifest for path in runs]
    target = Folder(checked_path(out))
    if not folders:
        raise InvalidValue("merge needs at least one run")
    if target.names():
        raise InvalidValue(f"{out} is not empty; merge into a new folder")
    for folder, manifest in zip(folders[1:], manifests[1:], strict=True):
        if differing := differences(manifests[0].asked, manifest.asked):
            raise OtherRun(f"{folder} and {folders[0]} are not parts of one run: {'; '.join(differing)}")
        if manifest.carried != manifests[0].carried:
            raise OtherRun(f"{folder} and {folders[0]} carry along other columns, or columns of other types")
    target.make()
    _write(folders, manifests, target, rows_per_shard)
    return DatasetRun(out)


def _write(folders: Sequence[Folder], manifests: Sequence[Manifest], target: Folder, rows_per_shard: int) -> None:
    first, start = manifests[0].began(target), 0
    index = Index.of(*zip(folders, manifests, strict=True))
    run_of_shard = np.array([folders.index(shard.folder) for shard in index.shards], int)
    for table in index.tables(size=rows_per_shard):
        runs = run_of_shard[index.shard[start : start + len(table)]]
        start += len(table)
        if any(manifest.common != first.common for manifest in manifests):
            table = _with_provenance(table, [manifests[run].common for run in runs], first)
        table = table.replace_schema_metadata({KEY: footer(first).encode()})
        numbers = table[ROW].to_pylist()
        target.write(shard_name(numbers, SHARE), bytes_of(table), f"rows {numbers[0]} to {numbers[-1]}")


def _with_provenance(table: Any, commons: Sequence[dict[str, Any]], first: Manifest) -> Any:
    """The rows of runs that were made with other versions, with what of that differs beside each."""
    texts = [
        None if text is None else without_common(json.dumps(common | json.loads(text)), first.common)
        for text, common in zip(table[PROVENANCE].to_pylist(), commons, strict=True)
    ]
    place = table.schema.get_field_index(PROVENANCE)
    return table.set_column(place, table.schema.field(place), arrow().array(texts, arrow().string()))
