import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from llm_attr.viz.text import script
from llm_attr.viz.text.levels import Levels
from llm_attr.viz.text.page import fragment, to_html
from llm_attr.viz.text.view import AttributionView

VOID = {"meta", "link", "br", "img", "hr", "input"}
VIEWS = ["view", "hostile", "many", "empty"]


class Page(HTMLParser):
    """Checks that tags are closed in order and collects what a test asks for."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.flow: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.flow.append(data)

    def named(self, attribute: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.tags if attribute in attributes]

    @property
    def text(self) -> str:
        return "".join(self.flow)


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("write", [to_html, fragment])
def test_it_parses_and_asks_no_server(name: str, write: object, request: pytest.FixtureRequest) -> None:
    html = write(request.getfixturevalue(name))
    page = Page(html)
    names = {tag for tag, _ in page.tags}
    assert not names & {"img", "iframe", "object", "form", "base"}
    scripts = [attributes["type"] for tag, attributes in page.tags if tag == "script"]
    assert scripts == (["application/json", "module"] if name != "empty" else [])
    assert not re.search(r"url\(|@import|@font-face", html)
    for tag, attributes in page.tags:
        assert not [key for key in attributes if key.startswith("on") or key == "src"]
        assert tag != "link" or attributes["href"] == "data:,"
    assert ("html" in names) == (write is to_html)
    assert html.startswith("<!doctype html>" if write is to_html else '<div class="llm-attr">')


def test_no_address_in_the_page(view: AttributionView) -> None:
    assert not re.search(r"https?:|//\w", to_html(view))


def test_hostile_text_is_text(hostile: AttributionView) -> None:
    html = to_html(hostile)
    page = Page(html)
    assert html.count("<script") == 2  # the numbers and the module
    assert '<script>alert("x")</script>' in page.text
    assert "<img src=x onerror=alert(1)>" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", html)
    html.encode("utf-8")


def test_units_keep_their_place_white_space_and_share(view: AttributionView) -> None:
    html = to_html(view)
    flow = re.search(r'<div class="flow card" dir="ltr">(.*?)</div>', html, re.DOTALL)
    assert flow is not None
    context = view.context or ()
    prompt = "".join(a + b for a, b in zip(context, (*view.units, ""), strict=True))
    assert Page(flow[1]).text == prompt
    units = Page(flow[1]).named("data-unit")
    assert [unit["data-unit"] for unit in units] == list("012345")
    assert units[3]["class"] == "pos"
    assert units[3]["style"] == "--v:1.0"
    assert units[5]["class"] == "neg"
    assert units[5]["title"] == "unit 6: −1.06"
    assert re.search(r"\.flow \{[^}]*white-space: pre-wrap", html)


def test_legend_has_both_ends_and_zero(view: AttributionView) -> None:
    assert re.search(r"<span>−9\.35</span><span class=\"ramp\"><i>0</i></span><span>\+9\.35</span>", to_html(view))


def test_nan_infinite_and_zero_values(hostile: AttributionView) -> None:
    flow = fragment(hostile).partition('<div class="flow card"')[2].partition("</section>")[0]
    classes = re.findall(r'<span data-unit="\d"[^>]*class="(\w+)"', flow)
    assert classes == ["pos", "neg", "none", "pos", "zero", "neg", "pos", "pos", "neg"]
    zero = fragment(AttributionView("", ("a", "b"), (0.0, float("nan")), value_name="nats"))
    assert "nats: no value other than 0" in zero


def test_a_thousand_units_are_all_there_and_most_folded(many: AttributionView, monkeypatch: pytest.MonkeyPatch) -> None:
    live = Page(to_html(many))
    assert (
        len([tag for tag, _ in live.tags if tag == "li"]) == 20
    )  # the script writes the others when they are unfolded
    assert "980 more" in live.text
    assert "the 6 strongest of 1,000 units" in live.text
    assert len([tag for tag, _ in live.tags if tag == "td"]) == 500 * 7
    monkeypatch.setattr(script, "CELLS", 300_000)
    html = to_html(replace(many, token_values=((1.0,) * 1000,) * 2, output_tokens=("a", "b"), output_probs=None))
    assert html.count("<li ") == 20
    html = to_html(many)
    assert html.count("<li ") == 220
    assert "500 tokens × 1,000 units are too many to select tokens on a page" in Page(html).text


def test_a_table_of_very_many_tokens_is_left_out(many: AttributionView) -> None:
    tokens = many.output_tokens * 3
    html = to_html(replace(many, output_tokens=tokens, output_probs=None, token_values=((1.0,) * 1000,) * len(tokens)))
    assert "<table" not in html
    assert "1,500,000 cells" in Page(html).text


def test_table_of_tokens(view: AttributionView) -> None:
    html = to_html(view)
    assert html.count("<td ") == 6 * 7
    heads = re.findall(r'<th scope="col" title="([^"]*)"', html)
    assert heads == [view.units[unit] for unit in view.ranking]
    assert html.count(">·</td>") == sum(
        abs(value) < 0.01 * view.limit for row in view.token_values or () for value in row
    )
    assert "<table" not in to_html(replace(view, token_values=None))
    assert "left out" not in to_html(replace(view, token_values=None))


def test_output_tokens(view: AttributionView) -> None:
    html = to_html(view)
    page = Page(html)
    assert [token["data-token"] for token in page.named("data-token")] == list("012345")
    for text in ("·Holm", "<1%", ">99%", ".↵"):
        assert text in page.text
    shown = re.search(r'<div class="tokens card"[^>]*>(.*?)</div>', html, re.DOTALL)
    assert shown is not None
    assert re.sub(r"<small>.*?</small>|<[^>]*>", "", shown[1]) == "".join(view.output_tokens)
    without = Page(to_html(replace(view, output_probs=None)))
    assert not without.named("data-token")[0].get("title")
    assert "probability" not in without.text.replace("log-probability", "")


def test_one_scale_for_the_page(view: AttributionView) -> None:
    rows = tuple(tuple(2 * value for value in row) for row in view.token_values or ())
    wide = replace(view, token_values=rows, unit_values=(0.1,) * 6)
    assert wide.limit == 0.1
    assert wide.page_limit == pytest.approx(9.347)
    page = Page(to_html(wide))
    assert {unit["style"] for unit in page.named("data-unit") if "style" in unit} == {"--v:0.0107"}
    needs = [str(token["style"]) for token in page.named("data-token")]
    assert needs == ["--n:0.2", "--n:0.0", "--n:0.0", "--n:1.0", "--n:0.8", "--n:0.0"]


def test_the_template_is_folded_to_a_glyph_and_can_be_shown(view: AttributionView) -> None:
    context = view.context or ()
    length = sum(map(len, (*context, *view.units)))
    html = to_html(replace(view, template=((0, len(context[0])), (length - len("<|im_end|>\n"), length))))
    assert re.findall(r'class="glyph"[^>]*>([^<]*)<.span><span class="full">([^<]*)<', html) == [
        ("⟨user⟩", "&lt;|im_start|&gt;user\n"),
        ("⟨…⟩", "&lt;|im_end|&gt;\n"),
    ]
    assert "What does he do?" in html
    assert 'type="checkbox"' in html
    assert 'type="checkbox"' not in to_html(view)


def test_the_barcode_has_a_stripe_for_each_unit_up_to_a_number(view: AttributionView, many: AttributionView) -> None:
    for each, count in ((view, 6), (many, 240)):
        strip = re.search(r'<div class="barcode"[^>]*>(.*?)</div>', to_html(each), re.DOTALL)
        assert strip is not None
        units = [int(stripe["data-unit"] or -1) for stripe in Page(strip[1]).named("data-unit")]
        assert len(units) == count
        assert units == sorted(units)
        assert each.ranking[0] in units


def test_units_of_a_few_words_show_the_words_around_them(view: AttributionView) -> None:
    words = ("The", "old", "mill", "stands", "here")
    brief = replace(
        view, units=words, unit_values=(1.0, 2, 3, 4, 5), context=("", " ", " ", " ", " ", "."), token_values=None
    )
    assert '<span class="context">The old </span><b>mill</b><span class="context"> stands here.</span>' in to_html(
        brief
    )


def test_the_answer_around_an_explained_part_stays(view: AttributionView) -> None:
    page = Page(to_html(replace(view, output_around=("Today ", " Yes."))))
    assert "Today Aksel Holm repairs violins.\n Yes." in re.sub(r"(72%|>99%|97%|<1%|100%|–)", "", page.text)


def test_ribbons_join_units_and_sentences_of_the_answer(view: AttributionView) -> None:
    html = to_html(replace(view, output_parts=((0, 3), (3, 6))))
    section = re.search(r'<section class="ribbons".*?</section>', html, re.DOTALL)
    assert section is not None
    table = np.asarray(view.token_values)
    sums = np.stack([table[:3].sum(0), table[3:].sum(0)])
    assert section[0].count("<path") == (abs(sums) >= 0.05 * abs(sums).max()).sum()
    assert "sentence 4 to sentence 2 of the answer: +8.41" in section[0].replace("unit 4", "sentence 4")
    assert "From prompt to answer" not in to_html(replace(view, output_parts=((0, 6),)))


def test_every_rule_of_the_fragment_stays_inside_it(view: AttributionView) -> None:
    style = re.search(r"<style>(.*?)</style>", fragment(view), re.DOTALL)
    assert style is not None
    for selector in re.findall(r"(?:^|[{}])\s*([^{}@;]+?)\s*\{", style[1]):
        assert all(".llm-attr" in part for part in selector.split(","))
    assert style[1].count("{") == style[1].count("}")


def test_groups_have_headings_sums_and_a_place_in_the_list(grouped: AttributionView) -> None:
    html = to_html(grouped)
    page = Page(html)
    labels = [attributes["aria-label"] for attributes in page.named("role") if attributes["role"] == "group"]
    assert labels == ["document mill.txt", "document <b>places</b>.txt"]
    assert re.findall(r'class="total"[^>]*>([^<]*)<', html) == ["−0.33", "+10.08"]
    assert '<em dir="ltr">mill.txt</em> It ground rye' in html
    assert '<em dir="ltr">&lt;b&gt;places&lt;/b&gt;.txt</em> Aksel Holm' in html


def test_text_between_groups_stays_and_only_its_white_space_gives_way(grouped: AttributionView) -> None:
    flow = re.search(r'<div class="flow card" dir="ltr">(.*?)</div>\s*</section>', to_html(grouped), re.DOTALL)
    assert flow is not None
    plain = re.sub(r'<p class="rubric" dir="ltr">.*?</p>', "", flow[1])
    context = grouped.context or ()
    assert Page(plain).text == "".join(a + b for a, b in zip(context, (*grouped.units, ""), strict=True))
    assert '<span class="context">&lt;|im_start|&gt;user</span><span class="context gap">\n</span>' in plain


def test_light_dark_and_print(view: AttributionView) -> None:
    html = to_html(view)
    assert "color-scheme: light dark" in html
    assert "@media print" in html


def test_strongest_pairs_are_arcs_and_a_list(view: AttributionView, hostile: AttributionView) -> None:
    rng = np.random.default_rng(0)
    for each in (view, hostile):
        table = rng.normal(size=(len(each.units),) * 2)
        html = to_html(replace(each, interactions=tuple(map(tuple, ((table + table.T) / 2).tolist()))))
        page = Page(html)
        section = re.search(r'<section class="pairs".*?</section>', html, re.DOTALL)
        assert section is not None
        count = min(len(each.units) * (len(each.units) - 1) // 2, 20)
        assert section[0].count("<li>") == count
        assert len(re.findall(r'class="arc (?:pos|neg)" d="M0 \d+A', section[0])) == count
        assert section[0].count("<p><i>") == len(each.units)
        assert "data-unit" not in section[0]
        assert html.count("<script") == 2
        assert "Strongest pairs" in page.text
    assert "Strongest pairs" not in to_html(view)


def test_levels_are_nested(hostile: AttributionView) -> None:
    levels = Levels.of(replace(hostile, unit_name="sentence"))
    html = to_html(hostile, levels)
    Page(html)
    section = re.search(r'<section class="levels".*?</section>', html, re.DOTALL)
    assert section is not None
    assert "documents: sums of their units" not in section[0]  # groups are of two kinds here
    assert "sums of their units; sentences: their own explanation" in section[0]
    assert section[0].count("<details") == 2
    assert "<script" not in section[0]
    assert "data-unit" not in section[0]
    assert '<section class="levels"' not in to_html(hostile)


def test_no_text_is_lost_between_levels(grouped: AttributionView) -> None:
    levels = Levels.of(replace(grouped, unit_name="sentence"))
    html = to_html(grouped, levels)
    section = re.search(r'<div class="nest" dir="auto">(.*)</div></div>\s*</section>', html, re.DOTALL)
    assert section is not None
    plain = re.sub(r"<summary>.*?</summary>", "", section[1], flags=re.DOTALL)
    assert "".join(Page(plain).text.split()) == "".join(levels.text.split())
