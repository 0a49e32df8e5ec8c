"""The finding of a view in words: which unit carried the answer, and how much that is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llm_attr.viz.formatting import escape_line, format_number, superscript, unit_label
from llm_attr.viz.text.view import AttributionView

_QUOTED = 72  # characters of a unit that are quoted
_TITLED = 90  # characters of a title that are shown
_NEXT = 0.05  # a second unit is named from this share of the strongest on
_SPREAD = 0.1  # below this share of the sum of |values| the strongest of many units did not carry the answer
_MANY = 10
_NATS = "log-probability (nats)"

NAT = "1 nat makes the answer 2.7 times (e times) as likely; nats add up where probabilities multiply"
"""What a nat is, for the notes of a view in nats."""


@dataclass(frozen=True)
class Phrase:
    """A part of the finding, and the unit that it names, if it names one."""

    text: str
    unit: int | None = None


def finding(view: AttributionView) -> tuple[Phrase, ...]:
    """The finding as one or two sentences; () if there is no unit.

    Values of leave-one-out are what the answer loses without the unit, which is said as a factor of its probability.
    """
    if not view.units:
        return ()
    top, *others = view.ranking
    value = view.unit_values[top]
    if not value or math.isnan(value):
        return (Phrase("No unit of the prompt changed the answer."),)
    if reason := _why_not(view, top):
        return (Phrase("No unit stands out: the strongest, "), _named(view, top), Phrase(f", {reason}."))
    opening = "Carried by " if value > 0 else "Held back most by "
    phrases = [Phrase(opening), _named(view, top), Phrase(f"{_quoted(view, top)}{_effect(view, value)}.")]
    if others and abs(view.unit_values[others[0]]) >= _NEXT * abs(value):
        number = format_number(view.unit_values[others[0]], view.limit)
        phrases += [Phrase(" Next: "), _named(view, others[0]), Phrase(f" ({number}).")]
    return tuple(phrases)


def heading(title: str) -> str:
    """The title, cut after a word if it is long; a quotation stays closed."""
    if len(title) <= _TITLED:
        return title
    return title[:_TITLED].rpartition(" ")[0].rstrip(" .,;:") + " …" + "”" * title.startswith("“")


def caption(view: AttributionView) -> str:
    """The title of a figure: the heading, and the method if the notes say it."""
    method = dict(view.notes).get("method", "")
    return f"{heading(view.title)}, {method}" if method and view.title else heading(view.title)


def times(nats: float) -> str:
    """How often a factor of e^nats is, in words: "3.5 times", "about 4 × 10¹⁴ times"."""
    if nats < math.log(1000):
        factor = math.exp(nats)
        return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"
    power = math.floor(nats / math.log(10))
    digit = round(10 ** (nats / math.log(10) - power))
    power, digit = (power + 1, 1) if digit == 10 else (power, digit)
    return f"about {digit} × 10{superscript(str(power))} times"


def name_of(view: AttributionView, unit: int) -> str:
    """The name of a unit: "sentence 3", "sentence 2 of letter.txt", "document letter.txt", "tool get_weather"."""
    group = view.unit_groups[unit]
    if group and group.kind in (view.unit_name, "tool"):
        return escape_line(f"{group.kind} {group.label}")
    own = f"{view.unit_name} {unit + 1}"
    return escape_line(f"{own} of {group.label}") if group and group.kind == "document" else escape_line(own)


def _named(view: AttributionView, unit: int) -> Phrase:
    return Phrase(name_of(view, unit), unit)


def _why_not(view: AttributionView, top: int) -> str:
    """Why the strongest unit does not stand out, or ""."""
    number = format_number(view.unit_values[top], view.limit)
    if view.unit_errors and abs(view.unit_values[top]) < 2 * view.unit_errors[top]:
        return f"{number}, is within two {view.error_name}s of 0"
    if view.doubtful and view.doubtful[top]:
        return f"{number}, is within the rounding of this precision"
    total = sum(abs(value) for value in view.unit_values if math.isfinite(value))
    share = abs(view.unit_values[top]) / total if total else 1.0
    if len(view.units) >= _MANY and share < _SPREAD:
        return f"{number}, has {share:.1%} of the sum of |values|"
    return ""


def _quoted(view: AttributionView, unit: int) -> str:
    text = unit_label(" ".join(view.own_text(unit).split()))
    return f" “{text if len(text) <= _QUOTED else text[: _QUOTED - 1].rstrip() + '…'}”"


def _effect(view: AttributionView, value: float) -> str:
    """What the value of the strongest unit means."""
    size = abs(value)
    if view.value_name != _NATS or math.isinf(value):
        return f", {format_number(value, view.limit)} ({escape_line(view.value_name)})"
    if not view.removal:
        return f", {format_number(value, view.limit)} nats: a factor of {times(size).removesuffix(' times')}"
    change = "less" if value > 0 else "more"
    if size < math.log(2):
        share = 1 - math.exp(-size) if value > 0 else math.exp(size) - 1
        amount = f"{share:.0%}" if share >= 0.01 else "less than 1%"
        return f": without it the answer is {amount} {change} likely"
    return f": without it the answer is {times(size)} {change} likely{_change(view, value)}"


def _change(view: AttributionView, value: float) -> str:
    """The log-probability of the answer with and without the unit, if the view has it."""
    if not view.output_probs or not all(0 < probability <= 1 for probability in view.output_probs):
        return ""
    full = sum(math.log(probability) for probability in view.output_probs)
    before, after = (f"{each:.1f}".replace("-", "−") for each in (full, full - value))
    return f" (log-probability {before} → {after})"
