"""Rank correlation and overlap, against the formulas written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llm_attr.core.agreement import rank_correlation, top_overlap


def spearman(x: list[float], y: list[float]) -> float:
    """Pearson's correlation of ranks, each rank found by counting."""

    def ranks(row: list[float]) -> list[float]:
        return [sum(b < a for b in row) + (sum(b == a for b in row) + 1) / 2 for a in row]

    p, q = ranks(x), ranks(y)
    mean = (len(x) + 1) / 2
    products = sum((a - mean) * (b - mean) for a, b in zip(p, q, strict=True))
    return products / (sum((a - mean) ** 2 for a in p) * sum((b - mean) ** 2 for b in q)) ** 0.5


@pytest.mark.parametrize("levels", [3, 1000])
def test_it_is_pearson_of_ranks_with_ties_and_without(levels: int) -> None:
    values = torch.randint(-levels, levels, (5, 40), generator=torch.Generator().manual_seed(0)).double() / 7
    found = rank_correlation(values)
    rows = values.tolist()
    expected = torch.tensor([[spearman(x, y) for y in rows] for x in rows], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    assert found.diagonal().tolist() == [1.0] * 5
    assert torch.equal(found, found.T)


def test_it_is_that_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    values = torch.randn(4, 30, generator=torch.Generator().manual_seed(1)).round(decimals=1)
    expected = pandas.DataFrame(values.T.numpy()).corr(method="spearman")
    torch.testing.assert_close(rank_correlation(values), torch.tensor(expected.to_numpy()))


def test_opposite_orders_and_orders_whatever_the_sizes() -> None:
    found = rank_correlation(torch.tensor([[1.0, 2, 3, 4], [4.0, 3, 2, 1], [-100, 0, 0.5, 1e9]]))
    assert found.tolist() == [[1, -1, 1], [-1, 1, -1], [1, -1, 1]]


@pytest.mark.parametrize("row", [[2.0, 2, 2], [0.0, -0.0, 0], [1.0, float("nan"), 2]])
def test_no_order_no_correlation(row: list[float]) -> None:
    found = rank_correlation(torch.tensor([row, [1.0, 2, 3]]))
    assert found.isnan().tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("units", [0, 1])
def test_too_few_units_for_an_order(units: int) -> None:
    assert rank_correlation(torch.ones(2, units)).isnan().all()


@pytest.mark.parametrize(
    ("rows", "k", "shared"),
    [
        ([[3.0, -5, 1, 0], [0.0, 9, 1, 8]], 1, 1.0),
        ([[3.0, -5, 1, 0], [0.0, 9, 1, 8]], 2, 0.5),
        ([[1.0, 0, 0, 0], [0.0, 0, 0, 1]], 2, 0.5),
        ([[float("nan"), 1, 2], [3.0, 1, 2]], 2, 0.5),
    ],
)
def test_overlap_of_the_strongest(rows: list[list[float]], k: int, shared: float) -> None:
    found: Tensor = top_overlap(torch.tensor(rows), k)
    assert found.tolist() == [[1, shared], [shared, 1]]
