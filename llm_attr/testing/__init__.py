"""Assertions about explanations, for tests of prompts, retrieval and models; a fixture and readable failures.

The plugin is found by pytest where llm_attr is installed. It imports nothing heavy before a test asks for a model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_attr.testing.grounded import assert_grounded, assert_not_grounded, share_of
    from llm_attr.testing.unchanged import assert_unchanged

_WHERE = {
    "assert_grounded": "llm_attr.testing.grounded",
    "assert_not_grounded": "llm_attr.testing.grounded",
    "assert_unchanged": "llm_attr.testing.unchanged",
    "share_of": "llm_attr.testing.grounded",
}

__all__ = ["assert_grounded", "assert_not_grounded", "assert_unchanged", "share_of"]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'llm_attr.testing' has no attribute {name!r}")
