import io
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from llm_attr.errors import InvalidValue, MissingExtra
from llm_attr.viz.colour import LIGHT
from llm_attr.viz.figure import add_caption, show, spread
from llm_attr.viz.scale import Scale
from llm_attr.viz.text.figures.bars import plot_unit_values
from llm_attr.viz.text.figures.heat_map import plot_token_values
from llm_attr.viz.text.view import AttributionView


def drawn(fig: Figure) -> bytes:
    file = io.BytesIO()
    fig.savefig(file, dpi=40)
    return file.getvalue()


def tokens_by_units(tokens: int, units: int, text: str = "w") -> AttributionView:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(tokens, units))
    return AttributionView(
        title="$t_1$",
        units=tuple(f"{text}{place}" for place in range(units)),
        unit_values=tuple(table.sum(0).tolist()),
        output_tokens=tuple(f" o{place}" for place in range(tokens)),
        token_values=tuple(map(tuple, table.tolist())),
    )


def test_bars_are_the_values_in_order(view: AttributionView) -> None:
    fig, ax = plot_unit_values(view)
    assert isinstance(fig, Figure)
    assert tuple(bar.get_width() for bar in ax.patches) == view.unit_values
    assert [to_hex(bar.get_facecolor()) for bar in ax.patches[2:4]] == [LIGHT.negative, LIGHT.positive]
    assert ax.yaxis_inverted()
    assert ax.get_yticklabels()[0].get_text() == view.units[0]
    assert ax.get_xlabel().split("\n") == [view.value_name, view.scale.description]
    drawn(fig)


def test_short_units_stand_upright_and_duplicates_stay_apart() -> None:
    view = AttributionView("", ("the", "the", "cat"), (1.0, -2.0, float("nan")))
    fig, ax = plot_unit_values(view)
    assert [bar.get_height() for bar in ax.patches] == [1.0, -2.0, 0.0]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["the", "the", "cat"]
    drawn(fig)


def test_heat_map_is_centred_on_zero(view: AttributionView) -> None:
    fig, ax = plot_token_values(view)
    (image,) = ax.images
    low, high = image.get_clim()
    assert low == -high == pytest.approx(-9.347 / 2)
    np.testing.assert_allclose(image.get_array(), view.token_values)
    assert to_hex(image.cmap(image.norm(0.0))) == LIGHT.zero
    table = np.asarray(view.token_values)
    assert len(ax.texts) == (abs(table) >= 0.05 * abs(table).max()).sum() > 0
    assert [label.get_text() for label in ax.get_yticklabels()][2] == "·Holm"
    drawn(fig)


@pytest.mark.parametrize(("tokens", "units"), [(1, 1), (5, 10), (60, 200), (3, 1500)])
@pytest.mark.parametrize("text", ["w", "a rather long sentence, number "])
def test_figures_grow_to_a_cap_and_labels_are_thinned(tokens: int, units: int, text: str) -> None:
    view = tokens_by_units(tokens, units, text)
    for plot in (plot_unit_values, plot_token_values):
        fig, ax = plot(view)
        assert max(fig.get_size_inches()) <= 22
        labels = [label for label in (*ax.get_xticklabels(), *ax.get_yticklabels()) if label.get_text()]
        assert len(labels) <= 240
        table = np.asarray(view.token_values)
        assert len(ax.texts) in (0, (abs(table) >= 0.05 * abs(table).max()).sum())


def test_labels_are_never_formulas_and_always_drawable(hostile: AttributionView) -> None:
    for plot in (plot_unit_values, plot_token_values):
        fig, ax = plot(hostile)
        labels = [*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title]
        assert any("$x_1$" in label.get_text() or "{{ 7" in label.get_text() for label in labels)
        assert "\x1b" not in "".join(label.get_text() for label in labels)
        drawn(fig)


