import base64
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llm_attr.viz.colour import DARK, LIGHT
from llm_attr.viz.formatting import escape_text, format_number
from llm_attr.viz.scale import extent
from llm_attr.viz.text import script
from llm_attr.viz.text.groups import Group
from llm_attr.viz.text.page import fragment, to_html
from llm_attr.viz.text.script import Script, is_live, mount_module, numbers
from llm_attr.viz.text.view import AttributionView

MODULE = mount_module()


@pytest.fixture
def sized(view: AttributionView) -> AttributionView:
    """Six tokens that each have their own favourite, in two documents."""
    table = np.random.default_rng(3).normal(size=(6, 6)).round(3)
    groups = (Group("mill.txt", "document", 0, 2), Group("places.txt", "document", 3, 6))
    values = tuple(table.sum(0).tolist())
    return replace(view, unit_values=values, token_values=tuple(map(tuple, table.tolist())), groups=groups)


def check_colours(it: Any, view: AttributionView, values: Any) -> None:
    """Prompt, list, legend and sums of the groups show these values of the units, on the scale of the page."""
    limit = view.page_limit
    np.testing.assert_allclose(it.shares, np.clip(np.asarray(values) / limit, -1, 1), atol=2e-4)
    order = AttributionView("", view.units, tuple(values)).ranking
    assert it.listed == [(unit, format_number(values[unit], limit)) for unit in order]
    assert it.text(".prompt .legend").split()[:3] == [format_number(-limit, limit), "0", format_number(limit, limit)]
    sums = [format_number(sum(values[group.first : group.stop]), limit) for group in view.groups]
    assert it.page.locator(".total").all_text_contents() == sums


def test_the_mouse_chooses_tokens_and_the_prompt_takes_their_colours(
    sized: AttributionView, show: Callable[..., Any]
) -> None:
    it, table = show(to_html(sized)), np.asarray(sized.token_values)
    check_colours(it, sized, sized.unit_values)
    it.tokens().nth(2).click()
    assert it.chosen == [2]
    check_colours(it, sized, table[2].tolist())
    it.tokens().nth(4).click(modifiers=["Shift"])
    assert it.chosen == [2, 3, 4]
    check_colours(it, sized, table[2:5].sum(0).tolist())
    assert re.search(r"Tokens 3–5 of 6: units sum to [+−][\d.]+, most by$", it.text("[role=status]"))
    assert format_number(table[2:5].sum(), sized.page_limit) in it.text("[role=status]")
    strongest = int(np.abs(table[2:5].sum(0)).argmax())
    assert escape_text(sized.units[strongest])[:30] in it.text(".most")
    it.page.locator(".most").click()
    assert it.unit(strongest).get_attribute("aria-pressed") == "true"
    it.page.keyboard.press("Escape")
    it.page.mouse.move(1, 1)
    it.tokens().nth(2).click()
    it.tokens().nth(4).click(modifiers=["Shift"])
    assert it.page.locator("tr.chosen").count() == 3
    it.page.get_by_role("button", name="Whole answer").click()
    assert it.chosen == []
    check_colours(it, sized, sized.unit_values)


def test_dragging_chooses_a_range_in_both_directions(sized: AttributionView, show: Callable[..., Any]) -> None:
    it = show(to_html(sized))
    for start, end, expected in ((1, 3, [1, 2, 3]), (4, 2, [2, 3, 4])):
        it.tokens().nth(start).hover()
        it.page.mouse.down()
        it.tokens().nth(end).hover()
        it.page.mouse.move(1, 1)  # beside the tokens: the range stays
        assert it.chosen == expected
        it.page.mouse.up()
        it.tokens().nth(0).hover()
        assert it.chosen == expected
    check_colours(it, sized, np.asarray(sized.token_values)[2:5].sum(0).tolist())


