from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_attr.attr import FeatureAblation, GroupAblation
from llm_attr.core.estimators.leave_one_out import GroupsLeftOut, LeaveOneOut
from llm_attr.errors import InvalidValue
from tests.core.games import estimated, random_game, sample


@pytest.mark.parametrize(
    ("nested", "groups"),
    [
        (None, [(0,), (1,), (2,), (3,), (4,)]),
        ([0, 1, 2, 3, 4], [(0,), (1,), (2,), (3,), (4,)]),
        ([[0, 1], [2, 3, 4]], [(0, 1), (2, 3, 4)]),
        ([[0, 1], 2, [[3], [4]]], [(0, 1), (2,), (3, 4), (3,), (4,)]),
        ([[4, [0, 1]], [[2, 3]]], [(4, 0, 1), (4,), (0, 1), (2, 3)]),
    ],
)
def test_which_groups_are_left_out_and_who_gets_the_loss(nested: Any, groups: list[tuple[int, ...]]) -> None:
    estimator, game = GroupsLeftOut(nested), random_game(5)
    assert estimator.groups(5) == groups
    rows, values = sample(estimator, game)
    assert len(rows) == estimator.evaluations(5) == estimator.least(5) == len(groups) + 1
    assert rows[0].all()
    assert [tuple(sorted(group)) for group in groups] == [
        tuple((~row).nonzero().flatten().tolist()) for row in rows[1:]
    ]
    losses, found = estimator.losses(values), estimator.estimate(rows[:0], values).values
    torch.testing.assert_close(losses, game(rows[:1]) - game(rows[1:]))
    for feature in range(5):
        finest = min((group for group in groups if feature in group), key=len)
        torch.testing.assert_close(found[feature], losses[groups.index(finest)] / len(finest))


def test_without_groups_as_feature_ablation() -> None:
    game = random_game(4)
    torch.testing.assert_close(estimated(GroupsLeftOut(), game).values, estimated(LeaveOneOut(), game).values)
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        GroupAblation(lambda x: x.prod(1)).attribute(x), FeatureAblation(lambda x: x.prod(1)).attribute(x)
    )


def test_losses_of_a_model() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]])
    values, losses = GroupAblation(lambda x: x.prod(1) + x.sum(1)).attribute(
        x, groups=[[0, 1], [2]], return_losses=True
    )
    assert losses.tolist() == [[9.0, 9.0], [12.0, 10.0]]
    assert values.tolist() == [[4.5, 4.5, 9.0], [6.0, 6.0, 10.0]]
    with pytest.raises(InvalidValue, match=r"missing: \[2\]"):
        GroupAblation(lambda x: x.sum(1)).attribute(x, groups=[[0, 1]])
