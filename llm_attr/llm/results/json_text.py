"""Results as JSON text that every reader takes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def json_text(found: Mapping[str, Any], path: str | Path | None = None) -> str:
    """Plain values as JSON, also written to a file if a path is given; numbers that are not finite become null."""
    text = json.dumps(_finite(found), ensure_ascii=False, indent=2, allow_nan=False)
    if path is not None:
        Path(path).write_text(text + "\n", encoding="utf-8")
    return text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
