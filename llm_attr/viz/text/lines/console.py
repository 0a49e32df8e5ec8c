"""Consoles and lines: width, colour and encoding of a terminal, and the lines that every terminal view consists of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from typing import TYPE_CHECKING

from llm_attr.viz.colour import DARK, LIGHT, DivergingScale, mark

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MIN_WIDTH = 20
_ASCII = str.maketrans({"─": "-", "│": "|", "█": "#", "▌": "#", "▐": "#", "·": ".", "…": "~", "–": "-", "×": "x"})


def console_with(width: int | None, colour: bool | None, console: Console | None, captured: bool = False) -> Console:
    """A console like the given one (or standard output) with the requested width and colour."""
    from rich.console import Console

    model = console or Console()
    if not captured and width is None and colour is None:
        return model
    system = None if model.no_color else model.color_system
    system = (system or "truecolor") if colour else None if colour is False else system
    return Console(
        file=TextIOWrapper(BytesIO(), encoding=model.encoding) if captured else model.file,
        width=max(width or model.width, _MIN_WIDTH),
        height=model.height,  # given only a width, rich assumes that a dumb terminal has 80 columns
        force_terminal=system is not None,
        force_jupyter=False if captured else None,
        color_system=system,  # type: ignore[arg-type]  # rich gives a str here and takes a Literal
        no_color=system is None,
        legacy_windows=model.legacy_windows and not captured,
    )


def write(given: Iterable[Text], console: Console) -> None:
    """Prints finished lines, using characters that the console's encoding has."""
    from rich.text import Text

    lines = list(given)
    if not console.encoding.lower().startswith("utf"):
        for line in lines:
            line.plain = line.plain.translate(_ASCII).encode(console.encoding, "replace").decode(console.encoding)
            line.truncate(console.width, overflow="crop")
    console.print(Text("\n").join(lines), no_wrap=True, overflow="ignore", crop=False, soft_wrap=True)


@dataclass(frozen=True)
class Lines:
    """Lines for one console: every method returns finished ones, none wider than the console."""

    console: Console
    limit: int

    @property
    def width(self) -> int:
        return self.console.width

    @property
    def colours(self) -> DivergingScale | None:
        """The colours for this console, or None if it shows none."""
        if self.console.color_system is None or self.console.no_color:
            return None
        # COLORFGBG is "foreground;background" in the 16 colours; if unset, assume a dark terminal, the more common.
        return LIGHT if os.environ.get("COLORFGBG", "").rpartition(";")[2] in {"7", "15"} else DARK

    @property
    def _basic(self) -> bool:
        return self.console.color_system in {"standard", "windows"}

    def style(self, share: float) -> str:
        """The style of text with this share of the scale."""
        return self.colours.style(share, basic=self._basic) if self.colours else ""

    def bar(self, share: float, left: int, right: int | None = None, one: float | None = None) -> Text:
        """A bar of `left + 1 + right` cells: leftwards for negative, rightwards for positive, in half cells.

        A share of 1 takes `one` cells; by default the cells on either side.
        """
        from rich.text import Text

        right, one = left if right is None else right, left if one is None else one

        style = ("yellow" if share > 0 else "cyan") if self._basic else mark(share)
        style = style if self.colours else ""
        halves = min(round(abs(share) * one * 2), 2 * (left if share < 0 else right)) if share == share else 0
        full, rest = "█" * (halves // 2), halves % 2
        before, after = ("▐" * rest + full, "") if share < 0 else ("", full + "▌" * rest)
        return Text.assemble((before.rjust(left), style), ("│", "dim"), (after.ljust(right), style))

    def heading(self, name: str) -> Iterator[Text]:
        from rich.text import Text

        yield Text()
        yield self.cut(Text.assemble((name, "bold"), (" " + "─" * (self.width - len(name) - 1), "dim")))

    def wrapped(self, *parts: tuple[str, str]) -> Iterator[Text]:
        """Styled parts of a text in lines, without empty lines at the end."""
        from rich.text import Text

        text = Text.assemble(*parts, overflow="fold", tab_size=4)
        lines = text.wrap(self.console, self.width, tab_size=4)
        while lines and not lines[-1].plain.strip():
            lines.pop()
        yield from lines

    def more(self, count: int, what: str) -> Iterator[Text]:
        """How many were left out."""
        if count > 0:
            yield from self.wrapped((f"… {count:,} more {what}{'s' * (count > 1)}", "dim"))

    def notes(self, notes: Sequence[tuple[str, str]], style: str = "") -> Iterator[Text]:
        """Names and values below an empty line."""
        from rich.text import Text

        yield from [Text()] if notes else []
        for name, value in notes:
            yield from self.wrapped((f"{name}: ", style), (value, ""))

    def cut(self, line: Text) -> Text:
        line.truncate(self.width, overflow="crop")
        return line
