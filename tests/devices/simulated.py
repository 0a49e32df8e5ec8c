"""Every case on the second device made of the CPU; `test_second_device` runs this in processes of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.devices.cases import Case
from tests.devices.placement import CPU, Placement
from tests.devices.second_device import DEVICE, NAME
from tests.devices.table import KINDS, outcome, second_device
from tests.devices.texts import model_at

PLACEMENTS = second_device()


def cases(kind: str) -> Any:
    pairs = [(case, place) for case in KINDS[kind] for place in PLACEMENTS if case.is_for(place)]
    names = [f"{case.name}-{place.name}" for case, place in pairs]
    return pytest.mark.parametrize(("case", "placement"), pairs, ids=names)


@cases("text")
def test_text(case: Case, placement: Placement) -> None:
    assert outcome(case, placement) == "ok"


@cases("tensors")
def test_tensors(case: Case, placement: Placement) -> None:
    assert outcome(case, placement) == "ok"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda here, there: here + there,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: torch.where(here > 0, here, there),
        lambda here, there: torch.equal(here, there),
        lambda here, there: there[here.long()],
        lambda here, there: here.index_put_((here.long(),), there),
        lambda here, there: torch.rand(2, device=here.device, generator=torch.Generator()),
        lambda here, there: here.numpy(),
    ],
)
def test_the_device_is_as_strict_as_a_gpu(wrong: Callable[[Tensor, Tensor], Any]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"same device|device type for generator|numpy"):
        wrong(torch.ones(2, device=DEVICE), torch.ones(2))


def test_the_device_is_as_lenient_as_a_gpu() -> None:
    here = torch.arange(3.0, device=DEVICE)
    assert (here + torch.tensor(1.0)).tolist() == [1, 2, 3]
    assert here[torch.tensor([2, 0])].tolist() == here[[2, 0]].tolist() == [2, 0]
    assert torch.zeros(3).copy_(here).tolist() == here.cpu().tolist() == [0, 1, 2]
    assert here.view(3, 1).squeeze_(1).shape == (3,)
    assert here.device.type == NAME


def test_the_device_draws_from_a_stream_of_its_own() -> None:
    before = torch.get_rng_state()
    first = torch.rand(3, device=DEVICE)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(torch.rand(3, device=DEVICE), first)


@pytest.mark.parametrize("rest", [None, CPU])
def test_a_tensor_on_a_wrong_device_does_not_reach_a_model_unseen(rest: torch.device | None) -> None:
    model = model_at(Placement("", DEVICE, rest)).model
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(AssertionError, match="was given a tensor on cpu"):
        model(input_ids=ids)
    with pytest.raises(AssertionError, match="logits_to_keep is a tensor"):
        model(input_ids=ids.to(DEVICE), logits_to_keep=torch.tensor([2], device=DEVICE))
    assert model(input_ids=ids.to(DEVICE), logits_to_keep=[2]).logits.shape[1] == 1
