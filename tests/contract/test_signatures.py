"""Public signatures are Captum's: the same arguments in the same order, then keywords of our own."""

from __future__ import annotations

import warnings
from inspect import Parameter, isclass, signature
from typing import Any

import pytest

import llm_attr.attr as ours

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr as theirs

CLASSES = sorted(
    name
    for name in theirs.__all__
    if isclass(getattr(theirs, name)) and issubclass(getattr(theirs, name), theirs.Attribution) and hasattr(ours, name)
)


def positional(function: Any) -> list[str]:
    """The arguments that may be given by position."""
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    return [each.name for each in signature(function).parameters.values() if each.kind in kinds]


@pytest.mark.parametrize("member", ["__init__", "attribute"])
@pytest.mark.parametrize("name", CLASSES)
def test_arguments_are_those_of_captum(name: str, member: str) -> None:
    mine, captum = (getattr(getattr(package, name), member, None) for package in (ours, theirs))
    if not callable(captum) or not callable(mine):
        return
    assert positional(mine) == positional(captum)
