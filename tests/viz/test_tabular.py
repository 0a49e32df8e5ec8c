import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownName
from llm_attr.viz.colour import LIGHT, SERIES
from llm_attr.viz.tabular import plot_bars, plot_waterfall

NAMES = ["age", "blood\npressure", "triglycerides (log)", "glucose"]
VALUES = (1.0, -4.0, 2.0, 0.5)


def drawn(fig: Figure) -> None:
    fig.savefig(io.BytesIO(), dpi=40)


def labels(axis: object) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def test_bars_are_sorted_by_size_and_coloured_by_sign() -> None:
    fig, ax = plot_bars(NAMES, VALUES, [0.1, 0.2, 0.3, float("nan")], value_name="score")
    assert labels(ax.yaxis) == ["blood\npressure", "triglycerides (log)", "age", "glucose"]
    assert [bar.get_width() for bar in ax.patches] == [-4.0, 2.0, 1.0, 0.5]
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches[:2]] == [LIGHT.negative, LIGHT.positive]
    (whiskers,) = ax.containers[1].lines[2]
    assert [round(segment[:, 0].ptp() if hasattr(segment, "ptp") else np.ptp(segment[:, 0]), 6) / 2
            for segment in whiskers.get_segments()] == pytest.approx([0.2, 0.3, 0.1])  # fmt: skip
    assert "whiskers: standard error" in ax.get_xlabel()
    drawn(fig)


def test_the_order_can_be_that_given_and_bars_can_stand() -> None:
    fig, ax = plot_bars(NAMES, VALUES, order="given", upright=True)
    assert labels(ax.xaxis) == NAMES
    assert [bar.get_height() for bar in ax.patches] == list(VALUES)
    drawn(fig)


@pytest.mark.parametrize("order", ["strongest", "given"])
def test_the_weakest_are_summed(order: str) -> None:
    fig, ax = plot_bars(NAMES, VALUES, [0.1] * 4, most=2, order=order)
    assert [bar.get_width() for bar in ax.patches] == [-4.0, 2.0, 1.5]
    assert labels(ax.yaxis)[-1] == "2 others"
    assert to_hex(ax.patches[2].get_facecolor()) == LIGHT.at(0.5)
    assert len(ax.containers[1].lines[2][0].get_segments()) == 2  # the error of a sum is not known
    assert "2 others” is the sum of the weakest" in ax.get_xlabel()
    assert len(plot_bars(NAMES, VALUES, most=3)[1].patches) == 4  # one other is shown as itself
    drawn(fig)


def test_series_stand_beside_each_other() -> None:
    values = torch.tensor([VALUES, tuple(2 * value for value in VALUES)], requires_grad=True)
    fig, ax = plot_bars(NAMES, values, series=["one", "two"], reference=np.array(VALUES), reference_name="exact")
    assert [to_hex(bars[0].get_facecolor()) for bars in ax.containers] == list(SERIES[:2])
    assert [bar.get_width() for bar in ax.containers[1]] == [-8.0, 4.0, 2.0, 1.0]
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"one", "two", "exact"}
    starts = [bar.get_y() for bars in ax.containers for bar in bars][::4]
    assert starts[0] < starts[1]
    drawn(fig)


def test_a_waterfall_goes_from_base_to_output() -> None:
    fig, ax = plot_waterfall(NAMES, VALUES, 10.0, [0.1] * 4, value_name="score", base_name="mean patient")
    assert [(bar.get_x(), bar.get_width()) for bar in ax.patches] == [(10, -4), (6, 2), (8, 1), (9, 0.5)]
    assert labels(ax.yaxis) == ["mean patient", "blood\npressure", "triglycerides (log)", "age", "glucose", "output"]
    assert [text.get_text() for text in ax.texts] == ["−4.00", "+2.00", "+1.00", "+0.50", "10.0", "9.5"]
    assert "mean patient 10.0 − 0.5 = output 9.5" in ax.get_xlabel()
    drawn(fig)


def test_what_the_attributions_miss_is_a_step_of_its_own() -> None:
    fig, ax = plot_waterfall(NAMES, VALUES, 10.0, output=12.0, most=2)
    assert labels(ax.yaxis)[3:] == ["2 others", "not attributed", "output"]
    assert ax.patches[-1].get_width() == pytest.approx(2.5)
    assert to_hex(ax.patches[-1].get_facecolor()) == SERIES[2]
    assert "not attributed" not in labels(plot_waterfall(NAMES, VALUES, 10.0, output=9.5001)[1].yaxis)
    drawn(fig)


def test_given_axes_are_used() -> None:
    fig = Figure()
    left, right = fig.subplots(1, 2)
    assert plot_bars(NAMES, VALUES, ax=left) == (fig, left)
    assert plot_waterfall(NAMES, VALUES, 0.0, ax=right) == (fig, right)
    drawn(fig)


