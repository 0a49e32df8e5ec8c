"""What there is to check on GPUs, in under eight minutes: `python -m tests.devices.gpu` prints one table.

It has ten methods in three precisions against the CPU, two ranks where there are two GPUs, and the cost of explanations
of a long prompt beside plain passes. `--tiny` does the same with a tiny model on a CPU. As tests, with every case of
every method: `python -m pytest tests/devices/gpu.py`; skipped where there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import pytest
import torch

from tests.devices.cases import Case
from tests.devices.large import check
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


def test_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    report = check(tiny=False)
    with capsys.disabled():
        print(f"\n{report.table()}")
    assert not report.failed


def main() -> int:
    """1 if something is not right."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny model on a CPU, to see that this runs")
    given = parser.parse_args()
    if not given.tiny and not torch.accelerator.is_available():
        parser.error("there is no GPU; --tiny runs the same with a tiny model on a CPU")
    report = check(given.tiny)
    print(report.table())
    return int(report.failed)


if __name__ == "__main__":
    sys.exit(main())
