"""Pages, terminal views and figures of comparisons."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from llm_attr.errors import InvalidShape, InvalidValue
from llm_attr.viz.scale import Scale
from llm_attr.viz.text import page as comparison_page
from llm_attr.viz.text.lines import terminal as comparison_terminal
from llm_attr.viz.text.view import AttributionView, ComparisonView, format_correlation
from tests.viz.test_text import Page

NAN = float("nan")
VIEWS = ["compared", "grouped_", "hostile_", "many_", "empty_"]
WRITERS = [comparison_page.to_html, comparison_page.fragment]


def of(view: AttributionView, count: int, *, share: bool = True, names: list[str] | None = None) -> ComparisonView:
    """Several columns: the view's own values, then others that are made from them."""
    columns = [
        replace(view, unit_values=tuple(value * (-0.5) ** step for value in view.unit_values)) for step in range(count)
    ]
    scale = Scale.of(*(column.unit_values for column in columns)) if share else None
    return ComparisonView(
        title=view.title or "Several",
        names=tuple(names or [f"method {place}" for place in range(count)]),
        columns=tuple(replace(column, given_scale=scale or column.scale) for column in columns),
        agreement=tuple(tuple((-1.0) ** (row + column) for column in range(count)) for row in range(count)),
        overlap=tuple(tuple(3 for _ in range(count)) for _ in range(count)) if view.units else (),
        notes=(("different model", "1: a; 2: b"),),
    )


@pytest.fixture
def compared(view: AttributionView) -> ComparisonView:
    errors = (0.1, 0.2, NAN, 1.0, math.inf, 0.0)
    found = of(view, 3)
    return replace(found, columns=(replace(found.columns[0], unit_errors=errors), *found.columns[1:]))


@pytest.fixture
def grouped_(grouped: AttributionView) -> ComparisonView:
    return of(grouped, 2, share=False)


@pytest.fixture
def hostile_(hostile: AttributionView) -> ComparisonView:
    return of(hostile, 3, names=["<script>x</script>", "\x1b[31m\n日本語", "{{ 7 * 7 }} $x_1$" * 20])


@pytest.fixture
def many_(many: AttributionView) -> ComparisonView:
    return of(many, 8)


@pytest.fixture
def empty_(empty: AttributionView) -> ComparisonView:
    return of(empty, 2)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("write", WRITERS)
def test_it_parses_and_asks_no_server(name: str, write: Callable[..., str], request: pytest.FixtureRequest) -> None:
    html = write(request.getfixturevalue(name))
    page = Page(html)
    assert [attributes["type"] for tag, attributes in page.tags if tag == "script"] == ["application/json", "module"]
    assert not {tag for tag, _ in page.tags} & {"img", "iframe", "object", "form", "base"}
    assert not re.search(r"url\(|@import|@font-face", html)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", html)
    for _, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "src"]
    assert html.startswith("<!doctype html>" if write is comparison_page.to_html else '<div class="llm-attr">')


def test_every_rule_of_the_fragment_stays_inside_it(compared: ComparisonView) -> None:
    style = re.search(r"<style>(.*?)</style>", comparison_page.fragment(compared), re.DOTALL)
    assert style is not None
    for selector in re.findall(r"(?:^|[{}])\s*([^{}@;]+?)\s*\{", style[1]):
        assert all(".llm-attr" in part for part in selector.split(","))
    assert style[1].count("{") == style[1].count("}")


def test_the_text_stands_once_for_each(compared: ComparisonView) -> None:
    page = Page(comparison_page.to_html(compared))
    first = compared.columns[0]
    prompt = "".join(a + b for a, b in zip(first.context or (), (*first.units, ""), strict=True))
    assert page.text.count(prompt) == 3
    units = page.named("data-unit")
    assert [unit["data-unit"] for unit in units] == list("012345") * 3
    assert [units[place]["class"] for place in (3, 9, 15)] == ["pos", "neg", "pos"]
    assert [units[place]["style"] for place in (3, 9, 15)] == ["--v:1.0", "--v:0.5", "--v:0.25"]


def test_the_scale_is_said(compared: ComparisonView, grouped_: ComparisonView) -> None:
    page = Page(comparison_page.to_html(compared)).text
    assert "ends of the scale: ±9.35 (the largest |value|, shared by 3)" in page
    own = Page(comparison_page.to_html(grouped_))
    assert "each on its own scale" in own.text
    assert "−4.67" in own.text
    assert [unit["style"] for unit in own.named("data-unit")][3::6] == ["--v:1.0", "--v:1.0"]


def test_agreement_errors_and_notes(compared: ComparisonView) -> None:
    page = Page(comparison_page.to_html(compared))
    assert page.text.count("−1.00") == 4
    assert page.text.count("3/3") == 9
    assert [it["title"] for it in page.named("style") if it.get("class") == "error"] == [
        "± 0.10",
        "± 0.20",
        "± 1.00",
        "± 0.00",
    ]
    assert "different model" in page.text


