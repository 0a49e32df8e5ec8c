"""Type aliases for arguments and tensors. Tensors are plain `torch.Tensor`; the names document their axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

Tensors: TypeAlias = tuple[Tensor, ...]
"""One tensor `(batch, *features)` per input."""

TensorOrTensors: TypeAlias = Tensor | Tensors
"""A public argument or result, in the caller's form."""

Form = TypeVar("Form", bound=TensorOrTensors)
"""The form of the inputs and of the result: tensor in, tensor out; tuple in, tuple out."""

Baselines: TypeAlias = Tensor | int | float | tuple[Tensor | int | float, ...] | None
"""The absent state of the inputs; None means zero."""

BaselineDistribution: TypeAlias = Baselines | Callable[..., TensorOrTensors]
"""Absent states to draw from, `(states, *features)` per input, or a function of the inputs that returns them."""

Target: TypeAlias = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None
"""Which entry of the model's output is explained; lists and 1-D tensors give one entry per example."""

ForwardFunction: TypeAlias = Callable[..., Any]
"""A model or any callable from the inputs (and additional arguments) to a tensor or a number."""

Coalitions: TypeAlias = Tensor
"""Bool `(coalitions, features)`: True where the feature is present."""

Values: TypeAlias = Tensor
"""`(coalitions, ...)`: the value of each coalition."""

Game: TypeAlias = Callable[[Coalitions], Values]
"""All that a perturbation estimator knows about a model."""

NeuronSelector: TypeAlias = int | tuple[int | slice, ...] | Callable[..., Tensor]
"""A neuron of a layer: an index per axis after the batch, or a function of the layer's tensors."""
