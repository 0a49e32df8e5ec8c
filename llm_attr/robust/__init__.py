"""How robust a model's answers are: attacks, and the least perturbation that changes an answer."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llm_attr.robust.attack_comparator import AttackComparator, AttackInfo, agg_metric
from llm_attr.robust.gradient import FGSM, PGD, GradientPerturbation
from llm_attr.robust.min_param_perturbation import (
    MinParamPerturbation,
    MinParamPerturbationMode,
    default_correct_fn,
    drange,
)
from llm_attr.robust.perturbation import Perturbation

if TYPE_CHECKING:
    from llm_attr.llm.edit.edit import Edit
    from llm_attr.llm.edit.minimal_edit import MinimalEdit

_FROM_LLM = {"Edit": "edit.edit", "MinimalEdit": "edit.minimal_edit"}

__all__ = [
    "FGSM",
    "PGD",
    "AttackComparator",
    "AttackInfo",
    "Edit",
    "GradientPerturbation",
    "MinParamPerturbation",
    "MinParamPerturbationMode",
    "MinimalEdit",
    "Perturbation",
    "agg_metric",
    "default_correct_fn",
    "drange",
]


def __getattr__(name: str) -> Any:
    if name not in _FROM_LLM:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"llm_attr.llm.{_FROM_LLM[name]}"), name)


def __dir__() -> list[str]:
    return __all__