def test_the_keyboard_chooses_tokens(sized: AttributionView, show: Callable[..., Any]) -> None:
    it, table = show(to_html(sized)), np.asarray(sized.token_values)
    press = it.page.keyboard.press
    assert it.page.locator("[role=listbox] [tabindex='0']").count() == 1
    it.tokens().first.focus()
    press("Shift+Tab")
    press("Tab")
    assert it.tokens().first.evaluate("one => getComputedStyle(one).outlineStyle") == "solid"
    steps = [("Enter", [0]), ("ArrowRight", [1]), ("Shift+ArrowRight", [1, 2]), ("Shift+ArrowDown", [1, 2, 3])]
    steps += [("Shift+Home", [0, 1]), ("Home", [0]), ("ArrowLeft", [0]), ("Shift+End", [0, 1, 2, 3, 4, 5])]
    steps += [("End", [5]), ("Shift+ArrowUp", [4, 5]), ("Space", [4])]
    for key, expected in steps:
        press(key)
        assert it.chosen == expected
        check_colours(it, sized, table[expected].sum(0).tolist())
    assert it.page.evaluate("document.activeElement.dataset.token") == "4"
    press("Escape")
    assert it.chosen == []
    check_colours(it, sized, sized.unit_values)
    press("ArrowRight")
    assert it.chosen == [5]
    assert it.page.locator("[role=listbox] [tabindex='0']").count() == 1


def test_roles_and_names(sized: AttributionView, show: Callable[..., Any]) -> None:
    it = show(to_html(sized))
    box = it.page.get_by_role("listbox", name="Tokens of the output")
    assert box.get_attribute("aria-multiselectable") == "true"
    assert box.get_by_role("option").count() == 6
    assert it.page.get_by_role("group", name="document places.txt").get_by_role("button").count() == 3
    assert "Click a token" in it.page.get_by_role("status").inner_text()


def test_pointing_at_a_unit_tints_the_tokens(sized: AttributionView, show: Callable[..., Any]) -> None:
    it, table = show(to_html(sized)), np.asarray(sized.token_values)

    def check_tint(unit: int | None) -> None:
        small = it.page.locator("[data-token] small").all_text_contents()
        assert it.page.locator(".tinted").count() == (unit is not None)
        assert it.page.locator(".flow .shown").count() == (unit is not None)
        if unit is None:
            assert small == ["72%", ">99%", "97%", "<1%", "100%", "–"]
            assert it.page.locator("[data-token]:is(.pos, .neg)").count() == 0
        else:
            assert small == [format_number(value, sized.page_limit) for value in table[:, unit].tolist()]
            shares = it.tokens().evaluate_all("all => all.map(one => one.style.getPropertyValue('--v'))")
            np.testing.assert_allclose([float(it) for it in shares], abs(table[:, unit]) / sized.page_limit, atol=1e-4)
            assert f"raised {sized.output_tokens[table[:, unit].argmax()].strip()}" in it.text("[role=status]").replace(
                "·", ""
            )

    it.unit(1).hover()
    check_tint(1)
    it.page.locator(".ranking li[data-unit='5']").hover()
    check_tint(5)
    it.page.mouse.move(1, 1)
    check_tint(None)
    it.unit(0).focus()
    it.page.keyboard.press("ArrowRight")
    check_tint(1)
    it.page.keyboard.press("Enter")
    it.tokens().first.focus()
    check_tint(1)  # pinned
    it.page.keyboard.press("Escape")
    check_tint(None)
    it.unit(4).click()
    it.page.mouse.move(1, 1)
    check_tint(4)
    assert it.page.locator("[aria-pressed=true]").count() == 1
    it.unit(4).click()
    it.tokens().first.focus()
    it.page.mouse.move(1, 1)
    check_tint(None)


def test_probabilities_are_chosen_one_at_a_time(sized: AttributionView, show: Callable[..., Any]) -> None:
    view = replace(sized, value_name="probability")
    it = show(to_html(view))
    it.tokens().nth(1).click()
    it.tokens().nth(3).click(modifiers=["Shift"])
    assert it.chosen == [3]
    check_colours(it, view, list((view.token_values or ())[3]))
    assert "do not add up" in it.text("[role=status]")
    assert it.page.locator("[aria-multiselectable=false]").count() == 1


