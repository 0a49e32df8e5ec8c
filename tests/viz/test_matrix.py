import io
import sys
from dataclasses import replace

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from llm_attr.errors import InvalidValue, MissingExtra
from llm_attr.viz.colour import LIGHT
from llm_attr.viz.figure import show
from llm_attr.viz.matrix import plot_token_values, plot_unit_values
from llm_attr.viz.view import AttributionView


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
    assert ax.get_xlabel() == view.value_name
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
    assert len(ax.texts) == 36
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
        assert len(ax.texts) in (0, tokens * units)


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
