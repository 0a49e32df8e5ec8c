"""Attributions of images: the numbers that are drawn, next to Captum's, and what is refused."""

from __future__ import annotations

import io
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, MissingExtra, UnknownName
from llm_attr.viz.colour import LIGHT, STRENGTH
from llm_attr.viz.image import ImageVisualizationMethod, pixels, plot_image, plot_images
from llm_attr.viz.sign import VisualizeSign

METHODS = tuple(ImageVisualizationMethod.__members__)
SIGNS = tuple(VisualizeSign.__members__)
UNSIGNED = ("masked_image", "alpha_scaling")
PAIRS = [(method, sign) for method in METHODS for sign in SIGNS if not (sign == "all" and method in UNSIGNED)]


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    """Attributions with heavy tails, and an image."""
    rng = np.random.default_rng(0)
    return rng.standard_t(2, size=(23, 31, 3)), rng.random((23, 31, 3))


def drawn(fig: Figure) -> np.ndarray:
    file = io.BytesIO()
    fig.savefig(file, dpi=40, format="rgba")
    return np.frombuffer(file.getvalue(), np.uint8)


def words(fig: Figure) -> str:
    return " ".join(text.get_text() for text in fig.findobj(match=lambda it: hasattr(it, "get_text")))


@pytest.mark.parametrize(("method", "sign"), PAIRS)
@pytest.mark.parametrize("whole", [False, True])
def test_the_numbers_are_captums(case: tuple, method: str, sign: str, whole: bool) -> None:
    viz = pytest.importorskip("captum.attr").visualization
    attr, image = case
    image = (255 * image).astype(np.uint8) if whole else image
    for outliers in (0, 2, 50):
        _, theirs = viz.visualize_image_attr(attr, image, method, sign, use_pyplot=False, outlier_perc=outliers)
        fig, ours = plot_image(attr, image, method, sign, outliers=outliers)
        assert len(ours.images) == len(theirs.images)
        for mine, other in zip(ours.images, theirs.images, strict=True):
            np.testing.assert_allclose(mine.get_array(), other.get_array(), rtol=0, atol=1e-12)
        if method.endswith("heat_map"):
            assert ours.images[-1].get_clim() == theirs.images[-1].get_clim()
    drawn(fig)


@pytest.mark.parametrize(
    ("sign", "low", "high", "said"),
    [
        ("all", LIGHT.negative, LIGHT.positive, "ends of the scale: ±4.00"),
        ("positive", LIGHT.zero, LIGHT.positive, "end of the scale: +3.00"),
        ("negative", LIGHT.zero, LIGHT.negative, "end of the scale: −4.00"),
        ("absolute_value", LIGHT.zero, STRENGTH, "end of the scale: |4.00|"),
    ],
)
def test_colours_and_scale_by_sign(sign: str, low: str, high: str, said: str) -> None:
    attr = np.array([[1.0, -4.0], [3.0, 0.0]])
    fig, ax = plot_image(attr, sign=sign, outliers=0)
    image = ax.images[0]
    assert [to_hex(image.cmap(image.norm(end))) for end in image.get_clim()] == [low, high]
    assert to_hex(image.cmap(image.norm(0.0))) == LIGHT.zero
    assert said in words(fig).replace("\n", " ")


def test_a_bar_names_the_values_at_its_ends(case: tuple) -> None:
    fig, ax = plot_image(case[0], case[1], "blended_heat_map", "all", colorbar=True, outliers=2)
    (bar,) = ax.child_axes
    low, zero, high = (label.get_text() for label in bar.get_xticklabels())
    assert (low[0], zero, high[0]) == ("−", "0", "+")
    assert "2 % of the sum of |values| lies at the ends" in words(fig).replace("\n", " ")
    for method in ("masked_image", "alpha_scaling", "original_image"):
        fig, ax = plot_image(case[0], case[1], method, colorbar=True)
        assert ax.child_axes[0].axison is (method != "original_image")
        drawn(fig)


