"""Takes the pictures of pages for README and site: SmolLM2's own answers, at twice the size, light and dark.

Run: python tools/pictures.py [--out FOLDER] [NAME ...]   (needs the extra `test` and Chromium; default: all of them)
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import llm_attr
from examples.cited_answer import cited_answer
from examples.demo import messages

METHODS = ("feature_ablation", "kernel_shap", "input_x_gradient")
WIDTH = 1000


def explanation(lm: Any) -> str:
    """The demo's prompt, up to the first full stop of the answer."""
    result = llm_attr.explain(lm, messages(), unit="sentence")
    return str(result.for_output(sentence=0).to_html())


def comparison(lm: Any) -> str:
    """Three methods on one prompt."""
    text = "Aksel lives in Odense. He repairs violins. He has a dog. What does Aksel repair?"
    prompt, answer = [{"role": "user", "content": text}], "Aksel repairs violins."
    options: dict[str, dict[str, Any]] = {"kernel_shap": {"n_samples": 16, "seed": 0}}
    results: list[Any] = [
        llm_attr.explain(lm, prompt, target=answer, method=method, **options.get(method, {})) for method in METHODS
    ]
    return str(llm_attr.compare(results).to_html())


def citations(lm: Any) -> str:
    """The model's answer to the question of `examples/cited_answer.py`."""
    return str(cited_answer(lm).to_html())


PAGES: dict[str, tuple[Callable[[Any], str], str]] = {
    "explanation": (explanation, "section.ranking"),
    "comparison": (comparison, ".panels"),
    "citations": (citations, ".cited"),
}
"""The pages, and the part of each that its picture ends with."""


def shoot(browser: Any, html: str, target: Path, scheme: str, until: str) -> None:
    """A picture of a page down to the end of a section."""
    with tempfile.TemporaryDirectory() as folder:
        page_file = Path(folder) / "page.html"
        page_file.write_text(html, encoding="utf-8")
        context = browser.new_context(
            viewport={"width": WIDTH, "height": 900}, device_scale_factor=2, color_scheme=scheme
        )
        page = context.new_page()
        page.goto(page_file.as_uri())
        box = page.locator(until).first.bounding_box()
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 24}
        page.screenshot(path=target, full_page=True, clip=clip)
        context.close()


def main() -> None:
    """Explains, draws and photographs each page."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PAGES))
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="the folder")
    given = parser.parse_args()
    if unknown := set(given.names) - set(PAGES):
        parser.error(f"there is no picture {', '.join(sorted(unknown))}; there are {', '.join(PAGES)}")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    lm = llm_attr.load_model("smollm2-135m")
    pages = {name: PAGES[name][0](lm) for name in given.names or PAGES}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, html in pages.items():
            for scheme, suffix in (("light", ""), ("dark", "_dark")):
                shoot(browser, html, given.out / f"{name}{suffix}.png", scheme, PAGES[name][1])
        browser.close()


if __name__ == "__main__":
    main()
