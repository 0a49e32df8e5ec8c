"""What an explanation of a generation found."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from llm_attr.core.pickled import PickledWithout
from llm_attr.errors import InvalidShape, UnsupportedMethod
from llm_attr.llm.prompt.alignment import pieces, spans_of
from llm_attr.llm.prompt.units import Span
from llm_attr.llm.results import view as picture
from llm_attr.llm.results.completeness import of_part
from llm_attr.llm.results.contribution import Contribution
from llm_attr.llm.results.json_text import json_text
from llm_attr.llm.target.region import Region, RegionName
from llm_attr.llm.target.scalar import ADDITIVE
from llm_attr.viz.arcs import plot_arcs
from llm_attr.viz.levels import plot_levels
from llm_attr.viz.matrix import plot_token_values, plot_unit_values
from llm_attr.viz.terminal import show
from llm_attr.viz.text import fragment, to_html
from llm_attr.viz.view import AttributionView, Group, check_groups

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from llm_attr.llm.model.language_model import LanguageModel
    from llm_attr.llm.prompt.interpretable import InterpretableInput
    from llm_attr.llm.results.table import Table
    from llm_attr.viz.widget import AttributionWidget

_NO_ROWS = "this result has no attribution of single tokens"
_ASK_FOR_ROWS = "methods of gradients give it with token_rows=True, as explain asks for with region="
_NO_PAIRS = "this result holds no pairs of units; explain with method='pairwise_interactions'"


class LLMAttributionResult(PickledWithout):
    """The attribution of an answer, and of each of its tokens, to the units of a prompt.

    Attributes:
        input_tokens: The text of each unit.
        output_tokens: The text of each token of the answer, white space included.
        seq_attr: `(units,)` attribution of the whole answer, in nats (or what the scalar is in, see `provenance`).
        token_attr: `(output tokens, units)` attribution of each token of the answer, or None.
        stderr: `(units,)` standard errors of `seq_attr` for sampled methods, else None.
        token_stderr: `(output tokens, units)` those of `token_attr`, or None.
        output_probs: `(output tokens,)` probability of each token of the answer after the whole prompt, or None.
        inp: The input that was explained.
        output_text: The answer.
        output_ids: Its token ids.
        output_spans: The characters of the answer in which each token has a part; None where they do not make it up.
        region: For a part of an answer the tokens `(first, stop)` that it is of it, else None.
        context: The prompt's text before, between and after the units, or None.
        groups: The documents or messages that units belong to.
        provenance: Method, model, precision, way of scoring and what it cost; JSON values.
        table: What the attributions were computed from, or None.

    Results are equal if all but the input object is, to the bit; pickles and `save` leave it out, copies share it.

    Raises:
        InvalidShape: the parts do not fit the numbers of units and tokens.
        InvalidValue: spans or groups are not in order.
    """

    shared = ("inp",)

    def __init__(
        self,
        *,
        input_tokens: list[str],
        output_tokens: list[str],
        seq_attr: Tensor,
        token_attr: Tensor | None = None,
        stderr: Tensor | None = None,
        token_stderr: Tensor | None = None,
        output_probs: Tensor | None = None,
        inp: InterpretableInput | None = None,
        output_text: str | None = None,
        output_ids: Sequence[int] | None = None,
        output_spans: Sequence[Sequence[int]] | None = None,
        region: Sequence[int] | None = None,
        context: Sequence[str] | None = None,
        groups: Iterable[Mapping[str, Any]] | None = None,
        provenance: Mapping[str, Any] | None = None,
        table: Table | None = None,
    ) -> None:
        units, tokens = len(input_tokens), len(output_tokens)
        _check("seq_attr", seq_attr, (units,))
        for name, tensor, shape in (
            ("token_attr", token_attr, (tokens, units)),
            ("stderr", stderr, (units,)),
            ("token_stderr", token_stderr, (tokens, units)),
            ("output_probs", output_probs, (tokens,)),
        ):
            if tensor is not None:
                _check(name, tensor, shape)
        if table is not None:
            _check("owner of the table", table.owner, (units,))
            _check("whole of the table", table.whole, (tokens if table.per_token else 1,))
        if output_ids is not None and len(output_ids) != tokens:
            raise InvalidShape(f"output_ids must be one for each of the {tokens} tokens; got {len(output_ids)}")
        self.input_tokens, self.output_tokens = list(input_tokens), list(output_tokens)
        self.seq_attr, self.token_attr, self.output_probs, self.inp = seq_attr, token_attr, output_probs, inp
        self.stderr, self.token_stderr = stderr, token_stderr
        self.output_text: str = "".join(output_tokens) if output_text is None else output_text
        self.output_ids = None if output_ids is None else tuple(output_ids)
        self.output_spans = spans_of(self.output_text, self.output_tokens, output_spans)
        self.region = None if region is None else (region[0], region[1])
        context = getattr(inp, "context", None) if context is None else context
        self.context = None if context is None else list(context)
        if context is not None and len(context) != units + 1:
            raise InvalidShape(f"context must be one text more than the {units} units; got {len(context)}")
        self.groups = tuple(getattr(inp, "groups", ()) if groups is None else (Group(**group) for group in groups))
        check_groups(self.groups, units)
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.table = table

    def __eq__(self, other: object) -> bool:
        """Whether all that would be stored is the same, to the bit."""
        from llm_attr.llm.results.storage import equal

        return equal(self, other) if isinstance(other, LLMAttributionResult) else NotImplemented

    def __hash__(self) -> int:
        """From the texts; equal results have equal ones."""
        return hash((tuple(self.input_tokens), self.output_text, self.output_ids))

    @property
    def seq_attr_dict(self) -> dict[str, float]:
        """Attribution by the text of the unit; of units with the same text the last one stays, so see `top` too."""
        return dict(zip(self.input_tokens, self.seq_attr.tolist(), strict=True))

    @property
    def gap(self) -> float | None:
        """How far attributions by a path are from the change they divide, as a share of it; None of other methods."""
        found = self.provenance.get("completeness")
        return None if found is None else float(found["gap"])

    @property
    def interactions(self) -> Tensor:
        """`(units, units)`: how much more two units carry together than alone, symmetric; the diagonal has the units.

        Raises:
            UnsupportedMethod: the method does not ask for pairs (`pairwise_interactions` does).
        """
        found = None if self.table is None else self.table.interactions()
        if found is None:
            raise UnsupportedMethod(_NO_PAIRS)
        return found.values[0]

    def top(self, k: int = 3) -> list[Contribution]:
        """The `k` units that did most for the answer, the strongest first; those without a number last."""
        known = self.seq_attr.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        order = torch.argsort(known, descending=True, stable=True)[: max(0, k)].tolist()
        errors = [None] * len(self.input_tokens) if self.stderr is None else self.stderr.tolist()
        return [Contribution(i, self.input_tokens[i], float(self.seq_attr[i]), errors[i]) for i in order]

    def __repr__(self) -> str:
        strongest = ", ".join(f"{text[:40]!r} {value:+.3g}" for _, text, value, _ in self.top(1))
        return f"LLMAttributionResult({len(self.input_tokens)} units -> {self.output_text[:60]!r}; top: {strongest})"

    def for_output(
        self,
        region: RegionName | Region | None = None,
        *,
        characters: Span | None = None,
        sentence: int | None = None,
        occurrence: int | None = None,
        json: str | None = None,
        after: str | None = None,
    ) -> LLMAttributionResult:
        """The attribution of a part of the answer; every token that overlaps it belongs to it. Runs no model.

        Args:
            region: A part of its text, a pattern, a slice or number of tokens, `json:path`, `after:text`, a `Region`.
            characters: `(start, end)` characters of the answer instead.
            sentence: The number of a sentence instead; negative ones count from the end.
            occurrence: Which match of a substring, pattern or path, from 0; negative ones count from the end.
            json: The path of a value of JSON in the answer instead, as `$.answers[0].name`.
            after: A text whose last occurrence the part follows, as `</think>`, instead.

        Raises:
            InvalidTarget: the region is not in the answer, or several times.
            EmptyTarget: the region is empty.
            InvalidType: the region has another type.
            InvalidValue: no region or several are given.
            UnsupportedMethod: the result holds too little for it.

        Example:
            >>> result.for_output("Odense").top(3)  # doctest: +SKIP
        """
        found = Region.of(region, characters, sentence, occurrence, json, after)
        if self.output_spans is None and found.needs_text:
            raise UnsupportedMethod(
                f"the tokens of this result do not make up its answer {self.output_text!r}, so characters cannot be "
                "found in them; name tokens by a slice"
            )
        tokens = found.tokens(self.output_text, self.output_spans or [(0, 0)] * len(self.output_tokens))
        return self._part(slice(tokens.start, tokens.stop))

    def _part(self, tokens: slice) -> LLMAttributionResult:
        """The result of a run of tokens."""
        table = None if self.table is None else self.table.restricted(tokens)
        if table is None:
            rows = self._token_rows()[tokens]
            found: dict[str, Any] = {"seq_attr": rows.sum(0), "token_attr": rows}
        else:
            found = table.attributions().fields
        spans = None if self.output_spans is None else self.output_spans[tokens]
        start, end = (spans[0][0], max(end for _, end in spans)) if spans else (0, 0)
        text = self.output_text[start:end] if spans else "".join(self.output_tokens[tokens])
        spans = spans and tuple((a - start, b - start) for a, b in spans)
        first = self.region[0] if self.region else 0
        return LLMAttributionResult(
            input_tokens=self.input_tokens,
            output_tokens=pieces(text, spans) if spans else self.output_tokens[tokens],
            **found,
            output_probs=None if self.output_probs is None else self.output_probs[tokens],
            inp=self.inp,
            output_text=text,
            output_ids=None if self.output_ids is None else self.output_ids[tokens],
            output_spans=spans,
            region=(first + tokens.start, first + tokens.stop),
            context=self.context,
            groups=map(asdict, self.groups),
            provenance=of_part(self.provenance, tokens),
            table=table,
        )

    def _token_rows(self) -> Tensor:
        """Attributions of tokens, which can be summed."""
        if self.token_attr is None:
            raise UnsupportedMethod(f"{_NO_ROWS}, and so none of a part of them; {_ASK_FOR_ROWS}")
        if (scalar := self.provenance.get("attr_target", "log_prob")) not in ADDITIVE:
            why = f"attributions of {scalar!r} do not add up over tokens, and this result does not hold their table"
            raise UnsupportedMethod(f"{why}; explain log_prob, or the part alone")
        return self.token_attr

    def save(self, path: str | Path) -> None:
        """Writes the result, all but the input object, to a folder; one that holds a saved result is replaced.

        Raises:
            InvalidValue: the path holds something else, or the provenance something that JSON cannot say.
        """
        from llm_attr.llm.results.storage import save

        save(self, path)

    @classmethod
    def load(cls, path: str | Path, language_model: LanguageModel | None = None) -> LLMAttributionResult:
        """Reads a result that `save` wrote; nothing in it is executed.

        Args:
            path: The folder.
            language_model: A model to compare with; a warning says if the result is from another one.

        Raises:
            BrokenFile: the folder does not hold a whole and unchanged result.
            NewerFile: a newer version of llm_attr wrote it.
        """
        from llm_attr.llm.results.storage import load

        return load(path, language_model)

    def plain(self) -> dict[str, Any]:
        """Everything but the tensors and the input object, in plain Python types."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "output_text": self.output_text,
            "output_ids": None if self.output_ids is None else list(self.output_ids),
            "output_spans": None if self.output_spans is None else [list(span) for span in self.output_spans],
            "region": None if self.region is None else list(self.region),
            "context": self.context,
            "groups": [asdict(group) for group in self.groups],
            "provenance": self.provenance,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the input object and the table, in plain Python types."""
        return self.plain() | {
            "output_probs": None if self.output_probs is None else self.output_probs.tolist(),
            "seq_attr": self.seq_attr.tolist(),
            "token_attr": None if self.token_attr is None else self.token_attr.tolist(),
            "stderr": None if self.stderr is None else self.stderr.tolist(),
            "token_stderr": None if self.token_stderr is None else self.token_stderr.tolist(),
        }

    def to_pandas(self, tokens: bool = True) -> pd.DataFrame:
        """A data frame with a row for each unit and output token, or with `tokens=False` for each unit.

        Columns: `unit` (its number), `text`, `group`, `token` (its number), `token_text`, `attribution`.

        Raises:
            MissingExtra: pandas is not installed.
            UnsupportedMethod: the result has no attribution of single tokens.
        """
        from llm_attr.llm.results.frame import to_pandas

        return to_pandas(self, tokens)

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON text, also written to a file if a path is given; nan and infinity become null."""
        return json_text(self.to_dict(), path)

    def view(self) -> AttributionView:
        """What pictures of this result are drawn from."""
        return picture.view(self)

    def show(self, width: int | None = None) -> None:
        """Prints the prompt coloured by attribution, the ranked units and the answer, as wide as the terminal."""
        show(self.view(), width=width)

    def to_html(self, path: str | Path | None = None, *, levels: Sequence[LLMAttributionResult] = ()) -> str:
        """A page that needs nothing from elsewhere.

        Args:
            path: A file to write it to.
            levels: Results of the same text by other units, for a section that nests them; see `plot_levels`.

        Raises:
            InvalidValue: the levels do not fit this result.
        """
        page = to_html(self.view(), picture.levels(self, *levels) if levels else None)
        if path is not None:
            Path(path).write_text(page, encoding="utf-8")
        return page

    def _repr_html_(self) -> str:
        return fragment(self.view())

    def widget(self) -> AttributionWidget:
        """The live picture for a notebook; what is chosen there is `selected`, which can be set too.

        Raises:
            MissingExtra: anywidget is not installed.
        """
        from llm_attr.viz.widget import AttributionWidget

        return AttributionWidget(self)

    def plot_seq_attr(self, show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Bars of the attribution of the whole answer.

        Raises:
            MissingExtra: matplotlib is not installed.
        """
        return picture.drawn(plot_unit_values, self.view(), ax, show)

    def plot_token_attr(self, show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Heat map of the attribution of each token of the answer.

        Raises:
            MissingExtra: matplotlib is not installed.
            UnsupportedMethod: the method gave no attribution of tokens.
        """
        if self.token_attr is None:
            raise UnsupportedMethod(f"{_NO_ROWS}; use plot_seq_attr, or {_ASK_FOR_ROWS}")
        return picture.drawn(plot_token_values, self.view(), ax, show)

    def plot_interactions(self, show: bool = False, *, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Arcs between the units of the strongest pairs, see `interactions`.

        Raises:
            MissingExtra: matplotlib is not installed.
            UnsupportedMethod: the method does not ask for pairs.
        """
        view = self.view()
        if view.interactions is None:
            raise UnsupportedMethod(_NO_PAIRS)
        return picture.drawn(plot_arcs, view, ax, show)

    def plot_levels(
        self, *others: LLMAttributionResult, show: bool = False, ax: Axes | None = None
    ) -> tuple[Figure, Axes]:
        """The text at several levels, coarse to fine: this result and `others` by other units, on one scale.

        Documents or messages that hold several units of the coarsest result are one more level: their sums, which the
        picture says. `to_html(levels=others)` nests the same in a page.

        Raises:
            MissingExtra: matplotlib is not installed.
            InvalidValue: the results are of different texts or scalars, or there is one level only.
        """
        return picture.drawn(plot_levels, picture.levels(self, *others), ax, show)


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InvalidShape(f"{name} must have the shape {shape}; got {tuple(tensor.shape)}")
