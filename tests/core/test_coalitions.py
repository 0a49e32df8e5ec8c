import itertools

import pytest
import torch

from llm_attr.core.estimators.leave_one_out import LeaveOneOut
from llm_attr.core.game import coalitions


def test_full() -> None:
    assert coalitions.full(3).tolist() == [[True, True, True]]
    assert coalitions.full(0).shape == (1, 0)


@pytest.mark.parametrize("entries", [1, 5, 11, 25, 1000])
def test_blocks_are_the_whole_design_in_order(entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalitions, "BLOCK_ENTRIES", entries)
    blocks = list(coalitions.each_left_out(5))
    assert torch.equal(torch.cat(blocks), ~torch.eye(5).bool())
    assert all(len(block) == 1 or block.numel() <= entries for block in blocks)


def test_many_features_come_in_blocks_of_bounded_size() -> None:
    features = 150_528
    for start, block in zip((0, 111, 222), coalitions.each_left_out(features), strict=False):
        assert block.numel() <= coalitions.BLOCK_ENTRIES
        assert torch.equal((~block).nonzero()[:, 1], torch.arange(start, start + len(block)))


@pytest.mark.parametrize("features", [0, 1, 2, 9])
@pytest.mark.parametrize("entries", [1, 20, 1000])
def test_leave_one_out(features: int, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalitions, "BLOCK_ENTRIES", entries)
    estimator = LeaveOneOut()
    design = torch.cat(list(estimator.rounds(features)))
    assert torch.equal(design, torch.cat([torch.ones(1, features), 1 - torch.eye(features)]).bool())
    assert estimator.evaluations(features) == len(design)
    weights = torch.randn(features, 2)
    torch.testing.assert_close(estimator.estimate(design, design.float() @ weights).values, weights)


def test_names_differ_between_all_coalitions() -> None:
    rows = torch.tensor(list(itertools.product([False, True], repeat=9)))
    assert len(set(coalitions.keys(rows))) == 512
    assert all(len(name) == 2 for name in coalitions.keys(rows))


@pytest.mark.parametrize("features", [1, 8, 9])
def test_distinct_rows_come_in_the_order_in_which_they_occur(features: int) -> None:
    rows = torch.rand(40, features, generator=torch.Generator().manual_seed(features)) < 0.5
    found, index = coalitions.distinct(rows)
    assert torch.equal(found[index], rows)
    assert found.tolist() == list(map(list, dict.fromkeys(map(tuple, rows.tolist()))))
    assert index[:1].tolist() == [0]


def test_distinct_rows_of_none() -> None:
    found, index = coalitions.distinct(torch.zeros(0, 3, dtype=torch.bool))
    assert (found.shape, index.shape) == ((0, 3), (0,))
