"""Per-example gradients of one layer, kept in the form in which they multiply fastest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor


class Block(ABC):
    """The gradients of some parameters for each example of a batch.

    Attributes:
        names: The parameters.
        count: The number of examples.
    """

    names: tuple[str, ...]
    count: int

    @abstractmethod
    def pieces(self) -> tuple[Tensor, ...]:
        """The gradients written out, `(examples, entries)` for each parameter."""

    @abstractmethod
    def product(self, other: Block) -> Tensor:
        """The inner products with another batch's block of the same layer: `(examples, other examples)`."""

    @abstractmethod
    def against(self, rows: Sequence[Tensor]) -> Tensor:
        """The inner products with vectors, `(vectors, entries)` for each parameter: `(vectors, examples)`."""

    def squares(self) -> Tensor:
        """The squared norm of each example's gradient."""
        return sum((piece.square().sum(1) for piece in self.pieces()), self.pieces()[0].new_zeros(self.count))

    def totals(self) -> tuple[Tensor, ...]:
        """The sum over the examples, `(1, entries)` for each parameter."""
        return tuple(piece.sum(0, keepdim=True) for piece in self.pieces())


class Dense(Block):
    """Gradients that are written out.

    Args:
        names: The parameters.
        values: `(examples, entries)` for each.
    """

    def __init__(self, names: Sequence[str], values: Sequence[Tensor]) -> None:
        self.names, self._values, self.count = tuple(names), tuple(values), len(values[0])

    def pieces(self) -> tuple[Tensor, ...]:
        return self._values

    def product(self, other: Block) -> Tensor:
        return other.against(self._values)

    def against(self, rows: Sequence[Tensor]) -> Tensor:
        return sum(
            (row @ value.T for row, value in zip(rows, self._values, strict=True)),
            rows[0].new_zeros(len(rows[0]), self.count),
        )


class Outer(Block):
    """Gradients `sum_t g[t] a[t]^T`: a linear layer with inputs `a` whose outputs have the gradients `g`.

    Two of them multiply without being written out: `<g a^T, h b^T> = (g . h) (a . b)`, and with a bias
    `(g . h) (a . b + 1)`.

    Args:
        names: The weight, and the bias if it is wanted.
        a: `(examples, positions, inputs)`.
        g: `(examples, positions, outputs)`.
        flipped: Whether the weight is stored as `(inputs, outputs)`.
    """

    def __init__(self, names: Sequence[str], a: Tensor, g: Tensor, flipped: bool = False) -> None:
        self.names, self.count, self._flipped = tuple(names), len(a), flipped
        self.a, self.g, self._one = a, g, len(self.names) - 1

    @cached_property
    def weights(self) -> Tensor:
        """The gradient of the weight for each example, `(examples, outputs, inputs)`."""
        return self.g.transpose(1, 2) @ self.a

    @cached_property
    def biases(self) -> Tensor:
        """The gradient of the bias for each example, `(examples, outputs)`."""
        return self.g.sum(1)

    def pieces(self) -> tuple[Tensor, ...]:
        weights = self.weights.transpose(1, 2) if self._flipped else self.weights
        return (weights.flatten(1), self.biases)[: len(self.names)]

    def totals(self) -> tuple[Tensor, ...]:
        left, right = (self.a, self.g) if self._flipped else (self.g, self.a)
        weight = left.flatten(0, 1).T @ right.flatten(0, 1)
        return (weight.flatten()[None], self.g.sum((0, 1))[None])[: len(self.names)]

    def squares(self) -> Tensor:
        positions, wide, tall = self.a.shape[1], self.a.shape[2], self.g.shape[2]
        if positions * (wide + tall) <= 2 * wide * tall:
            return ((self.a @ self.a.transpose(1, 2) + self._one) * (self.g @ self.g.transpose(1, 2))).sum((1, 2))
        return sum((piece.square().sum(1) for piece in self.pieces()[1:]), self.weights.square().sum((1, 2)))

    def product(self, other: Block) -> Tensor:
        if not isinstance(other, Outer):
            return other.product(self).T
        if self.a.shape[1] == other.a.shape[1] == 1:
            return (self.a[:, 0] @ other.a[:, 0].T + self._one) * (self.g[:, 0] @ other.g[:, 0].T)
        if self._written_out_is_cheaper(other):
            product = self.weights.flatten(1) @ other.weights.flatten(1).T
            return product + self.biases @ other.biases.T if self._one else product
        return torch.stack([self._with_one(other.a[i], other.g[i]) for i in range(other.count)], 1)

    def against(self, rows: Sequence[Tensor]) -> Tensor:
        wide, tall = self.a.shape[2], self.g.shape[2]
        shape = (wide, tall) if self._flipped else (tall, wide)
        matrices = rows[0].unflatten(1, shape)
        matrices = matrices.transpose(1, 2) if self._flipped else matrices
        if self.a.shape[1] > 1 and len(matrices) > 1:
            product = matrices.flatten(1) @ self.weights.flatten(1).T
            return product + rows[1] @ self.biases.T if self._one else product
        flat, g = self.a.flatten(0, 1), self.g.flatten(0, 1)
        each = [((flat @ one.T) * g).sum(1).view(self.count, -1).sum(1) for one in matrices]
        return torch.stack(each) + (rows[1] @ self.biases.T if self._one else 0)

    def _with_one(self, a: Tensor, g: Tensor) -> Tensor:
        return ((self.a @ a.T + self._one) * (self.g @ g.T)).sum((1, 2))

    def _written_out_is_cheaper(self, other: Outer) -> bool:
        wide, tall = self.a.shape[2], self.g.shape[2]
        mine, others = self.a.shape[1], other.a.shape[1]
        written = (self.count * mine + other.count * others + self.count * other.count) * wide * tall
        return written < self.count * other.count * mine * others * (wide + tall)


