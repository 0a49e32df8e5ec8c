import json
import re

import pytest

from llm_attr.errors import ContextTooLong
from tests.insights.fake import explained_of

HOSTILE = '<img src=x onerror="window.ran=1"><script>window.ran=1</script>" style="--v:1" data-x=\'&lt;b&gt;\'. Two.'
SIZES = [(1400, "light"), (390, "dark")]


@pytest.fixture
def open_page(browser, serve):
    contexts = []

    def start(width=1400, scheme="light", path="", **options):
        engine, client = serve(**options)
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page, wrong = context.new_page(), []
        page.set_default_timeout(15_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
        page.on(
            "request",
            lambda asked: (
                wrong.append(asked.url) if not asked.url.startswith(("http://127", "blob:", "data:")) else None
            ),
        )
        page.goto(client.address.geturl() + path)
        page.wait_for_selector("body[data-ready]")
        return engine, page, wrong

    yield start
    for context in contexts:
        context.close()


def phase(page, name):
    page.wait_for_selector(f"body[data-phase={name}]")


def done(page, text="Aksel repairs violins. He has a dog."):
    page.get_by_label("Prompt", exact=True).last.fill(text)
    page.locator("#answer").fill("violins today")
    page.locator("#explain").click()
    page.wait_for_selector("body[data-phase=done] #panels .live")


@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_from_idle_to_done(open_page, width, scheme):
    engine, page, wrong = open_page(width, scheme, free=False)
    phase(page, "idle")
    page.locator("#fields textarea").fill("Aksel repairs violins. He has a dog.")
    phase(page, "writing")
    page.wait_for_selector("#count:text('2 sentences')")
    page.wait_for_selector("#price:text('3 variants')")
    page.keyboard.press("Control+Enter")
    engine.go(2)
    phase(page, "generating")
    assert page.locator("#fields textarea").is_disabled()
    engine.go(2)
    page.wait_for_selector("body[data-phase=writing] #explain:enabled")
    assert page.locator("#answer").input_value() == "He repairs violins."
    page.locator("#explain").click()
    engine.go()
    page.wait_for_selector("body[data-phase=running] #bar:not([hidden])")
    page.wait_for_selector("#status:text('25%')")
    engine.release.set()
    page.wait_for_selector("body[data-phase=done] #panels .live")
    assert page.locator("#history li").count() == 1
    page.locator("#panels .tokens [data-token]").nth(1).click()
    page.locator("#panels .flow [data-unit]").nth(1).click()
    assert page.locator("#inspector h2").inner_text() == "Unit 2 of 2"
    assert re.search(r"#r=[0-9a-f]{32}&t=1-2&u=1$", page.url)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.reload()
    page.wait_for_selector("#inspector h2")
    assert page.locator("#panels [data-token][aria-selected=true]").count() == 1
    assert wrong == []


def test_a_failure_is_shown_where_it_belongs_and_the_text_stays(open_page):
    engine, page, _ = open_page()
    engine.failing = ContextTooLong("the prompt has 9,000 tokens and the model takes 8,192")
    page.locator("#fields textarea").fill("Too long.")
    page.locator("#explain").click()
    phase(page, "failed")
    assert "8,192" in page.locator("#at-prompt").inner_text()
    assert page.locator("#fields textarea").input_value() == "Too long."
    engine.failing = None
    done(page)


def test_cancel_returns_to_writing(open_page):
    _, page, _ = open_page(free=False)
    page.locator("#fields textarea").fill("One. Two.")
    page.locator("#explain").click()
    page.locator("#cancel").click()
    page.wait_for_selector("body[data-phase=writing] #explain:enabled")


def test_the_answer_without_a_unit_stands_beside_the_first(open_page):
    _, page, wrong = open_page()
    done(page)
    page.locator("#panels .flow [data-unit]").first.click()
    page.keyboard.press("x")
    page.wait_for_selector("#rerun h2:text('differently')")
    assert "violins today" in page.locator("#rerun").inner_text()
    assert page.locator("#rerun s").inner_text() == "Aksel repairs violins."
    assert page.locator("#rerun ins").count()
    assert page.locator("#rerun del").count()
    assert wrong == []


def test_keys_pins_and_exports(open_page):
    _, page, wrong = open_page()
    done(page)
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    assert page.locator("#keys kbd").count() > 8
    page.keyboard.press("Escape")
    page.wait_for_selector("#keys", state="hidden")
    page.keyboard.press("n")
    page.wait_for_selector("#inspector h2")
    page.keyboard.press("c")
    page.keyboard.press("e")
    phase(page, "writing")
    assert page.locator("#answer").input_value() == "violins today"
    page.keyboard.type("x")  # letters are text in a text field
    page.locator("#answer").fill("violins today")
    page.locator("#explain").click()
    page.wait_for_selector("#panels.app-two .live >> nth=1")
    page.locator("#panels .live").first.locator(".tokens [data-token]").first.click()
    assert page.locator("#panels [data-token][aria-selected=true]").count() == 2
    with page.expect_download() as kept:
        page.get_by_role("button", name="JSON").click()
    assert json.loads(kept.value.path().read_text())["output_text"] == "violins today"
    with page.expect_download() as kept:
        page.get_by_role("link", name="HTML").click()
    assert kept.value.path().read_text().startswith("<!doctype html>")
    assert wrong == []


def test_chats_and_documents(open_page):
    _, page, wrong = open_page()
    page.get_by_role("button", name="Documents", exact=True).click()
    page.get_by_label("Document 1", exact=True).fill("Aksel repairs violins.")
    page.get_by_label("Question").fill("Who?")
    page.locator("#explain").click()
    phase(page, "done")
    page.locator("#edit").click()
    assert page.get_by_label("Name of document 1").input_value() == "1"
    page.get_by_role("button", name="Chat", exact=True).click()
    page.get_by_role("button", name="Add message").click()
    assert page.locator("#fields textarea").count() == 2
    page.get_by_label("Message 2", exact=True).fill("What?")
    page.locator("#answer").fill("")
    page.locator("#explain").click()
    phase(page, "done")
    assert wrong == []


def test_nothing_that_a_user_or_file_says_runs(open_page):
    saved = (("<img src=x onerror=window.ran=1>", explained_of([HOSTILE, " two"], HOSTILE)),)
    _, page, wrong = open_page(name="<script>window.ran=1</script>", saved=saved)
    assert page.locator("#history li").count() == 1
    page.locator("#history li button").click()
    page.wait_for_selector("body[data-phase=done] #panels .live")
    page.locator("#panels .flow [data-unit]").first.click()
    assert HOSTILE in page.locator("#inspector blockquote").text_content()
    page.reload()
    page.wait_for_selector("body[data-ready]")
    assert page.evaluate("[window.ran, document.querySelectorAll('main img, nav img, main script').length]") == [
        None,
        0,
    ]
    assert wrong == []


def test_every_state_answers_every_event(open_page):
    _, page, _ = open_page()
    wrong = page.evaluate(
        """async () => {
        const { TABLE, reduce, start } = await import("/static/store.js");
        const known = new Set(Object.values(TABLE).flatMap(Object.keys));
        const found = [];
        for (const phase of Object.keys(TABLE)) for (const type of known) {
          const state = { ...start(), phase, kind: "explain", job: "j", failure: null };
          const event = { type, kind: "explain", about: "j", text: "", failure: { place: "button" } };
          const [next, effects] = reduce(state, event);
          const wrong = type in TABLE[phase] ? !(next.phase in TABLE) : next !== state || effects.length;
          if (wrong) found.push([phase, type]);
          if (reduce(state, { type, about: "another" })[0] !== state) found.push([phase, type, "stray"]);
        }
        return found;
      }"""
    )
    assert wrong == []


def test_links_keys_and_edits(open_page):
    _, page, _ = open_page()
    assert page.evaluate(
        """async () => {
        const names = ["link", "keys", "edit"];
        const [link, keys, edit] = await Promise.all(names.map((name) => import(`/static/${name}.js`)));
        const id = "a".repeat(32);
        const shown = { result: id, tokens: [2, 5], unit: 0 };
        const asked = { prompt: "Who?", documents: { a: "One. One. Two.", b: "One." } };
        return [
          link.read("#" + link.written(shown)),
          link.read("#r=../../x&t=5-2&u=-1"),
          ["x", "Enter"].map((key) => keys.meaning({ key }, { writes: true, letters: true })),
          keys.meaning({ key: "x" }, { writes: false, letters: false }),
          keys.meaning({ key: "x" }, { writes: false, letters: true }),
          edit.without(asked, ["One.", "One.", "Two.", "One."], 1).documents,
          edit.without(asked, ["One.", "One.", "Two.", "One."], 3).documents,
          edit.without(asked, ["Three."], 0),
          edit.difference("a b c", "a x c").map(({ kind, text }) => kind + text),
        ];
      }"""
    ) == [
        {"result": "a" * 32, "tokens": [2, 5], "unit": 0},
        {"result": None, "tokens": None, "unit": None},
        [None, None],
        None,
        "drop",
        {"a": "One. Two.", "b": "One."},
        {"a": "One. One. Two.", "b": ""},
        None,
        ["samea", "old b", "new x", "same c"],
    ]