def test_nothing_and_zeros_are_drawn() -> None:
    drawn(plot_bars([], [])[0])
    drawn(plot_bars(["a"], [0.0])[0])
    drawn(plot_bars(["a", "b"], [float("nan"), 1.0])[0])
    drawn(plot_waterfall(["a"], [0.0], 0.0)[0])
    drawn(plot_waterfall([], [], 1.0)[0])


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (InvalidShape, "for 4 names", {"values": [1.0]}),
        (InvalidShape, "rows of one length", {"values": [[1.0], [1.0, 2.0]]}),
        (InvalidShape, "shape of the values", {"errors": [1.0]}),
        (InvalidValue, "0 or more", {"errors": [1.0, -1.0, 0.0, 0.0]}),
        (InvalidValue, "1 or more features", {"most": 0}),
        (UnknownName, "order", {"order": "weakest"}),
        (InvalidShape, "name each of the 1 rows", {"series": ["a", "b"]}),
        (InvalidValue, "at most 6 series", {"values": np.zeros((7, 4))}),
        (InvalidShape, "reference", {"reference": [1.0]}),
    ],
)
def test_what_does_not_fit_is_refused(error: type[Exception], match: str, options: dict[str, object]) -> None:
    with pytest.raises(error, match=match):
        plot_bars(NAMES, **{"values": VALUES, **options})


def test_a_waterfall_needs_finite_numbers_and_one_series() -> None:
    with pytest.raises(InvalidValue, match="finite"):
        plot_waterfall(["a"], [float("nan")], 0.0)
    with pytest.raises(InvalidShape, match="one series"):
        plot_waterfall(["a"], [[1.0], [2.0]], 0.0)


def test_numbers_as_names_and_outputs_of_a_model() -> None:
    _, ax = plot_bars(range(3), [1.0, -3.0, 2.0])
    assert labels(ax.xaxis) == ["1", "2", "0"]
    base, output = torch.tensor([0.5], requires_grad=True), torch.tensor(4.5, requires_grad=True)
    _, ax = plot_waterfall(["a", "b"], [1.0, 3.0], base, output=output)
    assert "baseline 0.50 + 4.00 = output 4.50" in ax.get_xlabel()


@pytest.mark.parametrize(
    ("error", "base", "output"),
    [(InvalidShape, torch.tensor([0.5, 1.0]), None), (InvalidType, "low", None), (InvalidType, 0.0, "high")],
)
def test_a_waterfall_needs_one_number_at_each_end(error: type[Exception], base: object, output: object) -> None:
    with pytest.raises(error, match=r"base must|output must"):
        plot_waterfall(["a"], [1.0], base, output=output)


def test_what_bars_cannot_show_is_refused() -> None:
    with pytest.raises(InvalidValue, match="values must be finite, or nan"):
        plot_bars(["a", "b"], [1.0, float("inf")])
    with pytest.raises(InvalidValue, match="most must be a whole number"):
        plot_bars(["a", "b"], [1.0, 2.0], most=1.5)
    with pytest.raises(InvalidShape, match="rows of one length"):
        plot_bars(["a", "b"], [torch.ones(2, requires_grad=True), torch.ones(2)])
    with pytest.raises(InvalidType, match="axes must be matplotlib Axes; given int"):
        plot_bars(["a"], [1.0], ax=3)


_WITHOUT_MATPLOTLIB = """
import sys
sys.modules["matplotlib"] = None
from llm_attr.attr.visualization import visualize_image_attr
from llm_attr.errors import MissingExtra
from llm_attr.viz.text.figures.arcs import plot_arcs
from llm_attr.viz.text.figures.bars import plot_unit_values
from llm_attr.viz.text.figures.heat_map import plot_token_values
from llm_attr.viz.tabular import plot_bars, plot_waterfall
from llm_attr.viz.text.view import AttributionView
view = AttributionView("", ("a",), (1.0,), ("b",), token_values=((1.0,),), interactions=((1.0,),))
calls = [lambda plot=plot: plot(view) for plot in (plot_arcs, plot_token_values, plot_unit_values)]
calls += [lambda: plot_bars(["a"], [1.0]), lambda: plot_waterfall(["a"], [1.0], 0.0)]
calls += [lambda: visualize_image_attr([[1.0]], cmap="Reds")]
for call in calls:
    try:
        call()
    except MissingExtra as error:
        print(str(error).count("llm_attr[plot]"), end="")
"""


def test_missing_matplotlib_names_the_extra() -> None:
    told = subprocess.run([sys.executable, "-c", _WITHOUT_MATPLOTLIB], capture_output=True, text=True, check=False)
    assert (told.stdout, told.stderr) == ("1" * 6, "")