def test_of_many_units_the_strongest_are_in_the_table(many_: ComparisonView) -> None:
    html = comparison_page.to_html(many_)
    page = Page(html)
    assert len(page.named("data-unit")) == 8000
    assert len(page.named("data-name")) == 60 * 8
    assert "The 60 strongest of 1,000 units" in page.text
    assert len(html) < 1_200_000


def test_strongest_in_any_column_in_order() -> None:
    views = [
        AttributionView("", ("a", "b", "c", "d"), values, given_scale=Scale(limit))
        for values, limit in (((0.1, 0.0, NAN, -1.0), 1.0), ((NAN, 5.0, 0.0, 1.0), 10.0))
    ]
    view = ComparisonView("", ("x", "y"), tuple(views), ((1.0, NAN), (NAN, 1.0)))
    assert view.strongest(2) == (1, 3)
    assert view.strongest(3) == (0, 1, 3)
    assert view.shared_scale is None


@pytest.mark.parametrize(("value", "text"), [(1.0, "+1.00"), (-0.545, "−0.55"), (-0.001, "0.00"), (NAN, "–")])
def test_correlations_in_print(value: float, text: str) -> None:
    assert format_correlation(value) == text


def test_parts_that_do_not_fit(compared: ComparisonView, view: AttributionView) -> None:
    with pytest.raises(InvalidValue, match="two or more"):
        replace(compared, columns=compared.columns[:1])
    with pytest.raises(InvalidShape, match="as many names; got 2"):
        replace(compared, names=("a", "b"))
    with pytest.raises(InvalidShape, match="agreement must have 3 rows of 3"):
        replace(compared, agreement=((1.0,),))
    with pytest.raises(InvalidValue, match="same units"):
        replace(compared, columns=(*compared.columns[:2], replace(view, units=("x",) * 6)))


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("width", [20, 33, 60, 80, 100, 140, 220])
@pytest.mark.parametrize("colour", [True, False])
def test_no_line_is_wider_than_the_terminal(
    name: str, width: int, colour: bool, request: pytest.FixtureRequest
) -> None:
    shown = comparison_terminal.render(request.getfixturevalue(name), width=width, colour=colour)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert "\x1b" not in plain
    assert max(cell_len(line) for line in plain.splitlines()) <= width
    assert ("\x1b" in shown) is colour


def test_all_columns_are_shown_in_as_many_tables_as_it_takes(many_: ComparisonView) -> None:
    for width in (60, 100, 200):
        plain = comparison_terminal.render(many_, width=width, colour=False)
        units = plain[plain.index("strongest units ─") : plain.index("Rank agreement")]
        for key in range(1, 9):
            assert re.search(rf" {key} meth", units)
        assert "… 980 more units" in units


def test_bars_where_there_is_room(compared: ComparisonView) -> None:
    wide = comparison_terminal.render(compared, width=120, colour=False)
    row = next(line for line in wide.splitlines() if line.startswith("4 Aksel"))
    assert row.count("│") == 3
    assert re.search(r"\+9\.35 +│█+", row)
    assert re.search(r"-4\.67 +█+│", row)
    narrow = comparison_terminal.render(compared, width=60, colour=False)
    assert "│" not in narrow
    assert "ends of the scale: ±9.35 (the largest |value|, shared by 3)" in wide


def test_a_console_without_unicode(compared: ComparisonView) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    comparison_terminal.show(compared, console=Console(file=file, width=100))
    file.flush()
    assert b"Units ---" in file.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", VIEWS)
def test_figures(name: str, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("matplotlib")
    from llm_attr.viz.text.figures.bars import plot_comparison as plot

    view = request.getfixturevalue(name)
    figure, axes = plot(view)
    figure.canvas.draw()
    assert len(axes) == len(view.columns) + 1
    assert figure.axes == axes
    widths = [len(ax.patches) for ax in axes[:-1]]
    assert widths == [min(len(view.units), 60)] * len(view.columns)
    assert len(axes[-1].texts) == len(view.columns) ** 2
    limits = {ax.get_xlim() for ax in axes[:-1]}
    assert len(limits) == (1 if view.shared_scale else len(view.columns))


def test_a_figure_says_its_scale_and_what_it_leaves_out(many_: ComparisonView) -> None:
    pytest.importorskip("matplotlib")
    from llm_attr.viz.text.figures.bars import plot_comparison as plot

    figure, _ = plot(many_)
    said = figure.subfigs[0].get_supxlabel()
    assert "shared by 8" in said
    assert "the 60 strongest of 1,000 units" in said


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("name", ["compared", "grouped_", "hostile_", "many_"])
def test_it_fits_every_window(name: str, width: int, show: Any, request: pytest.FixtureRequest) -> None:
    page = show(comparison_page.to_html(request.getfixturevalue(name)), viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if width == 1400:
        tops = page.locator(".panel .flow").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
        assert len(set(tops[:3])) == 1
