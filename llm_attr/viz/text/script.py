"""The script of the HTML view: its numbers, and `static/attr.js`, which a page or widget mounts on the markup.

The modules in `static` import each other, and can be served as they are; a page or widget has them joined in one.

The markup is complete without them: the numbers hold no text of the prompt or output, and the view can be read and
printed without scripts.
"""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llm_attr.errors import InvalidType, InvalidValue
from llm_attr.viz.text.view import AttributionView

CELLS = 1_000_000
"""Output tokens times units up to which a page is interactive."""

EXACT = 10_000
"""Output tokens times units up to which the values of tokens are exact."""

_LARGEST = 32766
_MODULES = ("numbers.js", "paint.js", "tokens.js", "units.js", "attr.js")


def is_live(view: AttributionView) -> bool:
    """Whether tokens can be selected: there are values of single output tokens, and not too many for a page."""
    return view.token_values is not None and 0 < len(view.output_tokens) * len(view.units) <= CELLS


def numbers(view: AttributionView) -> dict[str, Any]:
    """The second argument of `mount` in `static/attr.js`, ready for JSON.

    Arrays are little-endian base64. `unit_values` are exact; `token_values` are exact too, or on large pages a
    float for each token, its largest finite |value|, and 16-bit shares of it.
    """
    rows = np.asarray(view.token_values if is_live(view) else (), dtype=np.float64)
    return {
        "additive": view.additive,
        "limit": view.page_limit,
        "unit_values": _base64(np.asarray(view.unit_values), "<f8"),
        "token_values": {"values": _base64(rows, "<f8")} if rows.size <= EXACT else _shares(rows),
        "groups": [[group.first, group.stop] for group in view.groups],
    }


def _shares(rows: NDArray[np.float64]) -> dict[str, str]:
    """The rows as whole shares of the largest |value| of each; the codes beyond are infinities and NaN."""
    finite = np.isfinite(rows)
    ends = np.max(np.abs(rows), axis=1, initial=0.0, where=finite)
    coded = np.rint(np.divide(rows, ends[:, None], out=np.zeros_like(rows), where=finite & (rows != 0)) * _LARGEST)
    coded[np.isnan(rows)] = -_LARGEST - 2
    coded[np.isinf(rows)] = np.sign(rows[np.isinf(rows)]) * (_LARGEST + 1)
    return {"ends": _base64(ends, "<f8"), "shares": _base64(coded, "<i2")}


@dataclass(frozen=True)
class Selection:
    """The selection in the interactive picture of a result, or in one of several panels.

    Attributes:
        tokens: the output tokens `(first, stop)` whose values the units show; None for the full answer.
        unit: the position of the unit whose value for each output token is shown, or None.
        panel: the position of the panel of tokens and unit.

    Raises:
        InvalidType: tokens are not a pair of integers, or a position is not an integer.
    """

    tokens: tuple[int, int] | None = None
    unit: int | None = None
    panel: int = 0

    def __post_init__(self) -> None:
        pair = () if self.tokens is None else self.tokens
        unit = 0 if self.unit is None else self.unit
        positions = (*(pair if isinstance(pair, tuple) else (pair,)), unit, self.panel)
        if len(positions) not in (2, 4) or not all(type(position) is int for position in positions):
            raise InvalidType(
                "a selection has tokens (first, stop) or None, a unit or None, and a panel, all whole numbers; given "
                f"tokens={self.tokens!r}, unit={self.unit!r}, panel={self.panel!r}"
            )

    def check(self, views: Sequence[AttributionView]) -> None:
        """Checks that the selection is possible in panels with these views.

        Raises:
            InvalidValue: no such panel, token or unit, or the view has no values for these tokens.
        """
        if not 0 <= self.panel < len(views):
            raise InvalidValue(f"panel of a selection must be in 0 to {len(views) - 1}; given {self.panel!r}")
        view = views[self.panel]
        if self.unit is not None and not 0 <= self.unit < len(view.units):
            raise InvalidValue(
                f"unit of a selection must be None or in 0 to {len(view.units) - 1}; given {self.unit!r}"
            )
        if self.tokens is None:
            return
        first, stop = self.tokens
        if not is_live(view):
            raise InvalidValue(
                f"no tokens can be selected in panel {self.panel}: it has no values of single output tokens, or more "
                f"than {CELLS:,} of them; given {self.tokens!r}"
            )
        if not 0 <= first < stop <= len(view.output_tokens):
            count = len(view.output_tokens)
            raise InvalidValue(f"tokens of a selection must be 0 <= first < stop <= {count}; given {self.tokens!r}")
        if stop - first > 1 and not view.additive:
            raise InvalidValue(f"probabilities of tokens do not add up: choose one at a time; given {self.tokens!r}")


@dataclass(frozen=True)
class Script:
    """A view's numbers and the module, as the content of two `<script>` elements.

    Attributes:
        key: distinguishes the elements of this version of the module from others on the same page.
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
        """The script of a view, or None if nothing can be selected."""
        if not is_live(view):
            return None
        data = json.dumps(numbers(view), separators=(",", ":"), allow_nan=False)
        return cls(
            data=data.replace("<", "\\u003c").replace(">", "\\u003e"), **_module("mountAll", *_MODULES, "page.js")
        )


@cache
def _module(start: str, *names: str) -> dict[str, str]:
    """The modules followed by a call of the function that starts them, with their key and their source."""
    text = _joined(*names)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    text += f'\n{start}(document, "{key}");\n'
    digest = b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return {"key": key, "module": text, "source": f"'sha256-{digest}'"}


def mount_module() -> str:
    """The module that exports `mount`, in one text."""
    return _joined(*_MODULES) + "\nexport { mount };\n"


def widget_module() -> str:
    """The module of the notebook widget; its default export renders the model of `llm_attr.viz.widget`."""
    return _joined(*_MODULES, "linked.js", "widget.js")


def linked_script() -> Script:
    """The script of a comparison: a unit that is held or pointed at is marked in every panel."""
    return Script(data="{}", **_module("linkAll", "linked.js", "compared.js"))


def _joined(*names: str) -> str:
    """Modules that import each other as one text: without their imports, and with the default export only."""
    folder = files("llm_attr.viz.text") / "static"
    text = "\n".join((folder / name).read_text(encoding="utf-8") for name in names)
    return _COMMENT.sub("", _EXPORT.sub("", _IMPORT.sub("", text)))


_COMMENT = re.compile(r"^\s*(//|/\*\*).*\n", re.MULTILINE)
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./\w+\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?!default)", re.MULTILINE)


def _base64(values: NDArray[np.float64], dtype: str) -> str:
    return b64encode(values.astype(dtype).tobytes()).decode()
