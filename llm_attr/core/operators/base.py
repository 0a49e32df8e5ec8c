"""Symmetric linear operators that are known by their products."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class Operator(ABC):
    """A symmetric matrix that multiplies with `@`.

    Attributes:
        size: The number of its rows and columns.
        dtype: The type of its products.
        device: Where they are.
    """

    size: int
    dtype: torch.dtype
    device: torch.device

    @abstractmethod
    def product(self, columns: Tensor) -> Tensor:
        """`(size, columns)`, times the matrix."""

    def __matmul__(self, other: Tensor) -> Tensor:
        return self.product(other[:, None])[:, 0] if other.dim() == 1 else self.product(other)

    def dense(self, columns: int = 64) -> Tensor:
        """The matrix itself, `(size, size)`, by so many columns at a time."""
        matrix = torch.empty(self.size, self.size, dtype=self.dtype, device=self.device)
        for start in range(0, self.size, columns):
            stop = min(start + columns, self.size)
            some = torch.zeros(self.size, stop - start, dtype=self.dtype, device=self.device)
            rows = torch.arange(start, stop, device="cpu")
            some[rows, rows - start] = 1
            matrix[:, start:stop] = self.product(some)
        return (matrix + matrix.T) / 2


class Matrix(Operator):
    """A matrix in memory.

    Args:
        values: `(size, size)`.
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self.size, self.dtype, self.device = values, len(values), values.dtype, values.device

    def product(self, columns: Tensor) -> Tensor:
        return self._values @ columns
