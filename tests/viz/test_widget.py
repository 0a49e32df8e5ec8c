import base64
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from llm_attr.errors import InvalidShape, InvalidType, InvalidValue, MissingExtra
from llm_attr.llm.results.result import LLMAttributionResult
from llm_attr.viz.formatting import format_number
from llm_attr.viz.scale import Scale
from llm_attr.viz.text.page import fragment
from llm_attr.viz.text.script import Selection, numbers, widget_module
from llm_attr.viz.text.view import AttributionView

pytest.importorskip("anywidget", reason="anywidget is not installed (the notebook extra has it)")

VIEW = "application/vnd.jupyter.widget-view+json"
FRONT_END = """async ([source, drawn, selected]) => {
    const { default: { render } } = await import(source);
    const heard = {}, state = { _drawn: drawn, selected };
    sent = [];
    model = {
        get: (name) => state[name],
        set(name, value) {
            if (JSON.stringify(state[name]) === JSON.stringify(value)) return;
            state[name] = value;
            for (const listener of heard[`change:${name}`] ?? []) listener();
        },
        save_changes: () => sent.push(state.selected),
        on: (type, listener) => (heard[type] ??= []).push(listener),
        off: (type, listener) => (heard[type] = heard[type].filter((it) => it !== listener)),
        listeners: () => Object.values(heard).flat().length,
    };
    stop = [...document.querySelectorAll("div.place")].map((el) => render({ model, el }));
}"""


@pytest.fixture
def make() -> Callable[..., Any]:
    """The class, which is imported on use."""
    from llm_attr.viz.widget import AttributionWidget

    return AttributionWidget


@pytest.fixture
def other(view: AttributionView) -> AttributionView:
    """Another attribution of the same answer to the same units."""
    table = np.random.default_rng(5).normal(size=(6, 6)).round(3)
    values = tuple(table.sum(0).tolist())
    return replace(view, title="Other", unit_values=values, token_values=tuple(map(tuple, table.tolist())))


@pytest.fixture
def result() -> LLMAttributionResult:
    rows = torch.tensor([[0.5, -1.0], [0.25, 2.0]])
    return LLMAttributionResult(
        input_tokens=["a b ", "c"], output_tokens=[" x", " y"], seq_attr=rows.sum(0), token_attr=rows
    )


def run(widget: Any, show: Callable[..., Any], places: int = 1) -> Any:
    """A page in which the widget's module draws from what the widget would send."""
    it = show("<body>" + "<div class=place></div>" * places)
    source = "data:text/javascript;base64," + base64.b64encode(widget_module().encode()).decode()
    state = json.loads(json.dumps(widget.get_state(["_drawn", "selected"])))
    it.page.evaluate(FRONT_END, [source, state["_drawn"], state["selected"]])
    return it


def tell(it: Any, widget: Any) -> None:
    """What the widget sends when its traits have changed."""
    state = json.loads(json.dumps(widget.get_state(["_drawn", "selected"])))
    it.page.evaluate(
        "it => { model.set('selected', it.selected); model.set('_drawn', it._drawn) }",
        {"_drawn": state["_drawn"], "selected": state["selected"]},
    )


def shares(it: Any, panel: int) -> list[float]:
    sign = "one.matches('.pos') ? 1 : one.matches('.neg') ? -1 : 0"
    units = it.page.locator(".llm-attr").nth(panel).locator(".flow [data-unit]")
    found = units.evaluate_all(f"all => all.map(one => [({sign}), one.style.getPropertyValue('--v')])")
    return [sign * float(share) for sign, share in found]


def check_panel(it: Any, panel: int, view: AttributionView, tokens: tuple[int, int] | None, unit: int | None) -> None:
    """The panel shows the values of these tokens and holds this unit."""
    table = np.asarray(view.token_values)
    values = table[slice(*tokens)].sum(0) if tokens else np.asarray(view.unit_values)
    np.testing.assert_allclose(shares(it, panel), values / view.page_limit, atol=2e-4)
    root = it.page.locator(".llm-attr").nth(panel)
    assert root.locator("[data-token][aria-selected=true]").count() == (tokens[1] - tokens[0] if tokens else 0)
    held = root.locator(".flow [aria-pressed=true]").evaluate_all("all => all.map(one => Number(one.dataset.unit))")
    assert held == ([] if unit is None else [unit])


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, llm_attr, llm_attr.viz.text.page, llm_attr.viz.text.script, llm_attr.llm.results.result\n"
        "print({'anywidget', 'traitlets', 'IPython', 'ipywidgets'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("missing", ["anywidget", "traitlets"])
