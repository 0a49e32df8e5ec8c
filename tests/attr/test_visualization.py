"""The names of `captum.attr.visualization`: the calls of its documentation and tutorials give what they gave there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from llm_attr.attr import visualization as viz
from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, UnknownKeyword
from llm_attr.viz.colour import DARK, LIGHT

BLUE = LinearSegmentedColormap.from_list("custom blue", [(0, "#ffffff"), (0.25, "#000000"), (1, "#000000")], N=256)
RECORD = (torch.tensor([0.1, -0.7, 1.0]), torch.tensor(0.98), 1, 0, "positive", torch.tensor(0.4))


@pytest.fixture(autouse=True)
def no_windows() -> Iterator[None]:
    pyplot.switch_backend("agg")
    pyplot.close("all")
    yield
    pyplot.close("all")


def case() -> tuple[np.ndarray, np.ndarray]:
    """Attributions and image as the tutorials have them: a batch of one, channels first, turned."""
    attr, image = torch.randn(1, 3, 12, 9), torch.rand(1, 3, 12, 9)
    turned = [np.transpose(each.squeeze(0).cpu().detach().numpy(), (1, 2, 0)) for each in (attr, image)]
    return turned[0], turned[1]


IMAGE_CALLS: dict[str, tuple[Callable[[np.ndarray, np.ndarray], Any], int, int]] = {
    "original image": (
        lambda _, image: viz.visualize_image_attr(None, image, method="original_image", title="Original Image"), 1, 1),
    "defaults": (lambda attr, _: viz.visualize_image_attr(attr), 1, 1),
    "overlay": (
        lambda attr, image: viz.visualize_image_attr(
            attr, image, method="blended_heat_map", sign="absolute_value", show_colorbar=True, title="Over it"), 1, 2),
    "positional": (
        lambda attr, image: viz.visualize_image_attr(attr, image, "heat_map", "all", None, 2, "jet", 0.5, True), 1, 1),
    "own colours": (
        lambda attr, image: viz.visualize_image_attr_multiple(
            attr, image, ["original_image", "heat_map"], ["all", "absolute_value"], cmap=BLUE, show_colorbar=True),
        2, 2),
    "outliers": (
        lambda attr, image: viz.visualize_image_attr_multiple(
            attr, image, ["original_image", "heat_map"], ["all", "positive"], cmap=BLUE, show_colorbar=True,
            outlier_perc=2), 2, 2),
    "four views": (
        lambda attr, image: viz.visualize_image_attr_multiple(
            attr, image, ["original_image", "heat_map", "heat_map", "masked_image"],
            ["all", "positive", "negative", "positive"], show_colorbar=True,
            titles=["Original", "Positive Attribution", "Negative Attribution", "Masked"], fig_size=(18, 6)), 4, 4),
    "one view": (
        lambda attr, image: viz.visualize_image_attr_multiple(attr, image, ["alpha_scaling"], ["positive"]), 1, 1),
    "not shown": (lambda attr, image: viz.visualize_image_attr(attr, image, use_pyplot=False), 1, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", IMAGE_CALLS)
def test_images_as_in_the_tutorials(name: str) -> None:
    call, panels, images = IMAGE_CALLS[name]
    fig, axes = call(*case())
    assert isinstance(fig, Figure)
    assert isinstance(axes, Axes if panels == 1 else list)
    assert len(fig.axes) == panels
    assert sum(len(panel.images) for panel in fig.axes) == images
    assert pyplot.get_fignums() == ([] if name == "not shown" else [1])
    assert name == "not shown" or pyplot.figure(1) is fig


@pytest.mark.parametrize("method", ["overlay_individual", "overlay_combined", "colored_graph"])
@pytest.mark.parametrize("use_pyplot", [True, False])
def test_time_series_as_documented(method: str, use_pyplot: bool) -> None:
    attr, data = np.random.default_rng(0).normal(size=(2, 30, 4))
    x_values = np.linspace(0, 3, 30)
    labels = ["x", "y", "z", "norm"]
    fig, axes = viz.visualize_timeseries_attr(
        attr, data, x_values, method, "all", labels,
        show_colorbar=True, title="Activity", use_pyplot=use_pyplot, linewidth=2,
    )  # fmt: skip
    assert isinstance(fig, Figure)
    assert isinstance(axes, Axes) if method == "overlay_combined" else axes.shape == (4,)
    turned, _ = viz.visualize_timeseries_attr(attr.T, data.T, method=method, channels_last=False, use_pyplot=use_pyplot)
    assert len(turned.axes) == np.size(axes)
    assert len(pyplot.get_fignums()) == 2 * use_pyplot
    _, alone = viz.visualize_timeseries_attr(attr[:, :1], data[:, :1], method=method, use_pyplot=use_pyplot)
    assert isinstance(alone, Axes)


def test_a_larger_figure_is_the_callers() -> None:
    fig, axes = pyplot.subplots(1, 2)
    assert viz.visualize_image_attr(*case(), plt_fig_axis=(fig, axes[0])) == (fig, axes[0])
    assert not axes[1].images
    series = np.ones((5, 2))
    given, found = viz.visualize_timeseries_attr(series, series, plt_fig_axis=(fig, axes))
    assert given is fig
    assert list(found) == list(axes)
    assert pyplot.get_fignums() == [1]
    with pytest.raises(InvalidType, match=r"pair \(figure, axes\); given Axes"):
        viz.visualize_image_attr(*case(), plt_fig_axis=axes[0])


def test_unknown_keywords_are_refused() -> None:
    with pytest.raises(UnknownKeyword, match=r"'outlier_percent' .did you mean 'outlier_perc'"):
        viz.visualize_image_attr_multiple(*case(), ["heat_map"], ["all"], outlier_percent=2)


@pytest.mark.parametrize("name", [name for name in viz.__all__ if name != "overlay_segments"])
def test_names_and_arguments_are_captums(name: str) -> None:
    theirs, ours = getattr(pytest.importorskip("captum.attr").visualization, name), getattr(viz, name)
    if hasattr(theirs, "__members__"):
        assert {key: one.value for key, one in theirs.__members__.items()} == {
            key: one.value for key, one in ours.__members__.items()
        }
        return
    form = [
        [(each.name, each.kind, each.default) for each in inspect.signature(one).parameters.values()]
        for one in (theirs, ours)
    ]
    assert form[0] == form[1]


class Cells(HTMLParser):
    """The texts of a page's cells, and the tags in it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        if tag in ("td", "th"):
            self.found.append("")

    def handle_data(self, data: str) -> None:
        if self.found:
            self.found[-1] += data.strip(" \n") and f" {data}"


