"""llm_attr explains what in an input made a model answer as it did."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_attr.core.evaluator import Progress, watching
    from llm_attr.llm.compare import Comparison, compare
    from llm_attr.llm.explain import explain, methods
    from llm_attr.llm.model import LanguageModel, load_model
    from llm_attr.llm.plan import Plan, plan
    from llm_attr.llm.prompt import Prompt
    from llm_attr.llm.region import Region
    from llm_attr.llm.result import LLMAttributionResult

__version__ = "0.1.0"

_WHERE = {
    "Comparison": "llm_attr.llm.compare",
    "LLMAttributionResult": "llm_attr.llm.result",
    "LanguageModel": "llm_attr.llm.model",
    "Plan": "llm_attr.llm.plan",
    "Progress": "llm_attr.core.evaluator",
    "Prompt": "llm_attr.llm.prompt",
    "Region": "llm_attr.llm.region",
    "compare": "llm_attr.llm.compare",
    "explain": "llm_attr.llm.explain",
    "load_model": "llm_attr.llm.model",
    "methods": "llm_attr.llm.explain",
    "plan": "llm_attr.llm.plan",
    "watching": "llm_attr.core.evaluator",
}
_SUBPACKAGES = {"attr", "core", "errors", "llm", "viz"}

__all__ = [
    "Comparison",
    "LLMAttributionResult",
    "LanguageModel",
    "Plan",
    "Progress",
    "Prompt",
    "Region",
    "__version__",
    "compare",
    "explain",
    "load_model",
    "methods",
    "plan",
    "watching",
]


def __getattr__(name: str) -> Any:
    if name in _SUBPACKAGES:
        return import_module(f"llm_attr.{name}")
    if name in _WHERE:
        return getattr(import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'llm_attr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_SUBPACKAGES])