@pytest.mark.parametrize("write", [to_html, fragment])
def test_a_hostile_prompt_is_text(
    write: Callable[..., str], hostile: AttributionView, show: Callable[..., Any]
) -> None:
    values = np.arange(81.0).reshape(9, 9) - 40
    values[0, 0], values[1, 1] = np.nan, np.inf
    view = replace(hostile, token_values=tuple(map(tuple, values.tolist())))
    it = show(write(view))
    assert it.unit(0).text_content() == '<script>alert("x")</script>'
    for position in range(9):
        assert it.unit(position).text_content() == escape_text(view.units[position])
    it.tokens().nth(0).click()
    assert np.isnan(it.shares).tolist() == [True] + [False] * 8
    it.tokens().nth(3).click(modifiers=["Shift"])
    it.page.locator(".ranking li").first.hover()
    assert it.chosen == [0, 1, 2, 3]
    assert it.page.locator("script").count() == 2
    assert it.page.locator("img, b b, i:not(.bar i, .ramp i, .barcode i)").count() == 0


def test_the_page_lets_no_other_script_run(sized: AttributionView, show: Callable[..., Any]) -> None:
    it = show(to_html(sized))
    it.page.evaluate(
        "() => { const it = document.body.appendChild(document.createElement('script')); it.textContent = 'found = 1' }"
    )
    it.page.evaluate("() => document.body.insertAdjacentHTML('beforeend', '<img src=/x.png onerror=found=1>')")
    it.page.evaluate("() => fetch('https://example.org').catch(() => null)")
    blocked: list[str] = []
    for _ in range(600):  # the browser tells of them in its own time
        blocked = [told for told in it.incidents if not told.startswith("file:")]  # Playwright tells of the image too
        if len(blocked) >= 5:
            break
        it.page.wait_for_timeout(100)
    assert it.page.evaluate("typeof found") == "undefined"
    assert len(blocked) == 5
    assert all("Content Security Policy" in told for told in blocked)
    it.incidents.clear()


def test_without_scripts_the_page_is_as_written(sized: AttributionView, show: Callable[..., Any]) -> None:
    it = show(to_html(sized), java_script_enabled=False)
    assert it.page.locator(".status, .modes button").filter(visible=True).count() == 0
    assert it.page.locator("[role=option], .live").count() == 0
    assert it.unit(3).is_visible()


def test_two_fragments_do_not_interfere(sized: AttributionView, show: Callable[..., Any]) -> None:
    page = f"<body><h1 id=own>Mine</h1>{fragment(sized)}{fragment(replace(sized, title='b'))}{fragment(sized)}"
    it = show(page)
    it.page.evaluate("() => { heard = []; addEventListener('attr-select', it => heard.push(it.detail)) }")
    assert it.page.locator(".llm-attr.live").count() == 3
    before = [it.page.locator(".llm-attr").nth(place).inner_html() for place in range(3)]
    second = it.page.locator(".llm-attr").nth(1)
    second.locator("[data-token]").nth(1).click()
    second.locator("[data-token]").nth(2).click(modifiers=["Shift"])
    assert it.page.evaluate("heard") == [[1, 2], [1, 3]]
    after = [it.page.locator(".llm-attr").nth(place).inner_html() for place in range(3)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]
    assert it.page.evaluate("typeof mount + typeof mountAll + typeof SIGNS") == "undefined" * 3