def test_zero_and_nan_tables() -> None:
    nan = float("nan")
    for values in ((0.0, 0.0), (nan, nan), (nan, -1.0)):
        view = AttributionView("", ("a", "b"), values, output_tokens=("x",), token_values=(values,))
        for plot in (plot_unit_values, plot_token_values):
            drawn(plot(view)[0])
    assert [text.get_text() for text in plot_token_values(view)[1].texts] == ["−1.00"]


def test_given_axes_are_used_and_pyplot_is_left_alone(view: AttributionView) -> None:
    before = pyplot.get_fignums()
    fig = Figure(figsize=(12, 4))
    left, right = fig.subplots(1, 2)
    assert plot_unit_values(view, left) == (fig, left)
    assert plot_token_values(view, ax=right) == (fig, right)
    drawn(fig)
    assert pyplot.get_fignums() == before


def test_no_numbers_where_there_is_no_room() -> None:
    wide = tokens_by_units(1, 300)
    assert not plot_token_values(wide)[1].texts
    left, _ = Figure(figsize=(8, 4)).subplots(1, 2)
    assert not plot_token_values(tokens_by_units(6, 60), left)[1].texts


def test_no_units_and_no_token_values(empty: AttributionView, view: AttributionView) -> None:
    drawn(plot_unit_values(empty)[0])
    for without in (empty, replace(view, token_values=None)):
        with pytest.raises(InvalidValue, match="no values of single output tokens"):
            plot_token_values(without)


def test_show_hands_the_figure_to_pyplot(view: AttributionView, monkeypatch: pytest.MonkeyPatch) -> None:
    pyplot.switch_backend("agg")
    shown: list[list[Figure]] = []

    def record() -> None:
        shown.append([pyplot.figure(number) for number in pyplot.get_fignums()])

    monkeypatch.setattr(pyplot, "show", record)
    fig, _ = plot_unit_values(view)
    try:
        show(fig)
        show(fig)
        assert shown == [[fig], [fig]]
    finally:
        pyplot.close("all")


def test_missing_matplotlib_names_the_extra(view: AttributionView, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match=r"llm_attr\[plot\]"):
        plot_unit_values(view)


def test_all_labels_of_few_and_the_strongest_of_many_units() -> None:
    few, many = tokens_by_units(3, 20), tokens_by_units(3, 500)
    assert [label.get_text() for label in plot_token_values(few)[1].get_xticklabels()] == list(few.units)
    for plot in (plot_unit_values, plot_token_values):
        fig, ax = plot(many)
        named = [label.get_text().replace("\u200e", "").split("  ") for label in ax.get_xticklabels()]
        assert 15 <= len(named) <= 24
        assert all(many.units[int(place) - 1] == text for place, text in named)
        if plot is plot_unit_values:
            assert str(many.ranking[0] + 1) in [place for place, _ in named]
        drawn(fig)


def test_a_needle_in_a_long_text_keeps_its_value_and_its_name() -> None:
    view = tokens_by_units(300, 5000)
    table = np.zeros((300, 5000))
    table[137, 4321] = -7.0
    view = replace(view, token_values=tuple(map(tuple, table)), unit_values=tuple(table.sum(0)))
    fig, ax = plot_token_values(view)
    (image,) = ax.images
    cells = image.get_array()
    assert cells.shape[0] < 300
    assert cells.shape[1] < 500
    assert cells.min() == -7.0
    assert np.count_nonzero(cells) == 1
    assert "each cell: the strongest of 2 tokens × 24 units" in ax.get_xlabel()
    assert "±7.00 (the largest |value|)" in ax.get_xlabel()
    assert [label.get_text().replace("\u200e", "") for label in ax.get_xticklabels()] == ["4,322  w4321"]
    assert [label.get_text().replace("\u200e", "") for label in ax.get_yticklabels()] == ["138  ·o137"]
    drawn(fig)
    fig, ax = plot_unit_values(view)
    assert sorted(bar.get_height() for bar in ax.patches if hasattr(bar, "get_height"))[0] == -7.0
    assert "each bar: the strongest of" in ax.get_xlabel()


