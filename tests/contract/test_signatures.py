"""Public signatures are Captum's: the same arguments in the same order, then keywords of our own."""

from __future__ import annotations

import warnings
from importlib import import_module
from inspect import Parameter, isclass, signature
from typing import Any

import pytest
import torch

import llm_attr.attr as ours
from llm_attr import influence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import captum.attr as theirs
    import captum.influence
    from captum.influence._core import arnoldi_influence_function as arnoldi

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


OTHERS = {
    "concept": ["CAV", "Concept", "ConceptInterpreter", "TCAV", "Classifier", "DefaultClassifier"],
    "robust": ["FGSM", "PGD", "MinParamPerturbation", "AttackComparator"],
    "module": ["StochasticGatesBase", "BinaryConcreteStochasticGates", "GaussianStochasticGates"],
}
"""Classes of Captum's other packages."""
DEFAULTS_OF_OUR_OWN = {("AttackComparator", "evaluate", "perturbations_per_eval")}


@pytest.mark.parametrize(("package", "name"), [(package, name) for package, names in OTHERS.items() for name in names])
def test_classes_of_other_packages_are_those_of_captum(package: str, name: str) -> None:
    mine, captum = (getattr(import_module(f"{library}.{package}"), name) for library in ("llm_attr", "captum"))
    members = [member for member in dir(captum) if member == "__init__" or not member.startswith("_")]
    own = [member for member in members if callable(getattr(captum, member)) and not hasattr(torch.nn.Module, member)]
    for member in {"__init__", "forward", *own} & set(dir(captum)):
        arguments, theirs = (signature(getattr(each, member)).parameters for each in (mine, captum))
        assert positional(getattr(mine, member)) == positional(getattr(captum, member)), member
        for argument in theirs.keys() - {"self"}:
            if (name, member, argument) not in DEFAULTS_OF_OUR_OWN:
                assert arguments[argument].default == theirs[argument].default, (member, argument)


INFLUENCE = {name: getattr(captum.influence, name) for name in captum.influence.__all__}
INFLUENCE["ArnoldiInfluenceFunction"] = arnoldi.ArnoldiInfluenceFunction
ABSTRACT = {"DataInfluence", "TracInCPBase"}
MEMBERS = ["__init__", "influence", "self_influence", "compute_intermediate_quantities"]


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("name", sorted(INFLUENCE.keys() - ABSTRACT))
def test_influence_takes_captums_arguments_with_its_defaults(name: str, member: str) -> None:
    mine, captums = (getattr(kind, member, None) for kind in (getattr(influence, name), INFLUENCE[name]))
    if not callable(captums):
        return
    assert positional(mine) == positional(captums)
    defaults = {each.name: each.default for each in signature(captums).parameters.values()}
    for each in signature(mine).parameters.values():
        if each.name in defaults and not callable(each.default):
            assert each.default == defaults[each.name], each.name
