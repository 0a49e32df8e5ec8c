from typing import NamedTuple

import pytest
import torch

from llm_attr.core.tensors import as_baselines, as_tensors, in_form_of, map_tensors, tile
from llm_attr.errors import InvalidShape, InvalidType

X, Y = torch.zeros(3, 4), torch.zeros(3, 2, 2)


class Pair(NamedTuple):
    left: torch.Tensor
    right: object


def test_form_is_kept() -> None:
    assert as_tensors(X) == (X,)
    assert as_tensors((X, Y)) == (X, Y)
    assert in_form_of(X, (Y,)) is Y
    assert in_form_of((X,), (Y,)) == (Y,)


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([X], InvalidType, r"a tensor or a tuple of tensors; got list"),
        ((X, 1), InvalidType, r"got \['Tensor', 'int'\]"),
        ((), InvalidType, r"got \[\]"),
        (None, InvalidType, r"got NoneType"),
        (torch.tensor(1.0), InvalidShape, r"a batch axis \(batch, \*features\); got a tensor without axes"),
        ((X, Y[:2]), InvalidShape, r"the same batch size; got \[3, 2\]"),
    ],
)
def test_inputs_that_are_refused(inputs: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_tensors(inputs)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        (None, (1, 1)),
        (2, (1, 1)),
        (True, (1, 1)),
        (0.1, (1, 1)),
        (torch.ones(4), (1, 4)),
        (torch.ones(1, 4), (1, 4)),
        (torch.ones(3, 4), (3, 4)),
        (torch.ones(3, 4, dtype=torch.int64), (3, 4)),
    ],
)
def test_baselines_broadcast_and_have_the_type_of_their_input(value: object, shape: tuple[int, ...]) -> None:
    (baseline,) = as_baselines(value, (X.double(),))
    assert baseline.shape == shape
    assert baseline.dtype == torch.float64
    wanted = value if isinstance(value, torch.Tensor) else torch.tensor(value or 0, dtype=torch.float64)
    assert torch.equal(baseline, wanted.double().expand(shape))


def test_a_number_keeps_its_precision() -> None:
    assert as_baselines(0.1, (X.double(),))[0].item() == 0.1
    assert as_baselines(2**53 + 1, (X.long(),))[0].item() == 2**53 + 1


@pytest.mark.parametrize(
    ("dtype", "value", "expected"),
    [
        (torch.int64, 3, torch.int64),
        (torch.int64, 3.0, torch.int64),
        (torch.int64, 0.5, torch.float32),
        (torch.int64, torch.full((1, 4), 0.5), torch.float32),
        (torch.int64, float("nan"), torch.float32),
        (torch.int8, 300, torch.int64),
        (torch.bool, 1, torch.bool),
        (torch.bool, 2, torch.int64),
        (torch.float16, 0.1, torch.float16),
    ],
)
def test_a_baseline_is_never_rounded_to_a_whole_number(
    dtype: torch.dtype, value: object, expected: torch.dtype
) -> None:
    (baseline,) = as_baselines(value, (X.to(dtype),))
    assert baseline.dtype == expected
    if expected != torch.float16:
        torch.testing.assert_close(
            baseline.flatten()[0].double(), torch.as_tensor(value).flatten()[0].double(), equal_nan=True
        )


@pytest.mark.parametrize(
    ("baselines", "error", "message"),
    [
        ((0,), InvalidShape, r"one for each of the 2 inputs; got 1"),
        ((0, 0, 0), InvalidShape, r"one for each of the 2 inputs; got 3"),
        (0, InvalidShape, r"one for each of the 2 inputs; got 1"),
        ((torch.zeros(2, 4), 0), InvalidShape, r"baseline 0 must broadcast .* \(3, 4\); got \(2, 4\)"),
        ((0, torch.zeros(3, 2)), InvalidShape, r"baseline 1 must broadcast .* \(3, 2, 2\); got \(3, 2\)"),
        ((torch.zeros(1, 3, 4), 0), InvalidShape, r"baseline 0 .*got \(1, 3, 4\)"),
        (("0", 0), InvalidType, r"baseline 0 must be a tensor or a number; got str"),
        (([0.0] * 4, 0), InvalidType, r"baseline 0 .*got list"),
    ],
)
def test_baselines_that_are_refused(baselines: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        as_baselines(baselines, (X, Y))


def test_tiling_repeats_what_has_a_row_for_each_example() -> None:
    rows, weight, scalar = torch.arange(3), torch.ones(4, 2), torch.tensor(1.0)
    value = (rows, [weight, scalar, None, "text", Pair(rows.view(3, 1), 5)], {"rows": rows})
    assert tile(value, 1, 3) is value
    tiled = tile(value, 2, 3)
    assert torch.equal(tiled[0], torch.tensor([0, 1, 2, 0, 1, 2]))
    assert tiled[1][:4] == [weight, scalar, None, "text"]
    assert tiled[1][0] is weight
    assert isinstance(tiled[1][4], Pair)
    assert tiled[1][4].left.shape == (6, 1)
    assert torch.equal(tiled[2]["rows"], tiled[0])
    assert torch.equal(value[2]["rows"], rows)


def test_mapping_keeps_lists_and_tuples() -> None:
    assert map_tensors(lambda tensor: tensor.dim(), (X, [Y, 3], ())) == (2, [3, 3], ())