@pytest.mark.parametrize("units", [5, 50, 5000])
@pytest.mark.parametrize("text", ["w", "Donaudampfschifffahrtsgesellschaft", "日本語のテキスト", "مرحبا بالعالم"])
def test_labels_never_overlap(units: int, text: str) -> None:
    view = replace(tokens_by_units(12, units, text), output_tokens=tuple(f"{text}\n" for _ in range(12)))
    for plot in (plot_unit_values, plot_token_values):
        fig, ax = plot(view)
        fig.draw_without_rendering()
        for axis, across in ((ax.xaxis, 0), (ax.yaxis, 1)):
            spots = [ax.transData.transform((place, place))[across] for place in axis.get_ticklocs()]
            size = max((label.get_fontsize() for label in axis.get_ticklabels()), default=8.0) / 72 * fig.dpi
            if len(axis.get_ticklabels()) > 1 and axis.get_ticklabels()[0].get_text().strip("0123456789.,−"):
                assert min(np.diff(sorted(spots))) >= size
        assert fig.get_tightbbox().width <= fig.get_figwidth() + 0.1


def test_line_breaks_and_spaces_of_tokens_can_be_seen() -> None:
    view = AttributionView("", ("a", "b"), (1.0, 2.0), (".\n", "  ", "\t", ""), token_values=((1.0, 2.0),) * 4)
    labels = plot_token_values(view)[1].get_yticklabels()
    assert [label.get_text() for label in labels] == [".↵", "··", "⇥", "(empty)"]


def test_a_shared_scale_is_that_of_the_axis(view: AttributionView) -> None:
    shared = replace(view, given_scale=Scale(20.0, "shared by 2"))
    low, high = plot_unit_values(shared)[1].get_xlim()
    assert low == -high <= -20
    assert "±20.0 (shared by 2)" in plot_unit_values(shared)[1].get_xlabel()


@pytest.mark.parametrize(
    ("places", "expected"),
    [([], []), ([5.0], [5.0]), ([1, 1, 1], [0, 1, 2]), ([0, 0], [0, 1]), ([9.9, 10], [9, 10]), ([2, 7], [2, 7])],
)
def test_labels_move_apart_as_little_as_they_can(places: list[float], expected: list[float]) -> None:
    assert spread(places, 1.0, 0.0, 10.0).tolist() == pytest.approx(expected)


def test_more_labels_than_there_is_room_for_are_even() -> None:
    assert spread([3.0] * 5, 1.0, 0.0, 2.0).tolist() == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


def test_in_a_larger_figure_nothing_leaves_its_place() -> None:
    words = tuple(f"word {place}" for place in range(15))
    view = AttributionView("leaving out each word of a rather long question", words, (1.0,) * len(words))
    fig = Figure(figsize=(14, 9), layout="constrained")
    axes = fig.subplots(2, 3)
    for ax in axes.flat:
        plot_unit_values(view, ax)
        add_caption(ax, "said of this picture alone, in a sentence that is far too long for one line below its axes")
    fig.draw_without_rendering()
    for ax, following in pairwise(axes[0]):
        assert len(ax.get_yticklabels()) == len(words)
        assert ax.xaxis.label.get_window_extent().x1 <= following.get_tightbbox().x0
        assert ax.title.get_window_extent().x1 <= following.get_tightbbox().x0


def test_axes_too_small_for_all_labels_name_the_strongest() -> None:
    units = tuple(f"unit number {place}" for place in range(40))
    view = AttributionView("", units, tuple(map(float, range(40))), unit_errors=(0.1,) * 40)
    ax = Figure(figsize=(6, 4)).subplots()
    plot_unit_values(view, ax)
    told = ax.get_xlabel().replace("\n", " ")
    assert "the strongest are named" in told
    assert "errors are not drawn" in told
    assert "whiskers" not in told
