"""The attributions of an answer by gradients: summed over the units of the prompt, with errors and deltas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import Tensor

from llm_attr.core.tensors import Slot, at_least_fp32, split_by
from llm_attr.errors import InvalidShape
from llm_attr.llm.results.completeness import Completeness
from llm_attr.llm.target.scalar import Contrast
from llm_attr.typing import Tensors

Ends: TypeAlias = tuple[Tensor, Tensor]
"""A quantity at the baseline and at the prompt: of the whole answer first, then of each token."""


@dataclass(frozen=True)
class Units:
    """The units of the prompt at the positions that are moved.

    Attributes:
        of_position: `(positions,)` the unit of each, -1 for none.
        count: How many units there are.
    """

    of_position: Tensor
    count: int

    def with_rest(self) -> Units:
        """With the positions that belong to no unit, if there are any, as one more unit."""
        rest = self.of_position < 0
        return Units(self.of_position.masked_fill(rest, self.count), self.count + int(rest.any()))

    def sums(self, tensors: Tensors) -> Tensor:
        """`(rows, units + 1)`: the sums over the positions of each unit, and over all that a layer gives there.

        Last comes the sum over the positions that belong to no unit.

        Raises:
            InvalidShape: a tensor has no vector for each position.
        """
        totals = torch.zeros(len(tensors[0]), self.count + 1, dtype=torch.float32, device="cpu")
        positions, unit = len(self.of_position), self.of_position.masked_fill(self.of_position < 0, self.count)
        for tensor in tensors:
            if not tensor.any():
                continue
            if tensor.dim() < 2 or tensor.shape[1] < positions:
                raise InvalidShape(
                    f"a layer must give a vector at each of the {positions} positions of the prompt; got the shape "
                    f"{tuple(tensor.shape)}"
                )
            each = at_least_fp32(tensor[:, :positions].flatten(2)).sum(2).float().cpu()
            totals.index_add_(1, unit, each)
            totals[:, self.count] += at_least_fp32(tensor[:, positions:].flatten(1)).sum(1).float().cpu()
        return totals


@dataclass
class Samples:
    """Sums over units of the attributions of single samples, of which standard errors are computed.

    Attributes:
        units: The units of the positions.
        slots: Which tensors belong to which layer.
        of_method: Whether the method is random.
        squared: Whether squares are averaged.
        seen: For each chunk, for each layer `(samples, units + 1)`.
    """

    units: Units
    slots: Sequence[Slot]
    of_method: bool
    squared: bool = False
    seen: list[list[Tensor]] = field(default_factory=list)

    def __call__(self, chunk: Tensors) -> None:
        """Notes samples `(1, samples, positions, *features)`."""
        tensors = tuple(tensor[0].square() if self.squared else tensor[0] for tensor in chunk)
        self.seen.append([self.units.sums(part) for part in split_by(tensors, self.slots)])

    def errors(self) -> tuple[list[Tensor], Tensor] | None:
        """For each layer `(1, units)`, and `(1,)` of the total; None of a single sample."""
        layers = [torch.cat(chunks).double() for chunks in zip(*self.seen, strict=True)]
        if not layers or len(layers[0]) < 2:
            return None
        total = torch.stack([layer.sum(1) for layer in layers]).sum(0)
        spread = [layer.std(0, keepdim=True)[:, : self.units.count] for layer in layers]
        root = len(total) ** 0.5
        return [(each / root).float() for each in spread], (total.std(0, keepdim=True) / root).float()


@dataclass(frozen=True)
class UnitSums:
    """The attributions of some numbers of an answer, summed over the positions of each unit.

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
    def of(
        cls, parts: Sequence[Tensors], units: Units, samples: Samples, deltas: Tensor | None, by_position: bool
    ) -> UnitSums:
        """From what a method finds.

        Args:
            parts: For each layer its attributions, `(numbers, positions, *features)` each.
            units: The units of the positions.
            samples: The attributions of single samples; none of methods that are not random.
            deltas: The convergence deltas, `(numbers,)` or `(numbers, positions)`; of a random method `(samples,)` of
                the only number; None if there are none.
            by_position: Whether each position has its own.
        """
        sums = [units.sums(tensors) for tensors in parts]
        errors, total_errors = samples.errors() or ([], None)
        totals, misses = torch.stack([each.sum(1) for each in sums]).sum(0), None
        if deltas is not None:
            deltas = deltas.detach().float().cpu()
            if by_position:
                changes = parts[0][0].flatten(2).float().sum(2).cpu() - deltas
                misses = torch.stack([deltas.abs().sum(1), changes.abs().sum(1)], 1)
                deltas = deltas.sum(1)
            elif samples.of_method:
                deltas = deltas.mean(0, keepdim=True)
        return cls([each[:, : units.count] for each in sums], totals, errors, total_errors, deltas, misses)

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
class Explained:
    """What was found of one quantity of an answer.

    Attributes:
        whole: For each layer the attributions of the whole answer, `(features,)`.
        tokens: For each layer those of each token, `(tokens, features)`; empty if there are none.
        errors: For each layer the standard errors of the whole answer's, of random methods.
        token_errors: Those of the tokens'.
        deltas: The convergence deltas by name, if they were asked for.
        completeness: How far the whole answer's are from the change that they divide, of methods that divide one.
    """

    whole: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    token_errors: list[Tensor] = field(default_factory=list)
    deltas: dict[str, list[float]] = field(default_factory=dict)
    completeness: Completeness | None = None

    @classmethod
    def of(cls, whole: UnitSums, tokens: UnitSums | None, ends: Ends | None, divides: bool, deltas: bool) -> Explained:
        """What is told of it.

        Args:
            whole: The sums of the whole answer, a row.
            tokens: Those of the tokens; None: there are none.
            ends: What the attributions should sum to the difference of; None: the sums know it themselves.
            divides: Whether they divide a change.
            deltas: Whether the convergence deltas were asked for.
        """
        asked = {"convergence_delta": _deltas(whole, ends, slice(0, 1))}
        if tokens is not None:
            asked["token_convergence_delta"] = _deltas(tokens, ends, slice(1, None))
        return cls(
            [layer[0] for layer in whole.layers],
            [] if tokens is None else tokens.layers,
            [layer[0] for layer in whole.errors],
            [] if tokens is None else tokens.errors,
            {name: values for name, values in asked.items() if values is not None} if deltas else {},
            _completeness(whole, tokens, ends) if divides else None,
        )

    def less(self, foil: Explained, contrast: Contrast) -> Explained:
        """Those of the answer less those of a foil, token beside token."""
        whole = [one - two for one, two in zip(self.whole, foil.whole, strict=True)]
        tokens = [contrast.rows(one.T, two.T).T for one, two in zip(self.tokens, foil.tokens, strict=True)]
        deltas: dict[str, list[float]] = {}
        for name, values in self.deltas.items():
            own, other = (torch.tensor(each, dtype=torch.float32, device="cpu") for each in (values, foil.deltas[name]))
            deltas[name] = (own - other if name == "convergence_delta" else contrast.rows(own, other)).tolist()
        ends = self.completeness, foil.completeness
        completeness = None if ends[0] is None or ends[1] is None else ends[0].less(ends[1])
        return Explained(whole, tokens, deltas=deltas, completeness=completeness)


