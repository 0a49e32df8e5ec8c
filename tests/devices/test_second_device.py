"""Everything gives the numbers of the CPU on a second device and on a model that is cut in two."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from inspect import isclass, isfunction
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llm_attr
from llm_attr import attr, metrics, module, robust
from llm_attr.core.registry import METHODS, snake_case
from tests.devices import tensors, texts
from tests.devices.placement import CPU, Placement

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("rows", [["-k", "test_text"], ["-k", "not test_text"]], ids=["text", "tensors"])
def test_every_case(rows: list[str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=line", *rows]
    done = subprocess.run(
        [*command, "tests/devices/simulated.py"], cwd=ROOT, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_halves_that_share_a_weight_have_one_each() -> None:
    lm = texts.model_at(Placement("divided", CPU, CPU), "gpt2")
    assert lm.model.lm_head.weight is not lm.model.transformer.wte.weight
    assert torch.equal(lm.model.lm_head.weight, lm.model.transformer.wte.weight)


def test_everything_public_has_a_case() -> None:
    on_text = {case.name for case in texts.CASES}
    assert set(llm_attr.methods()) <= on_text
    on_tensors = {case.name for case in tensors.CASES}
    assert set(METHODS) <= on_tensors
    covered = {name for case in (*texts.CASES, *tensors.CASES) for name in case.covers}
    methods = {name for name in attr.__all__ if isclass(getattr(attr, name)) and snake_case(name) in METHODS}
    assert set(attr.__all__) - methods - covered == set(tensors.NOT_COMPUTED)
    assert {*metrics.__all__, *robust.__all__, *module.__all__} <= covered


def test_nothing_makes_tensors_when_it_is_imported() -> None:
    """They would lie on whatever device is the default one then, in whatever precision."""
    names = [module.name for module in pkgutil.walk_packages(llm_attr.__path__, "llm_attr.")]
    names.remove("llm_attr.cli.__main__")
    assert [name for name in names if any(_tensors(importlib.import_module(name)))] == []


def _tensors(module: ModuleType) -> Iterator[Any]:
    """What a module, its classes and functions hold of torch."""
    waiting: list[Any] = [module]
    seen: dict[int, Any] = {}
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, nn.Module) and not [*value.parameters(), *value.buffers()]:
            continue  # a placeholder lies on no device
        if isinstance(value, Tensor | nn.Module | torch.Generator):
            yield value
        elif isinstance(value, dict | MappingProxyType):
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            waiting += value
        elif value is module or module.__name__ in (_made_in(value), type(value).__module__):
            waiting += [getattr(value, name, None) for name in ("__dict__", "__defaults__", "__kwdefaults__")]


def _made_in(value: Any) -> str | None:
    return value.__module__ if isclass(value) or isfunction(value) else None


@pytest.mark.parametrize(
    "held", ["A = torch.ones(1)", "def f(x=torch.ones(1)): ...", "class A:\n  B = {0: [torch.ones(1)]}"]
)
def test_a_tensor_that_a_module_holds_is_seen(held: str) -> None:
    module = ModuleType("made")
    exec(f"import torch\n{held}", vars(module))
    assert len(list(_tensors(module))) == 1
