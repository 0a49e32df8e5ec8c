"""What the server asks of a model, and what it gets; `ModelEngine` asks llm_attr."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from llm_attr.insights.schemas import Explain, Generate, Input


@dataclass(frozen=True)
class Controls:
    """The wires between a running job and the server.

    Attributes:
        progress: Called with the work done and in total.
        token: Called with the text that each generated token adds.
        cancel: Set to stop without a result.
        enough: Set to stop and keep what there is.
    """

    progress: Callable[[int, int], None]
    token: Callable[[str], None]
    cancel: threading.Event = field(default_factory=threading.Event)
    enough: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Explained:
    """An explanation as the server keeps it.

    Attributes:
        document: The result as `--json` writes it.
        markup: The picture without scripts and styles.
        numbers: What the script of the picture mounts; None where nothing can be selected.
        page: The self-contained page.
    """

    document: dict[str, Any]
    markup: str
    numbers: dict[str, Any] | None
    page: str


class Engine(Protocol):
    """A model behind the server. `explain` and `generate` are called by one thread, the others by another."""

    name: str

    def about(self) -> dict[str, Any]:
        """What the page offers: `model`, `chat`, `units`, `methods`."""

    def warm_up(self) -> None:
        """Called by the thread of work before the first job."""

    def units(self, asked: Input) -> dict[str, Any]:
        """The units of a prompt: `units` (texts), `tokens` (their number)."""

    def plan(self, asked: Explain) -> dict[str, Any]:
        """What an explanation will cost."""

    def generate(self, asked: Generate, controls: Controls) -> dict[str, Any]:
        """The model's answer: `text`, `tokens`."""

    def explain(self, asked: Explain, controls: Controls) -> Explained:
        """An explanation."""
