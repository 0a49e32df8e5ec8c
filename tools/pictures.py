"""Takes the pictures of pages for README and site: SmolLM2's own answers, at twice the size, light and dark.

Run: python tools/pictures.py [FOLDER]   (needs the extra `test` and Chromium; default: docs/images)
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import llm_attr
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

    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    lm = llm_attr.load_model("smollm2-135m")
    pages = {"explanation": explanation(lm), "comparison": comparison(lm)}
    ends = {"explanation": "section.ranking", "comparison": ".panels"}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        for name, html in pages.items():
            for scheme, suffix in (("light", ""), ("dark", "_dark")):
                shoot(browser, html, folder / f"{name}{suffix}.png", scheme, ends[name])
        browser.close()


if __name__ == "__main__":
    main()
