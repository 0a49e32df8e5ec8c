"""What brings the HTML view to life: its numbers, and `static/attr.js`, which a page or a widget mounts on the markup.

The markup is complete without them: no text of the prompt or the output is in the numbers, and nothing of the view
needs a script to be read or printed.
"""

from __future__ import annotations

import hashlib
import json
import math
from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from llm_attr.viz.view import AttributionView

_CELLS = 300_000  # output tokens times units from which on a page stays as it is written
_DIGITS = 4  # of each token's value; three are shown


def is_live(view: AttributionView) -> bool:
    """Whether there is something to choose: values of single output tokens, not too many for a page."""
    return view.token_values is not None and 0 < len(view.output_tokens) * len(view.units) <= _CELLS


def numbers(view: AttributionView) -> dict[str, Any]:
    """The second argument of `mount` in `static/attr.js`, ready for JSON: nan is null, an infinite value a string.

    `unit_values` are exact, `token_values` (rows: output tokens) have four significant digits.
    """
    rows = view.token_values if is_live(view) else None
    return {
        "additive": view.additive,
        "unit_values": [_number(value) for value in view.unit_values],
        "token_values": [[_number(value, _DIGITS) for value in row] for row in rows or ()],
        "groups": [[group.first, group.stop] for group in view.groups],
    }


@dataclass(frozen=True)
class Script:
    """A view's numbers and the module, as the text of the two elements that a page needs.

    Attributes:
        key: tells the elements of this module's version from others on the same page.
        data: the numbers as JSON; safe inside a `<script>` element.
        module: the module's text, followed by the call that mounts it wherever its key is found.
        source: the Content-Security-Policy source that allows this module and no other script.
    """

    key: str
    data: str
    module: str
    source: str

    @classmethod
    def of(cls, view: AttributionView) -> Script | None:
        """The script of a view, or None where there is nothing to choose."""
        if not is_live(view):
            return None
        data = json.dumps(numbers(view), separators=(",", ":"), allow_nan=False)
        return cls(data=data.replace("<", "\\u003c").replace(">", "\\u003e"), **_module())


@cache
def _module() -> dict[str, str]:
    text = (files("llm_attr.viz") / "static" / "attr.js").read_text(encoding="utf-8")
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    text += f'\nmountAll(document, "{key}");\n'
    digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"key": key, "module": text, "source": f"'sha256-{digest}'"}


def _number(value: float, digits: int = 17) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return float(f"{value:.{digits}g}")
