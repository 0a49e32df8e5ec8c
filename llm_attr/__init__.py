"""llm_attr explains what in an input made a model answer as it did."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_attr.core.evaluator import Progress, watching
    from llm_attr.core.parallel.region import parallel
    from llm_attr.llm.citations.citations import Citations
    from llm_attr.llm.cite import cite
    from llm_attr.llm.cost.plan import Plan, plan
    from llm_attr.llm.diff.explanation_diff import ExplanationDiff, diff
    from llm_attr.llm.engines.connect import connect
    from llm_attr.llm.explain import explain, prompt_game
    from llm_attr.llm.jobs.dataset_run import DatasetRun
    from llm_attr.llm.jobs.explain_dataset import explain_dataset
    from llm_attr.llm.model.language_model import LanguageModel, load_model
    from llm_attr.llm.prompt.prompt import Prompt
    from llm_attr.llm.request import methods
    from llm_attr.llm.results.comparison import Comparison, compare
    from llm_attr.llm.results.result import LLMAttributionResult
    from llm_attr.llm.target.region import Region
    from llm_attr.llm.trust.report import TrustReport

__version__ = "0.1.0"

_WHERE = {
    "Citations": "llm_attr.llm.citations.citations",
    "Comparison": "llm_attr.llm.results.comparison",
    "DatasetRun": "llm_attr.llm.jobs.dataset_run",
    "ExplanationDiff": "llm_attr.llm.diff.explanation_diff",
    "LLMAttributionResult": "llm_attr.llm.results.result",
    "LanguageModel": "llm_attr.llm.model.language_model",
    "Plan": "llm_attr.llm.cost.plan",
    "Progress": "llm_attr.core.evaluator",
    "Prompt": "llm_attr.llm.prompt.prompt",
    "Region": "llm_attr.llm.target.region",
    "TrustReport": "llm_attr.llm.trust.report",
    "cite": "llm_attr.llm.cite",
    "compare": "llm_attr.llm.results.comparison",
    "connect": "llm_attr.llm.engines.connect",
    "diff": "llm_attr.llm.diff.explanation_diff",
    "explain": "llm_attr.llm.explain",
    "explain_dataset": "llm_attr.llm.jobs.explain_dataset",
    "load_model": "llm_attr.llm.model.language_model",
    "methods": "llm_attr.llm.request",
    "parallel": "llm_attr.core.parallel.region",
    "plan": "llm_attr.llm.cost.plan",
    "prompt_game": "llm_attr.llm.explain",
    "watching": "llm_attr.core.evaluator",
}
_SUBPACKAGES = {
    "attr",
    "concept",
    "core",
    "errors",
    "influence",
    "insights",
    "llm",
    "metrics",
    "module",
    "robust",
    "testing",
    "viz",
}

__all__ = [
    "Citations",
    "Comparison",
    "DatasetRun",
    "ExplanationDiff",
    "LLMAttributionResult",
    "LanguageModel",
    "Plan",
    "Progress",
    "Prompt",
    "Region",
    "TrustReport",
    "__version__",
    "cite",
    "compare",
    "connect",
    "diff",
    "explain",
    "explain_dataset",
    "load_model",
    "methods",
    "parallel",
    "plan",
    "prompt_game",
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
