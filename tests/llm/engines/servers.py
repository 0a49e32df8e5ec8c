"""Servers on this machine, in threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from llm_attr import LanguageModel
from llm_attr.serve.app import create_app


@dataclass(frozen=True)
class Served:
    """A running server: its root, and how often each sequence was scored."""

    url: str
    scored: Any

    def address(self, dialect: str) -> str:
        return f"{dialect}:{self.url}"


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Runs an application and gives its root."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)


@contextmanager
def serving(lm: LanguageModel, **options: Any) -> Iterator[Served]:
    app = create_app(lm, **options)
    with running(app) as url:
        yield Served(url, app.state.answering.scored)
