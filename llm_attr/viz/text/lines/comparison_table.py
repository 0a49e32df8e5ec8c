"""The terminal view of a comparison: a row for each unit, a column for each attribution, and their agreement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_attr.viz.formatting import escape_line, format_ascii, truncate, unit_label
from llm_attr.viz.text.lines.console import Lines
from llm_attr.viz.text.view import CORRELATION, ComparisonView, format_correlation

if TYPE_CHECKING:
    from rich.text import Text

_NUMBER, _BARRED, _WIDEST = 9, 17, 24  # cells of a column: only a number, with the shortest bar, with the longest
_LEAST, _FAIR, _MOST = 16, 30, 48  # cells of a unit's text: at least, before bars are dropped for it, at most


@dataclass(frozen=True)
class ComparisonLines(Lines):
    """A comparison on one console."""

    view: ComparisonView

    @property
    def place(self) -> int:
        """The cells of a unit's number."""
        return len(str(len(self.view.units)))

    def lines(self) -> Iterator[Text]:
        from rich.text import Text

        yield from self.wrapped((escape_line(self.view.title), "bold"))
        yield Text()
        yield from self.legend()
        shown = self.view.strongest(self.limit)
        more = len(self.view.units) - len(shown)
        yield from self.heading(f"The {len(shown)} strongest units" if more else "Units")
        for block in self.blocks():
            yield from self.table(block, shown)
        yield from self.more(more, "unit")
        yield from self.heading("Rank agreement")
        yield from self.agreement()
        yield from self.heading("Strongest units of each")
        yield from self.strongest()
        yield from self.notes([(escape_line(name), escape_line(value)) for name, value in self.view.notes])

    def legend(self) -> Iterator[Text]:
        """The number, name and scale of each column, then a description of the scales."""
        shared = self.view.shared_scale
        for key, (name, column) in enumerate(zip(self.view.names, self.view.columns, strict=True), 1):
            parts = [] if self.view.value_name else [escape_line(column.value_name)]
            parts += [] if shared or not column.limit else [f"±{format_ascii(column.limit, column.limit).lstrip('+')}"]
            yield from self.wrapped((": ".join(filter(None, (f"{key} {escape_line(name)}", ", ".join(parts)))), ""))
        parts = [escape_line(self.view.value_name), self.view.scale_description]
        yield from self.wrapped(("; ".join(filter(None, parts)), "dim"))

    def blocks(self) -> Iterator[Sequence[int]]:
        """The columns in blocks that fit beside the text of the units, of even size."""
        room = max((self.width - self.place - 1 - _LEAST) // (_NUMBER + 1), 1)
        count = len(self.view.columns)
        rows = -(-count // room)
        each = -(-count // rows)
        yield from (range(start, min(start + each, count)) for start in range(0, count, each))

    def table(self, block: Sequence[int], shown: Sequence[int]) -> Iterator[Text]:
        """The units with these columns: text, and for each column a number and, if there is room, a bar."""
        from rich.cells import cell_len, set_cell_size
        from rich.text import Text

        texts = {unit: self.unit(unit) for unit in shown}
        longest = min(max([cell_len(text) for text in texts.values()] + [_LEAST]), _MOST)
        free, fair = self.width - self.place - 1, min(longest, _FAIR)
        barred = free - len(block) * (_BARRED + 1) >= fair
        text_width = max(min(longest, free - len(block) * ((_BARRED if barred else _NUMBER) + 1)), 1)
        each = min((free - text_width) // len(block) - 1, _WIDEST) if barred else _NUMBER
        header = Text(" " * (self.place + 1 + text_width))
        for which in block:
            name = f"{which + 1} {escape_line(self.view.names[which])}"
            header.append(" " + set_cell_size(truncate(name, each), each), "bold")
        yield self.cut(header)
        for unit in shown:
            line = Text(f"{unit + 1:>{self.place}} ", "dim", end="")
            line = Text.assemble(line, set_cell_size(truncate(texts[unit], text_width), text_width))
            for which in block:
                line.append(" ")
                line.append_text(self.cell(which, unit, each))
            yield self.cut(line)

    def unit(self, unit: int) -> str:
        group = self.view.columns[0].unit_groups[unit]
        return (f"{escape_line(group.label)}: " if group else "") + unit_label(self.view.units[unit])

    def cell(self, which: int, unit: int, cells: int) -> Text:
        """A value with its bar, or coloured if there is no room for a bar."""
        from rich.text import Text

        column, share = self.view.columns[which], self.view.shares[which][unit]
        number = format_ascii(column.unit_values[unit], column.limit).rjust(_NUMBER - 1)
        half = (cells - _NUMBER - 1) // 2
        if cells < _BARRED:
            padding = len(number) - len(number.lstrip())
            coloured = (f"{number[padding:]}", self.style(share))
            return Text.assemble(number[:padding], coloured, " " * (cells - len(number)))
        return Text.assemble(number, " ", self.bar(share, half), " " * (cells - _NUMBER - 2 * half - 1))

    def agreement(self) -> Iterator[Text]:
        """Spearman's rank correlation of each pair of columns, as many columns at a time as fit."""
        from rich.cells import cell_len
        from rich.text import Text

        names = [f"{key} {escape_line(name)}" for key, name in enumerate(self.view.names, 1)]
        width = min(max(map(cell_len, names)), max(self.width // 3, 8))
        each = max((self.width - width) // 6, 1)
        yield from self.wrapped(("Spearman's rank correlation of the units' values, from -1 to +1", "dim"))
        for start in range(0, len(names), each):
            block = range(start, min(start + each, len(names)))
            yield self.cut(Text(" " * width + "".join(f"{which + 1:>6}" for which in block), "bold"))
            for row, name in enumerate(names):
                yield self.cut(self.correlations(row, name, width, block))

    def correlations(self, row: int, name: str, width: int, block: Sequence[int]) -> Text:
        from rich.cells import set_cell_size
        from rich.text import Text

        line = Text(set_cell_size(truncate(name, width), width))
        for which in block:
            value = self.view.agreement[row][which]
            text = format_correlation(value).replace("−", "-")
            share = float(CORRELATION.shares(value))
            line.append(" " * (6 - len(text)))
            line.append(text, "dim" if which == row else self.style(share))
        return line

    def strongest(self) -> Iterator[Text]:
        """The strongest units of each column, on one line per column."""
        from rich.text import Text

        for key, column in enumerate(self.view.columns, 1):
            ranked = [unit for unit in column.ranking if abs(column.unit_values[unit]) > 0][: self.view.top]
            each = max((self.width - 3) // max(len(ranked), 1) - 2, 8)
            line = Text(f"{key:>2} ", "bold")
            for unit in ranked:
                number = format_ascii(column.unit_values[unit], column.limit)
                text = truncate(unit_label(self.view.units[unit]), each - len(number) - 1)
                line = Text.assemble(line, (number, self.style(self.view.shares[key - 1][unit])), f" {text}  ")
            yield self.cut(line)