def test_without_anywidget_the_extra_is_named(
    missing: str, result: LLMAttributionResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "llm_attr.viz.widget", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtra, match=r"anywidget is needed .*'llm_attr\[notebook\]'"):
        result.widget()
    assert "llm-attr" in result._repr_html_()


def test_a_result_has_a_widget(result: LLMAttributionResult) -> None:
    widget = result.widget()
    assert widget.result is result
    assert widget.views == (result.view(),)
    assert widget.selected == Selection()


def test_selections_are_set_heard_and_sent(make: Callable[..., Any], view: AttributionView) -> None:
    widget, heard = make(view), []
    widget.observe(lambda change: heard.append(change["new"]), "selected")
    widget.selected = Selection(tokens=(1, 3), unit=2)
    assert widget.get_state("selected") == {"selected": {"tokens": (1, 3), "unit": 2, "panel": 0}}
    widget.set_state({"selected": {"tokens": [0, 6], "unit": None, "panel": 0}})
    widget.selected = Selection(tokens=(0, 6))
    widget.selected = Selection()
    assert heard == [Selection((1, 3), 2), Selection((0, 6)), Selection()]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(panel=1), "panel of a selection must be in 0 to 0; given 1"),
        (Selection(unit=6), "unit of a selection must be None or in 0 to 5; given 6"),
        (Selection(unit=-1), "given -1"),
        (Selection((2, 2)), r"0 <= first < stop <= 6; given \(2, 2\)"),
        (Selection((5, 7)), r"given \(5, 7\)"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    selection: Selection, message: str, make: Callable[..., Any], view: AttributionView
) -> None:
    widget = make(view)
    with pytest.raises(InvalidValue, match=message):
        widget.selected = selection
    assert widget.selected == Selection()


@pytest.mark.parametrize(
    "given", [{"tokens": 3}, {"tokens": (1,)}, {"tokens": [1, 2]}, {"unit": False}, {"panel": "0"}]
)
def test_a_selection_is_of_whole_numbers(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidType, match=r"tokens \(first, stop\) or None, a unit or None, and a panel"):
        Selection(**given)


def test_the_trait_is_a_selection(make: Callable[..., Any], view: AttributionView) -> None:
    with pytest.raises(InvalidType, match="selected must be a Selection; given tuple"):
        make(view).selected = (0, 1)


def test_tokens_are_chosen_only_where_they_have_values(make: Callable[..., Any], view: AttributionView) -> None:
    still = make(replace(view, token_values=None))
    still.selected = Selection(unit=1)
    with pytest.raises(InvalidValue, match="no values of single output tokens"):
        still.selected = Selection((0, 1))
    one = make(replace(view, value_name="probability"))
    one.selected = Selection((2, 3))
    with pytest.raises(InvalidValue, match="do not add up: choose one at a time"):
        one.selected = Selection((2, 4))


def test_results_can_be_exchanged(
    make: Callable[..., Any], view: AttributionView, other: AttributionView, result: LLMAttributionResult
) -> None:
    widget = make(view)
    widget.selected = Selection((4, 6), 5)
    before = widget.get_state("_drawn")
    widget.result = result
    assert widget.selected == Selection()
    assert (widget.result, widget.views) == (result, (result.view(),))
    assert widget.get_state("_drawn") != before
    widget.results = (view, other)
    assert widget.results == (view, other)
    for act in (lambda: widget.result, lambda: setattr(widget, "result", view)):
        with pytest.raises(InvalidValue, match="the widget shows 2 results, not one; use `results`"):
            act()


def test_names_are_headings(make: Callable[..., Any], view: AttributionView, other: AttributionView) -> None:
    widget = make(view, other, names=["One", "<b>Two</b>"])
    assert [view.title for view in widget.views] == ["One", "<b>Two</b>"]
    assert "&lt;b&gt;Two&lt;/b&gt;" in widget.get_state("_drawn")["_drawn"]["markup"]
    with pytest.raises(InvalidShape, match="one for each of the 1 results; got 2"):
        widget.results = (view,)
    with pytest.raises(InvalidType, match="every name must be a text; given 1"):
        make(view, names=(1,))
    assert widget.results == (view, other)


