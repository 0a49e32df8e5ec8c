"""Terminal views: coloured prompt, ranked units with bars and output tokens; for a comparison a table of the units.

Colour only repeats what signs and bars say, so a view reads the same in a pipe, under NO_COLOR or on a dumb terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_attr.viz.formatting import (
    elide,
    escape_line,
    escape_text,
    format_ascii,
    format_percent,
    truncate,
    unit_label,
)
from llm_attr.viz.scale import Scale
from llm_attr.viz.text.finding import finding, heading
from llm_attr.viz.text.groups import Group
from llm_attr.viz.text.lines.comparison_table import ComparisonLines
from llm_attr.viz.text.lines.console import Lines, console_with, write
from llm_attr.viz.text.lines.excerpt import excerpt
from llm_attr.viz.text.view import AttributionView, ComparisonView, View

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_BRACKETED = 0.25  # without colour, units from this share of the limit on are bracketed with their sign
_BREAKS = "\n\n"


def render(
    view: View,
    *,
    width: int | None = None,
    colour: bool | None = None,
    console: Console | None = None,
    limit: int | None = None,
) -> str:
    """The view as text, with ANSI escape sequences if it is coloured; see `show` for the arguments."""
    canvas = console_with(width, colour, console, captured=True)
    with canvas.capture() as capture:
        write(_lines(view, canvas, limit), canvas)
    return capture.get()


def show(
    view: View,
    *,
    width: int | None = None,
    colour: bool | None = None,
    console: Console | None = None,
    limit: int | None = None,
) -> None:
    """Print the view.

    Args:
        view: what to show: one explanation, or several side by side.
        width: columns to use, at least 20; by default those of the terminal.
        colour: True or False overrides what terminal and environment (NO_COLOR, FORCE_COLOR, TERM) say.
        console: the rich console to print on; by default one for standard output.
        limit: how many units and rows of output tokens to list, and how much of a long prompt to print; by default 12,
            or 20 for a comparison.
    """
    canvas = console_with(width, colour, console)
    write(_lines(view, canvas, limit), canvas)


def _lines(view: View, console: Console, limit: int | None) -> Iterator[Text]:
    if isinstance(view, ComparisonView):
        return ComparisonLines(console, max(20 if limit is None else limit, 1), view).lines()
    return _ExplanationLines(console, max(12 if limit is None else limit, 1), view).lines()


@dataclass(frozen=True)
class _ExplanationLines(Lines):
    """One explanation on one console."""

    view: AttributionView

    def lines(self) -> Iterator[Text]:
        from rich.text import Text

        if self.view.verdict:
            yield from self.wrapped((escape_line(self.view.verdict), "italic"))
        if self.view.title:
            yield from self.wrapped((escape_line(heading(self.view.title)), "bold"))
        for warning in self.view.warnings:
            yield from self.wrapped((escape_line(warning), "italic"))
        yield from self.wrapped(*((part.text, "" if part.unit is None else "bold") for part in finding(self.view)))
        yield from self.heading("Prompt")
        yield from self.wrapped(*self.prompt())
        yield Text()
        yield from self.wrapped(*self.legend())
        if self.view.output_tokens:
            yield from self.heading("Output")
            output = escape_text("".join(self.view.output_tokens)).strip()
            yield from self.wrapped((elide(output, self.width * 6), ""))
            yield from self.probabilities()
        if self.view.units:
            yield from self.heading(f"Strongest units{f' (± {self.view.error_name})' if self.view.unit_errors else ''}")
            yield from self.ranking()
        if pairs := self.view.pairs():
            yield from self.heading("Strongest pairs")
            yield from self.pairs(pairs)
        notes = [(escape_line(name), escape_line(value)) for name, value in self.view.notes]
        yield from self.notes(notes, style="dim")

    def prompt(self) -> Iterator[tuple[str, str]]:
        """The prompt's text in styled parts: units by value, the rest dimmed."""
        shares = self.view.scale.shares(self.view.unit_values)
        if not self.view.units:
            yield "(no unit)", "dim"
        group: Group | None = None
        before = "\n\n"
        for text, unit in excerpt(self.view, self.width * (self.limit + 4)):
            if unit is not None and self.view.unit_groups[unit] is not group:
                group = self.view.unit_groups[unit]
                yield _rubric(group, before), "dim"
            before = text = escape_text(text)
            if unit is None:
                yield text, "dim"
                continue
            if not text.strip() and abs(shares[unit]) >= _BRACKETED:
                text = unit_label(text) + "\n" * text.count("\n")
            body = text.strip() or text
            start = text.find(body)
            opening, closing = self.brackets(shares[unit])
            yield text[:start], ""
            yield f"{opening}{body}{closing}", self.style(shares[unit])
            yield text[start + len(body) :], ""

    def brackets(self, share: float) -> tuple[str, str]:
        """Without colour, the marks around a strong unit."""
        if self.colours or not abs(share) >= _BRACKETED:
            return "", ""
        return f"[{'+' if share > 0 else '-'} ", "]"

    def legend(self) -> Iterator[tuple[str, str]]:
        limit, name = self.view.limit, escape_line(self.view.value_name)
        if not limit:
            yield f"{name}: no unit has a value other than 0", "dim"
        elif not self.colours:
            yield f"{name}; [+ …] and [- …]: from {_BRACKETED:.0%} of the largest on", "dim"
        else:
            low, high = f"{format_ascii(-limit, limit)} ", f" {format_ascii(limit, limit)}"
            half = max(min(12, (self.width - len(low) - len(high) - 3) // 2), 1)
            yield low, ""
            yield from ((" ", self.style(-step / half)) for step in range(half, 0, -1))
            yield " 0 ", ""
            yield from ((" ", self.style(step / half)) for step in range(1, half + 1))
            yield f"{high}  ", ""
            yield name, "dim"

    def ranking(self) -> Iterator[Text]:
        """The strongest units: value, bar with zero in the middle, place in the prompt, group, text."""
        view, shares = self.view, self.view.scale.shares(self.view.unit_values)
        shown = view.ranking[: self.limit]
        numbers = [format_ascii(view.unit_values[unit], view.limit) + self.error(unit) for unit in shown]
        width = len(str(len(view.units)))
        lines = self.barred(numbers, [shares[unit] for unit in shown], [f"{unit + 1:>{width}}" for unit in shown])
        for unit, line in zip(shown, lines, strict=True):
            if view.doubtful is not None:
                line.append("~ " if view.doubtful[unit] else "  ", "dim")
            if group := view.unit_groups[unit]:
                line.append(f"{truncate(escape_line(group.label), self.width // 5)}: ", "dim")
            line.append(truncate(unit_label(view.own_text(unit)), self.width - line.cell_len))
            yield self.cut(line)
        yield from self.more(len(view.units) - len(shown), "unit")

    def pairs(self, pairs: list[tuple[int, int, float]]) -> Iterator[Text]:
        """The strongest pairs of units: value, bar, places in the prompt, both texts."""
        shown, scale = pairs[: self.limit], Scale.of([value for *_, value in pairs])
        values = [value for *_, value in shown]
        places = [f"{first + 1}, {second + 1}" for first, second, _ in shown]
        lines = self.barred([format_ascii(value, scale.limit) for value in values], scale.shares(values), places)
        for (first, second, _), line in zip(shown, lines, strict=True):
            room = max((self.width - line.cell_len - 3) // 2, 0)
            texts = [truncate(unit_label(self.view.units[unit]), room) for unit in (first, second)]
            yield self.cut(line.append(texts[0]).append(" × ", "dim").append(texts[1]))
        yield from self.more(len(pairs) - len(shown), "pair")

    def barred(self, numbers: Sequence[str], shares: Iterable[float], places: Sequence[str]) -> Iterator[Text]:
        """The start of each line of a list: number, bar, place in the prompt."""
        from rich.text import Text

        number_width, place_width = max(map(len, numbers)), max(map(len, places))
        shares = list(shares)
        cells = 2 * min(max((self.width - number_width) // 7, 3), 16)
        low, high = (max((sign * share for share in shares if share == share), default=0.0) for sign in (-1, 1))
        low, high = max(low, 0.0), max(high, 0.0)
        one = int(cells / (low + high or 1.0))
        left = max(round(low * one), 1) if low else 0
        for number, share, place in zip(numbers, shares, places, strict=True):
            bar = self.bar(share, left, cells - left, one)
            yield Text.assemble(number.rjust(number_width), " ", bar, (f" {place:>{place_width}} ", "dim"))

    def error(self, unit: int) -> str:
        errors = self.view.unit_errors
        return "" if errors is None else " ±" + format_ascii(errors[unit], self.view.limit).lstrip("+")

    def probabilities(self) -> Iterator[Text]:
        """The output's tokens with their probabilities, in columns."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        probabilities = self.view.output_probs
        if probabilities is None:
            return
        tokens = [truncate(escape_line(token), min(16, self.width - 6)) for token in self.view.output_tokens]
        token_width = max(map(cell_len, tokens))
        columns = max((self.width + 3) // (token_width + 8), 1)
        shown = columns * self.limit
        yield Text()
        for start in range(0, min(len(tokens), shown), columns):
            line = Text()
            for position in range(start, min(start + columns, len(tokens))):
                line.append("   " if position > start else "")
                line.append(set_cell_size(tokens[position], token_width))
                line.append(format_percent(probabilities[position]).rjust(5), "dim")
            yield line
        yield from self.more(len(tokens) - shown, "token")


def _rubric(group: Group | None, before: str) -> str:
    """The heading of a group after an empty line; after a group only a line break."""
    ended = min(before.count("\n", len(before.rstrip())), 2)
    if group is None:
        return _BREAKS[ended + 1 :]
    return f"{_BREAKS[ended:]}{escape_line(f'{group.kind} {group.label}')}:\n"
