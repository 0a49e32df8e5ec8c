"""Curves with their areas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llm_attr import metrics
from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.curves import plot_curves

WEIGHTS = torch.tensor([3.0, 1.0, -1.0])


def score() -> metrics.CurveScore:
    return metrics.deletion(WEIGHTS, lambda present: present.float() @ WEIGHTS)


def test_the_legend_has_the_areas() -> None:
    found = score()
    assert found.curve is not None
    figure, axes = plot_curves(["it"], found.fractions, found.curve, value_name="output", title="Deletion")
    legend = axes.get_legend().get_texts()[0].get_text()
    assert legend == f"it: area {float(found.values):.3g}"
    line = axes.get_lines()[0]
    assert line.get_ydata().tolist() == found.curve[0].tolist()
    assert "removed" in axes.get_xlabel()
    figure.draw_without_rendering()
    _, axes = plot_curves(["a", "b"], [0, 1], [[0, 1], [1, 2]], removing=False)
    assert "added" in axes.get_xlabel()
    assert len(axes.get_lines()) == 3, "two curves and the line at zero"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ((["a"], [0, 1], [[1, 2], [3, 4]]), InvalidShape),
        ((["a"], [0], [[1]]), InvalidShape),
        ((["a"], [1, 0], [[1, 2]]), InvalidValue),
        ((["a"], [0, 1], [[1, float("inf")]]), InvalidValue),
        (([str(i) for i in range(9)], [0, 1], [[0, 1]] * 9), InvalidValue),
    ],
)
def test_bad_curves(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        plot_curves(*given)
