"""Expected gradients equal the installed Captum's, with equal global seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from llm_attr.attr import GradientShap, LayerGradientShap
from llm_attr.core.path import walk as path
from tests.parity.cases import IDS, MOVED, Case, assert_equal, captums, random
from tests.parity.gradient_rows import states, stdevs

pytestmark = pytest.mark.usefixtures("one_thread")


def seeded(call: Callable[[Any], Any], seed: int = 7) -> Callable[[Any], Any]:
    """The call after both global seeds."""

    def after_seeds(method: Any) -> Any:
        torch.manual_seed(seed)
        np.random.seed(seed)
        return call(method)

    return after_seeds


def assert_equal_with_delta(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found[1], expected[1], rtol=1e-6, atol=1e-12)
    assert_equal(found[0], expected[0])


def options(case: Case, **more: Any) -> dict[str, Any]:
    return {"baselines": states(case), "n_samples": 6, "stdevs": stdevs(case), **case.options, **more}


@pytest.mark.parametrize("room", [1, 2, 4, 100])
def test_chunks_split_calls_and_no_draws(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = MOVED["encoder, list of tuples"]
    rows: list[int] = []
    watch = case.model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    monkeypatch.setattr(path, "copies_that_fit", lambda tensors, outputs=1: room)
    call = seeded(lambda m: m.attribute(case.inputs, **options(case, n_samples=9, return_convergence_delta=True)))
    with watch:
        found = call(GradientShap(case.model))
    assert max(rows) == 3 * min(room, 9)
    assert_equal_with_delta(found, captums("GradientShap", call, case.model))


def test_both_streams_are_left_where_captum_leaves_them() -> None:
    case = MOVED["two inputs"]
    ends = []
    for library in (
        lambda call: captums("GradientShap", call, case.model),
        lambda call: call(GradientShap(case.model)),
    ):
        library(seeded(lambda m: m.attribute(case.inputs, **options(case))))
        ends.append((torch.rand(1).item(), np.random.rand()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("name", IDS)
def test_layers_of_token_ids(name: str) -> None:
    """Captum moves the ids themselves and fails; here the layer moves. A linear tail tells what must come out."""
    case = IDS[name]
    embedding, tail = case.model.embedding, random(8, seed=3)
    ids, baselines = case.inputs, (case.inputs[:1] + 1) % 11
    found, delta = LayerGradientShap(lambda x: (embedding(x) @ tail).sum(1), embedding).attribute(
        ids, baselines, n_samples=3, return_convergence_delta=True
    )
    torch.testing.assert_close(found, ((embedding(ids) - embedding(baselines)) * tail).detach())
    torch.testing.assert_close(delta, torch.zeros(9, dtype=torch.float64))
    arguments = {"n_samples": 4, "return_convergence_delta": True, "seed": 0, **case.options}
    found, delta = LayerGradientShap(case.model, embedding).attribute(ids, baselines, **arguments)
    assert found.shape == (3, 5, 8)
    assert delta.shape == (12,)
    assert found.abs().max() > 0
