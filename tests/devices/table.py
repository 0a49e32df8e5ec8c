"""Runs every case on placements of a model and prints what comes out as a table.

`python -m tests.devices.table` does it on the second device made of the CPU, `--device cuda` on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import llm_attr
from tests.devices import tensors, texts
from tests.devices.cases import Case
from tests.devices.placement import CPU, Placement
from tests.zoo import quiet

KINDS: dict[str, Sequence[Case]] = {"text": texts.CASES, "tensors": tensors.CASES}
PACKAGE = Path(llm_attr.__file__).parent


def outcome(case: Case, placement: Placement) -> str:
    """`ok`, or what is wrong: the distance from the CPU's numbers, or the error and where it was raised."""
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        expected = on_the_cpu(case)
        try:
            found = case.numbers(placement)
        except Exception as error:  # noqa: BLE001
            return _said(error)
    shapes, wanted = ([tuple(part.shape) for part in parts] for parts in (found, expected))
    if shapes != wanted:
        return f"gives shapes {shapes}, on the CPU {wanted}"
    furthest = max((_distance(*pair) for pair in zip(found, expected, strict=True)), default=0.0)
    return "ok" if furthest <= placement.tolerance else f"differs by {furthest:.1e}"


@cache
def on_the_cpu(case: Case) -> list[Tensor]:
    """What a case comes to there, the same for all placements that are compared with it."""
    return case.numbers(Placement("CPU"))


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the largest number or to 1; infinite where one of the two is no number."""
    if not torch.equal(found.isfinite(), expected.isfinite()):
        return torch.inf
    difference = (found - expected).abs().nan_to_num(0, 0, 0).flatten()
    scale = expected.abs().nan_to_num(0, 0, 0).flatten()
    return float(difference.max() / scale.max().clamp_min(1)) if difference.any() else 0.0


def _said(error: Exception) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(PACKAGE))]
    where = [f"{Path(frame.filename).relative_to(PACKAGE)}:{frame.lineno}" for frame in frames[-2:]]
    return f"{type(error).__name__} in {' <- '.join(reversed(where)) or 'the model'}: {str(error)[:200]}"


def second_device() -> list[Placement]:
    """Placements on the second device made of the CPU, which torch knows from then on."""
    from tests.devices.second_device import DEVICE, without_float64

    return [
        Placement("second device", DEVICE),
        Placement("divided model", DEVICE, CPU),
        Placement("without float64", DEVICE, without=without_float64),
    ]


def cuda() -> list[Placement]:
    """Placements on GPUs; the second half of a divided model lies on another GPU, or on the CPU if there is none."""
    first, more = torch.device("cuda", 0), torch.cuda.device_count() > 1
    rest = torch.device("cuda", 1) if more else CPU
    return [Placement("cuda", first, None, 1e-4), Placement("divided model", first, rest, 1e-4)]


DEVICES: dict[str, Callable[[], list[Placement]]] = {"second": second_device, "cuda": cuda}


@contextmanager
def full_precision() -> Iterator[None]:
    """Without TensorFloat-32, whose rounding is not what is looked for here."""
    parts = torch.backends.cuda.matmul, torch.backends.cudnn
    allowed = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = False
    try:
        yield
    finally:
        for part, was in zip(parts, allowed, strict=True):
            part.allow_tf32 = was


def outcomes(kinds: Sequence[str], placements: Sequence[Placement], only: str = "") -> dict[str, dict[str, str]]:
    """What came out, by case and `kind, placement`."""
    found: dict[str, dict[str, str]] = {}
    for kind in kinds:
        for case in KINDS[kind]:
            for placement in filter(case.is_for, placements if only in case.name else ()):
                found.setdefault(case.name, {})[f"{kind}, {placement.name}"] = outcome(case, placement)
    return found


def as_markdown(found: dict[str, dict[str, str]]) -> str:
    """A row for each case; a dash where it is not for this kind of input."""
    columns = list(dict.fromkeys(column for row in found.values() for column in row))
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(row.get(column, "–") for column in columns)] for name, row in found.items()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> int:
    """1 if anything is not as on the CPU."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--device", choices=sorted(DEVICES), default="second")
    parser.add_argument("--kind", choices=sorted(KINDS), action="append", help="by default all")
    parser.add_argument("--only", default="", help="a part of the names of the cases to run")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with full_precision():
        found = outcomes(given.kind or list(KINDS), DEVICES[given.device](), given.only)
    print(as_markdown(found))
    return int(any(said != "ok" for row in found.values() for said in row.values()))


if __name__ == "__main__":
    sys.exit(main())