def test_the_module_mounts_on_any_markup_and_leaves_it_as_it_was(
    sized: AttributionView, show: Callable[..., Any]
) -> None:
    static = re.sub(r'<script type="module">.*?</script>', "", fragment(sized), flags=re.DOTALL)
    it, table = show(f"<body>{static}"), np.asarray(sized.token_values)
    source = "data:text/javascript;base64," + base64.b64encode(MODULE.encode()).decode()
    snapshot = "document.querySelector('.llm-attr').cloneNode(true)"
    it.page.evaluate(
        f"async ([source, data]) => {{ before = {snapshot}; root = document.querySelector('.llm-attr');"
        "heard = []; root.addEventListener('attr-select', it => heard.push(it.detail));"
        "handle = (await import(source)).mount(root, data) }",
        [source, json.loads(json.dumps(numbers(sized)))],
    )
    assert it.page.evaluate("handle.selected") is None
    it.page.evaluate("handle.select(1, 3)")
    assert it.page.evaluate("[handle.selected, heard]") == [[1, 3], [[1, 3]]]
    check_colours(it, sized, table[1:3].sum(0).tolist())
    for wrong in ("2, 2", "-1, 2", "0, 7", "0.5, 2", "1"):
        with pytest.raises(Exception, match="RangeError: select takes"):
            it.page.evaluate(f"handle.select({wrong})")
    it.page.evaluate("handle.select(); handle.select()")
    assert it.page.evaluate("[handle.selected, heard]") == [None, [[1, 3], None]]
    it.page.evaluate("held = []; root.addEventListener('attr-hold', it => held.push(it.detail)); handle.hold(2)")
    it.page.evaluate("handle.hold(2); handle.hold(5); handle.hold()")
    assert it.page.evaluate("held") == [2, 5, None]
    for wrong in ("6", "-1", "0.5"):
        with pytest.raises(Exception, match="RangeError: hold takes 0 <= unit < 6"):
            it.page.evaluate(f"handle.hold({wrong})")
    it.tokens().nth(5).click()
    it.page.evaluate("handle.destroy()")
    check_colours(it, sized, sized.unit_values)
    it.tokens().nth(5).click()
    assert it.page.evaluate("heard.length") == 3
    names = (
        "one => [...one.querySelectorAll('*')].map(it => [it.tagName, it.className, it.hidden, it.role, it.tabIndex])"
    )
    assert it.page.evaluate(f"({names})(root)") == it.page.evaluate(f"({names})(before)")


@pytest.mark.parametrize(("scheme", "scale"), [("light", LIGHT), ("dark", DARK)])
@pytest.mark.parametrize("width", [360, 1400])
def test_light_dark_narrow_and_wide(
    scheme: str, scale: Any, width: int, sized: AttributionView, show: Callable[..., Any]
) -> None:
    it = show(to_html(sized), color_scheme=scheme, viewport={"width": width, "height": 700})
    it.tokens().nth(3).click()
    row = (sized.token_values or ())[3]
    it.page.get_by_role("button", name="own scale").click()
    strongest = it.unit(int(np.abs(row).argmax()))
    colour = scale.positive if max(row) == extent(row) else scale.negative
    shown = strongest.evaluate(
        "one => { const pen = document.createElement('canvas').getContext('2d');"
        "pen.fillStyle = getComputedStyle(one).backgroundColor; pen.fillRect(0, 0, 1, 1);"
        "return [...pen.getImageData(0, 0, 1, 1).data] }"
    )
    expected = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    np.testing.assert_allclose(shown, [*expected, 255], atol=1)
    assert it.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    it.page.emulate_media(media="print", color_scheme="light")
    assert it.chosen == [3]
    assert it.page.locator("button").filter(visible=True).count() == 0
    assert it.page.locator(".output").evaluate("one => getComputedStyle(one).position") == "static"
    assert it.page.locator("table").bounding_box()["height"] < it.page.locator(".scroll").bounding_box()["height"]


