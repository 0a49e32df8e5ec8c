"""Views of a cited answer: prose with numbers, and the documents with the passages that they stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llm_attr.viz.formatting import direction, escape_line, escape_text, format_number, format_percent, superscript
from llm_attr.viz.text.lines.console import Lines, console_with, write
from llm_attr.viz.text.page import still

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@dataclass(frozen=True)
class Statement:
    """A sentence of the answer.

    Attributes:
        start: Its first character in the answer.
        end: One past its last.
        supported: Whether it has sources.
        reason: Why it has none.
        sources: For each: the number of its passage, nats, their standard error or None, and the share.
    """

    start: int
    end: int
    supported: bool
    reason: str
    sources: tuple[tuple[int, float, float | None, float], ...]


@dataclass(frozen=True)
class Passage:
    """A numbered passage: characters `start` to `end` of the document `id`."""

    number: int
    id: str
    start: int
    end: int


@dataclass(frozen=True)
class CitedView:
    """A cited answer, to draw.

    Attributes:
        answer: The answer.
        question: The question, or "".
        statements: Its sentences, in order.
        passages: What they cite.
        documents: The texts by id.
        notes: Names and values below.
    """

    answer: str
    question: str
    statements: tuple[Statement, ...]
    passages: tuple[Passage, ...]
    documents: Mapping[str, str]
    notes: tuple[tuple[str, str], ...] = field(default=())

    @property
    def finding(self) -> str:
        """How many sentences have sources."""
        held, count = sum(each.supported for each in self.statements), len(self.statements)
        if held == count:
            return "The sentence has a source." if count == 1 else f"All {count} sentences have sources."
        if not held:
            return (
                "No source carries the sentence." if count == 1 else f"No source carries any of the {count} sentences."
            )
        rest = "the other" if count - held == 1 else "the others"
        return f"{held} of {count} sentences have sources; nothing in the documents carries {rest}."


def show(view: CitedView, *, width: int | None = None, console: Console | None = None) -> None:
    """Prints the answer and its sources."""
    canvas = console_with(width, None, console)
    write(_CitedLines(canvas, 0, view).lines(), canvas)


def render(view: CitedView, *, width: int | None = None, colour: bool | None = None) -> str:
    """What `show` prints, as text."""
    canvas = console_with(width, colour, None, captured=True)
    with canvas.capture() as capture:
        write(_CitedLines(canvas, 0, view).lines(), canvas)
    return capture.get()


def to_html(view: CitedView) -> str:
    """A self-contained HTML page without scripts."""
    return still("citations", view.finding, _content(view), width="80rem")


def fragment(view: CitedView) -> str:
    """The content of the page as one `<div>` for a notebook."""
    return still("citations", view.finding, _content(view), width=None)


def _content(view: CitedView) -> dict[str, Any]:
    return {
        "finding": view.finding,
        "question": escape_text(view.question),
        "prose": list(_prose(view)),
        "documents": list(_documents(view)),
        "numbers": [passage.number for passage in view.passages],
        "notes": [(escape_line(name), escape_line(value)) for name, value in view.notes],
        "prefix": "c" + hashlib.sha256(repr(view).encode("utf-8", "replace")).hexdigest()[:8],
        "answer_direction": direction(view.answer),
    }


def _prose(view: CitedView) -> Iterator[dict[str, Any]]:
    """The answer in pieces: text between sentences, and sentences with their numbers."""
    done = 0
    for each in view.statements:
        if each.start > done:
            yield {"text": escape_text(view.answer[done : each.start]), "kind": "gap"}
        done = each.end
        yield {
            "text": escape_text(view.answer[each.start : each.end]),
            "kind": "supported" if each.supported else "unsupported",
            "reason": escape_line(each.reason),
            "sources": [(number, _measure(nats, error, share)) for number, nats, error, share in each.sources],
        }
    if done < len(view.answer):
        yield {"text": escape_text(view.answer[done:]), "kind": "gap"}


def _measure(nats: float, error: float | None, share: float) -> str:
    """An attribution in words: "+8.1 ± 0.3 nats, 84%"."""
    spread = "" if error is None else f" ± {error:.2g}"
    return f"{format_number(nats, max(abs(nats), 0.1))}{spread} nats, {format_percent(share)}"


def _documents(view: CitedView) -> Iterator[dict[str, Any]]:
    """Each document in pieces: text, and numbered passages."""
    for name, text in view.documents.items():
        pieces, done = list[tuple[str, int]](), 0
        for passage in sorted((each for each in view.passages if each.id == name), key=lambda each: each.start):
            start = max(done, passage.start)
            pieces += [(escape_text(text[done:start]), 0), (escape_text(text[start : passage.end]), passage.number)]
            done = max(done, passage.end)
        pieces.append((escape_text(text[done:]), 0))
        kept = [piece for piece in pieces if piece[0] or piece[1]]
        cited = any(number for _, number in kept)
        yield {"name": escape_line(name), "pieces": kept, "cited": cited, "direction": direction(text)}


@dataclass(frozen=True)
class _CitedLines(Lines):
    view: CitedView

    def lines(self) -> Iterator[Text]:
        """Finding, answer, sources, sentences without a source, notes."""
        view = self.view
        yield from self.wrapped((view.finding, "bold"))
        yield from self.heading("answer")
        yield from self.wrapped(*self._prose())
        if view.passages:
            yield from self.heading("sources")
        for passage in view.passages:
            text = escape_line(view.documents[passage.id][passage.start : passage.end])
            yield from self.wrapped(
                (f"[{passage.number}] ", "bold"), (escape_line(passage.id), "dim"), (f"  {text}", "")
            )
            yield from self.wrapped((f"    {self._given(passage.number)}", "dim"))
        without = [each for each in view.statements if not each.supported]
        if without:
            yield from self.heading("no source")
        for each in without:
            text = escape_line(view.answer[each.start : each.end])
            yield from self.wrapped((text, ""), (f"  {escape_line(each.reason)}", "dim"))
        yield from self.notes([(name, escape_line(value)) for name, value in view.notes], "dim")

    def _prose(self) -> Iterator[tuple[str, str]]:
        plain = not self.console.encoding.lower().startswith("utf")
        for piece in _prose(self.view):
            yield piece["text"], "dim" if piece["kind"] == "unsupported" else ""
            numbers = [str(number) for number, _ in piece.get("sources", ())]
            if numbers:
                raised = " ".join(superscript(number) for number in numbers)
                yield (f"[{','.join(numbers)}]" if plain else raised), "bold"
            if piece["kind"] == "unsupported":
                yield " [no source]", "dim"

    def _given(self, number: int) -> str:
        """What a passage gives to the sentences that cite it."""
        return "; ".join(
            f"sentence {i}: {_measure(nats, error, share)}"
            for i, each in enumerate(self.view.statements, 1)
            for source, nats, error, share in each.sources
            if source == number
        )
