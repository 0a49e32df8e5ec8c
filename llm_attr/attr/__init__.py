"""Attribution methods, under Captum's names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_attr.attr.ablation import FeatureAblation
from llm_attr.attr.base import Attribution, PerturbationAttribution

if TYPE_CHECKING:
    from llm_attr.llm.attribution import LLMAttribution
    from llm_attr.llm.inputs import InterpretableInput, ProductBaselines, TextTemplateInput, TextTokenInput
    from llm_attr.llm.result import LLMAttributionResult

_FROM_LLM = {
    "InterpretableInput": "inputs",
    "LLMAttribution": "attribution",
    "LLMAttributionResult": "result",
    "ProductBaselines": "inputs",
    "TextTemplateInput": "inputs",
    "TextTokenInput": "inputs",
}

__all__ = [
    "Attribution",
    "FeatureAblation",
    "InterpretableInput",
    "LLMAttribution",
    "LLMAttributionResult",
    "PerturbationAttribution",
    "ProductBaselines",
    "TextTemplateInput",
    "TextTokenInput",
]


def __getattr__(name: str) -> Any:
    if name not in _FROM_LLM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_attr.llm.{_FROM_LLM[name]}"), name)


def __dir__() -> list[str]:
    return __all__
