"""What is computed on each placement of a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.devices.placement import Placement


@dataclass(frozen=True)
class Case:
    """Something that must come to the same on every placement.

    Attributes:
        name: A method of the registry, or what else it is.
        run: What it comes to for models at a placement: tensors, or results, lists and dicts of them.
        covers: The public names that it runs, beside the method.
        everywhere: Whether it is for divided models and for devices that do without something too.
    """

    name: str
    run: Callable[[Placement], Any]
    covers: tuple[str, ...] = ()
    everywhere: bool = True

    def is_for(self, placement: Placement) -> bool:
        """Whether it is computed there."""
        return self.everywhere or (placement.rest is None and placement.without is None)

    def numbers(self, placement: Placement) -> list[Tensor]:
        """All tensors that it comes to, on the CPU in fp64; attention by the one kernel that every device has."""
        with (placement.without or nullcontext)(), torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH):
            torch.manual_seed(0)
            random.seed(0)
            return [tensor.detach().cpu().double() for tensor in tensors_in(self.run(placement))]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a result, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, bool | int | float):
        yield torch.tensor(float(value))
    elif isinstance(value, dict):
        for name in sorted(value, key=str):
            yield from tensors_in(value[name])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif is_dataclass(value):
        yield from tensors_in([getattr(value, field.name) for field in fields(value)])
    elif value is not None:
        raise TypeError(f"a case comes to tensors, numbers and lists and dicts of them; got {type(value).__name__}")
