import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from llm_attr.viz.colour import DARK, LIGHT
from tests.viz.conftest import PATIENCE

EXTENSIONS = {"jupyterlab": True, "jupyter_lsp": False, "jupyter_server_terminals": False}
ROOT = Path(__file__).parents[2]
CELLS = (
    """from llm_attr.viz.text.script import Selection
from llm_attr.viz.text.view import AttributionView
from llm_attr.viz.widget import AttributionWidget

def made(title, *rows):
    return AttributionView(
        title=title,
        units=("The mill was built in 1854.", "Aksel Holm repairs violins.", "It rained on Saturday."),
        unit_values=tuple(map(sum, zip(*rows))),
        output_tokens=(" Aksel", " repairs", " violins", "."),
        output_probs=(0.98, 0.4, 0.96, 0.999),
        token_values=rows,
        notes=(("model", "made by hand"),),
    )

first = made("Ablation", (0.2, 2.0, 0.1), (-0.4, 1.0, 0.0), (0.1, 3.0, -0.2), (0.0, -0.1, 0.5))
second = made("Shapley values", (1.0, 0.2, 0.0), (0.3, 0.1, 0.0), (0.2, 0.4, -0.9), (0.0, 0.1, 0.2))""",
    "widget = AttributionWidget(first)\nwidget",
    "print(widget.selected)",
    "widget.selected = Selection(tokens=(2, 4), unit=2)",
    "widget.result = second",
    'AttributionWidget(first, second, first, names=("Ablation", "Shapley values", "Ablation again"))',
)


