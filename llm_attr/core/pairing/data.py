"""Batches of examples, read from a data set, a loader or the caller's tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, TensorDataset

from llm_attr.core.tensors import leaves, map_tensors
from llm_attr.errors import InvalidType, InvalidValue, positive

ROUND_BYTES = 1 << 28
"""Bytes of examples that are kept while all checkpoints look at them."""

JOINED_BYTES = 1 << 20
"""Bytes up to which small batches are joined."""

ROUND_EXAMPLES = 4096
"""How many these are at most, as each has a column of scores."""


@dataclass(frozen=True)
class Batch:
    """Some examples: the model's inputs, and the labels last.

    Attributes:
        items: What the model receives, then the labels.
        count: The number of examples.
    """

    items: tuple[Any, ...]
    count: int

    @classmethod
    def of(cls, items: Any, what: str) -> Batch:
        """A batch from what a loader yields or a caller gives.

        Raises:
            InvalidType: it is not a tuple or list.
            InvalidValue: it has no labels, no tensor, or items of different lengths.
        """
        if not isinstance(items, tuple | list):
            raise InvalidType(
                f"{what} must be a tuple (*inputs, labels) of tensors with one row for each example, or a loader of "
                f"such tuples; got {type(items).__name__}"
            )
        tensors = [item for item in items if isinstance(item, Tensor)]
        if len(items) < 2 or not tensors:
            raise InvalidValue(
                f"{what} must have the model's inputs and then the labels, (*inputs, labels); got {len(items)} items, "
                f"of which {len(tensors)} are tensors"
            )
        sizes = [len(each) if isinstance(each, Sized) else 0 for each in items if each is not None]
        if any(isinstance(each, Tensor) and each.dim() == 0 for each in items) or len(set(sizes)) > 1:
            raise InvalidValue(f"{what} must have one row for each example in every item; got lengths {sizes}")
        return cls(tuple(items), sizes[0])

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the model receives."""
        return self.items[:-1]

    @property
    def labels(self) -> Any:
        """What the loss receives beside the model's output."""
        return self.items[-1]

    @property
    def bytes(self) -> int:
        """The bytes of its tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in leaves(self.items))

    def rows(self, start: int, stop: int) -> Batch:
        """Some of its examples."""
        if (start, stop) == (0, self.count):
            return self
        return Batch(tuple(None if item is None else item[start:stop] for item in self.items), stop - start)

    def to(self, device: torch.device) -> Batch:
        """Its tensors on a device."""
        return Batch(map_tensors(lambda tensor: tensor.to(device), self.items), self.count)


class Examples:
    """Examples in a fixed order, read batch by batch as often as is needed.

    Args:
        source: A data set, a loader, a sequence of batches, or one batch as a tuple.
        batch_size: Examples in a batch; of a data set only.
        what: The name of the argument.

    Raises:
        InvalidType: it is none of these.
        InvalidValue: a loader shuffles, so that an example has no number.
    """

    def __init__(self, source: Any, batch_size: int = 1, what: str = "inputs") -> None:
        self._source, self._size, self._what = source, positive("batch_size", batch_size), what
        self._is_single = isinstance(source, tuple)
        if self._is_single:
            Batch.of(source, what)
        elif not isinstance(source, Dataset | DataLoader | Iterable) or isinstance(
            source, Tensor | Iterator | dict | str
        ):
            raise InvalidType(
                f"{what} must be a Dataset, a DataLoader or a tuple (*inputs, labels); got {type(source).__name__}"
            )
        if isinstance(source, DataLoader) and isinstance(source.sampler, RandomSampler):
            raise InvalidValue(f"{what} shuffles, so that its examples have no fixed number; pass shuffle=False")

    @property
    def count(self) -> int | None:
        """The number of examples, if it is known beforehand."""
        if self._is_single:
            return len(self._source[0])
        data = self._source.dataset if isinstance(self._source, DataLoader) else self._source
        return len(data) if isinstance(data, Dataset) and isinstance(data, Sized) else None

    def __iter__(self) -> Iterator[Batch]:
        empty = True
        for items in self._raw():
            empty = False
            yield items if isinstance(items, Batch) else Batch.of(items, self._what)
        if empty:
            raise InvalidValue(f"{self._what} has no examples")

    def _raw(self) -> Iterable[Any]:
        source = self._source
        if self._is_single:
            return [source]
        if type(source) is TensorDataset:
            starts = range(0, len(source), self._size)
            return (tuple(each[i : i + self._size] for each in source.tensors) for i in starts)
        if isinstance(source, IterableDataset) or (isinstance(source, Dataset) and not isinstance(source, DataLoader)):
            return DataLoader(source, self._size, generator=torch.Generator())
        return source

    def rounds(self) -> Iterator[list[Batch]]:
        """Its batches, some at a time: at least one, and at most so many bytes and examples; small ones are joined."""
        held, size, count = list[Batch](), 0, 0
        for batch in self:
            if held and (size + batch.bytes > ROUND_BYTES or count + batch.count > ROUND_EXAMPLES):
                yield joined(held)
                held, size, count = [], 0, 0
            held.append(batch)
            size += batch.bytes
            count += batch.count
        yield joined(held)


def joined(batches: Sequence[Batch]) -> list[Batch]:
    """The same examples in larger batches: those whose tensors together have few bytes go through the model at once."""
    groups: list[list[Batch]] = []
    room = 0
    for batch in batches:
        if groups and batch.bytes <= room and _alike(groups[-1][-1], batch):
            groups[-1].append(batch)
        else:
            groups.append([batch])
            room = JOINED_BYTES
        room -= batch.bytes
    return [group[0] if len(group) == 1 else _cat(group) for group in groups]


def _alike(one: Batch, other: Batch) -> bool:
    """Whether the items of two batches are tensors of the same form."""
    pairs = list(zip(one.items, other.items, strict=False))
    return len(one.items) == len(other.items) and all(
        isinstance(a, Tensor) and isinstance(b, Tensor) and _form(a) == _form(b) for a, b in pairs
    )


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape[1:], tensor.dtype, tensor.device


def _cat(batches: Sequence[Batch]) -> Batch:
    items = zip(*(batch.items for batch in batches), strict=True)
    return Batch(tuple(map(torch.cat, items)), sum(batch.count for batch in batches))
