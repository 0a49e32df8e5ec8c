"""Superpixels in the colours of their values; borders and names of masks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue
from llm_attr.viz.overlay import draw_mask_border, draw_mask_legend, overlay_segments
from llm_attr.viz.scale import Scale

SEGMENTS = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 3], [2, 2, 2, 3]]).repeat(10, 0).repeat(10, 1)
VALUES = np.array([2.0, -4.0, np.nan, 1.0])


def drawn(fig: Figure) -> None:
    fig.savefig(io.BytesIO(), dpi=40)


def test_each_segment_has_the_colour_of_its_value() -> None:
    fig, ax = overlay_segments(np.full((40, 40, 3), 0.5), SEGMENTS, VALUES, title="Why?")
    shown = ax.images[1].get_array()
    assert [shown[5, 5], shown[5, 35], shown[35, 5], shown[35, 35]] == [0.5, -1.0, 0.0, 0.25]
    opacity = ax.images[1].get_alpha()
    assert opacity[35, 5] == 0 < opacity[35, 35] < opacity[5, 5]
    assert {text.get_text() for text in ax.texts} == {"+2.00", "−4.00", "+1.00"}
    for text in ax.texts:
        column, row = (round(place) for place in text.get_position())
        assert VALUES[SEGMENTS[row, column]] == float(text.get_text().replace("−", "-"))
    (bar,) = ax.child_axes
    assert [label.get_text() for label in bar.get_xticklabels()] == ["−4.00", "0", "+4.00"]
    drawn(fig)


def test_borders_lie_between_the_pixels_of_two_segments() -> None:
    _, ax = overlay_segments(np.ones((40, 40)), SEGMENTS, VALUES, numbers=0)
    (borders,) = ax.collections
    edges = np.array(borders.get_segments())
    assert len(edges) == 20 + 40 + 20
    assert {tuple(edge[:, 0]) for edge in edges if edge[0, 0] == edge[1, 0]} == {(19.5, 19.5), (29.5, 29.5)}
    assert {tuple(edge[:, 1]) for edge in edges if edge[0, 1] == edge[1, 1]} == {(19.5, 19.5)}
    assert not overlay_segments(np.ones((40, 40)), SEGMENTS, VALUES, borders=False)[1].collections


def test_numbers_do_not_lie_on_each_other() -> None:
    many = np.arange(1600).reshape(40, 40)
    _, ax = overlay_segments(np.ones((40, 40)), many, np.linspace(1, 2, 1600), numbers=30)
    places = np.array([text.get_position() for text in ax.texts])
    gaps = np.abs(places[:, None] - places[None])
    assert 1 <= len(places) < 30
    assert ((gaps[..., 0] > 2.5) | (gaps[..., 1] > 1) | np.eye(len(places), dtype=bool)).all()


def test_a_shared_scale_given_axes_and_finer_images() -> None:
    fig = Figure()
    left, right = fig.subplots(1, 2)
    scale = Scale.of(VALUES, [8.0])
    image = torch.rand(80, 80, 3)
    given = torch.tensor(SEGMENTS), torch.tensor(VALUES)
    assert overlay_segments(image, *given, right, scale=scale, colorbar=False, value_name="logits") == (fig, right)
    assert not left.images
    assert right.images[1].get_array().min() == -0.5
    assert right.images[0].get_extent() == right.images[1].get_extent() == [-0.5, 39.5, 39.5, -0.5]
    assert (
        right.get_xlabel().replace("\n", " ") == "logits; ends of the scale: ±8.00 (the largest |value|, shared by 2)"
    )
    drawn(fig)


def test_nothing_but_zeros() -> None:
    _, ax = overlay_segments(np.ones((40, 40)), SEGMENTS, np.zeros(4), colorbar=False)
    assert ax.get_xlabel() == "no value other than 0"
    assert not ax.texts
    drawn(overlay_segments(np.ones((40, 40)), SEGMENTS, np.zeros(4))[0])


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (InvalidShape, r"segments 0 to 3; given \(3,\)", {"values": VALUES[:3]}),
        (InvalidShape, "same proportions", {"image": np.ones((40, 50))}),
        (InvalidShape, r"segments must be \(height, width\)", {"segments": SEGMENTS[None]}),
        (InvalidValue, "whole numbers from 0", {"segments": SEGMENTS - 1}),
        (InvalidValue, "whole numbers from 0", {"segments": SEGMENTS / 2}),
        (InvalidValue, "whole numbers from 0", {"segments": SEGMENTS * float("nan")}),
        (InvalidValue, "0 or more; given -1", {"numbers": -1}),
        (InvalidType, "scale must be .* given float", {"scale": 3.0}),
    ],
)
def test_refused(error: type[Exception], message: str, arguments: dict[str, Any]) -> None:
    given = {"image": np.ones((40, 40)), "segments": SEGMENTS, "values": VALUES, **arguments}
    with pytest.raises(error, match=message):
        overlay_segments(given.pop("image"), given.pop("segments"), given.pop("values"), **given)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_borders_of_masks_are_captums(width: int) -> None:
    viz = pytest.importorskip("captum.attr").visualization
    ours, theirs = Figure().subplots(1, 2)
    for seed in range(10):
        mask = np.kron(np.random.default_rng(seed).random((6, 6)) > 0.35, np.ones((5, 4))) > 0
        draw_mask_border(ours, mask, width, "red")
        viz.draw_mask_border(theirs, mask, width, "red")
        mine, other = ours.images[-1].get_array(), theirs.images[-1].get_array()
        np.testing.assert_array_equal(mine, other)


def test_no_border_without_width() -> None:
    ax = Figure().subplots()
    draw_mask_border(ax, np.ones((4, 4), bool), 0)
    assert not ax.images[-1].get_array().any()
    for wrong, message in (((-1, "red"), "0 or more"), ((1, "no colour"), "is no colour")):
        with pytest.raises(InvalidValue, match=message):
            draw_mask_border(ax, np.ones((4, 4), bool), *wrong)
    with pytest.raises(InvalidShape, match="a mask must be"):
        draw_mask_border(ax, np.ones(4, bool))


def test_a_name_stands_in_its_region() -> None:
    ax = Figure().subplots()
    compact, ring, apart = np.zeros((3, 11, 11), bool)
    compact[2:5, 3:8] = True
    ring[:] = True
    ring[2:9, 2:9] = False
    apart[:, :2] = apart[:, -3:] = True
    for mask in (compact, ring, apart):
        draw_mask_legend(ax, mask, "$x$ 杯")
        x, y = ax.texts[-1].get_position()
        assert mask[round(y), round(x)]
    assert ax.texts[0].get_position() == (5, 3)
    draw_mask_legend(ax, np.zeros((11, 11), bool), "nowhere")
    assert len(ax.texts) == 3
    drawn(ax.get_figure())
