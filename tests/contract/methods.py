"""The table of the attribution methods: a new method adds a row and passes every test of `test_methods`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from llm_attr.attr import Attribution, FeatureAblation
from llm_attr.typing import ForwardFunction


@dataclass(frozen=True)
class Row:
    """What the contract must know of a method.

    Attributes:
        name: As the registry has it.
        make: The method on a forward function.
        options: Arguments of `attribute` that the method needs or that make it quick and repeatable.
        chunk: The argument that splits the model calls; None if there is none.
        gradients: Whether it asks the model for gradients.
        aggregates: Whether it takes models that give one number for the whole batch.
    """

    name: str
    make: Callable[[ForwardFunction], Attribution]
    options: dict[str, Any] = field(default_factory=dict)
    chunk: str | None = None
    gradients: bool = False
    aggregates: bool = False


ROWS = [
    Row("feature_ablation", FeatureAblation, chunk="perturbations_per_eval", aggregates=True),
]
