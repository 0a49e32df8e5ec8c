from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from tests.insights.client import Client
from tests.insights.fake import FakeEngine, serving


@pytest.fixture
def serve(tmp_path: Any) -> Iterator[Callable[..., tuple[FakeEngine, Client]]]:
    """Starts servers of a fake engine."""
    with ExitStack() as stack:

        def start(
            free: bool = True, name: str = "fake", folder: Any = None, **options: Any
        ) -> tuple[FakeEngine, Client]:
            engine = FakeEngine(free, name)
            return engine, Client(stack.enter_context(serving(engine, folder or tmp_path / "kept", **options)))

        yield start
