"""Small models with data and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset


def load(model: nn.Module, state: dict[str, Tensor]) -> float:
    """A checkpoint that is a state dict in memory."""
    model.load_state_dict(state)
    return 1.0


@dataclass(frozen=True)
class Case:
    """A model in double precision, with training and test examples and checkpoints that are state dicts."""

    model: nn.Module
    train: TensorDataset
    tests: tuple[Tensor, ...]
    checkpoints: list[dict[str, Tensor]]

    @classmethod
    def of(cls, model: nn.Module, x: Callable[[int], Tensor], y: Callable[[int], Tensor], train: int = 11) -> Case:
        model.double().eval()
        checkpoints = []
        for _ in range(2):
            with torch.no_grad():
                for value in model.parameters():
                    value.add_(torch.randn_like(value) * 0.2)
            checkpoints.append({name: value.clone() for name, value in model.state_dict().items()})
        return cls(model, TensorDataset(x(train), y(train)), (x(5), y(5)), checkpoints)

    def arguments(self) -> tuple[Any, ...]:
        return self.model, self.train, self.checkpoints, load

    def loss(self, reduction: str = "none") -> nn.Module:
        return nn.CrossEntropyLoss(reduction=reduction)

    def gradients(self, state: dict[str, Tensor], x: Tensor, y: Tensor, layers: list[str] | None = None) -> Tensor:
        """Slow and plain: autograd, one example at a time."""
        self.model.load_state_dict(state)
        named = self.model.named_parameters()
        chosen = [value for name, value in named if layers is None or name.rpartition(".")[0] in layers]
        rows = []
        for i in range(len(x)):
            loss = self.loss("sum")(self.model(x[i : i + 1]), y[i : i + 1])
            found = torch.autograd.grad(loss, chosen, allow_unused=True, materialize_grads=True)
            rows.append(torch.cat([each.flatten() for each in found]))
        return torch.stack(rows)

    def tracin(self, layers: list[str] | None = None) -> Tensor:
        """The definition of TracIn."""
        pairs = ((self.gradients(c, *self.tests, layers), c) for c in self.checkpoints)
        return sum(tests @ self.gradients(c, *self.train.tensors, layers).T for tests, c in pairs)


class Reader(nn.Module):
    """Tokens, norms, a linear layer over positions that is called twice, and a tied table."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 6, padding_idx=0)
        self.norm, self.scale = nn.LayerNorm(6), nn.RMSNorm(6)
        self.mix = nn.Linear(6, 6)
        self.free = nn.Parameter(torch.ones(6))
        self.head = nn.Linear(6, 9 if tied else 3, bias=not tied)
        if tied:
            self.head.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        h = self.norm(self.table(ids))
        h = self.scale(h + torch.tanh(self.mix(h))) * self.free
        return self.head(torch.relu_(self.mix(h)).mean(1))


class PositionsFirst(nn.Module):
    """Examples are the second axis inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x.transpose(0, 1))).mean(0))


class UsedElsewhere(nn.Module):
    """The weight of a layer also works outside of the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x)) @ self.inner.weight)


class Branching(nn.Module):
    """Control flow that depends on the data, so that vmap fails."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Bilinear(4, 4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x, x)
        return self.head(h if float(x.detach().abs().sum()) > 0 else -h)


def labels(count: int) -> Callable[[int], Tensor]:
    return lambda size: torch.randint(0, count, (size,))


def cases() -> dict[str, Case]:
    torch.manual_seed(0)

    def flat(size: int) -> Tensor:
        return torch.randn(size, 4, dtype=torch.float64)

    def image(size: int) -> Tensor:
        return torch.randn(size, 2, 6, 5, dtype=torch.float64)

    def ids(size: int) -> Tensor:
        return torch.randint(0, 9, (size, 5))

    mlp = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3, bias=False))
    conv = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, padding_mode="circular"),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 4, 2, groups=2, dilation=2, padding="same", bias=False),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(36, 3),
    )
    sequence = nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(90, 3))
    return {
        "mlp": Case.of(mlp, flat, labels(3)),
        "convolutions": Case.of(conv, image, labels(3)),
        "sequence": Case.of(sequence, lambda size: image(size).flatten(2), labels(3)),
        "tokens": Case.of(Reader(), ids, labels(3)),
        "tied": Case.of(Reader(tied=True), ids, labels(3)),
        "positions first": Case.of(PositionsFirst(), lambda size: torch.randn(size, 5, 4).double(), labels(3)),
        "used elsewhere": Case.of(UsedElsewhere(), flat, labels(3)),
        "branching": Case.of(Branching(), flat, labels(3)),
    }