@dataclass
class Notebook:
    """The notebook in the browser; which addresses it asked for, and its errors."""

    page: Any
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def run(self, cell: int) -> None:
        self.page.evaluate(
            """async (cell) => {
                const { content, context } = jupyterapp.shell.currentWidget;
                await context.sessionContext.ready;
                content.activeCellIndex = cell;
                await jupyterapp.commands.execute("notebook:run-cell");
            }""",
            cell,
        )

    def theme(self, name: str) -> None:
        self.page.evaluate("name => jupyterapp.commands.execute('apputils:change-theme', { theme: name })", name)
        light = "true" if name == "JupyterLab Light" else "false"
        self.page.locator(f"body[data-jp-theme-light={light}]").wait_for(state="attached")

    def cell(self, place: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(place)

    def panel(self, cell: int, place: int = 0) -> Any:
        return self.cell(cell).locator(".llm-attr.live").nth(place)

    def shows(self, tokens: list[str], unit: str, shares: list[float], panel: Any) -> None:
        """Waits until the panel has these tokens chosen, this unit held and these colours."""
        for selector, text in (
            ("[aria-selected=true] b", tokens),
            (".flow [aria-pressed=true]", [unit] if unit else []),
        ):
            self.page.wait_for_function(
                "([root, selector, text]) => `${[...root.querySelectorAll(selector)].map(it => it.innerText)}` == text",
                arg=[panel.element_handle(), selector, ",".join(text)],
            )
        units = panel.locator(".flow [data-unit]")
        found = units.evaluate_all(
            "all => all.map(one => (one.matches('.neg') ? -1 : 1) * one.style.getPropertyValue('--v'))"
        )
        assert found == pytest.approx(shares, abs=1e-3)


def environment(folder: Path) -> dict[str, str]:
    """Every place that Jupyter would write to, inside the folder."""
    places = {name: str(folder / name.lower()) for name in ("HOME", "IPYTHONDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")}
    places |= {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    places |= {f"JUPYTERLAB_{name}_DIR": str(folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    return {**os.environ, **places, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "JUPYTER_PREFER_ENV_PATH": "1"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab that keeps to folders of its own."""
    if not all(map(importlib.util.find_spec, ("jupyterlab", "ipykernel", "anywidget"))):
        pytest.skip("JupyterLab, ipykernel or anywidget is not installed (the test extra has them)")
    folder = tmp_path_factory.mktemp("lab")
    write(folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder / 'notebooks'}", f"--ServerApp.jpserver_extensions={EXTENSIONS}"]
    command += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(command, env=environment(folder), stdout=log, stderr=log, cwd=folder)
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={token}", process, folder / "log.txt")
            yield f"http://127.0.0.1:{port}/lab/tree/widget.ipynb?token={token}"
        finally:
            process.terminate()
            process.wait(PATIENCE / 1000)


def write(folder: Path) -> None:
    """The notebook, and a setting without which the browser asks for news."""
    import nbformat

    cells = [nbformat.v4.new_code_cell(source) for source in CELLS]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    (folder / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "notebooks" / "widget.ipynb")
    settings = folder / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false"}')


def wait_for(address: str, process: Any, log: Path) -> None:
    for _ in range(3000):
        assert process.poll() is None, log.read_text()
        try:
            with urlopen(address):
                return
        except URLError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def notebook(lab: str, browser: Any) -> Iterator[Notebook]:
    """The notebook with its first cell run; whatever it asks for has to be on this machine."""
    context = browser.new_context(viewport={"width": 1500, "height": 1100})
    context.set_default_timeout(PATIENCE)
    it = Notebook(context.new_page())
    it.page.on("request", lambda request: it.asked.append(request.url))
    it.page.on("websocket", lambda socket: it.asked.append(socket.url))
    it.page.on("pageerror", lambda error: it.errors.append(str(error)))
    it.page.goto(lab)
    it.cell(len(CELLS) - 1).wait_for()
    it.run(0)
    yield it
    context.close()
    assert it.errors == []
    assert len(it.asked) > 50
    assert {urlsplit(url.removeprefix("blob:")).netloc for url in it.asked} == {urlsplit(lab).netloc}


def test_clicks_reach_python_and_python_reaches_the_notebook(notebook: Notebook) -> None:
    notebook.theme("JupyterLab Light")
    notebook.run(1)
    panel = notebook.panel(1)
    notebook.shows([], "", [-0.1 / 5.9, 1, 0.4 / 5.9], panel)
    panel.locator("[data-token]").nth(1).click()
    notebook.shows([" repairs"], "", [-0.4 / 5.9, 1 / 5.9, 0], panel)
    notebook.page.keyboard.press("Shift+ArrowRight")
    notebook.shows([" repairs", " violins"], "", [-0.3 / 5.9, 4 / 5.9, -0.2 / 5.9], panel)
    notebook.run(2)
    printed = notebook.cell(2).locator(".jp-OutputArea-output")
    assert printed.inner_text().strip() == "Selection(tokens=(1, 3), unit=None, panel=0)"
    notebook.run(3)
    notebook.shows([" violins", "."], "It rained on Saturday.", [0.1 / 5.9, 2.9 / 5.9, 0.3 / 5.9], panel)
    notebook.run(4)
    panel.locator("h1", has_text="Shapley values").wait_for()
    notebook.shows([], "", [1, 0.8 / 1.5, -0.7 / 1.5], panel)


def test_several_side_by_side_follow_the_theme(notebook: Notebook) -> None:
    notebook.run(5)
    first, second = notebook.panel(5, 0), notebook.panel(5, 1)
    second.locator("[data-token]").nth(2).click()
    first.locator(".flow [data-unit]").nth(1).click()
    notebook.shows([" violins"], "Aksel Holm repairs violins.", [0.1 / 5.9, 3 / 5.9, -0.2 / 5.9], first)
    notebook.shows([" violins"], "Aksel Holm repairs violins.", [0.2 / 1.5, 0.4 / 1.5, -0.9 / 1.5], second)
    for panel in (first, second):
        panel.get_by_role("button", name="own scale").click()
    notebook.shows([" violins"], "Aksel Holm repairs violins.", [0.1 / 3, 1, -0.2 / 3], first)
    notebook.shows([" violins"], "Aksel Holm repairs violins.", [0.2 / 0.9, 0.4 / 0.9, -1], second)
    for theme, scale in (("JupyterLab Dark", DARK), ("JupyterLab Light", LIGHT)):
        notebook.theme(theme)
        for panel, shade in ((first, scale.positive), (second, scale.negative)):
            unit = panel.locator(".flow [data-unit]").nth(1 if panel is first else 2)
            shown = unit.evaluate(
                "one => { const pen = document.createElement('canvas').getContext('2d');"
                "pen.fillStyle = getComputedStyle(one).backgroundColor; pen.fillRect(0, 0, 1, 1);"
                "return [...pen.getImageData(0, 0, 1, 1).data] }"
            )
            assert shown[:3] == pytest.approx([int(shade[place : place + 2], 16) for place in (1, 3, 5)], abs=1)
