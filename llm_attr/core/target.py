"""Which entry of a model's output is explained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llm_attr.errors import InvalidTarget
from llm_attr.typing import Target


@dataclass(frozen=True)
class Several:
    """Several targets that are explained together."""

    targets: tuple[Target, ...]


TargetOrSeveral: TypeAlias = Target | Several
"""What a problem explains: one target or several."""


def one_or_several(target: Target, targets: Sequence[Target] | None) -> TargetOrSeveral:
    """Combines the `target` and `targets` arguments of a method.

    Raises:
        InvalidTarget: both are given, or `targets` is not a sequence of at least one target.
    """
    if targets is None:
        return target
    if target is not None:
        raise InvalidTarget(f"give target or targets, not both; got target={target!r} and targets={targets!r}")
    given = targets.tolist() if isinstance(targets, Tensor) and targets.dim() == 1 else targets
    if not isinstance(given, list | tuple | range) or not len(given) or any(entry is None for entry in given):
        raise InvalidTarget(f"targets must be a list of at least one target; got {targets!r}")
    return Several(tuple(given))


def select(output: Tensor, target: TargetOrSeveral) -> Tensor:
    """The explained entry of each example: `(batch, classes, ...) -> (batch, ...)`; for `Several`, `(batch, targets)`.

    An int or a tuple selects the same entry for all examples; a 1-D tensor, a list of ints or a list of tuples selects
    one per example.

    Raises:
        InvalidTarget: the output has no class axis, or the target does not fit it.
    """
    if target is None:
        return output
    if isinstance(target, Several):
        return torch.stack([select(output, entry) for entry in target.targets], 1)
    if output.dim() < 2:
        raise InvalidTarget(
            f"target {target!r} selects a column of the model's output, but its shape is {tuple(output.shape)}; "
            "leave the target out"
        )
    chosen: Any = target
    if isinstance(target, Tensor):
        chosen = target.item() if target.numel() == 1 else target.tolist()
    if isinstance(chosen, list):
        return _select_per_example(output, chosen)
    if isinstance(chosen, int | tuple):
        entry = chosen if isinstance(chosen, tuple) else (chosen,)
        index: tuple[Any, ...] = (slice(None), *_checked(entry, output))
        return output[index]
    raise InvalidTarget(
        f"target must be an int, a tuple of ints, a 1-D tensor, a list of ints or a list of tuples; got {target!r}"
    )


def tile_target(target: TargetOrSeveral, copies: int, by_example: bool = False) -> Any:
    """The target for a batch repeated `copies` times; `by_example` as in `tile`."""
    if isinstance(target, Several):
        return Several(tuple(tile_target(entry, copies, by_example) for entry in target.targets))
    if isinstance(target, Tensor) and target.numel() > 1:
        return target.repeat_interleave(copies, 0) if by_example else torch.cat([target] * copies)
    if not isinstance(target, list):
        return target
    if by_example:
        entries: list[Any] = [entry for entry in target for _ in range(copies)]
        return entries
    return target * copies


def _select_per_example(output: Tensor, target: list[int] | list[tuple[int, ...]]) -> Tensor:
    if len(target) != len(output):
        raise InvalidTarget(
            f"a list of targets must have one per example; got {len(target)} targets for {len(output)} examples"
        )
    entries = [_checked(entry if isinstance(entry, tuple) else (entry,), output) for entry in target]
    if len({len(entry) for entry in entries}) != 1:
        raise InvalidTarget(f"the targets of a list must have the same length; got {target!r}")
    rows = torch.arange(len(output), device=output.device)
    index = (rows, *torch.tensor(entries, device=output.device).unbind(1))
    return output[index]


def _checked(entry: tuple[int, ...], output: Tensor) -> tuple[int, ...]:
    sizes = tuple(output.shape[1:])
    if not all(isinstance(index, int) for index in entry) or not 0 < len(entry) <= len(sizes):
        raise InvalidTarget(
            f"a target for outputs of shape {tuple(output.shape)} must have 1 to {len(sizes)} ints; got {entry!r}"
        )
    if any(not -size <= index < size for index, size in zip(entry, sizes, strict=False)):
        raise InvalidTarget(f"target {entry!r} is out of range for outputs of shape {tuple(output.shape)}")
    return entry
