"""Warnings that point at the user's code rather than at a line of the library."""

from __future__ import annotations

import sys
import warnings
from types import FrameType


def warn_caller(message: str, category: type[Warning] = RuntimeWarning) -> None:
    """Warns at the line outside this package that called into it."""
    own = __name__.partition(".")[0]
    frame: FrameType | None = sys._getframe()
    level = last = 1
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] == own:
            last = level
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=last + 1)
