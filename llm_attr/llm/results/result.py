"""The attribution of an answer to the units of a prompt: to read, narrow down, draw, save and export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from llm_attr.errors import UnsupportedMethod
from llm_attr.llm.agents.dominance import Dominance, Names
from llm_attr.llm.agents.orders import Orders
from llm_attr.llm.citations.citations import Citations
from llm_attr.llm.citations.of_result import citations_of
from llm_attr.llm.citations.support import CERTAIN, NATS, STAND_OUT, Rule
from llm_attr.llm.prompt.alignment import pieces
from llm_attr.llm.prompt.units import Span
from llm_attr.llm.results import export, of_agents, storage
from llm_attr.llm.results.completeness import of_part
from llm_attr.llm.results.judged import given, subject_of, trust_of
from llm_attr.llm.results.pictured import ASK_FOR_ROWS, NO_ROWS, Pictured
from llm_attr.llm.target.region import Region, RegionName
from llm_attr.llm.target.scalar import ADDITIVE

if TYPE_CHECKING:
    import pandas as pd

    from llm_attr.llm.model.language_model import LanguageModel
    from llm_attr.llm.trust.report import TrustReport


class LLMAttributionResult(Pictured):
    """The attribution of an answer, and of each of its tokens, to the units of a prompt.

    Attributes:
        input_tokens: The text of each unit.
        output_tokens: The text of each answer token, including white space.
        seq_attr: `(units,)` attribution of the full answer, in nats (or in the unit of the scalar, see `provenance`).
        token_attr: `(output tokens, units)` attribution of each answer token, or None.
        stderr: `(units,)` standard errors of `seq_attr` for sampled methods, or None.
        token_stderr: `(output tokens, units)` standard errors of `token_attr`, or None.
        output_probs: `(output tokens,)` probability of each answer token given the full prompt, or None.
        inp: The input that was explained.
        output_text: The answer.
        output_ids: Its token ids.
        output_spans: The character span of each token in the answer; None if the tokens do not make it up.
        region: For a part of an answer, its tokens `(first, stop)` in the full answer; otherwise None.
        context: The prompt's text before, between and after the units, or None.
        groups: The documents or messages that units belong to.
        provenance: Method, model, precision, scoring strategy and cost, as JSON values.
        table: The coalition values from which the attributions were computed, or None.
        game: Scores further coalitions of the units, for `llm_attr.metrics`; None for a loaded result.

    Two results are equal if everything but the input object is bitwise equal. Pickles and `save` omit the input object
    and the game; copies share them.

    Raises:
        InvalidShape: a field does not match the number of units or tokens.
        InvalidValue: spans or groups are out of order.
    """

    def __eq__(self, other: object) -> bool:
        """Whether everything that `save` stores is bitwise equal."""
        return storage.equal(self, other) if isinstance(other, LLMAttributionResult) else NotImplemented

    def __hash__(self) -> int:
        """Hash of the texts; equal results have equal hashes."""
        return hash((tuple(self.input_tokens), self.output_text, self.output_ids))

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
        """The attribution of a part of the answer: of every token that overlaps it. Runs no model.

        Args:
            region: Text of the answer, a pattern, a slice or index of tokens, `json:path`, `after:text`, or a `Region`.
            characters: `(start, end)` characters of the answer instead.
            sentence: The index of a sentence instead; negative ones count from the end.
            occurrence: Which match of a substring, pattern or path, from 0; negative ones count from the end.
            json: The path of a JSON value in the answer instead, such as `$.answers[0].name`.
            after: Everything after the last occurrence of this text instead, such as `</think>`.

        Raises:
            InvalidTarget: the region does not occur in the answer, or occurs several times.
            EmptyTarget: the region is empty.
            InvalidType: the region has another type.
            InvalidValue: no region, or more than one, is given.
            UnsupportedMethod: the result holds too little to compute it.

        Example:
            >>> result.for_output("Odense").top(3)  # doctest: +SKIP
        """
        chosen = Region.of(region, characters, sentence, occurrence, json, after)
        if self.output_spans is None and chosen.needs_text:
            raise UnsupportedMethod(
                f"the tokens of this result do not make up its answer {self.output_text!r}, so text cannot be located "
                "in them; select tokens with a slice"
            )
        tokens = chosen.tokens(self.output_text, self.output_spans or [(0, 0)] * len(self.output_tokens))
        return self._part(slice(tokens.start, tokens.stop))

    def trust(
        self, budget: int | float | None = None, *, k: int | None = None, randomised: bool = False, seed: int = 0
    ) -> TrustReport:
        """Judges the attributions by coalitions of the units that they were not computed from.

        The report stays with the result: pictures print its verdict first, and JSON and saved results hold it. Of a
        loaded result, which has no model, only what its table says is known; the rest is None.

        Args:
            budget: How many coalitions may be evaluated, e.g. 32, or as a float a share of those that the explanation
                took. None: 0.25. Fewer units or a smaller budget than the report needs leave fields None.
            k: How many of the strongest units necessity, sufficiency and stability are about. None: a third of the
                units, up to 3.
            randomised: Whether to explain the model with random weights too, which takes the passes of the explanation
                once more. The weights are restored to the bit.
            seed: Of coalitions, orders and weights; no global stream is touched.

        Raises:
            InvalidType: an argument is of another type.
            InvalidValue: the budget is negative, or k is not between 1 and the number of units.
            UnsupportedMethod: the result has neither a table nor a model; or it has not what `randomised` needs.

        Source: S. M. Park et al., TRAK, ICML 2023 (linear datamodelling score); V. Petsiuk et al., RISE, BMVC 2018
        (deletion and insertion); J. Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018 (random weights).

        Example:
            >>> report = result.trust()  # doctest: +SKIP
            >>> report.better_than_chance, report.verdict  # doctest: +SKIP
        """
        report = trust_of(self, budget, k, randomised, seed)
        self.provenance["trust"] = report.to_dict()
        return report

    def orders(self, *names: str) -> Orders:
        """What each unit changes when it comes in, is left out, or is alone; see `llm_attr.llm.agents.orders.orders`.

        Args:
            *names: `reveal`, `drop`, `keep`; all by default.

        Raises:
            UnknownName: there is no such order.
            UnsupportedMethod: the result has no model because it was loaded, or its units cannot be left out.

        Example:
            >>> result.with_attributions(result.orders("reveal").reveal).show()  # doctest: +SKIP
        """
        return of_agents.orders_of(self, names)

    def dominance(
        self,
        untrusted: Names | None = None,
        trusted: Names | None = None,
        *,
        samples: int = 16,
        seed: int = 0,
    ) -> Dominance:
        """By how much untrusted text carries the answer beyond trusted text, with its standard error.

        `margin = E[f(C with U) - f(C without U)] - E[f(C with T) - f(C without T)]`, where U are the untrusted and T
        the trusted units, and C are random halves of all units and their complements.

        Args:
            untrusted: Roles, names of tools that answered, numbers of messages, or names of documents; None: what the
                trace says (`Prompt.from_trace(untrusted=...)`).
            trusted: The same for trusted text; None: every other unit of the trace.
            samples: How many contexts, each of up to four evaluations.
            seed: Of the contexts; no global stream is touched.

        Raises:
            UnknownName: something named does not exist.
            InvalidType: an argument is of another type.
            InvalidValue: a group is empty, a unit is in both, or there are fewer than four samples.
            UnsupportedMethod: the result has no model; or nothing is named and the prompt is no trace.

        Source: CausalArmor, arXiv:2602.07918 (`loo_margin`: leave-one-out of spans against the user's request).

        Example:
            >>> result.dominance().verdict  # doctest: +SKIP
        """
        return of_agents.dominance_of(self, untrusted, trusted, samples, seed)

    def citations(
        self, *, nats: float = NATS, stand_out: float = STAND_OUT, certain: float = CERTAIN, question: str = ""
    ) -> Citations:
        """The sources of each sentence of the answer, from the same table and a few more coalitions for each sentence.

        Args:
            nats: What the strongest source or pair must give a sentence; half of it is lost without that, or any.
            stand_out: How many times the middle of the other units, by size, the strongest source must give.
            certain: By how many standard errors it must exceed 0.
            question: The question, for the pictures and records.

        Raises:
            InvalidType: a threshold is no number.
            InvalidValue: it is negative or not finite.
            EmptyTarget: the answer has no text.
            UnsupportedMethod: the result was loaded, has no attribution of single tokens, or does not explain log_prob.

        Example:
            >>> result.citations().sentences[0].sources  # doctest: +SKIP
        """
        return citations_of(self, subject_of, Rule(nats, stand_out, certain), question)

    def with_attributions(self, attributions: Tensor) -> LLMAttributionResult:
        """Other numbers on the same units, with the same table and model to judge them by.

        Args:
            attributions: `(units,)` for the full answer, or `(output tokens, units)` for each token.

        Raises:
            InvalidType: they are no tensor of real numbers.
            InvalidShape: they have another shape.
            NonFiniteValue: they are NaN or infinite.
            UnsupportedMethod: they are of single tokens, and those of the explained scalar do not add up.

        Example:
            >>> result.with_attributions(torch.rand(6)).trust().better_than_chance  # doctest: +SKIP
        """
        return given(self, attributions)

    def _part(self, tokens: slice) -> LLMAttributionResult:
        """The result for a run of answer tokens."""
        table = None if self.table is None else self.table.restricted(tokens)
        if table is None or self.is_given:
            rows = self._additive_rows()[tokens]
            attributions: dict[str, Any] = {"seq_attr": rows.sum(0), "token_attr": rows}
        else:
            attributions = table.attributions().fields
        spans = None if self.output_spans is None else self.output_spans[tokens]
        start, end = (spans[0][0], max(end for _, end in spans)) if spans else (0, 0)
        text = self.output_text[start:end] if spans else "".join(self.output_tokens[tokens])
        spans = spans and tuple((a - start, b - start) for a, b in spans)
        first = self.region[0] if self.region else 0
        return LLMAttributionResult(
            input_tokens=self.input_tokens,
            output_tokens=pieces(text, spans) if spans else self.output_tokens[tokens],
            **attributions,
            output_probs=None if self.output_probs is None else self.output_probs[tokens],
            inp=self.inp,
            output_text=text,
            output_ids=None if self.output_ids is None else self.output_ids[tokens],
            output_spans=spans,
            region=(first + tokens.start, first + tokens.stop),
            context=self.context,
            groups=map(asdict, self.groups),
            provenance=of_part(self.provenance, tokens) | self._around(start, end),
            table=table,
            game=None if self.game is None else self.game.part(tokens),
        )

    def _around(self, start: int, end: int) -> dict[str, Any]:
        """The text of the answer before and after the characters of a part, for its picture."""
        if self.output_spans is None:
            return {}
        before, after = self.provenance.get("around", ("", ""))
        return {"around": [before + self.output_text[:start], self.output_text[end:] + after]}

    def _additive_rows(self) -> Tensor:
        """The attributions of single tokens, if they may be summed."""
        if self.token_attr is None:
            raise UnsupportedMethod(f"{NO_ROWS}, so a part of the answer has none either; {ASK_FOR_ROWS}")
        if (scalar := self.provenance.get("attr_target", "log_prob")) not in ADDITIVE:
            why = f"attributions of {scalar!r} do not add up over tokens, and this result does not hold their table"
            raise UnsupportedMethod(f"{why}; explain log_prob, or explain only this part")
        return self.token_attr

    def save(self, path: str | Path) -> None:
        """Writes everything but the input object to a folder, replacing a saved result there.

        Raises:
            InvalidValue: the path holds something else, or the provenance something that JSON cannot represent.
        """
        storage.save(self, path)

    @classmethod
    def load(cls, path: str | Path, language_model: LanguageModel | None = None) -> LLMAttributionResult:
        """Reads a result written by `save`; no code in it is executed.

        Args:
            path: The folder.
            language_model: A model to compare with: warns if the result was computed with another one.

        Raises:
            BrokenFile: the folder does not hold a complete and unmodified result.
            NewerFile: a newer version of llm_attr wrote it.
        """
        return storage.load(cls, path, language_model)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the input object and the table, in plain Python types."""
        return self.plain() | {
            name: None if tensor is None else tensor.tolist()
            for name in ("output_probs", "seq_attr", "token_attr", "stderr", "token_stderr")
            for tensor in (getattr(self, name),)
        }

    def to_pandas(self, tokens: bool = True) -> pd.DataFrame:
        """A data frame with a row for each pair of unit and output token, or with `tokens=False` for each unit.

        Columns: `unit` (its number), `text`, `group`, `token` (its number), `token_text`, `attribution`, and `stderr`
        for sampled methods.

        Raises:
            MissingExtra: pandas is not installed.
            UnsupportedMethod: the result has no attribution of single tokens.
        """
        return export.to_pandas(self, tokens)

    def to_json(self, path: str | Path | None = None) -> str:
        """`to_dict` as JSON, also written to `path` if given; NaN and infinity become null."""
        return export.to_json(self.to_dict(), path)
