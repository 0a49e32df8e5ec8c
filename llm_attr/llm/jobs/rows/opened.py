"""What a caller passes as a data set, opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llm_attr.errors import InvalidType, InvalidValue, MissingExtra
from llm_attr.llm.jobs.arrow import EXTRA
from llm_attr.llm.jobs.rows.files import FileRows
from llm_attr.llm.jobs.rows.source import DatasetRows, IteratorRows, ListRows, RowSource, StreamRows


def source_of(dataset: Any, split: str = "train", config: str | None = None) -> RowSource:
    """The rows of what a caller passes as a data set.

    Args:
        dataset: Dicts in a list, a `datasets.Dataset` or `IterableDataset`, an iterator, files, or a name on the hub.
        split: The split of a data set on the hub.
        config: Its configuration.

    Raises:
        InvalidType: it is something else.
        InvalidValue: there are no such files, or no such data set on the hub.
        MissingExtra: a package that reads it is not installed.
    """
    if isinstance(dataset, RowSource):
        return dataset
    if hasattr(dataset, "__fspath__") or isinstance(dataset, str):
        return FileRows.of(str(dataset)) or _from_hub(str(dataset), split, config)
    if isinstance(dataset, Mapping) and not hasattr(dataset, "column_names"):
        raise InvalidType("dataset must be rows, not one dict; pass a list of dicts")
    if hasattr(dataset, "keys") and hasattr(dataset, "column_names"):
        raise InvalidType(f"dataset has the splits {', '.join(dataset)}; pass one of them, such as dataset['train']")
    if hasattr(dataset, "with_format") and hasattr(dataset, "__len__"):
        return DatasetRows(dataset, "a data set")
    if isinstance(dataset, Sequence) and not isinstance(dataset, bytes):
        return ListRows(dataset)
    if isinstance(dataset, Iterator):
        return IteratorRows(dataset)
    if isinstance(dataset, Iterable):
        return StreamRows(dataset)
    raise InvalidType(
        "dataset must be a list of dicts, a datasets.Dataset, an iterator of dicts, a file (JSONL, Parquet or CSV) or "
        f"the name of a data set on the hub; got {type(dataset).__name__}"
    )


def hugging_face() -> Any:
    """The module datasets.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra("datasets", EXTRA) from error
    return datasets


def _from_hub(name: str, split: str, config: str | None) -> RowSource:
    datasets = hugging_face()
    try:
        return DatasetRows(datasets.load_dataset(name, config, split=split), name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise InvalidValue(
            f"no data set {name!r}: it is neither a file (.jsonl, .json, .parquet or .csv, also compressed), nor can "
            f"it be loaded from the hub: {error}"
        ) from error
