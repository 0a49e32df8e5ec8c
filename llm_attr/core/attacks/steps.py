"""The three holes of a gradient attack: normalise a gradient, project onto a ball, draw a random start in it.

Every function treats the examples of a batch `(batch, *features)` separately.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from llm_attr.errors import UnknownName

Normalise: TypeAlias = Callable[[Tensor], Tensor]
"""From a gradient to the direction of a step."""

Project: TypeAlias = Callable[[Tensor], Tensor]
"""From a perturbation to the nearest one in the ball."""

Start: TypeAlias = Callable[[Tensor], Tensor]
"""From an input to a random perturbation in the ball."""


@dataclass(frozen=True)
class Ball:
    """The perturbations of an input that are allowed.

    Attributes:
        project: Onto the ball.
        start: A uniform draw from it.
    """

    project: Project
    start: Start


def sign(gradient: Tensor) -> Tensor:
    """The steepest direction for the largest entry: the sign of each."""
    return gradient.sign()


def unit(gradient: Tensor) -> Tensor:
    """The steepest direction for the Euclidean norm: the gradient over its norm; zero where that is zero."""
    largest = gradient.flatten(1).abs().amax(1)
    scaled = gradient / _column(torch.where(largest > 0, largest, 1), gradient)
    length = _norms(scaled)
    return scaled / _column(torch.where(length > 0, length, 1), gradient)


DIRECTIONS: dict[str, Normalise] = {"sign": sign, "gradient": unit}
"""The directions of a step, by name."""


def ball(norm: str, radius: float) -> Ball:
    """The perturbations whose norm is at most the radius.

    Args:
        norm: `Linf`, the largest magnitude of an entry; or `L2`, the Euclidean norm of an example.
        radius: At least 0.

    Raises:
        UnknownName: there is no such norm.
    """
    if norm == "Linf":
        return Ball(lambda moved: moved.clamp(-radius, radius), lambda x: torch.rand_like(x) * 2 * radius - radius)
    if norm == "L2":
        return Ball(lambda moved: _shortened(moved, radius), lambda x: _inside_sphere(x, radius))
    raise UnknownName("norm", norm, ["Linf", "L2"])


def _shortened(moved: Tensor, radius: float) -> Tensor:
    least = max(radius, torch.finfo(moved.dtype).tiny)
    return moved * _column(radius / _norms(moved).clamp(min=least), moved)


def _inside_sphere(x: Tensor, radius: float) -> Tensor:
    direction = unit(torch.randn_like(x))
    share = torch.rand(len(x), dtype=torch.get_default_dtype(), device=x.device) ** (1 / max(1, x[0].numel()))
    return direction * _column(share.to(x.dtype) * radius, x)


def _norms(tensor: Tensor) -> Tensor:
    return torch.linalg.vector_norm(tensor.flatten(1), dim=1)


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.dim() - 1))
