import io
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure

from llm_attr.errors import InvalidValue
from llm_attr.viz.text.figures.arcs import Arcs, plot_arcs
from llm_attr.viz.text.view import AttributionView


def with_pairs(view: AttributionView) -> AttributionView:
    count = len(view.units)
    table = np.random.default_rng(0).normal(size=(count, count))
    table = (table + table.T) / 2
    return replace(view, interactions=tuple(map(tuple, table.tolist())))


def drawn(fig: Figure) -> None:
    fig.savefig(io.BytesIO(), dpi=40)


def test_the_strongest_pairs_come_first_and_the_rest_is_told(view: AttributionView) -> None:
    paired = with_pairs(view)
    found = Arcs.of(paired, 4)
    values = [abs(arc.value) for arc in found.arcs]
    assert values == sorted(values, reverse=True)
    assert abs(found.arcs[0].share) == 1.0
    assert found.left_out == 15 - 4
    assert found.units == tuple(range(6))
    assert all(paired.interactions[arc.first][arc.second] == arc.value for arc in found.arcs)
    fig, ax = plot_arcs(paired, most=4)
    assert "the 4 strongest of 15 pairs" in ax.get_xlabel()
    assert found.scale.description in ax.get_xlabel()
    drawn(fig)


def test_long_units_lie_and_short_ones_stand(view: AttributionView) -> None:
    _, lying = plot_arcs(with_pairs(view))
    assert len(lying.get_yticks()) == 6
    assert not len(lying.get_xticks())
    short = AttributionView("", ("a", "b", "c"), (1.0, 2.0, 3.0))
    _, standing = plot_arcs(with_pairs(short))
    assert len(standing.get_xticks()) == 3
    assert not len(standing.get_yticks())


def test_an_arc_joins_its_units_and_is_as_wide_as_it_is_strong() -> None:
    table = ((1.0, 4.0, -1.0), (4.0, 2.0, 0.0), (-1.0, 0.0, 3.0))
    fig, ax = plot_arcs(AttributionView("", ("a", "b", "c"), (1.0, 2.0, 3.0), interactions=table))
    weak_edge, weak, strong_edge, strong, _ = ax.lines
    assert (weak.get_xdata()[0], weak.get_xdata()[-1]) == (0, 2)
    assert (strong.get_xdata()[0], strong.get_xdata()[-1]) == (0, 1)
    assert strong_edge.get_linewidth() > strong.get_linewidth() > weak_edge.get_linewidth() > weak.get_linewidth()
    drawn(fig)


def test_of_many_units_those_of_the_pairs_are_shown(many: AttributionView) -> None:
    few = AttributionView("", many.units[:100], many.unit_values[:100])
    found = Arcs.of(with_pairs(few), 5)
    assert len(found.units) <= 10
    fig, ax = plot_arcs(with_pairs(few), most=5)
    assert f"units of these pairs only, {len(found.units)} of 100" in ax.get_xlabel().replace("\n", " ")
    drawn(fig)


def test_hostile_text_zeros_and_given_axes(hostile: AttributionView) -> None:
    drawn(plot_arcs(with_pairs(hostile))[0])
    nothing = AttributionView("", ("a", "b"), (1.0, 2.0), interactions=((1.0, 0.0), (0.0, float("nan"))))
    fig = Figure()
    ax = fig.add_subplot()
    assert plot_arcs(nothing, ax) == (fig, ax)
    assert "no value other than 0" in ax.get_xlabel()
    drawn(fig)


def test_what_cannot_be_drawn_is_refused(view: AttributionView) -> None:
    with pytest.raises(InvalidValue, match="holds no pairs"):
        plot_arcs(view)
    with pytest.raises(InvalidValue, match="1 or more pairs"):
        plot_arcs(with_pairs(view), most=0)
