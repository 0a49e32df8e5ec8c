"""The terminal view: the prompt coloured by its units' values, the strongest units with bars, the output's tokens.

Colour only repeats what signs and bars say, so the view reads the same in a pipe, under NO_COLOR or on a dumb terminal.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING

from llm_attr.viz.colour import DARK, LIGHT, DivergingScale, mark
from llm_attr.viz.legible import elided, label, legible, legible_line, percent, shortened, signed
from llm_attr.viz.scale import Scale
from llm_attr.viz.view import AttributionView, Group

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_NARROWEST = 20
_BRACKETED = 0.25  # without colour, units from this share of the limit on are bracketed with their sign
_BESIDE, _GAP = 30, 20  # cells: of text shown on each side of a strong unit in a long prompt; of the sign for a gap
_BREAKS = "\n\n"
_PLAIN = str.maketrans({"─": "-", "│": "|", "█": "#", "▌": "#", "▐": "#", "·": ".", "…": "~", "–": "-", "×": "x"})


def render(
    view: AttributionView,
    *,
    width: int | None = None,
    colour: bool | None = None,
    console: Console | None = None,
    limit: int = 12,
) -> str:
    """The view as text, with ANSI escape sequences where it is coloured; see `show` for the arguments."""
    canvas = canvas_of(width, colour, console, captured=True)
    with canvas.capture() as capture:
        _print(view, canvas, limit)
    return capture.get()


def show(
    view: AttributionView,
    *,
    width: int | None = None,
    colour: bool | None = None,
    console: Console | None = None,
    limit: int = 12,
) -> None:
    """Print the view.

    Args:
        view: what to show.
        width: columns to use, at least 20; by default those of the terminal.
        colour: True or False overrides what terminal and environment (NO_COLOR, FORCE_COLOR, TERM) say.
        console: the rich console to print on; by default one for standard output.
        limit: how many units and rows of output tokens to list, and how much of a long prompt to print.
    """
    _print(view, canvas_of(width, colour, console), limit)


def canvas_of(width: int | None, colour: bool | None, console: Console | None, captured: bool = False) -> Console:
    """A console like the given one (or standard output's) with the width and colour asked for."""
    from rich.console import Console

    model = console or Console()
    if not captured and width is None and colour is None:
        return model
    system = None if model.no_color else model.color_system
    system = (system or "truecolor") if colour else None if colour is False else system
    return Console(
        file=TextIOWrapper(BytesIO(), encoding=model.encoding) if captured else model.file,
        width=max(width or model.width, _NARROWEST),
        height=model.height,  # with a width alone, rich takes a dumb terminal to have 80 columns
        force_terminal=system is not None,
        force_jupyter=False if captured else None,
        color_system=system,  # type: ignore[arg-type]  # rich gives a str here and takes a Literal
        no_color=system is None,
        legacy_windows=model.legacy_windows and not captured,
    )


def _print(view: AttributionView, console: Console, limit: int) -> None:
    write(_Page(view, console, max(limit, 1)).lines(), console)


def write(given: Iterable[Text], console: Console) -> None:
    """Prints finished lines, with signs that the console's encoding has."""
    from rich.text import Text

    lines = list(given)
    if not console.encoding.lower().startswith("utf"):
        for line in lines:
            line.plain = line.plain.translate(_PLAIN).encode(console.encoding, "replace").decode(console.encoding)
            line.truncate(console.width, overflow="crop")
    console.print(Text("\n").join(lines), no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)


def colours_of(console: Console) -> DivergingScale | None:
    """The colours for a console, or None where it shows none."""
    if console.color_system is None or console.no_color:
        return None
    # COLORFGBG is "foreground;background" in the 16 colours; without it, terminals are more often dark.
    return LIGHT if os.environ.get("COLORFGBG", "").rpartition(";")[2] in {"7", "15"} else DARK


def bar_of(share: float, half: int, style: str) -> Text:
    """A bar of `2 * half + 1` cells: leftwards for negative, rightwards for positive, in half cells."""
    from rich.text import Text

    halves = round(abs(share) * half * 2) if share == share else 0
    full, rest = "█" * (halves // 2), halves % 2
    left, right = ("▐" * rest + full, "") if share < 0 else ("", full + "▌" * rest)
    return Text.assemble((left.rjust(half), style), ("│", "dim"), (right.ljust(half), style))


@dataclass(frozen=True)
class _Page:
    """One view on one console: every method gives finished lines, none wider than the console."""

    view: AttributionView
    console: Console
    limit: int

    @property
    def width(self) -> int:
        return self.console.width

    @property
    def scale(self) -> DivergingScale | None:
        """The colours for this console, or None where it shows none."""
        return colours_of(self.console)

    def lines(self) -> Iterator[Text]:
        from rich.text import Text

        if self.view.title:
            yield from self.wrapped([(legible_line(self.view.title), "bold")])
        for warning in self.view.warnings:
            yield from self.wrapped([(legible_line(warning), "italic")])
        yield from self.heading("Prompt")
        yield from self.wrapped(self.prompt())
        yield Text()
        yield from self.wrapped(self.legend())
        if self.view.output_tokens:
            yield from self.heading("Output")
            yield from self.wrapped([(elided(legible("".join(self.view.output_tokens)).strip(), self.width * 6), "")])
            yield from self.probabilities()
        if self.view.units:
            yield from self.heading(f"Strongest units{f' (± {self.view.error_name})' if self.view.unit_errors else ''}")
            yield from self.ranking()
        if pairs := self.view.pairs():
            yield from self.heading("Strongest pairs")
            yield from self.pairs(pairs)
        if self.view.notes:
            yield Text()
            for name, value in self.view.notes:
                yield from self.wrapped([(f"{legible_line(name)}: ", "dim"), (legible_line(value), "")])

    def heading(self, name: str) -> Iterator[Text]:
        from rich.text import Text

        yield Text()
        yield Text.assemble((name, "bold"), (" " + "─" * (self.width - len(name) - 1), "dim"))

    def wrapped(self, parts: Iterable[tuple[str, str]]) -> Iterator[Text]:
        from rich.text import Text

        text = Text.assemble(*parts, overflow="fold", tab_size=4)
        lines = text.wrap(self.console, self.width, tab_size=4)
        while lines and not lines[-1].plain.strip():
            lines.pop()
        yield from lines

    def more(self, count: int, what: str) -> Iterator[Text]:
        if count > 0:
            yield from self.wrapped([(f"… {count:,} more {what}{'s' * (count > 1)}", "dim")])

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
            before = text = legible(text)
            if unit is None:
                yield text, "dim"
                continue
            if not text.strip() and abs(shares[unit]) >= _BRACKETED:
                text = label(text) + "\n" * text.count("\n")
            body = text.strip() or text
            start = text.find(body)
            opening, closing = self.brackets(shares[unit])
            yield text[:start], ""
            yield f"{opening}{body}{closing}", self.style(shares[unit])
            yield text[start + len(body) :], ""

    def style(self, share: float) -> str:
        return self.scale.style(share, basic=self.console.color_system in {"standard", "windows"}) if self.scale else ""

    def brackets(self, share: float) -> tuple[str, str]:
        """Where there is no colour, the marks around a unit that counts."""
        if self.scale or not abs(share) >= _BRACKETED:
            return "", ""
        return f"[{'+' if share > 0 else '-'} ", "]"

    def legend(self) -> Iterator[tuple[str, str]]:
        limit, name = self.view.limit, legible_line(self.view.value_name)
        if not limit:
            yield f"{name}: no unit has a value other than 0", "dim"
        elif not self.scale:
            yield f"{name}; [+ …] and [- …]: from {_BRACKETED:.0%} of the largest on", "dim"
        else:
            low, high = f"{signed(-limit, limit)} ", f" {signed(limit, limit)}"
            half = max(min(12, (self.width - len(low) - len(high) - 3) // 2), 1)
            yield low, ""
            yield from ((" ", self.style(-step / half)) for step in range(half, 0, -1))
            yield " 0 ", ""
            yield from ((" ", self.style(step / half)) for step in range(1, half + 1))
            yield f"{high}  ", ""
            yield name, "dim"

    def ranking(self) -> Iterator[Text]:
        """The strongest units: value, bar with zero in the middle, place in the prompt, group, text."""
        from rich.text import Text

        view, shares = self.view, self.view.scale.shares(self.view.unit_values)
        shown = view.ranking[: self.limit]
        numbers = [signed(view.unit_values[unit], view.limit) + self.error(unit) for unit in shown]
        number_width, place_width = max(map(len, numbers)), len(str(len(view.units)))
        half = min(max((self.width - number_width) // 7, 3), 16)
        for unit, number in zip(shown, numbers, strict=True):
            line = Text(number.rjust(number_width) + " ")
            line.append_text(self.bar(shares[unit], half))
            line.append(f" {unit + 1:>{place_width}} ", "dim")
            if group := view.unit_groups[unit]:
                line.append(f"{shortened(legible_line(group.label), self.width // 5)}: ", "dim")
            line.append(shortened(label(view.units[unit]), self.width - line.cell_len))
            line.truncate(self.width, overflow="crop")
            yield line
        yield from self.more(len(view.units) - len(shown), "unit")

    def pairs(self, found: list[tuple[int, int, float]]) -> Iterator[Text]:
        """The strongest pairs of units: value, bar, places in the prompt, both texts."""
        from rich.text import Text

        shown, scale = found[: self.limit], Scale.of([value for *_, value in found])
        numbers = [signed(value, scale.limit) for *_, value in shown]
        places = [f"{first + 1}, {second + 1}" for first, second, _ in shown]
        number_width, place_width = max(map(len, numbers)), max(map(len, places))
        half = min(max((self.width - number_width) // 7, 3), 16)
        shares = scale.shares([value for *_, value in shown])
        for (first, second, _), number, place, share in zip(shown, numbers, places, shares, strict=True):
            line = Text(number.rjust(number_width) + " ")
            line.append_text(self.bar(share, half))
            line.append(f" {place:>{place_width}} ", "dim")
            room = (self.width - line.cell_len - 3) // 2
            texts = [shortened(label(self.view.units[unit]), max(room, 0)) for unit in (first, second)]
            line.append(texts[0]).append(" × ", "dim").append(texts[1])
            line.truncate(self.width, overflow="crop")
            yield line
        yield from self.more(len(found) - len(shown), "pair")

    def error(self, unit: int) -> str:
        errors = self.view.unit_errors
        return "" if errors is None else " ±" + signed(errors[unit], self.view.limit).lstrip("+")

    def bar(self, share: float, half: int) -> Text:
        return bar_of(share, half, self.mark(share))

    def mark(self, share: float) -> str:
        if not self.scale:
            return ""
        basic = self.console.color_system in {"standard", "windows"}
        return ("yellow" if share > 0 else "cyan") if basic else mark(share)

    def probabilities(self) -> Iterator[Text]:
        """The output's tokens with their probabilities, in columns."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        probabilities = self.view.output_probs
        if probabilities is None:
            return
        tokens = [shortened(legible_line(token), min(16, self.width - 6)) for token in self.view.output_tokens]
        token_width = max(map(cell_len, tokens))
        columns = max((self.width + 3) // (token_width + 8), 1)
        shown = columns * self.limit
        yield Text()
        for start in range(0, min(len(tokens), shown), columns):
            line = Text()
            for position in range(start, min(start + columns, len(tokens))):
                line.append("   " if position > start else "")
                line.append(set_cell_size(tokens[position], token_width))
                line.append(percent(probabilities[position]).rjust(5), "dim")
            yield line
        yield from self.more(len(tokens) - shown, "token")


def _rubric(group: Group | None, before: str) -> str:
    """The line above a group's units, a line apart from the text before; after a group only the break of the line."""
    ended = min(before.count("\n", len(before.rstrip())), 2)
    if group is None:
        return _BREAKS[ended + 1 :]
    return f"{_BREAKS[ended:]}{legible_line(f'{group.kind} {group.label}')}:\n"


def excerpt(view: AttributionView, cells: int) -> list[tuple[str, int | None]]:
    """The prompt's pieces, or where they are too long those around the strongest units, gaps told by their size."""
    pieces = list(view.pieces())
    if sum(_cost(text) for text, _ in pieces) <= cells:
        return pieces
    pieces = [(elided(text, max(cells // 4, 8)), unit) for text, unit in pieces]
    kept = _kept(view, pieces, cells)
    shown: list[tuple[str, int | None]] = []
    missing = 0
    for place, piece in enumerate([*pieces, ("", None)]):
        if place < len(pieces) and place not in kept:
            missing += piece[1] is not None
            continue
        if missing:
            shown.append((f" [… {missing:,} unit{'s' * (missing > 1)} …] ".replace(" ", "\u00a0"), None))
            missing = 0
        shown.append(piece)
    return shown


def _kept(view: AttributionView, pieces: list[tuple[str, int | None]], cells: int) -> set[int]:
    """The places of the strongest units and of what stands beside them, as far as the space goes."""
    places = {unit: place for place, (_, unit) in enumerate(pieces) if unit is not None}
    kept: set[int] = set()
    for unit in view.ranking:
        added = {places[unit], *_beside(pieces, places[unit], 1), *_beside(pieces, places[unit], -1)} - kept
        cells -= _GAP + sum(_cost(pieces[place][0]) for place in added)
        if cells < 0 and kept:
            break
        kept |= added
    return kept


def _beside(pieces: list[tuple[str, int | None]], place: int, step: int) -> Iterator[int]:
    """The places after (`step` 1) or before (-1) one, over about `_BESIDE` cells of text."""
    room = _BESIDE
    while 0 <= (place := place + step) < len(pieces) and (room := room - _cost(pieces[place][0])) >= 0:
        yield place


def _cost(text: str) -> int:
    """The cells that a piece takes, roughly: a line break costs half a line."""
    return len(text) + 40 * text.count("\n")
