"""Attributions of time series: stripes and coloured lines, next to Captum's, and what is refused."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llm_attr.errors import InvalidShape, InvalidValue, UnknownKeyword, UnknownName
from llm_attr.viz.timeseries import TimeseriesVisualizationMethod, channel_axes, plot_timeseries

METHODS = tuple(TimeseriesVisualizationMethod.__members__)
SIGNS = ("all", "positive", "negative", "absolute_value")


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    """`(times, channels)` attributions and series."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(20, 3)), rng.normal(size=(20, 3)).cumsum(0)


def drawn(fig: Figure) -> None:
    fig.savefig(io.BytesIO(), dpi=40)


@pytest.fixture
def captum(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Captum's module; it asks matplotlib for a function that newer releases do not have."""
    import matplotlib

    known = matplotlib.colormaps
    monkeypatch.setattr("matplotlib.cm.get_cmap", lambda cmap=None: known.get_cmap(cmap), raising=False)
    return pytest.importorskip("captum.attr").visualization


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("last", [True, False])
def test_the_numbers_are_captums(case: tuple, captum: Any, method: str, sign: str, last: bool) -> None:
    attr, data = case if last else (case[0].T, case[1].T)
    grey = LinearSegmentedColormap.from_list("grey", ["black", "white"], N=4096)
    low = -1 if sign == "all" else 0
    for outliers in (0, 2, 20):
        options = {"channels_last": last, "cmap": grey}
        _, theirs = captum.visualize_timeseries_attr(
            attr, data, None, method, sign, list("abc"), **options,
            alpha_overlay=1.0, outlier_perc=outliers, use_pyplot=False,
        )  # fmt: skip
        _, ours = plot_timeseries(attr, data, None, method, sign, list("abc"), **options, alpha=1.0, outliers=outliers)
        for mine, other in zip(ours, np.atleast_1d(theirs), strict=True):
            shares = mine.collections[0].get_array().ravel()
            if method == "colored_graph":
                np.testing.assert_allclose(shares, other.collections[0].get_array(), atol=1e-12)
                continue
            assert len(mine.lines) == len(other.lines)
            greys = [stripe.get_facecolor()[0] for stripe in other.patches]
            np.testing.assert_allclose((shares - low) / (1 - low), greys, atol=5e-4)
            edges = mine.collections[0].get_coordinates()[0, :, 0]
            np.testing.assert_allclose(edges[:-1], [stripe.get_x() for stripe in other.patches], atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("colorbar", [True, False])
def test_panels_labels_and_scale(case: tuple, method: str, colorbar: bool) -> None:
    names = ["a", "$b$", "加速度"]
    fig, panels = plot_timeseries(*case, None, method, "all", names, colorbar=colorbar, title="Why?")
    combined = method == "overlay_combined"
    assert len(panels) == (1 if combined else 3)
    assert len(fig.axes) == len(panels) + colorbar
    assert panels[0].get_title(loc="left") == "Why?"
    if combined:
        assert [text.get_text() for text in panels[0].get_legend().get_texts()] == names
        assert len({(line.get_linestyle(), line.get_color()) for line in panels[0].lines}) == 3
    else:
        assert [panel.get_ylabel() for panel in panels] == names
    said = fig.axes[-1].get_ylabel() if colorbar else panels[-1].get_xlabel()
    assert "2 % of the sum of |values| lies at the ends" in said
    drawn(fig)


def test_stripes_meet_half_way_between_unequal_times(case: tuple) -> None:
    times = np.array([0.0, 1.0, 4.0, 5.0])
    _, (first, *_) = plot_timeseries(case[0][:4], case[1][:4], times)
    np.testing.assert_allclose(first.collections[0].get_coordinates()[0, :, 0], [-0.5, 0.5, 2.5, 4.5, 5.5])
    assert first.get_xlim() == (-0.5, 5.5)


@pytest.mark.parametrize("method", METHODS)
def test_hard_series(case: tuple, method: str) -> None:
    attr, data = case
    holes = np.where(np.arange(60).reshape(20, 3) % 7, attr, np.nan)
    for values, series in (
        (attr * 0, data),
        (attr[:1], data[:1]),
        (holes, np.where(np.isnan(holes), np.nan, data)),
        (torch.tensor(attr, requires_grad=True), torch.tensor(data, dtype=torch.bfloat16)),
        (np.tile(attr, (1, 5)), np.tile(data, (1, 5))),
        (np.repeat(attr, 250, 0), np.repeat(data, 250, 0)),
    ):
        fig, panels = plot_timeseries(
            values, series, method=method, channel_labels=list("abcdefghijklmno")[: values.shape[1]]
        )
        drawn(fig)
    fig, panels = plot_timeseries(attr * 0, data, method=method, sign="negative")
    assert panels[-1].get_xlabel() == "no negative value"


def test_given_axes_and_what_is_returned(case: tuple) -> None:
    fig = Figure()
    panels = fig.subplots(3)
    assert plot_timeseries(*case, axes=panels) == (fig, list(panels))
    assert len(panels[0].lines) == 1
    alone = fig.add_subplot()
    assert plot_timeseries(*case, method="overlay_combined", axes=alone, channel_labels=list("abc")) == (fig, [alone])
    drawn(fig)
    assert channel_axes([alone]) is alone
    assert channel_axes(list(panels)).shape == (3,)
    with pytest.raises(InvalidShape, match="axes for 3 panels; given 1"):
        plot_timeseries(*case, axes=alone)


@pytest.mark.parametrize("method", METHODS)
def test_properties_of_lines(case: tuple, method: str) -> None:
    _, (panel, *_) = plot_timeseries(*case, method=method, line_options={"linewidth": 7.0})
    line = panel.collections[-1] if method == "colored_graph" else panel.lines[0]
    assert np.ravel(line.get_linewidth()) == 7.0
    _, (panel, *_) = plot_timeseries(*case, method=method, line_options={"lw": 7.0})
    line = panel.collections[-1] if method == "colored_graph" else panel.lines[0]
    assert np.ravel(line.get_linewidth()) == 7.0
    with pytest.raises(InvalidValue, match=r"given twice.*'linewidth'"):
        plot_timeseries(*case, method=method, line_options={"lw": 7.0, "linewidth": 6.0})
    with pytest.raises(UnknownKeyword, match="'linewith' \\(did you mean 'linewidth'"):
        plot_timeseries(*case, method=method, line_options={"linewith": 7.0})


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (UnknownName, "unknown method 'overlay'.*colored_graph", {"method": "overlay"}),
        (UnknownName, "unknown sign", {"sign": "both"}),
        (InvalidShape, r"attr must be \(times, channels\); given \(20,\)", {"attr": np.ones(20)}),
        (InvalidShape, r"one shape; given \(20, 1\) and \(20, 3\)", {"attr": np.ones((20, 1))}),
        (InvalidShape, "each of the 20 times", {"x_values": np.arange(19)}),
        (InvalidValue, "ascend", {"x_values": np.zeros(20)}),
        (InvalidShape, "each of the 3 channels; given 1", {"channel_labels": ["a"]}),
        (InvalidValue, "opacity", {"alpha": -1}),
        (InvalidValue, "no colour map", {"cmap": 3}),
    ],
)
def test_refused(case: tuple, error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    given = {"attr": case[0], "data": case[1], **arguments}
    with pytest.raises(error, match=message):
        plot_timeseries(given.pop("attr"), given.pop("data"), **given)
