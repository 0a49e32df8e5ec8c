"""The fields of a result and their checks: no picture, no file format."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from llm_attr.core.pickled import PickledWithout
from llm_attr.errors import InvalidShape, UnsupportedMethod
from llm_attr.llm.prompt.alignment import spans_of
from llm_attr.llm.trust.report import TrustReport
from llm_attr.viz.text.groups import Group, check_groups

if TYPE_CHECKING:
    from llm_attr.core.faithfulness.feature_game import AnswerGame
    from llm_attr.llm.prompt.interpretable import InterpretableInput
    from llm_attr.llm.results.table import Table

NO_PAIRS = "this result holds no pairs of units; explain with method='pairwise_interactions'"


class Contribution(NamedTuple):
    """A unit of the prompt and its attribution."""

    position: int
    text: str
    attribution: float
    stderr: float | None = None


class ResultData(PickledWithout):
    """The fields of an `LLMAttributionResult`, documented there, and properties computed from them."""

    shared = ("inp", "game")

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
        game: AnswerGame | None = None,
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
        self.table, self.game = table, game
        _ = self.trust_report  # a report that was changed is refused here

    @property
    def seq_attr_dict(self) -> dict[str, float]:
        """Attribution by unit text; of units with the same text the last one wins, so see `top` as well."""
        return dict(zip(self.input_tokens, self.seq_attr.tolist(), strict=True))

    @property
    def gap(self) -> float | None:
        """The completeness gap of a path method, as a share of the change it attributes; None for other methods."""
        completeness = self.provenance.get("completeness")
        return None if completeness is None else float(completeness["gap"])

    @property
    def noise(self) -> float | None:
        """How far rounding moves the score of this answer, in nats; None where that was not measured.

        The same variant of the prompt was scored in different company, in a tree or batch and alone; the differences of
        its tokens add up as independent ones do.
        """
        per_token = self.provenance.get("noise")
        return None if per_token is None else float(per_token) * len(self.output_tokens) ** 0.5

    @property
    def within_noise(self) -> Tensor:
        """Bool `(units,)`: whose attributions are smaller than twice the noise; none where that was not measured."""
        return self.seq_attr.abs() < 2 * (self.noise or 0.0)

    @property
    def is_given(self) -> bool:
        """Whether the attributions were put on the units by `with_attributions`."""
        return bool(self.provenance.get("given"))

    @property
    def trust_report(self) -> TrustReport | None:
        """The report that `trust` last made; None before."""
        known = self.provenance.get("trust")
        return None if known is None else TrustReport.from_dict(known)

    @property
    def interactions(self) -> Tensor:
        """Symmetric `(units, units)`: what two units add together beyond their sum; the diagonal has the units.

        Raises:
            UnsupportedMethod: the method does not compute interactions (`pairwise_interactions` does).
        """
        pairs = None if self.table is None or self.is_given else self.table.interactions()
        if pairs is None:
            raise UnsupportedMethod(NO_PAIRS)
        return pairs.values[0]

    def top(self, k: int = 3) -> list[Contribution]:
        """The `k` units with the largest attribution, in descending order; NaN last."""
        known = self.seq_attr.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf)
        order = torch.argsort(known, descending=True, stable=True)[: max(0, k)].tolist()
        errors = [None] * len(self.input_tokens) if self.stderr is None else self.stderr.tolist()
        return [Contribution(i, self.input_tokens[i], float(self.seq_attr[i]), errors[i]) for i in order]

    def __repr__(self) -> str:
        strongest = ", ".join(f"{text[:40]!r} {value:+.3g}" for _, text, value, _ in self.top(1))
        return f"LLMAttributionResult({len(self.input_tokens)} units -> {self.output_text[:60]!r}; top: {strongest})"

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


def _check(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise InvalidShape(f"{name} must have the shape {shape}; got {tuple(tensor.shape)}")
