"""Attributions of classified texts as an HTML table: labels, score, and words coloured by their values."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np

from llm_attr.errors import InvalidShape, InvalidType
from llm_attr.viz.colour import DARK, LIGHT
from llm_attr.viz.formatting import escape_line, format_number
from llm_attr.viz.scale import Floats, Scale
from llm_attr.viz.sign import Numbers, to_array
from llm_attr.viz.text.page import environment

COLUMNS = ("True Label", "Predicted Label", "Attribution Label", "Attribution Score", "Word Importance")


@dataclass(frozen=True, eq=False)
class VisualizationDataRecord:
    """A classified text with the attributions of its words.

    Attributes:
        word_attributions: `(words,)` one number for each word; excess numbers belong to padding.
        pred_prob: the probability of the predicted class.
        pred_class: the predicted class, by number or name.
        true_class: the true class.
        attr_class: the explained class.
        attr_score: the sum of the attributions, or another score.
        raw_input_ids: the words or tokens of the text.
        convergence_score: the convergence delta of the attributions; not shown.
    """

    word_attributions: Numbers
    pred_prob: float
    pred_class: int | str
    true_class: int | str
    attr_class: int | str
    attr_score: float
    raw_input_ids: Sequence[str]
    convergence_score: float


@dataclass(frozen=True)
class Html:
    """A piece of HTML that a notebook displays at most once per cell, whether by `draw` or as the cell's result.

    Attributes:
        data: the HTML.
    """

    data: str
    _drawn: list[int] = field(default_factory=list, init=False, repr=False, compare=False)

    def _repr_html_(self) -> str:
        return self.data

    def _ipython_display_(self) -> None:
        shell = _notebook()
        if shell is None or shell.execution_count not in self._drawn:
            self.draw()

    def draw(self) -> None:
        """Displays it in the current notebook, if there is one."""
        shell = _notebook()
        if shell is not None:
            from IPython.display import publish_display_data

            self._drawn.append(shell.execution_count)
            publish_display_data({"text/html": self.data, "text/plain": repr(self)[:80]})


def table_of(records: Iterable[VisualizationDataRecord], legend: bool = True) -> Html:
    """A table with a row for each record; all words share one scale.

    Args:
        records: the records.
        legend: whether to explain the colours above the table.

    Raises:
        InvalidShape: a record has more words than attributions.
        InvalidType: something is not a record, or its attributions or numbers are not numbers.
    """
    records = list(records)
    for record in records:
        if not isinstance(record, VisualizationDataRecord):
            raise InvalidType(f"visualize_text takes VisualizationDataRecords; given {type(record).__name__}")
    values = [_values(record.raw_input_ids, record.word_attributions) for record in records]
    scale = Scale.of(*values) if values else Scale(0.0)
    rows = [
        format_classname(record.true_class)
        + format_classname(f"{record.pred_class} ({_number(record.pred_prob, 'pred_prob')})")
        + format_classname(record.attr_class)
        + format_classname(_number(record.attr_score, "attr_score"))
        + _words(record.raw_input_ids, each, scale)
        for record, each in zip(records, values, strict=True)
    ]
    limit = scale.limit
    return Html(
        environment()
        .get_template("records.html")
        .render(
            legend=legend,
            limit=limit,
            low=format_number(-limit, limit),
            high=format_number(limit, limit),
            rule=scale.rule,
            columns=COLUMNS,
            rows=rows,
            light=LIGHT,
            dark=DARK,
        )
    )


def format_classname(classname: object) -> str:
    """A label as an escaped table cell."""
    return f"<td><bdi>{escape(escape_line(str(classname)))}</bdi></td>"


def format_tooltip(item: str, text: str) -> str:
    """A piece of text with a tooltip, both escaped."""
    return f'<div class="tooltip">{escape(item)}<span class="tooltiptext">{escape(text)}</span></div>'


def format_special_tokens(token: str) -> str:
    """A token in angle brackets, such as "<s>", with "#" in front instead; other tokens unchanged."""
    return "#" + token.strip("<>") if token.startswith("<") and token.endswith(">") else token


def format_word_importances(words: Sequence[str], importances: Numbers | None) -> str:
    """Words coloured by their importances, as a table cell.

    Args:
        words: the words, which are escaped.
        importances: `(words,)` or longer; full colour at -1 and 1. None or empty gives an empty cell.

    Raises:
        InvalidShape: there are more words than importances.
        InvalidType: the importances are not numbers.
    """
    if importances is None or np.size(to_array(importances, "the importances")) == 0:
        return "<td></td>"
    return _words(words, _values(words, importances), Scale(1.0))


def _values(words: Sequence[str], importances: Numbers) -> Floats:
    """`(words,)` the numbers that belong to words."""
    array = to_array(importances, "the attributions of words").astype(np.float64)
    if array.ndim != 1 or array.size < len(words):
        raise InvalidShape(f"each of the {len(words)} words needs one attribution; given {array.shape}")
    return array[: len(words)]


def _words(words: Sequence[str], values: Floats, scale: Scale) -> str:
    shown = zip(words, values.tolist(), scale.shares(values).tolist(), strict=True)
    return f'<td class="words" dir="auto">{" ".join(_word(str(*word[:1]), *word[1:], scale) for word in shown)}</td>'


def _word(word: str, value: float, share: float, scale: Scale) -> str:
    light, dark = LIGHT.at(share) or "transparent", DARK.at(share) or "transparent"
    style = (
        f"background:light-dark({light},{dark});color:light-dark({LIGHT.ink},{DARK.ink});"
        "padding:.15em .2em;border-radius:.2em;unicode-bidi:isolate;-webkit-box-decoration-break:clone;"
        "box-decoration-break:clone"
    )
    text = escape(escape_line(word) or "(empty)")
    return f'<span title="{format_number(value, scale.limit)}" style="{style}">{text}</span>'


def _number(number: Any, name: str) -> str:
    """A number or one-element tensor with two decimals."""
    array = to_array(number, name)
    if array.size != 1:
        raise InvalidType(f"{name} must be one number; given {array.shape}")
    return f"{array.item():.2f}".replace("-", "−")


def _notebook() -> Any:
    """The current IPython shell, or None; does not import IPython."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
