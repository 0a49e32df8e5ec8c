"""Several targets at once: what one call for each target gives, from the forward passes of one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from llm_attr import attr
from llm_attr.errors import InvalidTarget
from tests.contract.methods import ROWS, Row
from tests.contract.models import two_inputs
from tests.contract.test_methods import calls_of, each, on

pytestmark = pytest.mark.usefixtures("one_thread")

TARGETS: list[Any] = [2, 0, [1, 2]]

several = each(lambda row: row.takes("targets"))


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 2, generator=generator), torch.randn(2, 2, 2, generator=generator)


def stacked(results: list[Any]) -> Any:
    """The results of each target as one, with a leading axis."""
    if isinstance(results[0], Tensor):
        return torch.stack(results)
    return type(results[0])(stacked(list(parts)) for parts in zip(*results, strict=True))


def test_every_gradient_method_with_a_target_takes_several() -> None:
    assert [row.name for row in ROWS if row.gradients and row.takes("target") and not row.takes("targets")] == []
    assert sum(row.takes("targets") for row in ROWS) >= 23


@several
def test_several_targets_are_one_call_for_each(row: Row, inputs: tuple[Tensor, Tensor]) -> None:
    model = two_inputs()
    method = on(row, model)
    more: dict[str, Any] = {}
    if row.takes("return_convergence_delta") and row.face != "through":
        more["return_convergence_delta"] = True
    expected = stacked([row.ask(method, inputs, target=target, **more) for target in TARGETS])
    found: list[Any] = []
    together = calls_of(model, lambda: found.append(row.ask(method, inputs, targets=TARGETS, **more)))
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-6)
    assert together == calls_of(model, lambda: row.ask(method, inputs, target=2, **more))


@several
def test_one_tensor_and_chunks(row: Row, inputs: tuple[Tensor, Tensor]) -> None:
    method, x = on(row, two_inputs()), inputs[0]
    chunked = {row.chunk: 2} if row.chunk and row.name != "noise_tunnel" else {}
    expected = stacked([row.ask(method, x, target=target) for target in TARGETS[:2]])
    torch.testing.assert_close(row.ask(method, x, targets=TARGETS[:2], **chunked), expected, rtol=1e-4, atol=1e-6)


def test_steps_that_grow_do_so_until_every_target_is_complete(inputs: tuple[Tensor, Tensor]) -> None:
    weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    method = attr.IntegratedGradients(lambda x: (x.flatten(1) @ weight).exp())
    found, delta, info = method.attribute(
        inputs[0], targets=range(3), until=1e-4, return_info=True, return_convergence_delta=True
    )
    assert found.shape == (3, *inputs[0].shape)
    assert delta.shape == info.gap.shape == (3, 2)
    assert info.gap.max() <= 1e-4


def test_noise_of_several_targets(inputs: tuple[Tensor, Tensor]) -> None:
    seen: list[Any] = []
    tunnel = attr.NoiseTunnel(attr.IntegratedGradients(two_inputs()))
    options: dict[str, Any] = {
        "nt_samples": 4,
        "stdevs": 0.3,
        "seed": 0,
        "n_steps": 5,
        "return_convergence_delta": True,
    }
    for kind in ("smoothgrad", "vargrad"):
        alone = [tunnel.attribute(inputs, nt_type=kind, target=target, **options) for target in TARGETS]
        found = tunnel.attribute(inputs, nt_type=kind, targets=TARGETS, inspect=seen.append, **options)
        torch.testing.assert_close(found, stacked(alone), rtol=1e-4, atol=1e-6)
    assert seen[0][0].shape == (3, 2, 4, 3, 2)


def test_layers_in_a_list_get_the_axis_each(inputs: tuple[Tensor, Tensor]) -> None:
    model = two_inputs()
    method = attr.LayerIntegratedGradients(model, [model.first[2], model.head[0]])
    found = method.attribute(inputs[0], targets=[0, 1], n_steps=4)
    alone = [method.attribute(inputs[0], target=target, n_steps=4) for target in (0, 1)]
    torch.testing.assert_close(found, stacked(alone))


def test_places_of_several_targets() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(2, 3, 6, 6)
    for method in (attr.LayerGradCam(model, model[0]), attr.GuidedGradCam(model, model[0])):
        expected = stacked([method.attribute(x, target=target) for target in TARGETS])
        torch.testing.assert_close(method.attribute(x, targets=TARGETS), expected)


def test_a_function_of_multipliers_sees_one_target_at_a_time(inputs: tuple[Tensor, Tensor]) -> None:
    method = attr.DeepLift(two_inputs())

    def squared(multipliers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(each**2 for each in multipliers)

    found = method.attribute(inputs, targets=TARGETS, custom_attribution_func=squared)
    alone = [method.attribute(inputs, target=target, custom_attribution_func=squared) for target in TARGETS]
    torch.testing.assert_close(found, stacked(alone))


@several
def test_target_and_targets_exclude_each_other(row: Row, inputs: tuple[Tensor, Tensor]) -> None:
    method = on(row, two_inputs())
    with pytest.raises(InvalidTarget, match="target or targets, not both"):
        row.ask(method, inputs, target=0, targets=[1])
