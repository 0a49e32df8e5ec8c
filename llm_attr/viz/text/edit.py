"""Views of an edited prompt: what was taken out, and the answer before and after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_attr.viz.formatting import escape_line, escape_text
from llm_attr.viz.text.lines.console import Lines, console_with, write
from llm_attr.viz.text.page import still

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass(frozen=True)
class Piece:
    """A part of a prompt.

    Attributes:
        text: Its text.
        is_changed: Whether the edit takes it out.
        is_fixed: Whether it is no unit, such as the text of a chat template.
    """

    text: str
    is_changed: bool = False
    is_fixed: bool = False


@dataclass(frozen=True)
class EditView:
    """An edited prompt, to draw.

    Attributes:
        title: What was found.
        pieces: The full prompt.
        edited: The edited prompt.
        before: The answer to the full prompt.
        after: The answer to the edited prompt.
        notes: Names and values below.
    """

    title: str
    pieces: tuple[Piece, ...]
    edited: str
    before: str
    after: str
    notes: tuple[tuple[str, str], ...] = ()


def show(view: EditView, *, width: int | None = None, console: Console | None = None) -> None:
    """Prints both prompts and both answers; what the edit takes out stands in brackets, struck through."""
    canvas = console_with(width, None, console)
    write(_EditLines(canvas, 0, view).lines(), canvas)


def render(view: EditView, *, width: int | None = None, colour: bool | None = None) -> str:
    """What `show` prints, as text."""
    canvas = console_with(width, colour, None, captured=True)
    with canvas.capture() as capture:
        write(_EditLines(canvas, 0, view).lines(), canvas)
    return capture.get()


def to_html(view: EditView) -> str:
    """A self-contained HTML page."""
    return still("edit", escape_line(view.title), _content(view))


def fragment(view: EditView) -> str:
    """The content of the page as one `<div>` for a notebook."""
    return still("edit", escape_line(view.title), _content(view), width=None)


def _content(view: EditView) -> dict[str, object]:
    notes = [(escape_line(name), escape_line(value)) for name, value in view.notes]
    before, after = escape_text(view.before.strip()), escape_text(view.after.strip())
    texts = {"edited": escape_text(view.edited), "before": before, "after": after}
    pieces = [(escape_text(piece.text), piece.is_changed, piece.is_fixed) for piece in view.pieces if piece.text]
    return {"notes": notes, "pieces": pieces, **texts}


@dataclass(frozen=True)
class _EditLines(Lines):
    view: EditView

    def lines(self) -> Iterator[Text]:
        """Title, prompts, answers, notes."""
        view = self.view
        yield from self.wrapped((view.title, "bold"))
        yield from self.heading("prompt")
        yield from self.wrapped(*(self._styled(piece) for piece in view.pieces))
        yield from self.heading("answer")
        yield from self.wrapped((escape_text(view.before.strip()), ""))
        yield from self.heading("edited prompt")
        yield from self.wrapped((escape_text(view.edited), ""))
        yield from self.heading("answer to it")
        yield from self.wrapped((escape_text(view.after.strip()), "bold"))
        yield from self.notes([(name, escape_line(value)) for name, value in view.notes], "dim")

    def _styled(self, piece: Piece) -> tuple[str, str]:
        text = escape_text(piece.text)
        if not piece.is_changed:
            return text, "dim" if piece.is_fixed else ""
        inner = text.strip()
        start = text.index(inner)
        return f"{text[:start]}[-{inner}-]{text[start + len(inner) :]}", "strike" if self.colours else ""
