"""Examples of concepts from files, and activations with their labels."""

from __future__ import annotations

import glob
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, positive


class CustomIterableDataset(IterableDataset):
    """The files of a folder, each turned into a tensor when it is read.

    Args:
        transform_filename_to_tensor: From the name of a file to its tensor.
        path: A folder, or a pattern such as `images/*.jpg`; files come in the order of their names.

    Raises:
        InvalidType: the function cannot be called.
        InvalidValue: there is no such file.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from llm_attr.concept import CustomIterableDataset
        >>> with TemporaryDirectory() as folder:
        ...     torch.save(torch.ones(2), Path(folder) / "a.pt")
        ...     list(CustomIterableDataset(torch.load, folder))
        [tensor([1., 1.])]
    """

    def __init__(self, transform_filename_to_tensor: Callable[[str], Tensor], path: str) -> None:
        if not callable(transform_filename_to_tensor):
            raise InvalidType(
                f"transform_filename_to_tensor must be a callable; got {type(transform_filename_to_tensor).__name__}"
            )
        self.transform_filename_to_tensor, self.path = transform_filename_to_tensor, path
        self.files = _files(path)

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.transform_filename_to_tensor, self.files)


def _files(path: str) -> list[str]:
    folder = Path(path)
    found = [str(each) for each in folder.iterdir()] if folder.is_dir() else glob.glob(str(path), recursive=True)  # noqa: PTH207 - may be absolute
    files = sorted(name for name in found if Path(name).is_file())
    if not files:
        raise InvalidValue(
            f"path must be a folder with files, or a pattern of their names; nothing is at {str(path)!r}"
        )
    return files


def dataset_to_dataloader(dataset: Dataset, batch_size: int = 64) -> DataLoader:
    """A DataLoader of a data set, in its order.

    Args:
        dataset: The data.
        batch_size: Examples in a batch.

    Example:
        >>> import torch
        >>> from llm_attr.concept import dataset_to_dataloader
        >>> len(dataset_to_dataloader(torch.utils.data.TensorDataset(torch.rand(100, 3))))
        2
    """
    return DataLoader(dataset, batch_size=positive("batch_size", batch_size))


class LabelledDataset(Dataset):
    """Batches of activations with the label of their concept.

    Args:
        datasets: For each concept its batches, as `AV.load` gives them.
        labels: The label of each.

    Raises:
        InvalidShape: there are not as many labels as data sets.

    Example:
        >>> import torch
        >>> from llm_attr.concept import LabelledDataset
        >>> LabelledDataset([[torch.zeros(2, 3)], [torch.ones(1, 3)]], [5, 7])[1]
        (tensor([[1., 1., 1.]]), tensor([7]))
    """

    def __init__(self, datasets: Sequence[Any], labels: Sequence[int]) -> None:
        if len(datasets) != len(labels):
            raise InvalidShape(f"labels must be one for each of the {len(datasets)} data sets; got {len(labels)}")
        self.datasets, self.labels = list(datasets), list(labels)
        self._ends = list(accumulate(len(each) for each in self.datasets))

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        if not 0 <= i < len(self):
            raise IndexError(f"there are {len(self)} batches; got {i}")
        which = bisect_right(self._ends, i)
        batch = self.datasets[which][i - (self._ends[which] - len(self.datasets[which]))]
        return batch, torch.full((len(batch),), self.labels[which], dtype=torch.long, device=batch.device)

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0
