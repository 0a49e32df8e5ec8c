"""Sliding windows: features that may overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.typing import Coalitions, Tensors, Values

WindowShapes: TypeAlias = int | Sequence[int | Sequence[int]]
"""The size of a window, for all axes after the batch or per axis; for several inputs one of these per input."""


Strides: TypeAlias = int | Sequence[int | Sequence[int]] | None
"""The stride of a window, for all axes or per axis; for several inputs one of these per input. None is 1."""


@dataclass(frozen=True)
class Windows:
    """Rectangles of positions, each a feature; a position is absent if any window that contains it is.

    The windows of the first input come first; within an input the first axis varies fastest.

    Attributes:
        cover: For each input and each of its axes after the batch, bool `(size, windows)`: which windows contain an
            index of the axis.
    """

    cover: tuple[Tensors, ...]

    @classmethod
    def of(cls, shapes: WindowShapes, strides: Strides, inputs: Tensors) -> Windows:
        """Windows from index 0, one stride apart, until each axis is covered; the last one may be cut off.

        Raises:
            InvalidShape: there is not one window per input, or not one number per axis.
            InvalidValue: a size or stride is not a positive integer, a window is larger than its input, or a stride is
                larger than its window, so that positions are left out.
        """
        given = _for_each(shapes, len(inputs), "sliding_window_shapes")
        steps = [1] * len(inputs) if strides is None else _for_each(strides, len(inputs), "strides")
        cover = []
        for i, (tensor, window, step) in enumerate(zip(inputs, given, steps, strict=True)):
            sizes = tensor.shape[1:]
            along = _numbers(window, sizes, f"the window of input {i}")
            by = _numbers(step, sizes, f"the stride of input {i}")
            cover.append(tuple(covering(*axis) for axis in zip(sizes, along, by, strict=True)))
        return cls(tuple(cover))

    @property
    def count(self) -> int:
        """The number of windows."""
        return sum(self._counts)

    def present(self, coalitions: Coalitions, which: int, device: torch.device) -> Tensor:
        """`(coalitions, 1, *features)`: True where the input `which` keeps its value.

        An axis with a single window has size 1.
        """
        over = self.cover[which]
        mine = coalitions.split(self._counts, 1)[which].to(device)
        absent = _grid((~mine).float(), over)
        for axis in over:
            reach = axis if axis.shape[1] > 1 else axis[:1]
            absent = torch.tensordot(absent, reach.to(device, torch.float32), dims=([1], [1]))
        return (absent == 0).unsqueeze(1)

    def spread(self, values: Values) -> Tensors:
        """The mean over each position's windows: `(windows, outputs) -> (outputs, *features)` for each input.

        The mean of integers is floating-point.
        """
        exact = values.to(torch.promote_types(values.dtype, torch.float32))
        parts = exact.T.split(self._counts, 1)
        means = (_means(part, over) for part, over in zip(parts, self.cover, strict=True))
        return tuple(mean.to(values.dtype) if values.is_floating_point() else mean for mean in means)

    def check_outputs(self, shape: torch.Size) -> None:
        """Accepts any shape: the windows are the same for all examples."""

    @property
    def _counts(self) -> list[int]:
        return [prod(axis.shape[1] for axis in over) for over in self.cover]


def covering(size: int, window: int, stride: int) -> Tensor:
    """Bool `(size, windows)`: which of the windows along an axis contain an index of it.

    Raises:
        InvalidValue: the window is larger than the axis, or the stride larger than the window.
    """
    if window > size:
        raise InvalidValue(f"a window of {window} does not fit into an axis of size {size}")
    if stride > window and window < size:
        raise InvalidValue(f"stride {stride} is larger than the window {window} and would leave positions out")
    starts = stride * torch.arange(1 + -(-(size - window) // stride), device="cpu")
    index = torch.arange(size, device="cpu")[:, None]
    return (starts <= index) & (index < starts + window)


def _grid(rows: Tensor, over: Tensors) -> Tensor:
    """`(rows, windows) -> (rows, windows along the first axis, ...)`."""
    sizes = [axis.shape[1] for axis in over]
    return rows.reshape(len(rows), *reversed(sizes)).permute(0, *range(len(sizes), 0, -1))


def _means(values: Values, over: Tensors) -> Tensor:
    """`(outputs, windows) -> (outputs, *features)`."""
    means = _grid(values, over)
    for axis in over:
        covered = axis.to(values.device)
        sums = means.new_zeros(len(values), *means.shape[2:], len(covered))
        for number, window in enumerate(covered.unbind(1)):
            sums[..., window] += means[:, number, ..., None]
        means = sums / covered.sum(1)
    return means


def _for_each(value: Any, inputs: int, name: str) -> list[Any]:
    """One value per input; for a single input it need not be in a tuple."""
    if not isinstance(value, Sequence):
        return [value] * inputs
    given = list(value)
    if inputs == 1 and not (len(given) == 1 and isinstance(given[0], Sequence)):
        return [value]
    if len(given) != inputs:
        raise InvalidShape(f"{name} must have one entry for each of the {inputs} inputs; got {value!r}")
    return given


def _numbers(value: Any, sizes: Sequence[int], name: str) -> list[int]:
    """One number per axis."""
    numbers = list(value) if isinstance(value, Sequence) else [value] * len(sizes)
    if not all(_is_whole(number) and number >= 1 for number in numbers):
        raise InvalidValue(f"{name} must be whole numbers of at least 1; got {value!r}")
    if len(numbers) != len(sizes):
        raise InvalidShape(
            f"{name} must have one number for each of its {len(sizes)} axes after the batch, {tuple(sizes)}; "
            f"got {value!r}"
        )
    return numbers


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
