"""Every case on GPUs: `python -m pytest tests/devices/gpu.py`; skipped where there is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.devices.cases import Case
from tests.devices.placement import Placement
from tests.devices.table import KINDS, cuda, full_precision, outcome

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def cases(kind: str) -> Any:
    pairs = [(case, place) for case in KINDS[kind] for place in cuda() if case.is_for(place)]
    names = [f"{case.name}-{place.name}" for case, place in pairs]
    return pytest.mark.parametrize(("case", "placement"), pairs, ids=names)


@pytest.fixture(autouse=True)
def _full_precision() -> Any:
    with full_precision():
        yield


@cases("text")
def test_text(case: Case, placement: Placement) -> None:
    assert outcome(case, placement) == "ok"


@cases("tensors")
def test_tensors(case: Case, placement: Placement) -> None:
    assert outcome(case, placement) == "ok"
