"""How far a run is: a bar with its rate and the time left, and the observer of `watching`."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any

from tqdm.auto import tqdm

SELDOM = 10.0
"""Seconds between two lines where standard error is no terminal."""


class RunProgress:
    """Counts rows, and draws a bar on standard error if asked to.

    Args:
        total: How many rows there are in all; None if unknown.
        before: How many were done before.
        show: Whether to draw.
        processes: How many processes work on it.
    """

    def __init__(self, total: int | None, before: int, show: bool, processes: int = 1) -> None:
        self.total, self.before, self.done, self.failed = total, before, 0, 0
        self._show, self._processes = show, processes
        self._bar: Any = None

    def __enter__(self) -> RunProgress:
        nowhere = sys.stderr is None or getattr(sys.stderr, "closed", False)
        if self._show and not nowhere:
            often = {} if sys.stderr.isatty() else {"mininterval": SELDOM}
            title = "rows" if self._processes == 1 else f"rows, {self._processes} processes"
            self._bar = tqdm(desc=title, total=self.total, initial=self.before, unit="row", **often)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, done: int, failed: int) -> None:
        """Counts rows as done, some of which failed."""
        self.done += done
        self.failed += failed
        if self._bar is not None:
            if failed:
                self._bar.set_postfix(failed=self.failed, refresh=False)
            self._bar.update(done)
