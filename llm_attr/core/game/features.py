"""Features: partitions of the positions of the inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.typing import Coalitions, TensorOrTensors, Tensors, Values


class Ownership(Protocol):
    """Maps features to the positions of the inputs, and attributions of features back to positions."""

    @property
    def count(self) -> int:
        """The number of features."""

    def present(self, coalitions: Coalitions, which: int, device: torch.device) -> Tensor:
        """True where the input `which` keeps its own value; broadcasts to `(coalitions, batch, *features)`."""

    def spread(self, values: Values) -> Tensors:
        """`(features, outputs) -> (outputs, *features)` for each input."""

    def check_outputs(self, shape: torch.Size) -> None:
        """Raises InvalidShape if outputs of this shape cannot be attributed to the features."""


@dataclass(frozen=True)
class Features:
    """A partition of all positions into features; a feature may span several inputs.

    Attributes:
        owner: For each input, the feature of each position, `(1 or batch, *features)`.
        count: Number of features.
    """

    owner: Tensors
    count: int

    @classmethod
    def of(cls, mask: TensorOrTensors | None, inputs: Tensors, name: str = "feature_mask") -> Features:
        """The features of a mask; without a mask, every position is a feature."""
        return cls.single(inputs) if mask is None else cls.of_mask(mask, inputs, name)

    @classmethod
    def single(cls, inputs: Tensors) -> Features:
        """Every position of an example is a feature."""
        owner, count = [], 0
        for tensor in inputs:
            size = tensor.shape[1:].numel()
            owner.append(torch.arange(count, count + size, device="cpu").view(1, *tensor.shape[1:]))
            count += size
        return cls(tuple(owner), count)

    @classmethod
    def of_mask(cls, mask: TensorOrTensors, inputs: Tensors, name: str = "feature_mask") -> Features:
        """Positions with the same number in the mask form one feature, also across inputs.

        Args:
            mask: A tensor, or a tuple with one per input.
            inputs: The inputs.
            name: The name of the argument, for error messages.

        Raises:
            InvalidShape: a mask does not broadcast to its input, or the number of masks differs from that of the
                inputs.
            InvalidType: the mask is not an integer tensor.
        """
        masks = mask if isinstance(mask, tuple) else (mask,)
        if len(masks) != len(inputs):
            raise InvalidShape(f"{name} must have one mask for each of the {len(inputs)} inputs; got {len(masks)}")
        pairs = enumerate(zip(masks, inputs, strict=True))
        owners = [_owner(mask, tensor, f"{name} {i}") for i, (mask, tensor) in pairs]
        ids, index = torch.unique(torch.cat([owner.flatten() for owner in owners]), return_inverse=True)
        parts = index.split([owner.numel() for owner in owners])
        return cls(tuple(part.view(owner.shape) for part, owner in zip(parts, owners, strict=True)), len(ids))

    def present(self, coalitions: Coalitions, which: int, device: torch.device) -> Tensor:
        """`(coalitions, 1 or batch, *features)`: True where the input `which` keeps its value."""
        return coalitions.to(device)[:, self._owner_on(which, device)]

    def spread(self, values: Values) -> Tensors:
        """The value of each position's feature: `(features, outputs) -> (outputs, *features)` for each input.

        If the mask differs between examples, the outputs are those of the examples in turn.
        """
        return tuple(self._spread_one(values, owner.to(values.device)) for owner in self.owner)

    def _owner_on(self, which: int, device: torch.device) -> Tensor:
        """The map of an input on a device, to which it is copied once."""
        if self.owner[which].device == device:
            return self.owner[which]
        if (which, device) not in self._copies:
            self._copies[which, device] = self.owner[which].to(device)
        return self._copies[which, device]

    @cached_property
    def _copies(self) -> dict[tuple[int, torch.device], Tensor]:
        """The maps on other devices, by the number of the input."""
        return {}

    def check_outputs(self, shape: torch.Size) -> None:
        """Raises InvalidShape if the mask differs between examples and the model does not have outputs for each."""
        examples = max(len(owner) for owner in self.owner)
        if examples > 1 and examples not in (shape.numel(), *shape[:1]):
            raise InvalidShape(
                f"a feature_mask that differs between the {examples} examples needs outputs for each example; "
                f"the model gave {shape.numel()} outputs of shape {tuple(shape)}"
            )

    def _spread_one(self, values: Values, owner: Tensor) -> Tensor:
        if len(owner) == 1:
            return values[owner[0]].movedim(-1, 0) if owner[0].dim() else values[owner[0]]
        if values.shape[-1] % len(owner):
            self.check_outputs(values.shape[-1:])
        outputs = torch.arange(values.shape[-1], device=values.device)
        owner = owner.repeat_interleave(len(outputs) // len(owner), 0)
        return values[owner, outputs.view(-1, *(1,) * (owner.dim() - 1))]


def _owner(mask: Tensor, tensor: Tensor, name: str) -> Tensor:
    if not isinstance(mask, Tensor):
        raise InvalidType(f"{name} must be a tensor of whole numbers; got {type(mask).__name__}")
    if mask.is_complex() or (mask.is_floating_point() and not torch.equal(mask, mask.round())):
        raise InvalidType(f"{name} must hold whole numbers; got {mask.dtype} with fractions")
    rows = 1 if mask.dim() < tensor.dim() or len(mask) == 1 else len(tensor)
    try:
        return mask.long().expand(rows, *tensor.shape[1:])
    except RuntimeError:
        raise InvalidShape(
            f"{name} must broadcast to its input of shape {tuple(tensor.shape)}; got {tuple(mask.shape)}"
        ) from None
