"""`Edit`: an edit of a prompt, and the answers before and after."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llm_attr.llm.model.cost import Cost
from llm_attr.llm.results.export import written
from llm_attr.viz.text import edit as drawn

_VERBS = {"delete": "removed", "replace": "replaced", "mask": "masked"}


@dataclass(frozen=True, eq=False)
class Edit:
    """An edit of a prompt; drawn in notebooks.

    Attributes:
        found: Whether the edit changes the answer, or lowers its log-probability by as much as was asked.
        units: The numbers of the units that it takes out; the nearest set that was tried if none is found.
        texts: Their texts.
        prompt: The full prompt as the model receives it.
        edited: The edited prompt.
        answer: The answer to the full prompt.
        edited_answer: The model's own answer to the edited prompt.
        log_prob: The log-probability of the answer after the full prompt, in nats.
        edited_log_prob: The same after the edited prompt.
        margin: By how many logits the weakest token of the answer leads the next best one after the edited prompt;
            negative where the model gives another answer.
        variants: How many variants of the prompt were scored.
        cost: What scoring them cost; generating answers is not included.
        about: What was asked; search, unit, absence and model.
        pieces: The full prompt, for pictures.
    """

    found: bool
    units: tuple[int, ...]
    texts: tuple[str, ...]
    prompt: str
    edited: str
    answer: str
    edited_answer: str
    log_prob: float
    edited_log_prob: float
    margin: float
    variants: int
    cost: Cost
    about: dict[str, str]
    pieces: tuple[drawn.Piece, ...]

    @property
    def size(self) -> int:
        """How many units the edit takes out."""
        return len(self.units)

    def view(self) -> drawn.EditView:
        """The view that both pictures are drawn from."""
        unit = self.about["unit"] + ("" if self.size == 1 else "s")
        what = f"{self.size} {unit} {_VERBS[self.about['absence']]}"
        title = f"{what}: {self.about['asked']}" if self.found else f"No edit found; the nearest: {what}"
        price = f"{self.variants} variants in {self.cost.passes} passes, {self.cost.positions} token positions"
        notes = (
            ("log-probability of the answer", f"{self.log_prob:.2f} before, {self.edited_log_prob:.2f} after (nats)"),
            ("lead of the answer after", f"{self.margin:.2f} (logits, weakest token)"),
            ("search", f"{self.about['search']}; {price}"),
            ("model", self.about["model"]),
        )
        return drawn.EditView(title, self.pieces, self.edited, self.answer, self.edited_answer, notes)

    def show(self, width: int | None = None) -> None:
        """Prints both prompts and both answers, as wide as the terminal."""
        drawn.show(self.view(), width=width)

    def to_html(self, path: str | Path | None = None) -> str:
        """A self-contained HTML page.

        Args:
            path: A file to write it to.
        """
        return written(drawn.to_html(self.view()), path)

    def _repr_html_(self) -> str:
        return drawn.fragment(self.view())

    def __repr__(self) -> str:
        return f"Edit(found={self.found}, units={self.units}, {self.answer!r} -> {self.edited_answer!r})"
