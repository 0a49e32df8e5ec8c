"""Every argument of a public class, method or function is described: there, or where its docstring points."""

from __future__ import annotations

import importlib.util
from inspect import getdoc, isabstract, isclass, isfunction
from pathlib import Path
from typing import Any

import pytest

from llm_attr import attr, concept, influence, metrics, module, robust

PATH = Path(__file__).parents[2] / "docs" / "shared_arguments.py"
SPEC = importlib.util.spec_from_file_location("shared_arguments", PATH)
assert SPEC is not None
assert SPEC.loader is not None
shared_arguments: Any = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(shared_arguments)


CLASSES = (attr.Attribution, influence.DataInfluence, robust.GradientPerturbation, module.StochasticGatesBase)
"""Families whose members describe all their arguments."""


def documented() -> dict[str, Any]:
    """The public classes, and the functions and methods that describe arguments."""
    named = {
        name: getattr(package, name)
        for package in (attr, concept, influence, metrics, robust, module)
        for name in package.__all__
    }
    found = {
        name: each
        for name, each in named.items()
        if isclass(each) and issubclass(each, CLASSES) and not isabstract(each)
    }
    for name, each in named.items():
        members = {f"{name}.{key}": getattr(each, key) for key in dir(each)} if isclass(each) else {name: each}
        for key, value in members.items():
            own = isfunction(value) and value.__module__.startswith("llm_attr")
            if own and not key.rpartition(".")[2].startswith("_"):
                doc = getdoc(value) or ""
                if "Args:" in doc or "Shared arguments:" in doc:
                    found[key] = value
    return found


DOCUMENTED = documented()


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_argument_is_described(name: str) -> None:
    obj = DOCUMENTED[name]
    needed = [each for each in shared_arguments.parameters(obj) if not each.startswith("*")]
    assert [each for each in needed if each not in shared_arguments.arguments(obj)] == []


def test_the_site_shows_shared_arguments() -> None:
    lines = (getdoc(attr.Saliency.attribute) or "").splitlines()
    shown = shared_arguments.with_shared(lines, attr.Saliency.attribute)
    assert list(shared_arguments.own_arguments(shown)) == [
        "inputs",
        "target",
        "abs",
        "additional_forward_args",
        "targets",
    ]
    assert not any("Shared arguments" in line for line in shown)
    assert shown[-2:] == lines[-2:]
    lines = (getdoc(attr.LayerConductance) or "").splitlines()
    shown = shared_arguments.with_shared(lines, attr.LayerConductance)
    assert list(shared_arguments.own_arguments(shown)) == ["forward_func", "layer", "device_ids"]
