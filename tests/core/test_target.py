import pytest
import torch

from llm_attr.core.target import select, tile_target
from llm_attr.errors import InvalidTarget

MATRIX = torch.arange(6.0).view(2, 3)
CUBE = torch.arange(24.0).view(2, 3, 4)


@pytest.mark.parametrize(
    ("output", "target", "expected"),
    [
        (MATRIX, None, MATRIX),
        (MATRIX, 1, MATRIX[:, 1]),
        (MATRIX, -1, MATRIX[:, 2]),
        (MATRIX, (2,), MATRIX[:, 2]),
        (MATRIX, torch.tensor(1), MATRIX[:, 1]),
        (MATRIX, torch.tensor([1]), MATRIX[:, 1]),
        (MATRIX, torch.tensor([2, 0]), torch.tensor([2.0, 3.0])),
        (MATRIX, [2, -3], torch.tensor([2.0, 3.0])),
        (CUBE, 1, CUBE[:, 1]),
        (CUBE, (1, 3), CUBE[:, 1, 3]),
        (CUBE, [(0, 1), (2, 3)], torch.tensor([1.0, 23.0])),
        (CUBE, [2, 0], torch.stack([CUBE[0, 2], CUBE[1, 0]])),
        (CUBE, [(2,), (0,)], torch.stack([CUBE[0, 2], CUBE[1, 0]])),
        (torch.tensor(3.0), None, torch.tensor(3.0)),
    ],
)
def test_select(output: torch.Tensor, target: object, expected: torch.Tensor) -> None:
    assert torch.equal(select(output, target), expected)


@pytest.mark.parametrize(
    ("output", "target", "message"),
    [
        (MATRIX, 3, r"target \(3,\) is out of range for outputs of shape \(2, 3\)"),
        (MATRIX, -4, r"out of range"),
        (MATRIX, [0, 3], r"target \(3,\) is out of range"),
        (CUBE, (1, 4), r"target \(1, 4\) is out of range for outputs of shape \(2, 3, 4\)"),
        (MATRIX, (0, 0), r"outputs of shape \(2, 3\) must have 1 to 1 ints; got \(0, 0\)"),
        (MATRIX, (), r"1 to 1 ints; got \(\)"),
        (MATRIX, (0.5,), r"1 to 1 ints; got \(0.5,\)"),
        (MATRIX, [0], r"one per example; got 1 targets for 2 examples"),
        (MATRIX, [0, 1, 2], r"3 targets for 2 examples"),
        (MATRIX, [], r"0 targets for 2 examples"),
        (MATRIX, torch.tensor([0, 1, 2]), r"3 targets for 2 examples"),
        (MATRIX, torch.zeros(2, 2), r"1 to 1 ints; got \(\[0.0, 0.0\],\)"),
        (CUBE, [(0, 1), (1,)], r"the same length; got \[\(0, 1\), \(1,\)\]"),
        (MATRIX, "1", r"must be an int, a tuple of ints, a 1-D tensor, a list of ints or a list of tuples; got '1'"),
        (MATRIX, 1.0, r"got 1\.0"),
        (MATRIX, torch.tensor(1.5), r"got tensor\(1\.5"),
        (MATRIX[:, 0], 0, r"but its shape is \(2,\); leave the target out"),
        (torch.tensor(1.0), 0, r"its shape is \(\)"),
    ],
)
def test_targets_that_are_refused(output: torch.Tensor, target: object, message: str) -> None:
    with pytest.raises(InvalidTarget, match=message):
        select(output, target)


def test_tiling_repeats_what_names_one_entry_for_each_example() -> None:
    assert tile_target([(0, 1), (1, 0)], 2) == [(0, 1), (1, 0), (0, 1), (1, 0)]
    assert tile_target(torch.tensor([0, 1]), 3).tolist() == [0, 1] * 3
    assert tile_target(torch.tensor([4]), 3).tolist() == [4]
    for target in (None, 2, (1, 2)):
        assert tile_target(target, 5) == target
