"""Attributions of numbers of an answer, summed over the positions that belong to each unit of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llm_attr.core.tensors import at_least_fp32
from llm_attr.errors import InvalidShape
from llm_attr.typing import Tensors


@dataclass(frozen=True)
class UnitSums:
    """What a method says of some numbers of an answer.

    Attributes:
        layers: For each layer `(numbers, units)`.
        totals: `(numbers,)` the sums over everything, also over positions that belong to no unit.
        errors: For each layer the standard errors, of random methods.
        total_errors: `(numbers,)` that of the totals.
        deltas: `(numbers,)` how far the totals are from the change, where the method knows it by itself.
        misses: `(numbers, 2)` the sum of the absolute deltas, and of the absolute changes, of the positions, where each
            has its own.
    """

    layers: list[Tensor]
    totals: Tensor
    errors: list[Tensor] = field(default_factory=list)
    total_errors: Tensor | None = None
    deltas: Tensor | None = None
    misses: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[UnitSums]) -> UnitSums:
        """Those of one number after the other."""

        def cat(of: Callable[[UnitSums], Tensor | None]) -> Tensor | None:
            found = [tensor for part in parts if (tensor := of(part)) is not None]
            return torch.cat(found) if found else None

        layers = [torch.cat(rows) for rows in zip(*(part.layers for part in parts), strict=True)]
        errors = [torch.cat(rows) for rows in zip(*(part.errors for part in parts), strict=True)]
        totals = torch.cat([part.totals for part in parts])
        return cls(
            layers, totals, errors, cat(lambda p: p.total_errors), cat(lambda p: p.deltas), cat(lambda p: p.misses)
        )

    def summed(self) -> UnitSums:
        """Those of the sum of the numbers, as a row."""

        def total(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.sum(0, keepdim=True)

        layers = [layer.sum(0, keepdim=True) for layer in self.layers]
        totals = self.totals.sum(0, keepdim=True)
        return UnitSums(layers, totals, deltas=total(self.deltas), misses=total(self.misses))

    def rows(self, chosen: slice) -> UnitSums:
        """Those of some of the numbers."""

        def some(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[chosen]

        return UnitSums(
            [layer[chosen] for layer in self.layers],
            self.totals[chosen],
            [layer[chosen] for layer in self.errors],
            some(self.total_errors),
            some(self.deltas),
            some(self.misses),
        )


@dataclass
class Samples:
    """Sums over units of the attributions of single samples, of which an error is computed.

    Attributes:
        owners: The unit of each position that is moved.
        units: How many units there are.
        slots: Which tensors belong to which layer, as a function that splits them.
        squared: Whether squares are averaged.
        seen: For each chunk, for each layer `(samples, units + 1)`.
    """

    owners: Tensor
    units: int
    split: Callable[[Tensors], Sequence[Tensors]]
    squared: bool = False
    seen: list[list[Tensor]] = field(default_factory=list)

    def __call__(self, chunk: Tensors) -> None:
        """Notes samples `(1, samples, positions, *features)`."""
        tensors = tuple(tensor[0].square() if self.squared else tensor[0] for tensor in chunk)
        self.seen.append([by_unit(part, self.owners, self.units) for part in self.split(tensors)])

    def errors(self) -> tuple[list[Tensor], Tensor] | None:
        """For each layer `(1, units)`, and `(1,)` of the total; None of a single sample."""
        layers = [torch.cat(chunks).double() for chunks in zip(*self.seen, strict=True)]
        if not layers or len(layers[0]) < 2:
            return None
        total = torch.stack([layer.sum(1) for layer in layers]).sum(0)
        spread = [layer.std(0, keepdim=True)[:, : self.units] for layer in layers]
        root = len(total) ** 0.5
        return [(each / root).float() for each in spread], (total.std(0, keepdim=True) / root).float()


def by_unit(tensors: Tensors, owners: Tensor, units: int) -> Tensor:
    """`(rows, units + 1)`: the sums over the positions of each unit, and over all that a layer gives there.

    Last comes the sum over the positions that belong to no unit.

    Raises:
        InvalidShape: a tensor has no vector for each position.
    """
    totals = torch.zeros(len(tensors[0]), units + 1, dtype=torch.float32, device="cpu")
    place = owners.masked_fill(owners < 0, units)
    for tensor in tensors:
        if not tensor.any():
            continue
        if tensor.dim() < 2 or tensor.shape[1] < len(owners):
            raise InvalidShape(
                f"a layer must give a vector at each of the {len(owners)} positions of the prompt; got the shape "
                f"{tuple(tensor.shape)}"
            )
        each = at_least_fp32(tensor[:, : len(owners)].flatten(2)).sum(2).float().cpu()
        totals.index_add_(1, place, each)
        totals[:, units] += at_least_fp32(tensor[:, len(owners) :].flatten(1)).sum(1).float().cpu()
    return totals
