"""The insights page: explore in a browser what in a prompt carried a model's answer. Needs the extra `serve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_attr.insights.server import serve

__all__ = ["serve"]


def __getattr__(name: str) -> Any:
    if name == "serve":
        from llm_attr.insights.server import serve

        return serve
    raise AttributeError(f"module 'llm_attr.insights' has no attribute {name!r}")
