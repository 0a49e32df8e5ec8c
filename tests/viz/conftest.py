from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llm_attr.viz.text.groups import Group
from llm_attr.viz.text.view import AttributionView
from tests.fonts import make_font, only_fonts

UNITS = (
    "The old mill in Tarnby was built in 1854.",
    "It ground rye for the villages along the river.",
    "In 1921 a fire destroyed its wooden sails.",
    "Aksel Holm bought the building in 1987 and now repairs violins in it.",
    "Visitors can see the workshop on Saturdays.",
    "The nearest railway station is four kilometres away.",
)
HOSTILE = (
    '<script>alert("x")</script>',
    "[bold red]markup[/] [link=http://example.org]here[/link] :smile:",
    "\x1b[31mred\x1b[0m\x1b]0;title\x07 \x9b5m \r\r \x00",
    "\u202eesrever\u202c \u2066 \U000e0041 \ud83d",
    "{{ 7 * 7 }} {% raw %} $x_1$ $$ \\frac{1}{0} & \" ' onmouseover='x()'",
    "日本語のテキスト👩‍🔬👨‍👩‍👧 ❤️ e\u0301 مرحبا नमस्ते",
    "\t\n ",
    "",
    "w" * 5000,
)
PATIENCE = 300_000
"""Milliseconds that a browser may take on a busy machine."""


def large_view() -> AttributionView:
    """A thousand units in ten documents, and 200 tokens: as much as a page can hold and be live."""
    table = np.random.default_rng(0).normal(size=(200, 1000))
    return AttributionView(
        title="Large",
        units=tuple(f"word{place}" for place in range(1000)),
        unit_values=tuple(table.sum(0).tolist()),
        output_tokens=tuple(f" t{place}" for place in range(200)),
        output_probs=(0.5,) * 200,
        token_values=tuple(map(tuple, table.tolist())),
        groups=tuple(Group(f"{first}.txt", "document", first, first + 100) for first in range(0, 1000, 100)),
    )


@pytest.fixture(scope="package", autouse=True)
def _fonts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Pictures are drawn with matplotlib's own fonts, and one that has all that these tests write."""
    written = {*"".join(HOSTILE), *"".join(file.read_text("utf-8") for file in Path(__file__).parent.glob("*.py"))}
    with only_fonts(make_font(tmp_path_factory.mktemp("fonts"), "Brought", "".join(sorted(written)))):
        yield


@pytest.fixture
def view() -> AttributionView:
    values = (-0.412, 0.083, -0.196, 9.347, 0.731, -1.058)
    return AttributionView(
        title="Which sentence carried the answer?",
        units=UNITS,
        unit_values=values,
        output_tokens=("Ak", "sel", " Holm", " repairs", " violins", ".\n"),
        output_probs=(0.72, 0.999, 0.97, 0.004, 1.0, float("nan")),
        token_values=tuple(tuple(value * share for value in values) for share in (0.1, 0, 0, 0.5, 0.4, 0)),
        context=("<|im_start|>user\n", *[" "] * 5, "\n\nWhat does he do?<|im_end|>\n"),
        notes=(("method", "feature ablation"), ("model", "smollm2-135m")),
    )


@pytest.fixture
def grouped(view: AttributionView) -> AttributionView:
    groups = (Group("mill.txt", "document", 0, 2), Group("<b>places</b>.txt", "document", 3, 5))
    return replace(view, groups=groups)


@pytest.fixture
def hostile() -> AttributionView:
    values = (3.0, -2.0, float("nan"), float("inf"), 0.0, -1.0, 0.5, 0.25, -0.1)
    return AttributionView(
        title="\x1b[2J<b>title</b>",
        units=HOSTILE,
        unit_values=values,
        output_tokens=HOSTILE,
        output_probs=(0.5,) * len(HOSTILE),
        token_values=(values,) * len(HOSTILE),
        value_name="<i>nats</i>\x1b",
        context=HOSTILE[:1] * (len(HOSTILE) + 1),
        notes=(("\x1b]k", "<img src=x onerror=alert(1)>"),),
        groups=(Group(HOSTILE[0], HOSTILE[2], 0, 3), Group("", "</script><!--\u2028\ud800", 3, 4)),
    )


@pytest.fixture
def many() -> AttributionView:
    units = tuple(f"word{place}" for place in range(1000))
    return AttributionView(
        title="Many",
        units=units,
        unit_values=tuple(float((place * 7919) % 1001 - 500) for place in range(1000)),
        output_tokens=tuple(f" t{place}" for place in range(500)),
        output_probs=(0.5,) * 500,
        token_values=((1.0,) * 1000,) * 500,
    )


@pytest.fixture
def large() -> AttributionView:
    return large_view()


@pytest.fixture
def empty() -> AttributionView:
    return AttributionView(title="", units=(), unit_values=())


@dataclass
class Opened:
    """A page in the browser, and what went wrong or out of it."""

    page: Any
    incidents: list[str] = field(default_factory=list)

    def tokens(self, scope: str = "") -> Any:
        return self.page.locator(f"{scope} [data-token]")

    def unit(self, position: int) -> Any:
        return self.page.locator(f".flow [data-unit='{position}']")

    @property
    def chosen(self) -> list[int]:
        marked = self.page.locator("[data-token][aria-selected=true]")
        return [int(place) for place in marked.evaluate_all("all => all.map(one => one.dataset.token)")]

    @property
    def shares(self) -> list[float]:
        """The colours of the prompt's units: their signed shares of the limit."""
        sign = "one.matches('.pos') ? 1 : one.matches('.neg') ? -1 : one.matches('.zero') ? 0 : NaN"
        units = self.page.locator(".flow [data-unit]")
        found = units.evaluate_all(f"all => all.map(one => [({sign}), one.style.getPropertyValue('--v')])")
        return [sign * float(share) for sign, share in found]

    @property
    def listed(self) -> list[tuple[int, str]]:
        rows = self.page.locator(".ranking li")
        found = rows.evaluate_all("all => all.map(one => [one.dataset.unit, one.firstElementChild.textContent])")
        return [(int(unit), text) for unit, text in found]

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    contexts: list[Any] = []
    opened: list[Opened] = []

    def open_page(html: str, **options: Any) -> Opened:
        contexts.append(browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options}))
        contexts[-1].set_default_timeout(PATIENCE)
        it = Opened(contexts[-1].new_page())
        file = tmp_path / f"{len(contexts)}.html"
        file.write_text(html, encoding="utf-8")
        it.page.on("console", lambda message: it.incidents.append(message.text))
        it.page.on("pageerror", lambda error: it.incidents.append(str(error)))
        it.page.on("dialog", lambda dialog: (it.incidents.append(dialog.message), dialog.dismiss()))
        allowed = (file.as_uri(), "data:")
        it.page.on("request", lambda it_: it_.url.startswith(allowed) or it.incidents.append(it_.url))
        it.page.goto(file.as_uri())
        opened.append(it)
        return it

    yield open_page
    for context in contexts:
        context.close()
    assert [it.incidents for it in opened] == [[]] * len(opened)
