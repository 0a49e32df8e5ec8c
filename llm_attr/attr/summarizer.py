"""Summaries of attributions over many batches, overall or by class."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from copy import copy
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.attr.statistics import Stat, StatValue, SummarizerSingleTensor
from llm_attr.core.tensors import as_tensors
from llm_attr.errors import InvalidShape, InvalidType

Summary: TypeAlias = dict[str, StatValue] | list[dict[str, StatValue]]
"""The values of the statistics by name; for tuples of tensors, a list with one dict per tensor."""

Updates: TypeAlias = Tensor | float | tuple[Tensor | float, ...]


class _Running:
    """Statistics of a tensor or a tuple of tensors, with one summarizer per tensor."""

    def __init__(self, stats: Sequence[Stat]) -> None:
        if isinstance(stats, Stat) or not all(isinstance(stat, Stat) for stat in stats):
            raise InvalidType(f"stats must be a list of statistics such as [Mean()]; got {stats!r}")
        self._stats = list(stats)
        self._parts: list[SummarizerSingleTensor] = []
        self._single = False

    def update(self, x: Updates) -> None:
        tensors = [_as_tensor(value) for value in (x if isinstance(x, tuple) else (x,))]
        single = not isinstance(x, tuple)
        if not self._parts:
            shown = list(range(len(self._stats)))
            self._parts = [SummarizerSingleTensor([copy(s) for s in self._stats], shown) for _ in tensors]
            self._single = single
        if len(tensors) != len(self._parts) or single != self._single:
            form = "one bare tensor" if self._single else f"a tuple of {len(self._parts)}"
            given = "one bare tensor" if single else f"a tuple of {len(tensors)}"
            raise InvalidShape(f"every update must have the form of the first, {form}; got {given}")
        for part, tensor in zip(self._parts, tensors, strict=True):
            part.update(tensor)

    @property
    def summary(self) -> Summary | None:
        if not self._parts:
            return None
        return self._parts[0].summary if self._single else [part.summary for part in self._parts]


class Summarizer:
    """Elementwise statistics of attributions.

    Args:
        stats: The statistics, which are copied; see `CommonStats`.

    Raises:
        InvalidType: `stats` is not a list of statistics.

    Example:
        >>> import torch
        >>> from llm_attr.attr import Mean, StdDev, Summarizer
        >>> summarizer = Summarizer([Mean(), StdDev()])
        >>> summarizer.update(torch.tensor([1.0, 2.0]))
        >>> summarizer.update(torch.tensor([3.0, 2.0]))
        >>> summarizer.summary
        {'mean': tensor([2., 2.]), 'std_dev': tensor([1., 0.])}
    """

    def __init__(self, stats: Sequence[Stat]) -> None:
        self._all = _Running(stats)

    def update(self, x: Updates) -> None:
        """Adds an attribution.

        Args:
            x: A tensor or number, or a tuple of these, in the same form and shapes for every update.

        Raises:
            InvalidShape: the form differs from the first update.
            InvalidType: x is neither a tensor nor a number.
        """
        self._all.update(x)

    @property
    def summary(self) -> Summary | None:
        """The statistics by name: a dict, or for tuples a list of dicts; None before the first update."""
        return self._all.summary


class ClassSummarizer:
    """Statistics of the examples of each class, and of all examples together.

    Args:
        stats: See `Summarizer`.

    Example:
        >>> import torch
        >>> from llm_attr.attr import ClassSummarizer, Mean
        >>> summarizer = ClassSummarizer([Mean()])
        >>> summarizer.update(torch.tensor([[1.0], [2.0], [4.0]]), labels=["cat", "dog", "dog"])
        >>> summarizer.class_summaries
        {'cat': [{'mean': tensor([1.])}], 'dog': [{'mean': tensor([3.])}]}
        >>> summarizer.summary
        [{'mean': tensor([2.3333])}]
    """

    def __init__(self, stats: Sequence[Stat]) -> None:
        self._stats = list(stats)
        self._all = _Running(stats)
        self._classes: dict[Hashable, _Running] = {}

    def update(self, x: Updates, labels: Any = None) -> None:
        """Adds a batch of attributions, example by example.

        Args:
            x: A tensor `(batch, *features)` or a tuple of them.
            labels: A list or tensor with one label per example (rows of a tensor count as tuples), or one hashable
                label for all. None: adds the entire batch as one update, like `Summarizer.update`.

        Raises:
            InvalidShape: the number of labels is neither one nor that of the examples, or labelled and unlabelled
                updates differ in form.
            InvalidType: a label is not hashable.
        """
        if labels is None:
            self._all.update(x)
            return
        tensors = as_tensors(x)  # type: ignore[arg-type]
        for i, label in enumerate(_keys(labels, len(tensors[0]))):
            example = tuple(tensor[i] for tensor in tensors)
            self._all.update(example)
            self._classes.setdefault(label, _Running(self._stats)).update(example)

    @property
    def summary(self) -> Summary | None:
        """The statistics of all examples; with labels, a list with one dict per tensor."""
        return self._all.summary

    @property
    def class_summaries(self) -> dict[Any, Summary | None]:
        """The statistics of each class, a list with one dict per tensor."""
        return {label: running.summary for label, running in self._classes.items()}


def _keys(labels: Any, batch: int) -> list[Hashable]:
    if isinstance(labels, Tensor):
        rows = labels.tolist()
        keys = [tuple(row) if isinstance(row, list) else row for row in (rows if labels.dim() else [rows])]
    else:
        keys = labels if isinstance(labels, list) else [labels]
    if len(keys) not in (1, batch):
        raise InvalidShape(f"labels must be one label, or one for each of the {batch} examples; got {len(keys)}")
    if not all(isinstance(label, Hashable) for label in keys):
        raise InvalidType(f"labels must be usable as keys (numbers, strings, tuples); got {keys!r}")
    return keys * batch if len(keys) == 1 else keys


def _as_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, int | float):
        return torch.tensor(float(value), dtype=torch.float32, device="cpu")
    raise InvalidType(f"an update must be a tensor, a number or a tuple of these; got {type(value).__name__}")
