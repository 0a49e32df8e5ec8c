"""The loss of each example of a batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from llm_attr.caller import warn_caller
from llm_attr.core.pairing.data import Batch
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue

LossFunction: TypeAlias = Callable[[Any, Any], Tensor]
"""`(outputs, labels) -> loss`."""

Reduction: TypeAlias = Literal["none", "sum", "mean"]


class SummedLoss(Protocol):
    """Anything that sums the losses of a batch's examples."""

    def total(self, forward: Callable[..., Any], batch: Batch) -> Tensor:
        """The sum of the examples' losses, on autograd's graph."""


@dataclass(frozen=True)
class Loss:
    """The sum of the losses of a batch's examples.

    Attributes:
        function: `(outputs, labels) -> loss`; None: the model's output is the loss.
        reduction: What the function does with the losses of a batch.
    """

    function: LossFunction | None
    reduction: Reduction

    @classmethod
    def of(cls, function: Any, reduced: bool, name: str = "loss_fn", switch: str = "") -> Loss:
        """The loss for a public argument.

        Args:
            function: A loss of `torch.nn`, any callable, or None.
            reduced: Whether the function must give one number for a batch.
            name: The name of the argument.
            switch: How the caller gets the other kind, for the message.

        Raises:
            InvalidType: it is not callable.
            InvalidValue: it has another reduction.
        """
        if function is not None and not callable(function):
            raise InvalidType(f"{name} must be a callable (outputs, labels) -> loss, or None; got {function!r}")
        given = getattr(function, "reduction", None)
        accepted = ("sum", "mean") if reduced else ("none",)
        if given is not None and given not in accepted:
            wanted = " or ".join(f"reduction={each!r}" for each in accepted)
            raise InvalidValue(f"{name} must have {wanted}{switch}; got reduction={given!r}")
        if reduced and function is not None and given is None:
            warn_caller(f"{name} has no attribute `reduction`; it is taken for the sum over a batch", UserWarning)
        return cls(function, given or ("sum" if reduced else "none"))

    def total(self, forward: Callable[..., Any], batch: Batch) -> Tensor:
        """The sum of the examples' losses.

        Raises:
            InvalidType: the loss is no tensor.
            InvalidShape: the loss has not the shape that belongs to its reduction.
        """
        outputs = forward(*batch.inputs)
        value = outputs if self.function is None else self.function(outputs, batch.labels)
        if not isinstance(value, Tensor):
            raise InvalidType(f"the loss must be a tensor; got {type(value).__name__}")
        if self.reduction == "none":
            if value.dim() == 0 or len(value) != batch.count:
                raise InvalidShape(
                    f"the loss must have one entry for each of the {batch.count} examples; got shape "
                    f"{tuple(value.shape)}. A loss of one number for a batch needs sample_wise_grads_per_batch=True"
                )
            return value.sum(dtype=torch.promote_types(value.dtype, torch.float32))
        if value.numel() != 1:
            raise InvalidShape(f"the loss must be one number for the whole batch; got shape {tuple(value.shape)}")
        return value.sum() * (batch.count if self.reduction == "mean" else 1)