KEYS = """count => {
    const work = { styles: 0, layouts: 0 };
    const counted = (owner, name, kind) => {
        const original = owner[name];
        owner[name] = function (...given) { work[kind] += 1; return original.apply(this, given); };
    };
    counted(CSSStyleDeclaration.prototype, "setProperty", "styles");
    counted(window, "getComputedStyle", "layouts");
    for (const name of ["getBoundingClientRect", "getClientRects"]) counted(Element.prototype, name, "layouts");
    const seen = new MutationObserver(() => {});
    seen.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
    return Array.from({ length: count }, (_, turn) => {
        Object.assign(work, { styles: 0, layouts: 0 });
        const token = document.querySelector("[role=listbox] [tabindex='0']");
        const [key, shiftKey] = turn % 2 ? ["End", true] : ["Home", false];
        token.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey, bubbles: true }));
        const nodes = (all, { addedNodes, removedNodes }) => all + 1 + addedNodes.length + removedNodes.length;
        return { ...work, changes: seen.takeRecords().reduce(nodes, 0) };
    });
}"""
"""Keys that choose the first token and all of them in turn, and the work that each did: styles written, styles and
places asked for (which the browser has to compute first), attributes and nodes of the page changed."""


def test_a_thousand_units_stay_smooth(large: AttributionView, show: Callable[..., Any]) -> None:
    """By the work of a selection; its time is in tests/benchmarks/test_page.py."""
    html = to_html(large)
    assert len(html) < 800_000
    it = show(html)
    units, listed, tokens = len(large.units) + 240, 20 + 2, len(large.output_tokens)
    for work in it.page.evaluate(KEYS, 4):
        assert 0 < work["styles"] <= units + listed
        assert work["layouts"] <= 1
        assert 0 < work["changes"] <= 6 * (units + tokens)
    it.tokens().first.focus()
    it.page.keyboard.press("Home")
    it.page.keyboard.press("Shift+End")
    np.testing.assert_allclose(it.shares, np.asarray(large.unit_values) / large.page_limit, atol=1e-3)
    it.page.locator("summary").click()
    assert [unit for unit, _ in it.listed][:20] == list(large.ranking[:20])
    assert it.listed[-1][1] == format_number(large.unit_values[it.listed[-1][0]], large.page_limit)


def decoded(found: dict[str, Any]) -> tuple[Any, Any]:
    """Unit values and token values, as a browser reads them."""
    read = {name: base64.b64decode(text) for name, text in found["token_values"].items()}
    whole = np.frombuffer(base64.b64decode(found["unit_values"]), "<f8")
    if "values" in read:
        return whole, np.frombuffer(read["values"], "<f8").reshape(-1, len(whole))
    ends, shares = np.frombuffer(read["ends"], "<f8"), np.frombuffer(read["shares"], "<i2")
    rows = shares.reshape(len(ends), len(whole)).astype(float)
    values = rows / 32766 * ends[:, None]
    values[abs(rows) == 32767] = np.inf * np.sign(rows[abs(rows) == 32767])
    values[rows == -32768] = np.nan
    return whole, values


def test_numbers_are_compact_and_json(
    hostile: AttributionView, sized: AttributionView, many: AttributionView, monkeypatch: pytest.MonkeyPatch
) -> None:
    for exact in (True, False):
        monkeypatch.setattr(script, "EXACT", 1000 if exact else 0)
        for each in (hostile, sized, replace(sized, token_values=((-2 / 3, 1e-9, 1e9, 0.0, 5.0, -1e9),) * 6)):
            whole, rows = decoded(json.loads(json.dumps(numbers(each), allow_nan=False)))
            np.testing.assert_array_equal(whole, each.unit_values)
            table = np.asarray(each.token_values)
            finite = np.isfinite(table)
            ends = np.max(abs(table), 1, initial=0.0, where=finite)[:, None] * np.ones_like(table)
            np.testing.assert_array_equal(rows[~finite], table[~finite])
            assert np.max(abs(rows[finite] - table[finite]) / ends[finite]) <= (0 if exact else 2e-5)
    assert numbers(sized)["groups"] == [[0, 2], [3, 6]]
    assert is_live(many)
    monkeypatch.setattr(script, "CELLS", 300_000)
    assert not is_live(many)
    assert not any(numbers(many)["token_values"].values())
    assert Script.of(replace(sized, token_values=None)) is None


