"""The named argument and tensor types of the library.

Tensors are plain `torch.Tensor`; the names say what their axes mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

Tensors: TypeAlias = tuple[Tensor, ...]
"""What is moved together: one tensor `(batch, *features)` for each input."""

TensorOrTensors: TypeAlias = Tensor | Tensors
"""A public argument or result: the caller's form is kept."""

Form = TypeVar("Form", bound=TensorOrTensors)
"""The form of the inputs, which the result has too: tensor in, tensor out; tuple in, tuple out."""

Baselines: TypeAlias = Tensor | int | float | tuple[Tensor | int | float, ...] | None
"""The absent state of the inputs; None is zero."""

BaselineDistribution: TypeAlias = Baselines | Callable[..., TensorOrTensors]
"""Absent states to draw from, `(states, *features)` for each input; or a function of the inputs that gives them."""

Target: TypeAlias = int | tuple[int, ...] | Tensor | list[int] | list[tuple[int, ...]] | None
"""Which entry of the model's output is explained; lists and 1-D tensors name one entry for each example."""

ForwardFunction: TypeAlias = Callable[..., Any]
"""A model or any callable from the inputs (and additional arguments) to a tensor or a number."""

Coalitions: TypeAlias = Tensor
"""Bool `(coalitions, features)`: True where the feature is present."""

Values: TypeAlias = Tensor
"""`(coalitions, ...)`: what the game pays to each coalition."""

Game: TypeAlias = Callable[[Coalitions], Values]
"""The only thing that a perturbation estimator knows of a model."""

NeuronSelector: TypeAlias = int | tuple[int | slice, ...] | Callable[..., Tensor]
"""A neuron of a layer: its index, one for each axis after the batch, or a function of the layer's tensors."""
