"""An engine without a model, that goes on when a test says so, and a server of it."""

import re
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from llm_attr.errors import Cancelled
from llm_attr.insights.application import Server, application
from llm_attr.insights.engine import Explained
from llm_attr.viz.text.page import fragment, to_html
from llm_attr.viz.text.script import numbers
from llm_attr.viz.text.view import AttributionView

ANSWER = ("He", " repairs", " violins", ".")


class FakeEngine:
    """Each step of a job waits for `go`, or for `release`, which lets everything pass."""

    name = "fake"

    def __init__(self, free=True, name="fake"):
        self.name = name
        self.steps, self.release = threading.Semaphore(0), threading.Event()
        self.started, self.failing = [], None
        if free:
            self.release.set()

    def go(self, steps=1):
        self.steps.release(steps)

    def _step(self, controls):
        while not self.release.is_set() and not self.steps.acquire(timeout=0.01):
            if controls.cancel.is_set():
                raise Cancelled("stopped")
            if controls.enough.is_set():
                return
        if controls.cancel.is_set():
            raise Cancelled("stopped")

    def about(self):
        methods = {"feature_ablation": "Leaves out each unit.", "kernel_shap": "Samples coalitions."}
        return {
            "model": self.name,
            "chat": True,
            "units": ["word", "sentence", "message", "document"],
            "methods": methods,
        }

    def warm_up(self):
        pass

    def units(self, asked):
        units = units_of(asked)
        return {"units": units, "unit": asked.unit or "sentence", "tokens": sum(len(unit.split()) for unit in units)}

    def plan(self, asked):
        count = len(units_of(asked))
        return {"evaluations": count + 1, "positions": 10 * count, "seconds": 0.5, "exact": asked.target is not None}

    def generate(self, asked, controls):
        text = ""
        for token in ANSWER:
            self._step(controls)
            if controls.enough.is_set():
                break
            controls.token(token)
            text += token
        return {"text": text, "tokens": len(ANSWER)}

    def explain(self, asked, controls):
        units = units_of(asked)
        self.started.append(units[0])
        for done in range(4):
            self._step(controls)
            if self.failing:
                raise self.failing
            controls.progress(done + 1, 4)
        return explained_of(units, asked.target)


def units_of(asked):
    text = asked.prompt if asked.prompt is not None else " ".join(message.content for message in asked.messages)
    text = " ".join([*(asked.documents or {}).values(), text])
    return [match[0] for match in re.finditer(r"[^.?!]+[.?!]*", text) if match[0].strip()]


def explained_of(units, target=None):
    tokens = ANSWER if target is None else re.findall(r"\s*\S+", target)
    rows = [[float((3 * token + 2 * unit) % 7 - 2) for unit in range(len(units))] for token in range(len(tokens))]
    values = [sum(column) for column in zip(*rows, strict=True)]
    view = AttributionView(
        f"“{''.join(tokens)}”", tuple(units), tuple(values), tuple(tokens), token_values=tuple(map(tuple, rows))
    )
    document = {
        "input_tokens": units,
        "output_tokens": list(tokens),
        "seq_attr": values,
        "output_text": "".join(tokens),
    }
    return Explained(document, fragment(view, scripts=False, styles=False), numbers(view), to_html(view))


@contextmanager
def serving(engine, folder: Path, **options):
    """The address of a server, and the server."""
    server = Server(
        uvicorn.Config(application(engine, folder, **options), port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        engine.release.set()
        server.should_exit = True
        thread.join()