def test_the_opacity_of_a_heat_map_over_the_image(case: tuple) -> None:
    _, faded = plot_image(*case, "blended_heat_map", "all", alpha=0.8)
    shares = faded.images[1].get_array()
    opacity = faded.images[1].get_alpha()
    assert opacity.shape == shares.shape
    assert opacity.max() == 0.8
    assert opacity[np.abs(shares) < 0.01].max() < 0.03
    _, even = plot_image(*case, "blended_heat_map", "all", alpha=0.8, cmap="viridis")
    assert (even.images[1].get_alpha(), even.images[1].cmap.name) == (0.8, "viridis")


@pytest.mark.parametrize(("method", "sign"), PAIRS)
def test_nothing_but_zeros_is_white_and_said(method: str, sign: str) -> None:
    fig, ax = plot_image(np.zeros((4, 5, 3)), np.ones((4, 5, 3)), method, sign)
    drawn(fig)
    if method == "heat_map":
        assert not np.any(ax.images[0].get_array())
    kept = {"positive": "no positive value", "negative": "no negative value"}
    assert (method == "original_image") or kept.get(sign, "no value other than 0") in words(fig)
    drawn(plot_image(np.zeros((4, 5, 3)), np.ones((4, 5, 3)), method, sign, colorbar=True)[0])


def test_values_that_are_not_finite() -> None:
    attr = np.array([[np.nan, np.inf], [1.0, -2.0]])
    for method, sign in PAIRS:
        drawn(plot_image(attr, np.ones((2, 2)), method, sign, outliers=0)[0])
    _, ax = plot_image(attr, sign="all", outliers=0)
    np.testing.assert_array_equal(ax.images[0].get_array().filled(9), [[9, 1], [0.5, -1]])


def test_tensors_and_grey_and_transparent_images(case: tuple) -> None:
    attr = torch.tensor(case[0], requires_grad=True)
    image = torch.tensor(case[1], dtype=torch.bfloat16)
    np.testing.assert_array_equal(
        plot_image(attr, image, sign="all")[1].images[0].get_array(),
        plot_image(case[0], sign="all")[1].images[0].get_array(),
    )
    for channels in (1, 3, 4):
        given = np.repeat(case[1][:, :, :1], channels, 2)
        for method, sign in PAIRS:
            fig, ax = plot_image(case[0], given, method, sign)
            drawn(fig)
            if method == "alpha_scaling":
                assert ax.images[0].get_array().shape == (23, 31, 4)
    drawn(plot_image(case[0][:, :, 0], case[1][:, :, 0], "masked_image")[0])


def test_several_views_beside_each_other(case: tuple) -> None:
    titles = ["An original image with a heading that needs several lines", "Heat map", "遮罩图像"]
    fig, panels = plot_images(*case, METHODS[2::-1], ["all"] * 3, titles=titles, colorbar=True)
    assert [panel.get_title(loc="left").replace("\n", " ") for panel in panels] == titles
    fig.draw_without_rendering()
    boxes = [panel.get_window_extent() for panel in panels]
    assert len({round(box.width) for box in boxes}) == 1
    assert len({round(box.y0) for box in boxes}) == 1
    texts = [panel._left_title.get_window_extent() for panel in panels]
    assert all(left.x1 <= right.x0 for left, right in pairwise(texts))
    for wrong in ({"methods": [], "signs": []}, {"signs": ["all"]}, {"titles": ["one"]}):
        with pytest.raises(InvalidValue, match="each view needs"):
            plot_images(*case, **{"methods": ["heat_map"] * 2, "signs": ["all"] * 2, **wrong})