def _deltas(sums: UnitSums, ends: Ends | None, chosen: slice) -> list[float] | None:
    if sums.deltas is None and ends is not None:
        found: list[float] = (sums.totals - (ends[1] - ends[0])[chosen]).tolist()
        return found
    return None if sums.deltas is None else sums.deltas.tolist()


def _completeness(sums: UnitSums, tokens: UnitSums | None, ends: Ends | None) -> Completeness | None:
    """That of the whole answer, with the sums and changes of the tokens."""
    found = _of_whole(sums, ends)
    deltas = None if tokens is None else _deltas(tokens, ends, slice(1, None))
    if found is None or tokens is None or deltas is None:
        return found
    changes = [total - delta for total, delta in zip(tokens.totals.tolist(), deltas, strict=True)]
    return replace(found, token_totals=tokens.totals.tolist(), token_changes=changes)


def _of_whole(sums: UnitSums, ends: Ends | None) -> Completeness | None:
    total = float(sums.totals[0])
    if ends is not None:
        low, high = float(ends[0][0]), float(ends[1][0])
        error = None if sums.total_errors is None else float(sums.total_errors[0])
        return Completeness.of(total, high - low, max(abs(low), abs(high)), error)
    if sums.deltas is None:
        return None
    found = Completeness.of(total, total - float(sums.deltas[0]))
    if found is None or sums.misses is None:
        return found
    missed, changed = sums.misses[0].tolist()
    return replace(found, gap=missed / max(changed, 1e-12))
