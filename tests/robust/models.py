"""Classifiers with probabilities, in double precision."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tests.parity.cases import random
from tests.parity.models import LSTM, TwoInputs, cnn, made, mlp


class Probabilities(nn.Module):
    """The softmax of a model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any) -> Tensor:
        return self.model(*args).softmax(1)


MODELS: dict[str, tuple[nn.Module, Any]] = {
    "mlp": (Probabilities(made(mlp())), random(3, 4, seed=1)),
    "cnn": (Probabilities(made(cnn())), random(3, 2, 5, 5, seed=2)),
    "two inputs": (Probabilities(made(TwoInputs())), (random(3, 4, seed=3), random(3, 2, 3, seed=4))),
    "lstm": (Probabilities(made(LSTM())), random(3, 5, 3, seed=5)),
}
