"""What an explanation of a generation found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from llm_attr.errors import InvalidShape, UnsupportedMethod
from llm_attr.viz.view import AttributionView

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llm_attr.llm.inputs import InterpretableInput


class Contribution(NamedTuple):
    """A unit of the prompt and what it gave to the answer."""

    position: int
    text: str
    attribution: float


class LLMAttributionResult:
    """The attribution of an answer, and of each of its tokens, to the units of a prompt.

    Attributes:
        input_tokens: The text of each unit.
        output_tokens: The text of each token of the answer, white space included.
        seq_attr: `(units,)` attribution of the whole answer, in nats (or probability, see `provenance`).
        token_attr: `(output tokens, units)` attribution of each token of the answer, or None.
        output_probs: `(output tokens,)` probability of each token of the answer after the whole prompt, or None.
        inp: The input that was explained.
        output_text: The answer.
        output_ids: Its token ids.
        provenance: Method, model, precision, way of scoring and what it cost.

    Raises:
        InvalidShape: the tensors do not fit the numbers of units and tokens.
    """

    def __init__(
        self,
        *,
        input_tokens: list[str],
        output_tokens: list[str],
        seq_attr: Tensor,
        token_attr: Tensor | None = None,
        output_probs: Tensor | None = None,
        inp: InterpretableInput | None = None,
        output_text: str | None = None,
        output_ids: Sequence[int] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        units, tokens = len(input_tokens), len(output_tokens)
        _check("seq_attr", seq_attr, (units,))
        if token_attr is not None:
            _check("token_attr", token_attr, (tokens, units))
        if output_probs is not None:
            _check("output_probs", output_probs, (tokens,))
        self.input_tokens, self.output_tokens = list(input_tokens), list(output_tokens)
        self.seq_attr, self.token_attr, self.output_probs, self.inp = seq_attr, token_attr, output_probs, inp
        self.output_text = "".join(output_tokens) if output_text is None else output_text
        self.output_ids = None if output_ids is None else tuple(output_ids)
        self.provenance = dict(provenance or {})

    @property
    def seq_attr_dict(self) -> dict[str, float]:
        """Attribution by the text of the unit; of units with the same text the last one stays, so see `top` too."""
        return dict(zip(self.input_tokens, self.seq_attr.tolist(), strict=True))

    def top(self, k: int = 3) -> list[Contribution]:
        """The `k` units that did most for the answer, the strongest first."""
        order = torch.argsort(self.seq_attr, descending=True, stable=True)[: max(0, k)].tolist()
        return [Contribution(i, self.input_tokens[i], float(self.seq_attr[i])) for i in order]

    def __repr__(self) -> str:
        strongest = ", ".join(f"{text[:40]!r} {value:+.3g}" for _, text, value in self.top(1))
        return f"LLMAttributionResult({len(self.input_tokens)} units -> {self.output_text[:60]!r}; top: {strongest})"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the input object, in plain Python types."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "output_text": self.output_text,
            "output_ids": None if self.output_ids is None else list(self.output_ids),
            "output_probs": None if self.output_probs is None else self.output_probs.tolist(),
            "seq_attr": self.seq_attr.tolist(),
            "token_attr": None if self.token_attr is None else self.token_attr.tolist(),
            "provenance": self.provenance,
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON text, also written to a file if a path is given."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=2)
        if path is not None:
            Path(path).write_text(text + "\n", encoding="utf-8")
        return text

    def view(self) -> AttributionView:
        """What pictures of this result are drawn from."""
        context = getattr(self.inp, "context", None)
        return AttributionView(
            title=f"{self.provenance.get('method', 'attribution').replace('_', ' ')} of {self.output_text.strip()!r}",
            units=tuple(self.input_tokens),
            unit_values=tuple(self.seq_attr.tolist()),
            output_tokens=tuple(self.output_tokens),
            output_probs=None if self.output_probs is None else tuple(self.output_probs.tolist()),
            token_values=None if self.token_attr is None else tuple(map(tuple, self.token_attr.tolist())),
            value_name="probability" if self.provenance.get("attr_target") == "prob" else "log-probability (nats)",
            context=None if context is None else tuple(context),
            notes=self._notes(),
        )

    def _notes(self) -> tuple[tuple[str, str], ...]:
        found = self.provenance
        if "model" not in found:
            return tuple((name.replace("_", " "), str(value)) for name, value in found.items())
        cost = f"{found['variants']} variants in {found['passes']} passes, {found['positions']} token positions"
        notes = [("model", f"{found['model']}, {found['dtype']}"), ("scored by", found["scoring"]), ("cost", cost)]
        if found["empty_prompt"]:
            notes.append(("empty prompt", f"scored after {found['empty_prompt']}"))
        return tuple(notes)

    def show(self, width: int | None = None) -> None:
        """Prints the prompt coloured by attribution, the ranked units and the answer, as wide as the terminal."""
        from llm_attr.viz.terminal import show

        show(self.view(), width=width)

    def to_html(self, path: str | Path | None = None) -> str:
        """A page that needs nothing from elsewhere, also written to a file if a path is given."""
        from llm_attr.viz.text import to_html

        page = to_html(self.view())
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        from llm_attr.viz.text import fragment

        return fragment(self.view())

    def plot_seq_attr(self, show: bool = False) -> tuple[Figure, Axes]:
        """Bars of the attribution of the whole answer.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        from llm_attr.viz import matrix

        figure, axes = matrix.plot_unit_values(self.view())
        if show:
            matrix.show(figure)
        return figure, axes

    def plot_token_attr(self, show: bool = False) -> tuple[Figure, Axes]:
        """Heat map of the attribution of each token of the answer.

        Raises:
            MissingExtra: matplotlib is not installed.
            UnsupportedMethod: the method gave no attribution of tokens.
        """
        from llm_attr.viz import matrix

        if self.token_attr is None:
            raise UnsupportedMethod("this result has no attribution of single tokens; use plot_seq_attr")
        figure, axes = matrix.plot_token_values(self.view())
        if show:
            matrix.show(figure)
        return figure, axes


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InvalidShape(f"{name} must have the shape {shape}; got {tuple(tensor.shape)}")
