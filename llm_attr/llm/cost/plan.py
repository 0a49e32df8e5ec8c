"""`plan`: the cost of an explanation, estimated before it runs."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llm_attr.core.evaluator import watching
from llm_attr.llm.attribution import LLMAttribution
from llm_attr.llm.cost.estimate import CostEstimate, of_games, of_gradients
from llm_attr.llm.model.cost import Call
from llm_attr.llm.model.language_model import LanguageModel
from llm_attr.llm.model.memory import call_bytes, kept_bytes, loss_bytes
from llm_attr.llm.model.precision import computing, default_for_gradients
from llm_attr.llm.model.speed import speed_of
from llm_attr.llm.request import One, parse_request
from llm_attr.llm.target.region import Region, RegionName


@dataclass(frozen=True)
class Plan:
    """What an explanation will cost.

    Attributes:
        method: The name of the method.
        exact: Whether the numbers of passes and positions are exact (otherwise upper bounds).
        answer_tokens: Tokens of the answers; the maximum if they are not generated yet.
        passes: Calls of the model's forward, except for generating answers.
        backward: Backward passes.
        forward_mode: Rows that carry a forward-mode derivative.
        positions: Token positions that go through the body of the model, padding included.
        head_rows: Positions that also go through the output head.
        check_positions: The most positions spent on verifying a new model's prefix trees against full sequences.
        evaluations: Variants of prompts that are scored, counted once per answer or foil; 0 for gradients.
        from_ledger: Those of them that the ledger has already, which cost nothing.
        peak_bytes: The approximate peak memory besides the weights.
        seconds: The approximate time on this machine; None if not measured.
        engine: The kind of server that scores; None for a model in this process. With one, passes are requests and
            positions are tokens that are sent.
        tokens_reused: Tokens that the server is expected to take from its prefix cache.
        money: What the tokens cost, where `connect` was given a price.

    Example:
        >>> Plan("saliency", True, 3, passes=2, backward=1, positions=20).passes
        2
    """

    method: str
    exact: bool
    answer_tokens: int
    passes: int = 0
    backward: int = 0
    forward_mode: int = 0
    positions: int = 0
    head_rows: int = 0
    check_positions: int = 0
    evaluations: int = 0
    from_ledger: int = 0
    peak_bytes: int = 0
    seconds: float | None = None
    engine: str | None = None
    tokens_reused: int = 0
    money: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """All numbers by name."""
        return asdict(self)

    def __str__(self) -> str:
        """A line per number."""
        most = "" if self.exact else "at most "
        if self.engine is not None:
            return "\n".join(f"{name + ':':18} {value}" for name, value in self._of_engine(most))
        time = "not measured" if self.seconds is None else f"{most}about {_duration(self.seconds)}"
        lines = [
            ("method", self.method),
            ("answer tokens", f"{self.answer_tokens:,}"),
            ("forward passes", f"{most}{_number(self.passes)}"),
            ("backward passes", f"{most}{_number(self.backward)}"),
            ("forward-mode rows", f"{most}{_number(self.forward_mode)}"),
            ("token positions", f"{most}{_number(self.positions)}"),
            ("check positions", f"at most {_number(self.check_positions)}"),
            ("head rows", f"{most}{_number(self.head_rows)}"),
            ("evaluations", f"{most}{_number(self.evaluations)}"),
            *([("from ledger", _number(self.from_ledger))] if self.from_ledger else []),
            ("memory", f"about {self.peak_bytes / 1e6:,.0f} MB beside the weights"),
            ("time", time),
        ]
        return "\n".join(f"{name + ':':18} {value}" for name, value in lines)

    def _of_engine(self, most: str) -> list[tuple[str, str]]:
        return [
            ("method", self.method),
            ("engine", str(self.engine)),
            ("answer tokens", f"{self.answer_tokens:,}"),
            ("requests", f"{most}{_number(self.passes)}"),
            ("tokens sent", f"{most}{_number(self.positions)}"),
            ("tokens reused", f"about {_number(self.tokens_reused)}"),
            ("evaluations", f"{most}{_number(self.evaluations)}"),
            *([("from ledger", _number(self.from_ledger))] if self.from_ledger else []),
            *([("price", f"{most}{self.money:.4g}")] if self.money is not None else []),
        ]


def plan(
    model: LanguageModel | Any,
    prompt: One | Sequence[One],
    *,
    region: RegionName | Region | None = None,
    measure: bool = True,
    **asked: Any,
) -> Plan:
    """The cost of `explain` with the same arguments; does not generate an answer or advance random streams.

    The numbers are exact for a given answer and a design that is known in advance: a fixed one, or a sample with its
    own seed, also under a budget of evaluations, passes or positions. They are upper bounds for an answer that is not
    generated yet (assumed to be as long as possible), for `until`, for a time budget, for samples from the global
    random streams, and for layers other than the embedding layer.

    Shared arguments: see `explain`.

    Args:
        region: A part of the answer; free if each token is explained anyway.
        measure: Whether to estimate the time, which takes a few short passes on first use of a model; False runs no
            passes.
        **asked: Arguments of `explain`.

    Raises:
        LlmAttrError: as in `explain`.

    Example:
        >>> print(plan(load_model("smollm2-135m"), "Aksel repairs violins. Who?", target=" Aksel"))  # doctest: +SKIP
    """
    request = parse_request(model, prompt, region=None if region is None else Region.of(region), **asked)
    language_model, precision = request.explainer.language_model, request.precision
    if precision is None and not isinstance(request.explainer, LLMAttribution):
        precision = default_for_gradients(language_model)
    with computing(language_model, precision), warnings.catch_warnings(), watching():
        warnings.simplefilter("ignore")
        explainer = request.explainer
        estimate = (
            of_games(request, explainer) if isinstance(explainer, LLMAttribution) else of_gradients(request, explainer)
        )
    with computing(language_model, precision):
        return plan_of(asked.get("method", "feature_ablation"), language_model, estimate, measure)


def plan_of(method: str, language_model: LanguageModel, estimate: CostEstimate, measure: bool) -> Plan:
    """The plan of an estimate.

    Args:
        method: The name of the method.
        language_model: Model and tokenizer.
        estimate: What it costs.
        measure: Whether to estimate the time, which takes a few short passes on first use of a model.
    """
    cost, seconds = estimate.cost, None
    if language_model.served_by is not None:
        return _served(method, language_model, estimate)
    if measure:
        speed = speed_of(language_model, backward=cost.backward > 0)
        seconds = min(speed.seconds(cost, estimate.recompute), estimate.max_seconds)
    return Plan(
        method=method,
        exact=estimate.exact,
        answer_tokens=estimate.answer_tokens,
        **cost.to_dict(),
        evaluations=estimate.evaluations,
        from_ledger=estimate.from_ledger,
        peak_bytes=_peak(language_model, estimate),
        seconds=seconds,
    )


def _served(method: str, language_model: LanguageModel, estimate: CostEstimate) -> Plan:
    """The plan with an engine: no time, which is the server's, and no memory."""
    cost, price = estimate.cost, getattr(getattr(language_model, "endpoint", None), "price", None)
    return Plan(
        method=method,
        exact=estimate.exact,
        answer_tokens=estimate.answer_tokens,
        **cost.to_dict() | {"check_positions": 0},
        evaluations=estimate.evaluations,
        from_ledger=estimate.from_ledger,
        engine=str((language_model.served_by or {}).get("engine")),
        tokens_reused=cost.reused,
        money=None if price is None else cost.positions * price / 1e6,
    )


def _peak(language_model: LanguageModel, estimate: CostEstimate) -> int:
    """The approximate peak memory in bytes."""
    cost = estimate.cost
    positions, rows = cost.forward.largest
    most = call_bytes(language_model, Call(positions + cost.context, rows))
    if cost.forward_mode:
        most += call_bytes(language_model, cost.forward_mode_load.largest)
    positions, rows = cost.backward_load.largest
    return max(most, kept_bytes(language_model, positions, estimate.recompute) + loss_bytes(language_model, rows))


def _number(value: int) -> str:
    return f"{value:,}" if value < 10**15 else f"{value:.1e}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"
