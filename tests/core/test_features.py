import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from llm_attr.core.game.features import Features
from llm_attr.errors import InvalidShape, InvalidType

X, Y = torch.zeros(2, 3), torch.zeros(2, 2, 2)


def test_every_position_is_a_feature() -> None:
    features = Features.single((X, Y))
    assert features.count == 7
    assert features.owner[0].tolist() == [[0, 1, 2]]
    assert features.owner[1].tolist() == [[[3, 4], [5, 6]]]
    assert Features.single((torch.zeros(4),)).count == 1
    assert Features.single((X[:0],)).count == 3


def test_numbers_of_the_mask_are_counted_without_their_gaps() -> None:
    features = Features.of_mask((torch.tensor([[9, -4, 9]]), torch.tensor([[2, 2], [9, 100]])), (X, Y))
    assert features.count == 4
    assert features.owner[0].tolist() == [[2, 0, 2]]
    assert features.owner[1].tolist() == [[[1, 1], [2, 3]]]


@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 1), (1, 3), (2, 3), (2, 1)])
def test_masks_broadcast(shape: tuple[int, ...]) -> None:
    (owner,) = Features.of_mask(torch.zeros(shape), (X,)).owner
    assert owner.shape == ((2, 3) if shape[:1] == (2,) else (1, 3))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(1, 3), st.booleans(), st.integers(0, 9999))
def test_a_position_is_present_with_its_feature_and_gets_its_value(batch: int, per_example: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = (torch.zeros(batch, 2, 2), torch.zeros(batch, 3))
    masks = tuple(
        torch.randint(-2, 5, (batch if per_example else 1, *x.shape[1:]), generator=generator) for x in inputs
    )
    features = Features.of_mask(masks, inputs)
    numbers = sorted({int(number) for mask in masks for number in mask.flatten()})
    assert features.count == len(numbers)
    coalitions = torch.rand(4, features.count, generator=generator) < 0.5
    values = torch.randn(features.count, batch, generator=generator)
    spread = features.spread(values)
    for which, (mask, x) in enumerate(zip(masks, inputs, strict=True)):
        present = features.present(coalitions, which, x.device).expand(4, *x.shape)
        for place in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
            feature = numbers.index(int(mask.expand(x.shape)[tuple(place)]))
            assert torch.equal(present[(slice(None), *place)], coalitions[:, feature])
            assert spread[which][tuple(place)] == values[feature, place[0]]


def test_a_mask_is_copied_to_a_device_once() -> None:
    features, device = Features.of(None, (torch.zeros(1, 5, 7),)), torch.device("meta")
    copied = list[torch.Size]()

    class Copies(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten._to_copy.default:
                copied.append(args[0].shape)
            return func(*args, **(kwargs or {}))

    with Copies():
        for _ in range(2):
            found = features.present(torch.ones(2, 35, dtype=torch.bool), 0, device)
    assert (found.device, found.shape) == (device, (2, 1, 5, 7))
    assert copied == [(2, 35), (1, 5, 7), (2, 35)]


def test_outputs_in_a_row_where_there_is_not_one_for_each_example() -> None:
    values = torch.arange(10.0).view(2, 5)
    (spread,) = Features.of_mask(torch.tensor([[0, 1, 0]]), (X,)).spread(values)
    assert spread.shape == (5, 3)
    assert torch.equal(spread[:, 2], values[0])
    assert torch.equal(spread[:, 1], values[1])


def test_one_output_for_each_example_where_the_examples_differ() -> None:
    features = Features.of_mask((torch.tensor([[0, 1, 0], [1, 0, 0]]), torch.zeros(1, 1, 1)), (X, Y))
    features.check_outputs(torch.Size([2]))
    features.check_outputs(torch.Size([2, 5]))
    for shape in ((), (3,), (4,), (1, 4)):
        with pytest.raises(
            InvalidShape, match=f"the 2 examples needs outputs for each example; .* {re.escape(str(shape))}"
        ):
            features.check_outputs(torch.Size(shape))
    for outputs in (1, 3):
        with pytest.raises(InvalidShape, match="needs outputs for each example"):
            features.spread(torch.zeros(2, outputs))
    found = features.spread(torch.arange(8.0).view(2, 4))[0]
    assert found.tolist() == [[0, 4, 0], [1, 5, 1], [6, 2, 2], [7, 3, 3]]


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.zeros(3), InvalidShape, r"one mask for each of the 2 inputs; got 1"),
        ((torch.zeros(3),) * 3, InvalidShape, r"one mask for each of the 2 inputs; got 3"),
        ((torch.zeros(4), torch.zeros(2)), InvalidShape, r"feature_mask 0 .* shape \(2, 3\); got \(4,\)"),
        ((torch.zeros(3), torch.zeros(3, 2, 2)), InvalidShape, r"feature_mask 1 .* \(2, 2, 2\); got \(3, 2, 2\)"),
        ((torch.zeros(1, 1, 3), torch.zeros(2)), InvalidShape, r"feature_mask 0 .*got \(1, 1, 3\)"),
        ((torch.zeros(0, 3), torch.zeros(2)), InvalidShape, r"feature_mask 0 .*got \(0, 3\)"),
        (
            (torch.tensor([0, 0.5, 1]), torch.zeros(2)),
            InvalidType,
            r"0 must hold whole numbers; got torch.float32 with",
        ),
        ((torch.tensor([0, 1, torch.nan]), torch.zeros(2)), InvalidType, r"whole numbers"),
        ((torch.zeros(3), torch.zeros(2) * 1j), InvalidType, r"feature_mask 1 must hold whole numbers"),
        (([0, 0, 1], torch.zeros(2)), InvalidType, r"feature_mask 0 must be a tensor of whole numbers; got list"),
    ],
)
def test_masks_that_are_refused(mask: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Features.of_mask(mask, (X, Y))
