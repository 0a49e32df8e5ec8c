from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from llm_attr.core.batching import modules_of

GLOBAL = nn.Linear(2, 2)


def by_name(x: Tensor) -> Tensor:
    return GLOBAL(x)


def through_another(x: Tensor) -> Tensor:
    return by_name(x) + 1


def in_a_circle(x: Tensor) -> Tensor:
    return in_a_circle(x) if len(x) else by_name(x)


def scaled(model: nn.Module, x: Tensor) -> Tensor:
    return 2 * model(x)


class Held(nn.Module):
    def score(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("forward", [GLOBAL, by_name, through_another, in_a_circle, partial(scaled, GLOBAL)])
def test_modules_behind_callables(forward: object) -> None:
    assert modules_of(forward) == [GLOBAL]


def test_functions_within_functions_and_bound_methods() -> None:
    model, held = nn.Linear(2, 2), Held()

    def inner(x: Tensor) -> Tensor:
        return model(x)

    def outer(x: Tensor) -> Tensor:
        return inner(held.score(x))

    assert set(modules_of(outer)) == {model, held}
    assert modules_of(held.score) == [held]
    assert modules_of(torch.relu) == []