def test_given_axes(case: tuple) -> None:
    fig = Figure(figsize=(8, 4))
    left, right = fig.subplots(1, 2)
    assert plot_image(*case, "heat_map", "all", axes=right) == (fig, right)
    assert not left.images
    assert len(fig.axes) == 2


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (UnknownName, "unknown method 'heatmap' .*'heat_map'.*alpha_scaling", {"method": "heatmap"}),
        (UnknownName, "unknown sign 'both'.*absolute_value, negative, all", {"sign": "both"}),
        (InvalidValue, "needs original_image", {"original_image": None, "method": "masked_image"}),
        (InvalidValue, "needs attr", {"attr": None}),
        (InvalidValue, "'masked_image' shows one strength.*positive", {"method": "masked_image", "sign": "all"}),
        (InvalidValue, "outliers are a percentage", {"outliers": 100}),
        (InvalidValue, "outliers are a percentage", {"outliers": "2"}),
        (InvalidValue, r"opacity .* in \[0, 1\]; given None", {"alpha": None}),
        (InvalidValue, r"width and height in inches, above 0; given \(6,\)", {"size": (6,)}),
        (InvalidValue, r"above 0; given \(0, 6\)", {"size": (0, 6)}),
        (InvalidType, "axes must be matplotlib Axes; given str", {"axes": "left"}),
        (InvalidShape, "lists of one length", {"attr": [[1.0, 2.0], [3.0]]}),
        (InvalidShape, "lists of one length", {"attr": [torch.ones(31, requires_grad=True)] * 23}),
        (InvalidValue, r"opacity .* in \[0, 1\]; given 2", {"alpha": 2}),
        (InvalidValue, "'nocolours' is no colour map", {"cmap": "nocolours"}),
        (InvalidShape, r"one height and width: the channels come first.*transpose", {"attr": np.ones((3, 23, 31))}),
        (InvalidShape, r"one height and width$", {"attr": np.ones((7, 7, 3))}),
        (InvalidShape, r"transpose\(1, 2, 0\)", {"attr": np.ones((3, 23, 31)), "original_image": None}),
        (InvalidShape, r"given \(1, 3, 23, 31\)", {"attr": np.ones((1, 3, 23, 31))}),
        (InvalidShape, r"transpose\(1, 2, 0\)", {"original_image": np.ones((3, 23, 31))}),
        (InvalidShape, "1, 3 or 4 channels", {"original_image": np.ones((23, 31, 5))}),
        (InvalidType, "attr must be an array .* given an array of", {"attr": np.full((2, 2), "a")}),
        (InvalidType, "attr must be an array .* given str", {"attr": "picture.png"}),
        (InvalidValue, r"floats in \[0, 1\] .*given float64 from -1 to 1", {"original_image": 1 - 2 * np.eye(23, 31)}),
        (InvalidValue, "from 0 to 300", {"original_image": 300 * np.eye(23, 31, dtype=np.int64)}),
        (InvalidValue, "given bool", {"original_image": np.ones((23, 31), bool)}),
        (InvalidValue, "from nan to nan", {"original_image": np.full((23, 31), np.nan)}),
    ],
)  # fmt: skip
def test_refused(case: tuple, error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    given = {"attr": case[0], "original_image": case[1], **arguments}
    with pytest.raises(error, match=message):
        plot_image(given.pop("attr"), **given)


def test_infinite_channels_and_a_number_as_a_title() -> None:
    _, ax = plot_image(np.array([[[np.inf, -np.inf, 0.0], [1.0, 2.0, 0.0]]]), title=7)
    assert ax.images[0].get_array().filled(-9).tolist() == [[-9, 1]]
    assert ax.get_title(loc="left") == "7"


def test_pixels_are_bytes() -> None:
    np.testing.assert_array_equal(pixels([[0.0, 0.5], [1.0, 1.0005]])[:, :, 0], [[0, 127], [255, 255]])
    np.testing.assert_array_equal(pixels(np.array([[0, 200]], np.int64)), [[[0], [200]]])


def test_missing_matplotlib_names_the_extra(case: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"llm_attr\[plot\]"):
        plot_image(case[0])