def test_only_results_are_shown(make: Callable[..., Any]) -> None:
    with pytest.raises(InvalidValue, match="at least one result"):
        make()
    with pytest.raises(InvalidType, match="a widget shows results or views; given str"):
        make("text")
    with pytest.raises(InvalidType, match=r"a widget shows single results .* given Comparison: give each of its"):
        make(type("Comparison", (), {"view": lambda self: "several"})())
    with pytest.raises(TypeError, match="title"):
        make(title="a")


def test_the_output_has_the_picture_too(
    make: Callable[..., Any], view: AttributionView, other: AttributionView
) -> None:
    data, _ = make(view, other)._repr_mimebundle_()
    assert set(data) == {VIEW, "text/html", "text/plain"}
    assert data["text/plain"] == "AttributionWidget('Which sentence carried the answer?', 'Other')"
    assert fragment(view) in data["text/html"]
    assert fragment(other) in data["text/html"]
    single, _ = make(view)._repr_mimebundle_()
    assert single["text/html"] == fragment(view)


def test_what_is_sent_has_no_script(make: Callable[..., Any], hostile: AttributionView) -> None:
    drawn = make(hostile, replace(hostile, token_values=None)).get_state("_drawn")["_drawn"]
    assert "<script" not in drawn["markup"]
    assert drawn["numbers"] == [numbers(hostile), None]
    json.dumps(drawn, allow_nan=False)


def test_clicks_reach_the_model(make: Callable[..., Any], view: AttributionView, show: Callable[..., Any]) -> None:
    it = run(make(view), show, places=2)
    roots = it.page.locator(".llm-attr.live")
    assert roots.count() == 2
    roots.nth(0).locator("[data-token]").nth(3).click()
    roots.nth(1).locator("[data-token]").nth(4).click(modifiers=["Shift"])
    roots.nth(1).locator(".ranking li").first.click()
    assert it.page.evaluate("sent") == [
        {"tokens": [3, 4], "unit": None, "panel": 0},
        {"tokens": [3, 5], "unit": None, "panel": 0},
        {"tokens": [3, 5], "unit": 3, "panel": 0},
    ]
    it.page.mouse.move(1, 1)
    check_panel(it, 0, view, (3, 5), 3)
    check_panel(it, 1, view, (3, 5), 3)
    it.page.keyboard.press("Escape")
    check_panel(it, 0, view, None, None)
    assert it.page.evaluate("sent.at(-1)") == {"tokens": None, "unit": None, "panel": 0}


def test_python_reaches_the_page(
    make: Callable[..., Any], view: AttributionView, other: AttributionView, show: Callable[..., Any]
) -> None:
    widget = make(view)
    widget.selected = Selection((0, 2), 4)
    it = run(widget, show)
    check_panel(it, 0, view, (0, 2), 4)
    widget.selected = Selection(unit=0)
    tell(it, widget)
    check_panel(it, 0, view, None, 0)
    widget.result = other
    tell(it, widget)
    assert it.page.locator("h1").all_text_contents() == ["Other"]
    check_panel(it, 0, other, None, None)
    it.tokens().nth(1).click()
    it.page.mouse.move(1, 1)
    check_panel(it, 0, other, (1, 2), None)
    assert it.page.evaluate("sent") == [{"tokens": [1, 2], "unit": None, "panel": 0}]
    it.page.evaluate("stop.forEach((it) => it())")
    assert it.page.evaluate("model.listeners()") == 0
    assert it.page.locator(".live").count() == 0


def test_panels_show_what_they_have_in_common(
    make: Callable[..., Any], view: AttributionView, other: AttributionView, show: Callable[..., Any]
) -> None:
    changed = replace(other, units=("Another text.", *other.units[1:]), output_tokens=(" No", *other.output_tokens[1:]))
    still = replace(view, token_values=None)
    widget = make(view, other, changed, still)
    it = run(widget, show)
    assert it.page.locator(".llm-attr.live").count() == 3
    widget.selected = Selection((3, 5), 1, panel=1)
    tell(it, widget)
    for panel, shown in ((0, view), (1, other)):
        check_panel(it, panel, shown, (3, 5), 1)
    check_panel(it, 2, changed, None, 1)
    marked = it.page.locator(".llm-attr").nth(3).locator(".shown")
    assert marked.evaluate_all("all => all.map(one => one.dataset.unit)") == ["1", "1", "1"]  # stripe, text and row
    widget.selected = Selection((3, 5), 0, panel=1)
    tell(it, widget)
    check_panel(it, 2, changed, None, None)
    it.page.locator(".llm-attr").nth(2).locator("[data-token]").nth(0).click()
    assert it.page.evaluate("sent") == [{"tokens": [0, 1], "unit": None, "panel": 2}]
    it.page.mouse.move(1, 1)
    check_panel(it, 0, view, None, None)


