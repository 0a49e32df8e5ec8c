"""Small models that can fail, and everything of a model that an explanation must leave alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Fuse(nn.Module):
    """Passes its input on until it has been called often enough, then raises at every call."""

    def __init__(self, calls: int | None = None, error: type[BaseException] = RuntimeError) -> None:
        super().__init__()
        self.calls, self.error = calls, error

    def forward(self, x: Tensor) -> Tensor:
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise self.error("the fuse has blown")
        return x


class TwoInputs(nn.Module):
    """`(batch, 3, 2)` and optionally `(batch, 2, 2)` to three classes; changes its input in place, has buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6, 5), nn.BatchNorm1d(5))
        self.second = nn.Sequential(nn.Conv1d(2, 5, 2), nn.Flatten())
        self.fuse = Fuse()
        self.head = nn.Sequential(nn.Tanh(), nn.Dropout(0.5), nn.Linear(5, 3))

    @property
    def layer(self) -> nn.Module:
        """The one that layer and neuron methods look at: `(batch, 5)`."""
        return self.head[0]

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        hidden = self.first(x) if y is None else self.first(x) + self.second(y)
        return self.head(self.fuse(hidden))


def two_inputs() -> TwoInputs:
    """In eval mode but for two parts, with statistics of its own and one frozen part."""
    torch.manual_seed(0)
    model = TwoInputs().eval()
    norm = model.first[3]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    model.second.train()
    model.fuse.train()
    model.second.requires_grad_(False)
    model.head[2].bias.grad = torch.ones(3)
    return model


def state(model: nn.Module, *inputs: Tensor) -> dict[str, Any]:
    """A copy of all that must be the same before and after."""
    return {
        "tensors": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()},
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "training": {name: part.training for name, part in model.named_modules()},
        "hooks": {name: _hooks(part) for name, part in model.named_modules()},
        "attributes": {name: sorted(vars(part)) for name, part in model.named_modules()},
        "global hooks": len(nn.modules.module._global_forward_hooks),
        "grad mode": torch.is_grad_enabled(),
        "torch": torch.get_rng_state(),
        "numpy": np.random.get_state()[1:],
        "python": random.getstate(),
        "inputs": [x.detach().clone() for x in inputs],
        "input flags": [(x.requires_grad, x._version, x.grad) for x in inputs],
    }


def _hooks(part: nn.Module) -> dict[str, int]:
    return {name: len(value) for name, value in vars(part).items() if "hooks" in name and value is not None}


def assert_same(after: Any, before: Any, where: str = "state") -> None:
    """Equal, tensors and arrays bit by bit."""
    if isinstance(before, dict):
        assert after.keys() == before.keys(), where
        for name, value in before.items():
            assert_same(after[name], value, f"{where}: {name}")
    elif isinstance(before, list | tuple):
        assert len(after) == len(before), where
        for got, want in zip(after, before, strict=True):
            assert_same(got, want, where)
    elif isinstance(before, Tensor):
        assert torch.equal(after, before), where
    elif isinstance(before, np.ndarray):
        assert np.array_equal(after, before), where
    else:
        assert after == before, where