def test_own_scale_is_a_switch(sized: AttributionView, show: Callable[..., Any]) -> None:
    it, row = show(to_html(sized)), np.asarray(sized.token_values)[2]
    own = it.page.get_by_role("button", name="own scale")
    assert own.is_hidden()
    it.tokens().nth(2).click()
    np.testing.assert_allclose(it.shares, row / sized.page_limit, atol=2e-4)
    own.click()
    assert own.get_attribute("aria-pressed") == "true"
    np.testing.assert_allclose(it.shares, row / extent(row), atol=2e-4)
    own.click()
    np.testing.assert_allclose(it.shares, row / sized.page_limit, atol=2e-4)


def test_a_token_that_nothing_moved_says_so(sized: AttributionView, show: Callable[..., Any]) -> None:
    table = np.asarray(sized.token_values).copy()
    table[1] = 1e-3
    it = show(to_html(replace(sized, token_values=tuple(map(tuple, table.tolist())))))
    it.tokens().nth(1).click()
    assert "Token 2 of 6 (>99%): hardly depends on the prompt." in it.text("[role=status]")
    it.tokens().nth(2).click()
    assert "hardly" not in it.text("[role=status]")


def test_the_output_is_text_that_can_be_set_apart_and_selected(
    sized: AttributionView, show: Callable[..., Any]
) -> None:
    it = show(to_html(sized))
    box = it.page.locator(".tokens")
    assert box.inner_text().strip() == "".join(sized.output_tokens).strip()
    it.page.get_by_role("button", name="tokens", exact=True).click()
    assert box.locator("b").all_text_contents()[2:] == ["·Holm", "·repairs", "·violins", ".↵"]
    assert box.locator("small").filter(visible=True).count() == 6
    it.page.get_by_role("button", name="tokens", exact=True).click()
    assert box.locator("b").all_text_contents() == list(sized.output_tokens)
    it.page.evaluate("getSelection().selectAllChildren(document.querySelector('.tokens'))")
    assert it.page.evaluate("getSelection().toString()").strip() == "".join(sized.output_tokens).strip()


def test_other_numbers_keep_selection_and_unit(sized: AttributionView, show: Callable[..., Any]) -> None:
    static = re.sub(r'<script type="module">.*?</script>', "", fragment(sized), flags=re.DOTALL)
    it = show(f"<body>{static}")
    source = "data:text/javascript;base64," + base64.b64encode(MODULE.encode()).decode()
    table = np.asarray(sized.token_values) * -3
    other = replace(sized, token_values=tuple(map(tuple, table.tolist())), unit_values=tuple(table.sum(0).tolist()))
    it.page.evaluate(
        "async ([source, data, other]) => { const root = document.querySelector('.llm-attr');"
        "const handle = (await import(source)).mount(root, data); handle.select(1, 3); handle.hold(4);"
        "handle.update(other); found = handle.selected }",
        [source, numbers(sized), numbers(other)],
    )
    assert it.page.evaluate("found") == [1, 3]
    check_colours(it, other, table[1:3].sum(0).tolist())
    assert it.unit(4).get_attribute("aria-pressed") == "true"


def test_the_finding_leads_to_its_unit(sized: AttributionView, show: Callable[..., Any]) -> None:
    it = show(to_html(sized))
    link = it.page.locator(".finding [role=button]").first
    link.click()
    assert it.unit(sized.ranking[0]).get_attribute("aria-pressed") == "true"
    link.focus()
    it.page.keyboard.press("Enter")
    assert it.unit(sized.ranking[0]).get_attribute("aria-pressed") == "true"
    it.page.locator(".barcode i").nth(2).click()
    assert it.unit(2).get_attribute("aria-pressed") == "true"


def test_the_module_can_stand_inside_a_page(sized: AttributionView) -> None:
    assert not re.search(r"</script|<!--", MODULE, re.IGNORECASE)
    assert "\r" not in MODULE
    assert not re.search(r"\bimport\b|https?:|innerHTML|\beval\b", MODULE)
    found = Script.of(sized)
    assert found is not None
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', to_html(sized))
    assert policy is not None
    assert f"script-src {found.source};" in policy[1]
    assert "script-src 'none';" in to_html(replace(sized, token_values=None))