def test_text_as_in_the_tutorials() -> None:
    record = viz.VisualizationDataRecord(*RECORD, ["a", "<script>&", "[CLS]"], torch.tensor(0.01))
    html = viz.visualize_text([record])
    assert html._repr_html_() == html.data
    cells = Cells(html.data)
    assert [cell.split() for cell in cells.found] == [
        *(["True", "Label"], ["Predicted", "Label"], ["Attribution", "Label"], ["Attribution", "Score"]),
        *(["Word", "Importance"], ["0"], ["1", "(0.98)"], ["positive"], ["0.40"], ["a", "<script>&", "[CLS]"]),
    ]
    assert "script" not in cells.tags
    for scale in (LIGHT, DARK):
        assert scale.positive in html.data
        assert scale.at(-0.7) in html.data
    assert "−1.00" in html.data
    assert 'class="legend"' not in viz.visualize_text([record], legend=False).data


def test_records_share_a_scale_and_may_be_padded_empty_or_none() -> None:
    weak = viz.VisualizationDataRecord([0.5, 0.1, 9.0], 0.5, "neg", "pos", "<b>", -1, ["語", "\n"], None)
    strong = viz.VisualizationDataRecord(np.array([1.0]), 0.5, 1, 1, 1, 1.0, ["x"], 0.0)
    empty = viz.VisualizationDataRecord([], 0.5, 1, 1, 1, 1.0, [], 0.0)
    html = viz.visualize_text(each for each in (weak, strong, empty)).data
    assert LIGHT.at(0.5) in html
    assert "the largest |value|, shared by 3" in html
    assert "&lt;b&gt;" in html
    assert "−1.00" in html
    assert "no value other than 0" in viz.visualize_text([]).data


