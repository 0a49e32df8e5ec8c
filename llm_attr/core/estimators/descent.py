"""Linear models by gradient descent."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from llm_attr.core.estimators.surrogate import Linear
from llm_attr.errors import InvalidValue, UnknownKeyword, UnknownName

InitScheme = Literal["zeros", "xavier"]


@dataclass(frozen=True)
class Trained:
    """The result of a descent.

    Attributes:
        linear: The linear functions.
        loss: The mean loss of the last steps.
        steps: Number of steps.
        epochs: Number of passes through the data.
    """

    linear: Linear
    loss: float
    steps: int
    epochs: int


@dataclass(frozen=True)
class Descent:
    """Gradient steps on `mean(weight (value - prediction)^2) / 2 + alpha |coefficients|`, one per batch.

    Stops when the loss has not decreased by the threshold for more than `patience` steps. The minimum is approached but
    not reached: penalized coefficients do not become exactly 0.

    Attributes:
        max_epoch: Maximum number of passes through the data.
        reduce_lr: Whether to halve the learning rate while the loss does not decrease.
        initial_lr: The initial learning rate.
        alpha: The penalty.
        reg_term: The norm of the coefficients that is penalized, 1 or 2; None: no penalty.
        patience: Number of steps without progress before stopping.
        threshold: The relative decrease of the loss that counts as progress.
        running_loss_window: Number of steps over which the loss is averaged; None: one epoch.
        init_scheme: Initial coefficients: `zeros`, or `xavier` (random with a fixed seed).
    """

    max_epoch: int = 100
    reduce_lr: bool = True
    initial_lr: float = 0.01
    alpha: float = 1.0
    reg_term: int | None = 1
    patience: int = 10
    threshold: float = 1e-4
    running_loss_window: int | None = None
    init_scheme: InitScheme = "zeros"

    def __post_init__(self) -> None:
        if self.init_scheme not in get_args(InitScheme):
            raise UnknownName("init_scheme", self.init_scheme, get_args(InitScheme))
        if self.reg_term not in (None, 1, 2):
            raise InvalidValue(f"reg_term must be 1, 2 or None; got {self.reg_term!r}")
        if self.max_epoch < 1 or self.initial_lr <= 0:
            raise InvalidValue(
                f"max_epoch must be at least 1 and initial_lr positive; got {self.max_epoch} and {self.initial_lr}"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Descent:
        """A descent with these fields.

        Raises:
            UnknownKeyword: a field does not exist.
        """
        accepted = {field.name for field in fields(cls)}
        if unknown := options.keys() - accepted:
            raise UnknownKeyword("gradient descent", unknown, accepted)
        return cls(**options)

    def trained(self, batches: Sequence[tuple[Tensor, Tensor, Tensor]], bias: bool = True) -> Trained:
        """Fits linear functions to all outputs at once.

        Args:
            batches: Rows `(samples, features)`, values `(samples, outputs)` and weights `(samples, outputs or 1)`.
            bias: Whether to fit intercepts.
        """
        rows, values, _ = batches[0]
        coefficients, intercepts = self._start(rows, values), values.new_zeros(values.shape[1])
        losses: deque[float] = deque(maxlen=self.running_loss_window or len(batches))
        rate, best, waited, since_halved, steps = self.initial_lr, float("inf"), 0, 0, 0
        for _ in range(self.max_epoch):
            for batch in batches:
                loss, slope, lift = self._slopes(coefficients, intercepts, *batch)
                coefficients, intercepts = coefficients - rate * slope, intercepts - rate * lift * bias
                losses.append(loss)
                steps += 1
                mean = sum(losses) / len(losses)
                progress = mean < best * (1 - self.threshold)
                best, waited, since_halved = (mean, 0, 0) if progress else (best, waited + 1, since_halved + 1)
                if self.reduce_lr and since_halved > self.patience // 2:
                    rate, since_halved = rate / 2, 0
            if waited > self.patience:
                break
        return Trained(Linear(coefficients, intercepts), sum(losses) / len(losses), steps, steps // len(batches))

    def _start(self, rows: Tensor, values: Tensor) -> Tensor:
        start = torch.zeros(rows.shape[1], values.shape[1], dtype=rows.dtype, device="cpu")
        if self.init_scheme == "xavier":
            torch.nn.init.xavier_uniform_(start, generator=torch.Generator().manual_seed(0))
        return start.to(rows.device)

    def _slopes(
        self, coefficients: Tensor, intercepts: Tensor, rows: Tensor, values: Tensor, weights: Tensor
    ) -> tuple[float, Tensor, Tensor]:
        """The loss, and its derivatives with respect to the coefficients and the intercepts."""
        errors = rows @ coefficients + intercepts - values
        pull = weights * errors / len(rows)
        loss, slope = (pull * errors).sum() / 2, rows.T @ pull
        if self.reg_term is not None:
            sizes = coefficients.norm(self.reg_term, 0)
            directions = coefficients.sign() if self.reg_term == 1 else coefficients / sizes.clamp_min(1e-12)
            loss, slope = loss + self.alpha * sizes.sum(), slope + self.alpha * directions
        return loss.item(), slope, pull.sum(0)