class Lookup(Block):
    """Gradients of a table in which each example looked up a few rows.

    Args:
        name: The table.
        ids: `(examples, positions)`, the rows looked up.
        g: `(examples, positions, columns)`, the gradients of what was found there.
        rows: How many rows the table has.
    """

    def __init__(self, name: str, ids: Tensor, g: Tensor, rows: int) -> None:
        self.names, self.count, self._ids, self._g, self._rows = (name,), len(ids), ids, g, rows

    def pieces(self) -> tuple[Tensor, ...]:
        return (self._over(torch.arange(self._rows, device=self._ids.device)).flatten(1),)

    def totals(self) -> tuple[Tensor, ...]:
        total = self._g.new_zeros(self._rows, self._g.shape[2])
        return (total.index_add_(0, self._ids.flatten(), self._g.flatten(0, 1)).flatten()[None],)

    def squares(self) -> Tensor:
        same = self._ids[:, :, None] == self._ids[:, None, :]
        return ((self._g @ self._g.transpose(1, 2)) * same).sum((1, 2))

    def product(self, other: Block) -> Tensor:
        if not isinstance(other, Lookup):
            return other.product(self).T
        used = self._ids.unique()
        return self._over(used).flatten(1) @ other._over(used).flatten(1).T

    def against(self, rows: Sequence[Tensor]) -> Tensor:
        tables = rows[0].unflatten(1, (self._rows, -1))
        return torch.stack([(table[self._ids] * self._g).sum((1, 2)) for table in tables])

    def _over(self, used: Tensor) -> Tensor:
        """The gradients of these rows of the table, sorted: `(examples, used, columns)`."""
        place = torch.searchsorted(used, self._ids).clamp(max=len(used) - 1)
        g = self._g * (used[place] == self._ids)[:, :, None]
        table = g.new_zeros(self.count, len(used), g.shape[2])
        return table.scatter_add_(1, place[:, :, None].expand_as(g), g)