def test_probabilities_follow_one_token_at_a_time(
    make: Callable[..., Any], view: AttributionView, other: AttributionView, show: Callable[..., Any]
) -> None:
    one = replace(other, value_name="probability")
    widget = make(view, one)
    it = run(widget, show)
    for tokens, followed in (((3, 4), (3, 4)), ((3, 5), None)):
        widget.selected = Selection(tokens)
        tell(it, widget)
        check_panel(it, 0, view, tokens, None)
        check_panel(it, 1, one, followed, None)


def test_a_hostile_prompt_is_text(make: Callable[..., Any], hostile: AttributionView, show: Callable[..., Any]) -> None:
    widget = make(hostile, hostile, names=("<img src=x onerror=alert(1)>", "<script>alert(1)</script>"))
    it = run(widget, show)
    widget.selected = Selection((0, 9), 0)
    tell(it, widget)
    assert it.page.locator(".place :is(script, img, b b)").count() == 0
    assert it.page.locator("[aria-selected=true]").count() == 18
    assert it.page.locator("h1").first.text_content() == "<img src=x onerror=alert(1)>"


def test_a_given_scale_is_kept(make: Callable[..., Any], view: AttributionView, show: Callable[..., Any]) -> None:
    shared = replace(view, given_scale=Scale.of(limit=20.0))
    widget = make(shared)
    widget.selected = Selection((0, 1))
    it = run(widget, show)
    widget.selected = Selection()
    tell(it, widget)
    np.testing.assert_allclose(shares(it, 0), np.asarray(view.unit_values) / 20, atol=2e-4)
    assert it.text(".prompt .legend").split()[2] == format_number(20.0, 20.0)


def test_columns_wrap(make: Callable[..., Any], view: AttributionView, show: Callable[..., Any]) -> None:
    for width, rows in ((1400, [[0, 1, 2]]), (800, [[0, 1], [2]]), (360, [[0], [1], [2]])):
        it = run(make(view, view, view), show)
        it.page.set_viewport_size({"width": width, "height": 800})
        boxes = [it.page.locator(".llm-attr").nth(place).bounding_box() for place in range(3)]
        tops = sorted({box["y"] for box in boxes})
        assert [[place for place, box in enumerate(boxes) if box["y"] == top] for top in tops] == rows
        assert it.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_nbconvert_shows_the_picture_of_a_saved_notebook(
    make: Callable[..., Any], view: AttributionView, browser: Any, tmp_path: Any
) -> None:
    pytest.importorskip("nbconvert", reason="nbconvert is not installed (JupyterLab brings it)")
    pytest.importorskip("nbformat")
    import nbformat
    from nbconvert import HTMLExporter

    data, metadata = make(view, view)._repr_mimebundle_()
    output = nbformat.v4.new_output("execute_result", data=data, metadata=metadata, execution_count=1)
    cell = nbformat.v4.new_code_cell("widget", outputs=[output], execution_count=1)
    page, _ = HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=[cell]))
    file, asked = tmp_path / "notebook.html", []
    file.write_text(page, encoding="utf-8")
    tab = browser.new_page()
    tab.on("request", lambda request: asked.append(request.url))
    tab.route("http*://**", lambda route: route.abort())
    tab.goto(file.as_uri(), wait_until="domcontentloaded")
    assert tab.locator(".llm-attr.live").count() == 2
    tab.locator("[data-token]").nth(1).click()
    assert tab.locator("[aria-selected=true]").count() == 1
    tab.close()
    ours = [url for url in asked if url.startswith("http") and "mathjax" not in url and "require" not in url]
    assert ours == []  # nbconvert's own template asks for MathJax and RequireJS
