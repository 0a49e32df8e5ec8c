"""The ladder of attacks, and gates over training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.colour import SERIES
from llm_attr.viz.ladder import plot_attack_ladder, plot_gates

LADDER: dict[str, Any] = {
    "strengths": [0.1, 0.2, 0.4],
    "metrics": {"PGD": [0.9, 0.5, 0.1], "noise": [0.95, 0.9, 0.9]},
}


def test_a_ladder_has_a_line_for_each_attack() -> None:
    ranges = {"noise": ([0.9, 0.8, 0.8], [1.0, 1.0, 1.0])}
    fig, ax = plot_attack_ladder(**LADDER, original=0.97, ranges=ranges, title="Attacks")
    fig.canvas.draw()
    across, pgd, noise = ax.lines
    assert list(pgd.get_ydata()) == LADDER["metrics"]["PGD"]
    assert list(noise.get_xdata()) == LADDER["strengths"]
    assert across.get_ydata()[0] == 0.97
    assert [text.get_text() for text in ax.texts] == ["no attack", "PGD", "noise"]
    assert [text.get_color() for text in ax.texts[1:]] == [pgd.get_color(), noise.get_color()]
    assert len(ax.collections) == 1


def test_gates_that_end_open_have_a_colour() -> None:
    probabilities = np.array([[0.8, 0.8, 0.8], [0.9, 0.1, 0.6]])
    fig, ax = plot_gates(probabilities, ["a", "b", "c"], steps=[0, 10])
    fig.canvas.draw()
    named = {text.get_text(): text for text in ax.texts}
    assert named["a"].get_color() == SERIES[0]
    assert named["b"].get_color() == "0.5"
    assert named["c"].get_color() == SERIES[1]
    assert named["a"].xy[1] > named["c"].xy[1] > named["b"].xy[1]
    assert all(list(line.get_xdata()) == [0, 10] for line in ax.lines[:3])


def test_labels_keep_apart() -> None:
    _, ax = plot_gates(np.full((2, 5), 0.99), list("abcde"))
    heights = sorted(text.xy[1] for text in ax.texts)
    assert min(np.diff(heights)) > 0.04


BAD: dict[str, tuple[Any, dict[str, Any], type[Exception], str]] = {
    "no attack": (plot_attack_ladder, {**LADDER, "metrics": {}}, InvalidValue, "1 to 5 attacks"),
    "strengths that fall": (plot_attack_ladder, {**LADDER, "strengths": [3, 2, 1]}, InvalidValue, "ascend"),
    "another length": (plot_attack_ladder, {**LADDER, "metrics": {"a": [1.0]}}, InvalidShape, "must be 3 values"),
    "names": (plot_gates, {"probabilities": [[0.5, 0.5]], "names": ["a"]}, InvalidShape, "1 gates"),
    "probabilities": (plot_gates, {"probabilities": [[1.5]], "names": ["a"]}, InvalidValue, "between 0 and 1"),
    "steps": (plot_gates, {"probabilities": [[0.5]], "names": ["a"], "steps": [1, 2]}, InvalidShape, "steps"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_has_its_own_error(case: str) -> None:
    plot, given, error, message = BAD[case]
    with pytest.raises(error, match=message):
        plot(**given)
