"""Switches that hold for all threads of the process, or for a model that several use: the last one puts them back."""

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
    """The same context, which the first of several threads enters and the last one leaves.

    Contexts that overlap without being nested would each put back what another has switched.

    Args:
        switched: Makes the context of the objects that it is given; for other objects it is another one.
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
    """Models run as they are written: what torch.compile has made of them knows nothing of hooks set since."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and to import the compiler takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
