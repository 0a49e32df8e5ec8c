"""Views of the difference of two explanations: a verdict, and a table of what changed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_attr.viz.formatting import escape_line, format_ascii, truncate, unit_label
from llm_attr.viz.text.elements import Value, scale_ends
from llm_attr.viz.text.lines.console import Lines, console_with, write
from llm_attr.viz.text.page import still

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_MARKS = {"same": " ", "rewritten": "~", "only_first": "-", "only_second": "+"}
_WORDS = {"same": "", "rewritten": "rewritten", "only_first": "only in {0}", "only_second": "only in {1}"}
_NUMBER, _LEAST = 9, 16  # cells of a number, and of a unit's text
_TINY = 1e-9
_LIMIT = 40  # units in the terminal; the largest changes if there are more


@dataclass(frozen=True)
class DiffRow:
    """A unit in both explanations; what one of them does not have is None.

    Attributes:
        text: Its text, the new one if it was rewritten.
        before: Its text in the first explanation, if it was rewritten.
        status: `same`, `rewritten`, `only_first` or `only_second`.
        values: Its attributions.
        shares: Their shares of the explanations.
        ranks: Their places, from 1.
        change: The second value minus the first.
        error: The standard error of the change.
        p_value: How likely noise makes it.
        significant: Whether it is called more than noise.
    """

    text: str
    before: str
    status: str
    values: tuple[float | None, float | None]
    shares: tuple[float | None, float | None]
    ranks: tuple[int | None, int | None]
    change: float
    error: float
    p_value: float
    significant: bool


@dataclass(frozen=True)
class DiffView:
    """The difference of two explanations, to draw.

    Attributes:
        title: What is compared.
        verdict: What changed, in words.
        names: Of the explanations.
        value_name: What the values are.
        rows: The units in the order of the prompt.
        least: The size up to which changes do not matter.
        notes: Names and values below.
    """

    title: str
    verdict: str
    names: tuple[str, str]
    value_name: str
    rows: tuple[DiffRow, ...]
    least: float = 0.0
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def limit(self) -> float:
        """The largest absolute value or change."""
        numbers = [abs(value) for row in self.rows for value in (*row.values, row.change) if value is not None]
        return max(numbers, default=0.0)

    def shown(self, limit: int) -> list[int]:
        """The rows with the largest changes, in the order of the prompt."""
        largest = sorted(range(len(self.rows)), key=lambda row: (-abs(self.rows[row].change), row))
        return sorted(largest[:limit])


def show(view: DiffView, *, width: int | None = None, console: Console | None = None) -> None:
    """Prints the verdict and the table; `*` marks what is more than noise, `~`, `-` and `+` other texts."""
    canvas = console_with(width, None, console)
    write(_DiffLines(canvas, _LIMIT, view).lines(), canvas)


def render(view: DiffView, *, width: int | None = None, colour: bool | None = None) -> str:
    """What `show` prints, as text."""
    canvas = console_with(width, colour, None, captured=True)
    with canvas.capture() as capture:
        write(_DiffLines(canvas, _LIMIT, view).lines(), canvas)
    return capture.get()


def to_html(view: DiffView) -> str:
    """A self-contained HTML page."""
    return still("diff", escape_line(view.title), _content(view))


def fragment(view: DiffView) -> str:
    """The content of the page as one `<div>` for a notebook."""
    return still("diff", escape_line(view.title), _content(view), width=None)


def _content(view: DiffView) -> dict[str, object]:
    return {
        "verdict": escape_line(view.verdict),
        "names": [escape_line(name) for name in view.names],
        "value_name": escape_line(view.value_name),
        "rows": [_cells(view, number) for number in range(len(view.rows))],
        "scale": scale_ends(view.limit),
        "notes": [(escape_line(name), escape_line(value)) for name, value in view.notes],
    }


def _cells(view: DiffView, number: int) -> dict[str, object]:
    row, limit = view.rows[number], view.limit
    return {
        "number": number + 1,
        "text": unit_label(row.text),
        "before": unit_label(row.before) if row.before else "",
        "status": row.status,
        "about": escape_line(_WORDS[row.status].format(*view.names)),
        "values": [None if value is None else Value.of(value, limit) for value in row.values],
        "details": [_detail(row, which) for which in (0, 1)],
        "change": Value.of(row.change, limit),
        "error": f"{row.error:.2g}",
        "p_value": "p\u00a0<\u00a01e-9" if row.p_value < _TINY else f"p\u00a0=\u00a0{row.p_value:.2g}",
        "significant": row.significant,
        "judged": _judged(row, view.least),
    }


def _judged(row: DiffRow, least: float) -> str:
    """Whether the change counts, and why not."""
    if row.significant:
        return f"more than {least:g}" if least else "more than noise"
    return f"not clearly more than {least:g}" if least else "within noise"


def _detail(row: DiffRow, which: int) -> str:
    share, rank = row.shares[which], row.ranks[which]
    return "" if share is None or rank is None else f"{share:.0%} · rank {rank}".replace("-", "−")


@dataclass(frozen=True)
class _DiffLines(Lines):
    view: DiffView

    def lines(self) -> Iterator[Text]:
        """Verdict, table, notes."""
        view = self.view
        shown = view.shown(self.limit)
        yield from self.wrapped((escape_line(view.verdict), "bold"))
        yield from self.heading(f"The {len(shown)} largest changes" if len(shown) < len(view.rows) else "Units")
        yield from self.table(shown)
        yield from self.more(len(view.rows) - len(shown), "unit")
        counts = f"more than {view.least:g} beyond noise" if view.least else "more than noise"
        marks = f"* {counts}; ~ rewritten, - only in the first, + only in the second"
        yield from self.wrapped((f"{escape_line(view.value_name)}; {marks}", "dim"))
        yield from self.notes([(escape_line(name), escape_line(value)) for name, value in view.notes])

    def table(self, shown: list[int]) -> Iterator[Text]:
        """A row for each unit: both values, the change with its error, and the text."""
        from rich.text import Text

        wide = self.width >= 5 * (_NUMBER + 1) + _LEAST
        names = [truncate(escape_line(name), _NUMBER).rjust(_NUMBER) for name in self.view.names]
        numbers = [*names, "change".rjust(_NUMBER), *(["± error".rjust(_NUMBER)] if wide else [])]
        yield self.cut(Text(" ".join(numbers), "bold"))
        for number in shown:
            yield self.cut(self.row(number, wide))
            if self.view.rows[number].before:
                margin = " " * (len(numbers) * (_NUMBER + 1) + 2)
                yield self.cut(Text(f"{margin}was {unit_label(self.view.rows[number].before)}", "dim"))

    def row(self, number: int, wide: bool) -> Text:
        from rich.text import Text

        row, limit = self.view.rows[number], self.view.limit
        values = ["–" if value is None else format_ascii(value, limit) for value in row.values]
        line = Text(" ".join(value.rjust(_NUMBER) for value in values) + " ")
        share = row.change / limit if limit else 0.0
        line.append(format_ascii(row.change, limit).rjust(_NUMBER), self.style(share if row.significant else 0.0))
        if wide:
            line.append(" " + f"{row.error:.2g}".rjust(_NUMBER), "dim")
        line.append(f" {'*' if row.significant else ' '}{_MARKS[row.status]} ", "bold")
        line.append(unit_label(row.text), "bold" if row.significant else "")
        return line