def test_text_that_is_refused() -> None:
    with pytest.raises(InvalidShape, match="each of the 2 words"):
        viz.visualize_text([viz.VisualizationDataRecord([1.0], *RECORD[1:], ["a", "b"], 0.0)])
    with pytest.raises(InvalidType, match="put it in"):
        viz.visualize_text(viz.VisualizationDataRecord(*RECORD, ["a"], 0.0))
    with pytest.raises(InvalidType, match="given str"):
        viz.visualize_text(["a"])


def test_pieces_of_a_table() -> None:
    assert viz.format_special_tokens("<s>") == "#s"
    assert viz.format_special_tokens("</s>") == "#/s"
    assert viz.format_special_tokens("[CLS]") == "[CLS]"
    assert viz.format_classname("a<b") == "<td><bdi>a&lt;b</bdi></td>"
    assert viz.format_classname(3) == "<td><bdi>3</bdi></td>"
    assert Cells(viz.format_tooltip("<i>", "b")).tags == ["div", "span"]
    for nothing in (None, [], torch.tensor([])):
        assert viz.format_word_importances([], nothing) == "<td></td>"
    cell = viz.format_word_importances(["a", "b"], [5.0, -0.5, 3.0])
    assert LIGHT.positive in cell
    assert LIGHT.at(-0.5) in cell
    with pytest.raises(InvalidShape, match="each of the 2 words"):
        viz.format_word_importances(["a", "b"], [1.0])


def test_every_name_is_here() -> None:
    theirs = pytest.importorskip("captum.attr").visualization
    own = {name for name, it in vars(theirs).items() if getattr(it, "__module__", "") == theirs.__name__}
    assert {name for name in own if not name.startswith("_")} <= set(viz.__all__)


def test_a_notebook_shows_a_table_once_in_each_cell(tmp_path: Path) -> None:
    kind = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    from IPython.utils.capture import capture_output
    from traitlets.config import Config

    shell = kind.instance(ipython_dir=str(tmp_path), config=Config({"HistoryManager": {"enabled": False}}))

    try:
        shell.user_ns["make"] = lambda: viz.visualize_text([viz.VisualizationDataRecord(*RECORD, ["a", "b", "c"], 0.0)])
        seen = []
        for cell in ("it = make()", "make()", "it", "import IPython.display\nfor _ in range(2): make()", "1"):
            with capture_output() as captured:
                assert shell.run_cell(cell, store_history=True).success
            seen.append(sum("text/html" in output.data for output in captured.outputs))
        assert seen == [1, 1, 1, 2, 0]
    finally:
        kind.clear_instance()


def test_the_module_needs_neither_matplotlib_nor_ipython() -> None:
    program = """
import sys
sys.modules.update({"IPython": None})
import llm_attr.attr
from llm_attr.attr import visualization
assert llm_attr.attr.visualization is visualization
record = visualization.VisualizationDataRecord([1.0], 0.5, 1, 1, 1, 1.0, ["x"], 0.0)
assert "<table>" in visualization.visualize_text([record]).data
assert "matplotlib" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_errors_come_before_a_figure() -> None:
    with pytest.raises(InvalidValue, match="needs original_image"):
        viz.visualize_image_attr(case()[0], method="masked_image")
    assert not pyplot.get_fignums()
