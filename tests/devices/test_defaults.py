"""What torch makes by default, where and in which precision, changes no explanation."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import llm_attr
from tests.devices import tensors, texts
from tests.devices.cases import Case
from tests.devices.placement import Placement
from tests.devices.table import outcome

PACKAGE = Path(llm_attr.__file__).parent
MAKERS = {
    "arange", "as_tensor", "asarray", "empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randint",
    "randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
"""Functions that make tensors on the default device."""

OF_FLOATS = {"empty", "eye", "full", "linspace", "logspace", "ones", "rand", "randn", "zeros"}
"""Those that make them in the default precision."""


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


DEFAULTS = [
    Placement("device meta", within=lambda: torch.device("meta")),
    *(
        Placement(f"dtype {dtype}", within=lambda dtype=dtype: default_dtype(dtype))
        for dtype in (torch.float64, torch.bfloat16, torch.float16)
    ),
]
EXPLAINING = (texts.explained, tensors.asked)
CASES = [case for case in (*texts.CASES, *tensors.CASES) if getattr(case.run, "func", None) in EXPLAINING]

pytestmark = pytest.mark.usefixtures("one_thread")


def marked(default: Placement) -> Any:
    halves = default.name in ("dtype torch.bfloat16", "dtype torch.float16")
    return pytest.param(default, id=default.name, marks=[pytest.mark.slow] if halves else [])


@pytest.mark.parametrize("default", [marked(default) for default in DEFAULTS])
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_defaults_change_nothing(case: Case, default: Placement) -> None:
    assert outcome(case, default) == "ok"


def unsaid(source: str) -> list[str]:
    """The calls that make tensors without a word of where, or of floats without one of how precise."""
    found = []
    for call in ast.walk(ast.parse(source)):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            continue
        name, given = call.func.attr, {keyword.arg for keyword in call.keywords}
        if ast.unparse(call.func.value) != "torch" or name not in MAKERS:
            continue
        if "device" not in given or (name in OF_FLOATS and "dtype" not in given):
            found.append(f"line {call.lineno}: {ast.unparse(call)}")
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_tensor_says_where_it_is_made(path: Path) -> None:
    assert unsaid(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("torch.zeros(3)", 1),
        ("torch.zeros(3, device='cpu')", 1),
        ("torch.arange(3)", 1),
        ("torch.arange(3, device=x.device)", 0),
        ("torch.rand(3, dtype=torch.float32, device='cpu')", 0),
        ("x.new_zeros(3), torch.cat(parts)", 0),
    ],
)
def test_what_is_not_said_is_seen(source: str, count: int) -> None:
    assert len(unsaid(source)) == count
