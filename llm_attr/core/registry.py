"""The registry of attribution methods by name."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TypeVar

Method = TypeVar("Method", bound=type)

METHODS: dict[str, type] = {}
"""Every registered attribution class under its snake_case name."""


def registered(method: Method) -> Method:
    """Class decorator: registers a method under the snake_case of its class name."""
    METHODS[snake_case(method.__name__)] = method
    return method


def methods() -> dict[str, type]:
    """All attribution methods by name; imports `llm_attr.attr`, where they are registered."""
    import_module("llm_attr.attr")
    return METHODS


def snake_case(name: str) -> str:
    """`FeatureAblation` -> `feature_ablation`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def summary(method: type) -> str:
    """The first line of the class's docstring."""
    return (method.__doc__ or "").strip().splitlines()[0]
