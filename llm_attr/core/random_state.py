"""The global random streams of Python, numpy and torch, and seeded generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Streams:
    """The states of torch's random streams: the CPU's, and each accelerator's once one is in use."""

    cpu: Tensor
    devices: tuple[Tensor, ...]

    @classmethod
    def now(cls) -> Streams:
        """The current states."""
        module = _accelerator()
        if module is None:
            return cls(torch.get_rng_state(), ())
        if module is torch.mps:
            return cls(torch.get_rng_state(), (module.get_rng_state(),))
        return cls(torch.get_rng_state(), tuple(module.get_rng_state(i) for i in range(module.device_count())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Streams) or len(self.devices) != len(other.devices):
            return False
        pairs = zip((self.cpu, *self.devices), (other.cpu, *other.devices), strict=True)
        return all(torch.equal(*pair) for pair in pairs)

    def restore(self) -> None:
        """Sets torch's streams to these states."""
        torch.set_rng_state(self.cpu)
        module: Any = _accelerator() if self.devices else None
        for number, state in enumerate(self.devices):
            module.set_rng_state(state) if module is torch.mps else module.set_rng_state(state, number)


@dataclass(frozen=True, eq=False)
class AllStreams:
    """The states of the global random streams of Python, numpy and torch."""

    python: Any
    numpy: Any
    torch: Streams

    @classmethod
    def now(cls) -> AllStreams:
        """The current states."""
        return cls(random.getstate(), np.random.get_state(), Streams.now())

    def restore(self) -> None:
        """Sets all streams to these states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        self.torch.restore()


@contextmanager
def streams_kept(seed: int | None = None) -> Iterator[None]:
    """Seeds torch's streams, or leaves them where they are; restores all of them at the end."""
    before = Streams.now()
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            module = _accelerator()
            if module is not None:
                module.manual_seed(seed) if module is torch.mps else module.manual_seed_all(seed)
        yield
    finally:
        before.restore()


def _accelerator() -> Any:
    """Torch's module for this machine's accelerator; None if there is none or it has not been used yet."""
    if not torch.accelerator.is_available():
        return None
    module = torch.get_device_module(torch.accelerator.current_accelerator())
    return module if getattr(module, "is_initialized", lambda: True)() else None


def generator(seed: int | None) -> torch.Generator | None:
    """A seeded generator; None for torch's global stream."""
    return None if seed is None else torch.Generator().manual_seed(seed)
