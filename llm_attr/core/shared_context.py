"""Contexts shared by threads: the first user enters, the last one leaves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from threading import Lock
from typing import Any

import torch


def reference_counted(
    switched: Callable[..., AbstractContextManager[None]],
) -> Callable[..., AbstractContextManager[None]]:
    """Decorator: a context that the first of several threads enters and the last one leaves.

    Otherwise contexts that overlap without being nested would undo each other's switches.

    Args:
        switched: Makes the context for the objects that it is given; users of the same objects share it.
    """
    lock, opened = Lock(), dict[tuple[int, ...], tuple[int, ExitStack]]()

    @contextmanager
    def shared(*about: Any) -> Iterator[None]:
        key = tuple(map(id, about))
        with lock:
            users, stack = opened.get(key) or (0, ExitStack())
            if users == 0:
                stack.enter_context(switched(*about))
            opened[key] = (users + 1, stack)
        try:
            yield
        finally:
            with lock:
                users, stack = opened.pop(key)
                if users > 1:
                    opened[key] = (users - 1, stack)
                else:
                    stack.close()

    return shared


@reference_counted
@contextmanager
def uncompiled() -> Iterator[None]:
    """Runs compiled models eagerly: torch.compile's code ignores hooks that were registered since."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and importing the compiler takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
